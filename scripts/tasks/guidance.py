"""The work of `visualize_guidance`: draw classes at several guidance scales, and measure accuracy and diversity."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from PIL import Image
from torch import Tensor

from models.drawing import curves, sheets
from models.drawing.lettering import class_titles
from models.errors import UserError
from models.evaluation.classifier import Classifier
from models.evaluation.recognition import diversity
from models.evaluation.statistics import wilson_interval
from models.generation import Generated, check_guidance, choose_labels
from models.spaces import ImageRows
from scripts.cli.terminal import tell
from scripts.tasks.showing import Shown, write_table

if TYPE_CHECKING:
    from scripts.visualize_guidance import GuidanceFlags

REAL_PER_CLASS = 200
SIDE = 45  # Pixels. Small images are enlarged by an integer factor, so that the longer side is close to SIDE.
WITHIN, BETWEEN = 2, 10  # Pixels between the images of a cell, and between cells.
ASPECT = 1.6  # Desired width / height of the picture, as on a screen. It decides the columns of a cell.


def compare_scales(flags: GuidanceFlags) -> None:
    """Write the pictures and the table into a folder, and print the folder's name. Raises UserError."""
    shown = Shown.open(flags.model, flags.sampling, flags.show, flags.labels, "guidance")
    for scale in flags.scales:
        check_guidance(shown.model, scale)
    classes = tuple(shown.chosen.labels or shown.model.spec.trained)
    if len(set(classes)) < len(classes):
        raise UserError("`labels`: a class is named twice; name each once")
    labels = choose_labels(shown.model, classes, len(classes) * flags.samples_per_class)
    if labels is None:
        raise UserError(f"{shown.path} is a model without labels, which cannot be guided")
    height, width = shown.model.space.image_shape[1:]
    across = columns_of_a_cell(flags.shown, width * len(flags.scales) / (height * len(classes)))
    shown.check_scale(flags.show.scale, across * len(flags.scales), math.ceil(flags.shown / across) * len(classes))
    dataset = shown.data()
    with shown.folder("guidance", f"{shown.sampling.sampler}-{shown.sampling.steps}", flags) as folder:
        classifier = shown.classifier(dataset)
        columns = [_sample(shown, scale, labels) for scale in flags.scales]
        real = _real_diversity(classifier, dataset.test.images, dataset.test.labels, classes)
        table = [_measure(classifier, *pair, real) for pair in zip(flags.scales, columns, strict=True)]
        write_table(folder, "guidance", table)
        _draw(shown, flags, classes, across, columns, folder)
        content = f"{flags.samples_per_class} images of each of {len(classes)} classes at every scale"
        title = shown.title(content, *(column.nfe for column in columns))
        note = f"classifier: {100 * classifier.accuracy:.2f} % of real test images"
        path = folder / f"accuracy_and_diversity.{flags.show.format}"
        curves.draw_guidance_curves(table, classifier.accuracy, path, f"{title}; {note}")


def _sample(shown: Shown, scale: float, labels: list[int]) -> Generated:
    """Generate the images of a scale. Noise depends only on seed and image index, so it is the same at every scale."""
    at_scale = replace(shown, sampling=replace(shown.sampling, guidance_scale=scale))
    tell(f"scale {scale:g}: {len(labels)} images")
    return at_scale.generate(labels, len(labels), shown.frames)


def _real_diversity(classifier: Classifier, images: ImageRows, labels: Tensor, classes: tuple[int, ...]) -> float:
    rows = torch.cat([(labels == label).nonzero()[:REAL_PER_CLASS, 0] for label in classes])
    return diversity(classifier.extract(images[rows]).features, labels[rows])


def _measure(classifier: Classifier, scale: float, column: Generated, real: float) -> dict[str, float]:
    """Return one row of the table. real: diversity of test images. The samples' diversity is divided by it."""
    output = classifier.extract(column.images)
    assert column.labels is not None
    recognised, count = int((output.predictions == column.labels).sum()), len(column.images)
    low, high = wilson_interval(recognised, count)
    return {
        "scale": scale,
        "nfe": column.nfe,
        "images": count,
        "accuracy": recognised / count,
        "accuracy_low": low,
        "accuracy_high": high,
        "diversity": diversity(output.features, column.labels) / real,
        "classifier_accuracy": classifier.accuracy,
    }


def _draw(
    shown: Shown, flags: GuidanceFlags, classes: tuple[int, ...], across: int, columns: list[Generated], folder: Path
) -> None:
    """Draw the sheet and the animation. across: columns of images in a cell."""
    names = class_titles(shown.class_names, classes)
    headings = [f"scale {scale:g}" for scale in flags.scales]
    enlarge = flags.show.scale or max(1, round(SIDE / max(shown.model.space.image_shape[1:])))

    def sheet(images: list[Tensor], caption: str) -> Image.Image:
        """Draw one sheet. images: one tensor per scale; image k has class k modulo the number of classes."""
        shown_rows = [column[row :: len(classes)][: flags.shown] for row in range(len(classes)) for column in images]
        cells = [sheets.tiled(sheets.enlarged(rows, enlarge), across, WITHIN) for rows in shown_rows]
        title = shown.title(caption, *(column.nfe for column in columns))
        return sheets.grid(torch.stack(cells), len(headings), BETWEEN, 1, title, headings, names)

    caption = "guidance scales; along each row, the same noise and class"
    shown.save(sheet([column.images for column in columns], caption), folder, "guidance")
    if flags.show.animate:
        moments = zip(columns[0].frame_times, *(column.frames for column in columns), strict=True)
        shown.animate([sheet(list(images), f"{caption}, t = {t:.2f}") for t, *images in moments], folder)


def columns_of_a_cell(count: int, aspect: float) -> int:
    """Return the number of columns per cell that brings the picture close to ASPECT with few gaps.

    count: images in a cell. aspect: width / height of the picture if each cell had one image.
    """

    def badness(columns: int) -> float:
        rows = math.ceil(count / columns)
        return abs(math.log(aspect * columns / rows / ASPECT)) + 2 * math.log(columns * rows / count)

    return min(range(1, count + 1), key=badness)
