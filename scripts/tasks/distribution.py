"""The work of `visualize_distribution`: a 2-D map of real and generated images, and measures of how well they mix."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from data import ImageData
from models.devices import measuring_device
from models.drawing.maps import Cloud, SourceMap
from models.errors import UserError
from models.evaluation.maps import Map, fit_map
from models.evaluation.neighbours import expected_coverage, expected_mixing, manifolds, mixing
from models.generation import Generated
from models.randomness import derive_seed
from scripts.cli.terminal import tell
from scripts.tasks.showing import Shown, draw_rows, write_numbers

if TYPE_CHECKING:
    from scripts.visualize_distribution import DistributionFlags

# Names of the features in the title.
MAPPED = {
    "pixels": "the pixels",
    "latents": "the latents that the network takes",
    "classifier": "the last hidden layer of a classifier",
}
FeatureReader = Callable[[Tensor], Tensor]  # uint8 images (N, C, H, W) -> features (N, D) on the CPU


@dataclass(frozen=True)
class _Features:
    """Features (N, D) of images. real: test images. floor: training images, measured in place of generated ones."""

    real: Tensor
    floor: Tensor
    generated: Tensor


def draw_distribution(flags: DistributionFlags) -> None:
    """Write the map and the measures into a folder, and print the folder's name. Raises UserError."""
    shown = Shown.open(flags.model, flags.sampling, flags.show)
    dataset = shown.data()
    trained, seed = shown.trained_rows(dataset.test), flags.show.seed
    count = min(flags.num_samples, len(trained), len(dataset.train))
    if count <= flags.k:
        ways = ["lower `k`"] if count > 1 else []
        raise UserError(f"`num_samples`: {count} images have fewer than {flags.k} neighbours", *ways)
    if flags.features == "classifier" and not dataset.class_names:
        raise UserError(f"`features` classifier: {dataset.name} has no classes", "choose pixels or latents")
    with shown.folder("distribution", f"{flags.method}-{flags.features}", flags) as folder:
        rows = trained[draw_rows(dataset.test.labels[trained], count, seed)]
        labels = dataset.test.labels[rows].tolist() if shown.model.spec.classes else None
        tell(f"{count} images to generate")
        generated = shown.generate(labels, count, shown.frames)
        read = _reader(shown, flags.features, dataset)
        floor = dataset.train.images[_rows_like(dataset.test.labels[rows], dataset.train.labels, seed)]
        features = _Features(read(dataset.test.images[rows]), read(floor), read(generated.images))
        figures = _measure_mixing(features, flags.k, measuring_device(shown.model.device))
        write_numbers(folder, "numbers", figures)
        tell(f"computing the map by {flags.method}")
        both = torch.cat([features.real, features.generated]).numpy()
        chart = fit_map(flags.method, both, seed, flags.neighbours)
        real_labels = dataset.test.labels[rows].numpy() if dataset.class_names else np.full(count, -1)
        real = Cloud(chart.points[:count], real_labels)
        source_map = SourceMap(real, dataset.class_names, chart.axes, _notes(figures))
        _draw(shown, flags, folder, source_map, chart, generated, read)


def _rows_like(labels: Tensor, others: Tensor, seed: int) -> Tensor:
    """Return as many indices into `others` as `labels` has, drawn with the seed, with the same counts of labels.

    If `others` has too few of a label, other images take their places.
    """
    order = torch.randperm(len(others), generator=torch.Generator().manual_seed(derive_seed(seed, "floor")))
    chosen = [order[others[order] == label][: int((labels == label).sum())] for label in labels.unique()]
    rows = torch.cat(chosen)
    left = order[~torch.isin(order, rows)]
    return torch.cat([rows, left[: len(labels) - len(rows)]])


def _reader(shown: Shown, features: str, dataset: ImageData) -> FeatureReader:
    if features == "classifier":
        classifier = shown.classifier(dataset)
        return lambda images: classifier.extract(images).features
    if features == "pixels":
        return lambda images: images.cpu().flatten(1).float() / 255
    space, size = shown.model.space, shown.show.batch_size

    @torch.no_grad()
    def encoded(images: Tensor) -> Tensor:
        return torch.cat([space.encode(part.to(shown.model.device)).flatten(1).cpu() for part in images.split(size)])

    return encoded


def _measure_mixing(features: _Features, k: int, device: torch.device) -> dict[str, Any]:
    """Return the measures of generated and training images against test images, and the expected values.

    The expected values are those of two sets from one distribution.
    """
    real, count = features.real.to(device), len(features.real)
    measured = [
        {"mixing": mixing(real, others, k), **manifolds(real, others, k)._asdict()}
        for others in (features.generated.to(device), features.floor.to(device))
    ]
    expected = {"mixing": expected_mixing(count, count), "coverage": expected_coverage(count, count, k), "density": 1.0}
    figures: dict[str, Any] = {"images": count, "neighbours": k}
    for name, value in expected.items():
        generated, floor = (shares[name].double().mean().item() for shares in measured)
        figures |= {name: generated, f"{name}_floor": floor, f"{name}_expected": value}
    return figures


def _notes(figures: dict[str, Any]) -> str:
    """Return the text beside the map: each measure with its floor, expected value and meaning."""
    lines = [f"{figures['images']} images each,", f"{figures['neighbours']} nearest neighbours", ""]
    for name, meaning in (
        ("mixing", "neighbours from the\nother source"),
        ("coverage", "real images with a\ngenerated one near"),
        ("density", "generated images in\nthe midst of real ones"),
    ):
        lines += [f"{name}  {figures[name]:.3f}", f"  train images  {figures[f'{name}_floor']:.3f}"]
        lines += [f"  expected  {figures[f'{name}_expected']:.3f}", f"({meaning})", ""]
    return "\n".join(lines)


def _draw(
    shown: Shown,
    flags: DistributionFlags,
    folder: Path,
    source_map: SourceMap,
    chart: Map,
    generated: Generated,
    read: FeatureReader,
) -> None:
    count = len(generated.images)
    labels = np.full(count, -1) if generated.labels is None else generated.labels.numpy()
    mapped = f"{flags.method.upper()} of {MAPPED[flags.features]}: {count:,} test images and {count:,} generated ones"
    title = f"{mapped}, seed {flags.show.seed}\n{shown.origin(generated.nfe)}"
    path = folder / f"distribution.{flags.show.format}"
    source_map.draw(Cloud(chart.points[-count:], labels), path, title)
    if not flags.show.animate:
        return
    film = []
    for t, estimates in zip(generated.frame_times[1:], generated.estimates, strict=True):
        moved = Cloud(chart.transform(read(estimates).numpy()), labels[: len(estimates)])
        film.append(source_map.frame(moved, f"{title}, clean estimates at t = {t:.2f}"))
    shown.animate(film, folder)
