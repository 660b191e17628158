"""What guidance does: classes by scales in one picture, and accuracy against diversity by scale."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
import tyro
from torch import Tensor

from models.drawing import curves, sheets
from models.errors import UserError
from models.evaluation.classifier import Classifier
from models.evaluation.recognition import diversity
from models.evaluation.statistics import wilson_interval
from models.generation import Generated, check_guidance, choose_labels
from models.spaces import ImageRows
from scripts.cli.arguments import check_positive, parse_flags
from scripts.cli.command import run_command
from scripts.cli.flags import ModelFlags, SamplerFlags
from scripts.cli.terminal import tell
from scripts.tasks.showing import FILM_FRAMES, ShowFlags, Shown, write_table

REAL_PER_CLASS = 200
SIDE = 45  # Pixels that the longer side of each small image comes near to.
DESCRIPTION = "Draw guidance scales side by side. Prints the folder of what it wrote."


@dataclass(frozen=True)
class GuidanceFlags:
    """Settings of `visualize_guidance`."""

    model: tyro.conf.OmitArgPrefixes[ModelFlags] = field(default_factory=ModelFlags)
    scales: tuple[float, ...] = (0.0, 1.0, 1.5, 2.0, 4.0, 8.0)
    """Guidance scales, one column each: 0 unconditional, 1 conditional, more is guided."""
    labels: tuple[int, ...] | None = None
    """Classes, one row each. Default: all."""
    shown: int = 4
    """Images in a cell of the picture. Along a row they begin with the same noise."""
    samples_per_class: int = 25
    """Images of each class and scale that accuracy and diversity are taken over."""
    sampling: tyro.conf.OmitArgPrefixes[SamplerFlags] = field(default_factory=SamplerFlags)
    show: tyro.conf.OmitArgPrefixes[ShowFlags] = field(default_factory=ShowFlags)


def main(argv: list[str]) -> None:
    flags = parse_flags(argv, GuidanceFlags(), "visualize_guidance", DESCRIPTION)
    _check(flags)
    shown = Shown.open(flags.model, flags.sampling, flags.show)
    for scale in flags.scales:
        check_guidance(shown.model, scale)
    rows = tuple(flags.labels or range(shown.model.spec.classes))
    labels = choose_labels(shown.model, rows, len(rows) * flags.samples_per_class)
    if labels is None:
        raise UserError(f"{shown.path} is a model without labels: there is nothing to guide by")
    dataset = shown.data()
    with shown.folder("guidance", f"{shown.sampling.sampler}-{shown.sampling.steps}", flags) as folder:
        classifier = shown.classifier(dataset)
        columns = [_sample(shown, scale, labels, flags) for scale in flags.scales]
        real = _real_diversity(classifier, dataset.test.images, dataset.test.labels, rows)
        table = [_measure(classifier, *pair, real) for pair in zip(flags.scales, columns, strict=True)]
        write_table(folder, "guidance", table)
        _draw(shown, flags, rows, columns, folder)
        what = f"{flags.samples_per_class} images of each of {len(rows)} classes at every scale"
        title = shown.title(what, *(column.nfe for column in columns))
        note = f"classifier: {100 * classifier.accuracy:.2f} % of real test images"
        path = folder / f"accuracy_and_diversity.{flags.show.format}"
        curves.draw_guidance_curves(table, classifier.accuracy, path, f"{title}; {note}")


def _check(flags: GuidanceFlags) -> None:
    check_positive(flags, "shown", "samples_per_class")
    if not flags.scales or not all(math.isfinite(scale) for scale in flags.scales):
        raise UserError("--scales: give one or more finite numbers")
    if flags.labels is not None and len(set(flags.labels)) < max(1, len(flags.labels)):
        raise UserError("--labels: give each class once")
    if flags.sampling.guidance_scale != 1:
        raise UserError(f"--guidance_scale {flags.sampling.guidance_scale:g}: the scales are those of --scales")
    if flags.shown > flags.samples_per_class:
        raise UserError(f"--shown {flags.shown}: at most --samples_per_class {flags.samples_per_class}")


def _sample(shown: Shown, scale: float, labels: list[int], flags: GuidanceFlags) -> Generated:
    """The same noise at every scale: image k depends on the seed, k and its label alone."""
    at_scale = replace(shown, sampling=replace(shown.sampling, guidance_scale=scale))
    tell(f"scale {scale:g}: {len(labels)} images")
    return at_scale.generate(labels, len(labels), FILM_FRAMES if flags.show.animate else 0)


def _real_diversity(classifier: Classifier, images: ImageRows, labels: Tensor, rows: tuple[int, ...]) -> float:
    """Of test images of the same classes."""
    chosen = torch.cat([(labels == label).nonzero()[:REAL_PER_CLASS, 0] for label in rows])
    return diversity(classifier.extract(images[chosen]).features, labels[chosen])


def _measure(classifier: Classifier, scale: float, column: Generated, real: float) -> dict[str, float]:
    output = classifier.extract(column.images)
    assert column.labels is not None
    right, count = int((output.predictions == column.labels).sum()), len(column.images)
    low, high = wilson_interval(right, count)
    return {
        "scale": scale,
        "nfe": column.nfe,
        "images": count,
        "accuracy": right / count,
        "accuracy_low": low,
        "accuracy_high": high,
        "diversity": diversity(output.features, column.labels) / real,
        "classifier_accuracy": classifier.accuracy,
    }


def _draw(shown: Shown, flags: GuidanceFlags, rows: tuple[int, ...], columns: list[Generated], folder: Path) -> None:
    names = [shown.model.spec.class_names[label] for label in rows]
    headings = [f"scale {scale:g}" for scale in flags.scales]
    across = math.ceil(math.sqrt(flags.shown))

    def sheet(images: list[Tensor], what: str):
        """images: for each scale, of which image k is of class k modulo the number of rows."""
        cells = [
            sheets.tiled(column[row :: len(rows)][: flags.shown], across)
            for row in range(len(rows))
            for column in images
        ]
        enlarged = max(1, round(SIDE / max(shown.model.space.image_shape[1:])))
        title = shown.title(what, *(column.nfe for column in columns))
        return sheets.grid(torch.stack(cells), len(headings), 16, enlarged, title, headings, names)

    what = "classes by guidance scales; the same noise along each row"
    shown.save(sheet([column.images for column in columns], what), folder, "guidance")
    if flags.show.animate:
        moments = zip(*(column.frames for column in columns), strict=True)
        times = columns[0].frame_times
        film = [sheet(list(each), f"{what}, t = {t:.2f}") for each, t in zip(moments, times, strict=True)]
        shown.animate(film, folder)


if __name__ == "__main__":
    run_command(main)
