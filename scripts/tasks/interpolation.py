"""The work of `interpolate`: interpolate between two noises, two inverted test images, or two classes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from models.class_names import change_title
from models.diffusion.denoiser import Denoiser, with_labels
from models.diffusion.editing import invert
from models.diffusion.guidance import between_labels
from models.drawing import sheets
from models.drawing.lettering import class_titles
from models.errors import UserError
from models.generation import MANY_STEPS, Generated, Start, choose_labels, sampled_denoiser
from scripts.tasks.showing import ROWS, Shown, name_images, rmse, write_numbers

if TYPE_CHECKING:
    from scripts.interpolate import InterpolateFlags

FRAMES_PER_COLUMN = 4  # Frames of the animation per column of the picture.


class _Ends(NamedTuple):
    """Both ends of each row: noises (R, C, H, W), and labels (R,) or None for a model without labels."""

    noises: tuple[Tensor, Tensor]
    labels: tuple[Tensor | None, Tensor | None]


def draw_interpolation(flags: InterpolateFlags) -> None:
    """Write the picture into a folder, and print the folder's name. Raises UserError."""
    shown = Shown.open(
        flags.model,
        flags.sampling,
        flags.show,
        flags.labels,
        "the noise of an image" if flags.between == "images" else "",
        MANY_STEPS,
    )
    if flags.between != "classes":
        shown.need_gaussian_noise(f"--between {flags.between}")
    elif shown.model.spec.classes < 2:
        raise UserError(f"--between classes: {shown.path} was trained without classes; choose noises or images")
    shown.check_scale(flags.show.scale, flags.columns + 2, 2 * (flags.rows or ROWS))
    if flags.between == "images":
        # A clipped estimate cannot be inverted.
        _between_images(replace(shown, sampling=replace(shown.sampling, clip=False)), flags)
        return
    rows = flags.rows or ROWS
    labels = choose_labels(shown.model, shown.chosen.labels, rows + 1) or []
    names = class_titles(shown.class_names, labels)
    first, second = shown.labels(labels[:-1]), shown.labels(labels[1:])
    shape = (rows, *shown.model.space.shape)
    noise, other_noise = (shown.draw([2 * row + end for row in range(rows)])(shape) for end in (0, 1))
    if flags.between == "noises":
        ends = _Ends((noise, other_noise), (first, first))
        row_titles = [change_title(name) for name in names[:-1]]
        content = "spherical interpolation between two noises, one class each row"
    else:
        ends = _Ends((noise, noise), (first, second))
        row_titles = [change_title(*pair) for pair in pairwise(names)]
        content = "from class to class, one noise each row"
    with shown.folder("interpolations", flags.between, flags) as folder:
        _draw(shown, flags, ends, row_titles, content, folder)


