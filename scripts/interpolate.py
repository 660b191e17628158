"""The way between two images: between two noises, between two test images by way of their noise, or between classes."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Annotated, NamedTuple

import torch
import tyro
from torch import Tensor

from models.diffusion.denoiser import Denoiser, with_labels
from models.diffusion.editing import invert
from models.diffusion.guidance import between_labels
from models.drawing import sheets
from models.errors import UserError
from models.generation import Generated, Start, choose_labels, sampled_denoiser
from scripts.cli.arguments import check_positive, parse_flags
from scripts.cli.command import run_command
from scripts.cli.flags import ModelFlags, SamplerFlags, one_of
from scripts.tasks.showing import ShowFlags, Shown, name_images, pick_images, rmse, write_numbers

BETWEEN = ("noises", "images", "classes")
FINER = 4  # Frames of an animation for each column.
DESCRIPTION = "Draw the way between two images. Prints the folder of what it wrote."


@dataclass(frozen=True)
class InterpolateFlags:
    """Settings of `interpolate`."""

    model: tyro.conf.OmitArgPrefixes[ModelFlags] = field(default_factory=ModelFlags)
    between: Annotated[str, one_of(BETWEEN)] = "noises"
    """noises: of one class each row. images: two test images, whose noise is found by walking the sampler's ODE
    backwards; no estimate is clipped then, for what is cut off cannot be found again. classes: one noise, from one
    label to the next."""
    rows: int = 8
    """How many pairs."""
    columns: int = 9
    """How many images from one end to the other, both ends among them."""
    labels: tuple[int, ...] | None = None
    """Classes in turn: of the rows (noises), or from each to the next (classes). Default: all."""
    images: tuple[int, ...] | None = None
    """Numbers of test images, two a row. Default: drawn by the seed."""
    refinements: int = 4
    """Further network calls in each step of the way from image to noise; more find the noise more exactly."""
    sampling: tyro.conf.OmitArgPrefixes[SamplerFlags] = field(default_factory=SamplerFlags)
    show: tyro.conf.OmitArgPrefixes[ShowFlags] = field(default_factory=ShowFlags)


class _Ends(NamedTuple):
    """Both ends of every row: starts (R, C, H, W) and labels (R,), if the model has any."""

    noises: tuple[Tensor, Tensor]
    labels: tuple[Tensor, Tensor] | None


def main(argv: list[str]) -> None:
    flags = parse_flags(argv, InterpolateFlags(), "interpolate", DESCRIPTION)
    _check(flags)
    shown = Shown.open(flags.model, flags.sampling, flags.show)
    if flags.between != "classes":
        shown.need_gaussian_noise(f"--between {flags.between}")
    if flags.between == "images":
        _between_images(replace(shown, sampling=replace(shown.sampling, clip=False)), flags)
        return
    if flags.between == "classes" and shown.model.spec.classes < 2:
        raise UserError(f"--between classes: {shown.path} is a model without classes to go between")
    labels = choose_labels(shown.model, flags.labels, flags.rows + 1)
    first, second = (shown.draw([2 * row + end for row in range(flags.rows)]) for end in (0, 1))
    shape = (flags.rows, *shown.model.space.shape)
    noise = first(shape)
    names = [shown.model.spec.class_names[label] for label in labels] if labels is not None else []
    if flags.between == "noises":
        same = shown.labels(labels[:-1]) if labels is not None else None
        ends = _Ends((noise, second(shape)), (same, same) if same is not None else None)
        row_titles, what = names[:-1], "spherical interpolation between two noises, one class each row"
    else:
        assert labels is not None
        pair = shown.labels(labels[:-1]), shown.labels(labels[1:])
        assert pair[0] is not None and pair[1] is not None
        ends = _Ends((noise, noise), (pair[0], pair[1]))
        row_titles = [f"{a} to {b}" for a, b in pairwise(names)]
        what = "from class to class, one noise each row"
    with shown.folder("interpolations", flags.between, flags) as folder:
        _draw(shown, flags, ends, row_titles, what, folder)


def _check(flags: InterpolateFlags) -> None:
    check_positive(flags, "rows")
    if flags.between not in BETWEEN:
        raise UserError(f"--between {flags.between}: choose {', '.join(BETWEEN)}")
    if flags.columns < 2:
        raise UserError(f"--columns {flags.columns}: takes 2 or more, the two ends")
    if flags.refinements < 0:
        raise UserError(f"--refinements {flags.refinements}: takes 0 or more")
    if flags.images is not None and flags.between != "images":
        raise UserError("--images goes with --between images")
    if flags.images is not None and (len(flags.images) % 2 or not flags.images):
        raise UserError(f"--images: {len(flags.images)} numbers, expected two a row")
    if flags.between == "images":
        if flags.sampling.sampler not in ("ddim", "euler") or flags.sampling.options.eta not in (None, 0):
            raise UserError("--between images walks back the way it came: with --sampler ddim or euler, without --eta")
        if flags.labels is not None:
            raise UserError("--labels: test images keep their own classes; leave it out with --between images")


def slerp(one: Tensor, other: Tensor, weight: Tensor) -> Tensor:
    """On the arc from one noise to the other, image by image, weight (N,) in [0, 1] (Shoemake 1985).

    A straight line would pass through images whose noise is too weak. Equal ends stay where they are.
    """
    a, b = one.flatten(1).double(), other.flatten(1).double()
    cosine = (a * b).sum(1) / (a.norm(dim=1) * b.norm(dim=1))
    angle = cosine.clamp(-1, 1).acos()
    weight = weight.to(angle)
    far = angle > 1e-4
    sine = torch.where(far, angle.sin(), 1)
    left = torch.where(far, ((1 - weight) * angle).sin() / sine, 1 - weight)
    right = torch.where(far, (weight * angle).sin() / sine, weight)
    return (left[:, None] * a + right[:, None] * b).to(one.dtype).view_as(one)


def _walk_between(shown: Shown, flags: InterpolateFlags, ends: _Ends, weights: Tensor) -> Generated:
    """The images of every row at every weight: image r * len(weights) + k is of row r."""
    count, width = len(ends.noises[0]) * len(weights), len(weights)

    def begin(denoiser: Denoiser, indices: range) -> Start:
        device = shown.model.device
        row = torch.tensor(indices, device=device) // width
        weight = weights.to(device).repeat(count // width)[indices.start : indices.stop]
        noise = slerp(ends.noises[0][row], ends.noises[1][row], weight)
        labels = None if ends.labels is None else (ends.labels[0][row], ends.labels[1][row])
        if labels is None or torch.equal(*labels):
            labelled = with_labels(denoiser, None if labels is None else labels[0])
        else:
            labelled = between_labels(denoiser, *labels, weight)
        # Fresh noise, where a sampler draws it, is the same along a row.
        draw = shown.draw([2 * index for index in row.tolist()])
        draw(noise.shape)
        return Start(noise, 1.0, None, shown.sampling.walk(labelled, noise, shown.grid, draw))

    return shown.generate_from(begin, count, shown.sampling.steps)


def _draw(
    shown: Shown,
    flags: InterpolateFlags,
    ends: _Ends,
    row_titles: list[str],
    what: str,
    folder: Path,
    originals: tuple[Tensor, Tensor] | None = None,
) -> Generated:
    """The sheet, and the way to and fro as an animation. originals: of both ends, drawn beside the sheet."""
    finer = FINER if flags.show.animate else 1
    weights = torch.linspace(0, 1, (flags.columns - 1) * finer + 1)
    made = _walk_between(shown, flags, ends, weights)
    steps = list(made.images.unflatten(0, (-1, len(weights))).unbind(1))
    columns, headings = steps[::finer], [f"{weight:.2g}" for weight in weights[::finer].tolist()]
    if originals is not None:
        columns = [originals[0], *columns, originals[1]]
        headings = ["test image", *headings, "test image"]
    title = shown.title(what, made.nfe)
    shown.save(sheets.strip(columns, headings, title=title, row_titles=row_titles), folder, "interpolation")
    if flags.show.animate:
        across = math.ceil(math.sqrt(flags.rows))
        film = [
            sheets.grid(step, across, title=f"{title}, {weight:.2f}")
            for step, weight in zip(steps, weights.tolist(), strict=True)
        ]
        shown.animate([*film, *film[-2:0:-1]], folder)
    return made


def _between_images(shown: Shown, flags: InterpolateFlags) -> None:
    """Two test images to their noises, over the arc, and back; reports how well both ends come back."""
    dataset = shown.data()
    rows = pick_images(dataset.test, 2 * flags.rows, flags.show.seed, flags.images)
    flags = replace(flags, rows=len(rows) // 2)
    images, labels = dataset.test.images[rows], dataset.test.labels[rows]
    with shown.folder("interpolations", "images", flags) as folder:
        noises = find_noises(shown, images, labels, flags.refinements)
        pair = shown.labels(labels[0::2].tolist()), shown.labels(labels[1::2].tolist())
        ends = _Ends((noises[0::2], noises[1::2]), None if pair[0] is None or pair[1] is None else (pair[0], pair[1]))
        names = name_images(dataset, rows, "")
        titles = [f"{a} to\n{b}" for a, b in zip(names[0::2], names[1::2], strict=True)]
        what = "test images to noise and back, spherical interpolation between"
        made = _draw(shown, flags, ends, titles, what, folder, (images[0::2], images[1::2]))
        back = made.images.unflatten(0, (flags.rows, -1))[:, [0, -1]].flatten(0, 1)
        write_numbers(folder, "reconstruction", _reconstruction(shown, flags, images, noises, back))
        shown_noises = shown.model.space.decode(noises).cpu()
        heading = shown.title("test images, the noise found behind each, and what is sampled from it")
        titles = [f"{name}\nRMSE {e:.2f} of 255" for name, e in zip(names, rmse(back, images).tolist(), strict=True)]
        headings = ["test image", "its noise", "back again"]
        sheet = sheets.strip([images, shown_noises, back], headings, title=heading, row_titles=titles)
        shown.save(sheet, folder, "reconstruction")


def _reconstruction(
    shown: Shown, flags: InterpolateFlags, images: Tensor, noises: Tensor, back: Tensor
) -> dict[str, object]:
    """How well test images come back, beside how far two of them are apart; Gaussian noise has mean 0, deviation 1."""
    error, apart = rmse(back, images), rmse(images[0::2], images[1::2])
    return {
        "reconstruction_rmse_mean": error.mean().item(),
        "reconstruction_rmse_worst": error.max().item(),
        "rmse_between_the_two_images": apart.mean().item(),
        "unit": "grey levels of 0..255",
        "noise_mean": noises.mean().item(),
        "noise_deviation": noises.std().item(),
        "network_calls_to_find_the_noise": shown.sampling.steps * (flags.refinements + 1),
    }


@torch.no_grad()
def find_noises(shown: Shown, images: Tensor, labels: Tensor, refinements: int) -> Tensor:
    """The noise behind uint8 images (N, C, H, W), under their labels."""
    noises = []
    for part, own in zip(images.split(shown.show.batch_size), labels.split(shown.show.batch_size), strict=True):
        denoiser, _ = sampled_denoiser(shown.model, shown.sampling)
        clean = shown.model.space.encode(part.to(shown.model.device))
        for step in invert(with_labels(denoiser, shown.labels(own.tolist())), clean, shown.grid, refinements):
            clean = step.noisy
        noises.append(clean)
    return torch.cat(noises)


if __name__ == "__main__":
    run_command(main)
