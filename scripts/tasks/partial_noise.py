"""The work of `image_to_image`: add noise to test images up to several flow times and sample from there (SDEdit)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from PIL import Image
from torch import Tensor

from models.diffusion.denoiser import Denoiser, add_noise, with_labels
from models.diffusion.times import Grid
from models.drawing import sheets
from models.generation import MANY_STEPS, Generated, Start
from scripts.cli.terminal import tell
from scripts.tasks.showing import Shown, rmse, write_table

if TYPE_CHECKING:
    from scripts.image_to_image import ImageToImageFlags


def sample_from_images(flags: ImageToImageFlags) -> None:
    """Write the picture and the table of changes into a folder, and print the folder's name. Raises UserError."""
    shown = Shown.open(flags.model, flags.sampling, flags.show, flags.labels, "image_to_image", MANY_STEPS)
    images, labels, names = shown.test_images(flags.rows, flags.images)
    shown.check_scale(flags.show.scale, len(flags.strength) + 1, len(images))
    with shown.folder("image_to_image", f"{shown.sampling.sampler}-{shown.sampling.steps}", flags) as folder:
        grids = _grids(shown.grid, flags.strength)
        columns = [_sample(shown, images, labels, grid) for grid in grids]
        starts = [grid[0].flow_time.item() for grid in grids]
        table = [
            {"strength": start, "nfe": column.nfe, "rmse": rmse(column.images, images).mean().item()}
            for start, column in zip(starts, columns, strict=True)
        ]
        write_table(folder, "change", table)
        headings = ["test image", *(f"flow time {start:.2g}" for start in starts)]
        title = shown.title("test images noised up to a time and sampled from there", *(made.nfe for made in columns))

        def sheet(made: list[Tensor], title: str) -> Image.Image:
            return sheets.strip([images, *made], headings, title, names, flags.show.scale)

        shown.save(sheet([column.images for column in columns], title), folder, "image_to_image")
        if flags.show.animate:
            moments = [sheet(frames, f"{title}, t = {t:.2f}") for t, frames in _moments(columns)]
            shown.animate(moments, folder)


def grid_from(grid: Grid, strength: float) -> Grid:
    """Return the part of a grid that starts at the flow time nearest to `strength`. It has at least one step."""
    return grid[int((grid.levels.flow_time[:-1] - strength).abs().argmin()) :]


def _grids(grid: Grid, strengths: Sequence[float]) -> list[Grid]:
    """Return the part of the grid for each strength. Equal parts are returned once, with a message."""
    grids: dict[int, Grid] = {}
    for strength in strengths:
        part = grid_from(grid, strength)
        if len(part) in grids:
            start = f"flow time {part[0].flow_time.item():.2g}"
            tell(f"strength {strength:g} uses the column of an earlier strength: both start at {start}; raise --steps")
        grids.setdefault(len(part), part)
    return list(grids.values())


def _sample(shown: Shown, images: Tensor, labels: list[int], grid: Grid) -> Generated:
    """Add noise to the images up to grid[0] and sample from there. The noise is the same for every grid."""

    def begin(denoiser: Denoiser, indices: range) -> Start:
        rows = slice(indices.start, indices.stop)
        clean = shown.model.space.encode(images[rows].to(shown.model.device))
        draw = shown.draw(indices)
        noisy = add_noise(clean, draw(clean.shape), grid[0])
        labelled = with_labels(denoiser, shown.labels(labels[rows]))
        return Start(noisy, grid[0].t.item(), None, shown.sampling.walk(labelled, noisy, grid, draw))

    return shown.generate_from(begin, len(images), len(grid) - 1, shown.frames)


def _moments(columns: Sequence[Generated]) -> list[tuple[float, list[Tensor]]]:
    """Return t and the frames of all columns, at each frame time of the longest column.

    A shorter column shows its first frame until its own start.
    """
    longest = max(columns, key=lambda column: column.frame_times[0])
    moments = []
    for t in longest.frame_times:
        reached = [sum(time >= t - 1e-9 for time in column.frame_times) for column in columns]
        frames = [column.frames[max(0, count - 1)] for column, count in zip(columns, reached, strict=True)]
        moments.append((t, frames))
    return moments