def slerp(one: Tensor, other: Tensor, weight: Tensor) -> Tensor:
    """Interpolate on the arc between noises (N, ...), with one weight in [0, 1] per image (Shoemake 1985).

    On a straight line, the variance of the noise would be too small between the ends. Equal ends are not changed.
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


def _sample_between(shown: Shown, ends: _Ends, weights: Tensor) -> Generated:
    """Sample every row at every weight. Image r * len(weights) + k is row r at weight k."""
    count, width = len(ends.noises[0]) * len(weights), len(weights)

    def begin(denoiser: Denoiser, indices: range) -> Start:
        device = shown.model.device
        row = torch.tensor(indices, device=device) // width
        weight = weights.to(device).repeat(count // width)[indices.start : indices.stop]
        noise = slerp(ends.noises[0][row], ends.noises[1][row], weight)
        first, second = (None if labels is None else labels[row] for labels in ends.labels)
        if first is None or second is None or torch.equal(first, second):
            labelled = with_labels(denoiser, first)
        else:
            labelled = between_labels(denoiser, first, second, weight)
        # All images of a row get the same sampler noise. The first draw is skipped: it is the start noise.
        draw = shown.draw([2 * index for index in row.tolist()])
        draw(noise.shape)
        return Start(noise, 1.0, None, shown.sampling.walk(labelled, noise, shown.grid, draw))

    return shown.generate_from(begin, count, shown.sampling.steps)


def _draw(
    shown: Shown,
    flags: InterpolateFlags,
    ends: _Ends,
    row_titles: Sequence[str],
    content: str,
    folder: Path,
    originals: tuple[Tensor, Tensor] | None = None,
) -> Generated:
    """Draw the sheet, and an animation from the first end to the second and back. originals: images beside the ends."""
    stride = FRAMES_PER_COLUMN if flags.show.animate else 1
    weights = torch.linspace(0, 1, (flags.columns - 1) * stride + 1)
    made = _sample_between(shown, ends, weights)
    frames = list(made.images.unflatten(0, (-1, len(weights))).unbind(1))
    columns, headings = frames[::stride], [f"{weight:.2g}" for weight in weights[::stride].tolist()]
    if originals is not None:
        columns = [originals[0], *columns, originals[1]]
        headings = ["test image", *headings, "test image"]
    title = shown.title(content, made.nfe)
    sheet = sheets.strip(columns, headings, title, row_titles, flags.show.scale)
    shown.save(sheet, folder, "interpolation")
    if flags.show.animate:
        across = math.ceil(math.sqrt(len(frames[0])))
        moments = zip(frames, weights.tolist(), strict=True)
        scale = flags.show.scale
        film = [sheets.grid(frame, across, scale=scale, title=f"{title}, {weight:.2f}") for frame, weight in moments]
        shown.animate([*film, *film[-2:0:-1]], folder)
    return made


def _between_images(shown: Shown, flags: InterpolateFlags) -> None:
    """Invert test images, interpolate between their noises, and measure how well both ends are reconstructed."""
    dataset = shown.data()
    rows = shown.pick_rows(dataset.test, None if flags.rows is None else 2 * flags.rows, flags.images, step=2)
    images, labels = dataset.test.images[rows], dataset.test.labels[rows]
    with shown.folder("interpolations", "images", flags) as folder:
        noises = find_noises(shown, images, labels, flags.refinements)
        pair = shown.labels(labels[0::2].tolist()), shown.labels(labels[1::2].tolist())
        names = name_images(dataset, rows)
        titles = [f"test images {a}, {b}" for a, b in rows.unflatten(0, (-1, 2)).tolist()]
        if dataset.class_names:
            of_rows = class_titles(dataset.class_names, labels.tolist())
            changes = [change_title(*pair) for pair in zip(of_rows[0::2], of_rows[1::2], strict=True)]
            titles = [f"{change}\n{title}" for change, title in zip(changes, titles, strict=True)]
        content = "spherical interpolation between the noises of two test images"
        ends, originals = _Ends((noises[0::2], noises[1::2]), pair), (images[0::2], images[1::2])
        made = _draw(shown, flags, ends, titles, content, folder, originals)
        reconstructed = made.images.unflatten(0, (len(rows) // 2, -1))[:, [0, -1]].flatten(0, 1)
        error = rmse(reconstructed, images)
        numbers = {
            "reconstruction_rmse_mean": error.mean().item(),
            "reconstruction_rmse_worst": error.max().item(),
            "rmse_between_the_two_images": rmse(*originals).mean().item(),
            "unit": "grey levels of 0..255",
            "noise_mean": noises.mean().item(),
            "noise_deviation": noises.std().item(),
            "network_calls_to_find_the_noise": shown.sampling.steps * (flags.refinements + 1),
        }
        write_numbers(folder, "reconstruction", numbers)
        columns = [images, shown.model.space.decode(noises).cpu(), reconstructed]
        title = shown.title("test images, the noise found for each, and the image sampled from it")
        titles = [f"{name}\nRMSE {value:.2f} of 255" for name, value in zip(names, error.tolist(), strict=True)]
        headings = ["test image", "its noise", "reconstruction"]
        sheet = sheets.strip(columns, headings, title, titles, flags.show.scale)
        shown.save(sheet, folder, "reconstruction")


@torch.no_grad()
def find_noises(shown: Shown, images: Tensor, labels: Tensor, refinements: int) -> Tensor:
    """Invert the sampler: return the noises from which it generates the uint8 images (N, C, H, W) with these labels."""
    noises, size = [], shown.show.batch_size
    for batch, batch_labels in zip(images.split(size), labels.split(size), strict=True):
        denoiser, _ = sampled_denoiser(shown.model, shown.sampling)
        noise = shown.model.space.encode(batch.to(shown.model.device))
        for step in invert(with_labels(denoiser, shown.labels(batch_labels.tolist())), noise, shown.grid, refinements):
            noise = step.noisy
        noises.append(noise)
    return torch.cat(noises)
