"""Test images noised up to some time and sampled from there: how much a model keeps, and what it makes of the rest."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import tyro
from torch import Tensor

from models.diffusion.denoiser import Denoiser, add_noise, with_labels
from models.diffusion.times import Grid
from models.drawing import sheets
from models.errors import UserError
from models.generation import Generated, Start
from scripts.cli.arguments import check_positive, parse_flags
from scripts.cli.command import run_command
from scripts.cli.flags import ModelFlags, SamplerFlags
from scripts.tasks.showing import FILM_FRAMES, ShowFlags, Shown, rmse, write_table

DESCRIPTION = "Sample from test images under partial noise. Prints the folder of what it wrote."


@dataclass(frozen=True)
class ImageToImageFlags:
    """Settings of `image_to_image`."""

    model: tyro.conf.OmitArgPrefixes[ModelFlags] = field(default_factory=ModelFlags)
    strength: tuple[float, ...] = (0.2, 0.4, 0.6, 0.8, 1.0)
    """Flow times up to which images are noised, one column each: near 0 keeps the image, 1 keeps nothing of it."""
    rows: int = 8
    """How many test images."""
    images: tuple[int, ...] | None = None
    """Numbers of test images. Default: drawn by the seed, the classes in turn."""
    labels: tuple[int, ...] | None = None
    """Classes to make of them, in turn. Default: each image's own."""
    sampling: tyro.conf.OmitArgPrefixes[SamplerFlags] = field(default_factory=SamplerFlags)
    show: tyro.conf.OmitArgPrefixes[ShowFlags] = field(default_factory=ShowFlags)


def main(argv: list[str]) -> None:
    flags = parse_flags(argv, ImageToImageFlags(), "image_to_image", DESCRIPTION)
    check_positive(flags, "rows")
    if not flags.strength or not all(0 < strength <= 1 for strength in flags.strength):
        raise UserError(f"--strength {' '.join(map(str, flags.strength))}: one or more flow times above 0, up to 1")
    shown = Shown.open(flags.model, flags.sampling, flags.show)
    images, labels, names = shown.test_images(flags.rows, flags.images, flags.labels)
    with shown.folder("image_to_image", f"{shown.sampling.sampler}-{shown.sampling.steps}", flags) as folder:
        grids = [grid_from(shown.grid, strength) for strength in flags.strength]
        columns = [_sample(shown, flags, images, labels, grid) for grid in grids]
        table = [
            {"strength": grid[0].flow_time.item(), "nfe": column.nfe, "rmse": rmse(column.images, images).mean().item()}
            for grid, column in zip(grids, columns, strict=True)
        ]
        write_table(folder, "change", table)
        if flags.labels is not None:
            names = [f"{name} to {shown.model.spec.class_names[k]}" for name, k in zip(names, labels, strict=True)]
        _draw(shown, flags, images, columns, [grid[0].flow_time.item() for grid in grids], names, folder)


def grid_from(grid: Grid, strength: float) -> Grid:
    """Return the rest of a grid from the level whose flow time is nearest to `strength`; at least one step."""
    return grid[int((grid.levels.flow_time[:-1] - strength).abs().argmin()) :]


def _sample(shown: Shown, flags: ImageToImageFlags, images: Tensor, labels: list[int], grid: Grid) -> Generated:
    """Sample from one strength. The noise is the same at every strength."""

    def begin(denoiser: Denoiser, indices: range) -> Start:
        rows = slice(indices.start, indices.stop)
        clean = shown.model.space.encode(images[rows].to(shown.model.device))
        draw = shown.draw(indices)
        noisy = add_noise(clean, draw(clean.shape), grid[0])
        labelled = with_labels(denoiser, shown.labels(labels[rows]))
        return Start(noisy, grid[0].t.item(), None, shown.sampling.walk(labelled, noisy, grid, draw))

    frames = FILM_FRAMES if flags.show.animate else 0
    return shown.generate_from(begin, len(images), len(grid) - 1, frames)


def _draw(
    shown: Shown,
    flags: ImageToImageFlags,
    images: Tensor,
    columns: list[Generated],
    starts: list[float],
    names: list[str],
    folder: Path,
) -> None:
    headings = ["test image", *(f"flow time {start:.2g}" for start in starts)]
    nfe = [column.nfe for column in columns]
    title = shown.title("test images noised up to a time and sampled from there", *nfe)

    def sheet(each: list[Tensor], title: str):
        return sheets.strip([images, *each], headings, title=title, row_titles=names)

    shown.save(sheet([column.images for column in columns], title), folder, "image_to_image")
    if flags.show.animate:
        shown.animate([sheet(*moment) for moment in _moments(columns, title, len(images))], folder)


def _moments(columns: list[Generated], title: str, rows: int) -> list[tuple[list[Tensor], str]]:
    """All columns at the same times, from the strongest noise down; a column waits until its own begins."""
    strongest = max(columns, key=lambda column: column.frame_times[0])
    moments = []
    for t in strongest.frame_times:
        frames = []
        for column in columns:
            reached = sum(time >= t - 1e-9 for time in column.frame_times)
            frames.append(column.frames[max(0, reached - 1)])
        moments.append((frames, f"{title}, t = {t:.2f}"))
    return moments


if __name__ == "__main__":
    run_command(main)
