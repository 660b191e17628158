"""Real and generated images on one map, coloured by class and by source, with numbers that say how well they mix."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import tyro
from torch import Tensor

from data import ImageData
from models.drawing.maps import Cloud, SourceMap
from models.errors import UserError
from models.evaluation.maps import METHODS, Map, fit_map
from models.evaluation.neighbours import expected_coverage, expected_mixing, manifolds, mixing
from models.generation import Generated
from scripts.cli.arguments import check_positive, parse_flags
from scripts.cli.command import run_command
from scripts.cli.flags import ModelFlags, SamplerFlags, one_of
from scripts.cli.terminal import tell
from scripts.tasks.showing import FILM_FRAMES, ShowFlags, Shown, pick_images, write_numbers

FEATURES = ("pixels", "latents", "classifier")
DESCRIPTION = "Draw real and generated images on one map. Prints the folder of what it wrote."


@dataclass(frozen=True)
class DistributionFlags:
    """Settings of `visualize_distribution`."""

    model: tyro.conf.OmitArgPrefixes[ModelFlags] = field(default_factory=ModelFlags)
    method: Annotated[str, one_of(METHODS)] = "umap"
    """How features become two dimensions."""
    features: Annotated[str, one_of(FEATURES)] = "pixels"
    """What is compared: pixels, what the network sees of them (latents), or a classifier's last hidden layer."""
    num_samples: int = 1000
    """Generated images, and as many test images; of each class as many as among those."""
    k: int = 5
    """Nearest neighbours that mixing, density and coverage look at."""
    neighbours: int = 15
    """Of UMAP: more keeps the large shape, fewer the fine one."""
    sampling: tyro.conf.OmitArgPrefixes[SamplerFlags] = field(default_factory=SamplerFlags)
    show: tyro.conf.OmitArgPrefixes[ShowFlags] = field(default_factory=ShowFlags)


@dataclass(frozen=True)
class _Sets:
    """Features (N, D) of test images, of training images as the floor, and of generated ones."""

    real: Tensor
    floor: Tensor
    generated: Tensor


def main(argv: list[str]) -> None:
    flags = parse_flags(argv, DistributionFlags(), "visualize_distribution", DESCRIPTION)
    _check(flags)
    shown = Shown.open(flags.model, flags.sampling, flags.show)
    dataset = shown.data()
    count = min(flags.num_samples, len(dataset.test), len(dataset.train))
    if count <= flags.k:
        raise UserError(f"--num_samples: {count} images have fewer than {flags.k} neighbours; see --k")
    if flags.features == "classifier" and not dataset.class_names:
        raise UserError(f"--features classifier: {dataset.name} has no classes; choose pixels or latents")
    words = f"{flags.method}-{flags.features}"
    with shown.folder("distribution", words, flags) as folder:
        rows = pick_images(dataset.test, count, flags.show.seed, None)
        labels = dataset.test.labels[rows].tolist() if shown.model.spec.classes else None
        tell(f"{count} images to generate")
        made = shown.generate(labels, count, FILM_FRAMES if flags.show.animate else 0)
        read = _reader(shown, flags.features, dataset)
        floor = dataset.train.images[pick_images(dataset.train, count, flags.show.seed, None)]
        sets = _Sets(read(dataset.test.images[rows]), read(floor), read(made.images))
        numbers = measure_mixing(sets, flags.k)
        write_numbers(folder, "numbers", numbers)
        tell(f"a map by {flags.method}")
        features = torch.cat([sets.real, sets.generated]).numpy()
        chart = fit_map(flags.method, features, flags.show.seed, flags.neighbours)
        _draw(shown, flags, folder, chart, _labels(dataset, rows), made, numbers, read)


def _check(flags: DistributionFlags) -> None:
    check_positive(flags, "num_samples", "k")
    if flags.method not in METHODS:
        raise UserError(f"--method {flags.method}: choose {' or '.join(METHODS)}")
    if flags.features not in FEATURES:
        raise UserError(f"--features {flags.features}: choose from {', '.join(FEATURES)}")
    if flags.neighbours < 2:
        raise UserError(f"--neighbours {flags.neighbours}: takes 2 or more")
    if flags.show.seed < 0:
        raise UserError(f"--seed {flags.show.seed}: takes 0 or more")


def _reader(shown: Shown, features: str, dataset: ImageData):
    """uint8 images -> features (N, D) on the CPU."""
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


def measure_mixing(sets: _Sets, k: int) -> dict[str, Any]:
    """How well generated images mix with test images, beside training images in their place, and the ideal."""
    count = len(sets.real)
    ours, floor = (
        {name: share.double().mean().item() for name, share in manifolds(sets.real, each, k)._asdict().items()}
        for each in (sets.generated, sets.floor)
    )
    return {
        "images": count,
        "neighbours": k,
        "mixing": mixing(sets.real, sets.generated, k).mean().item(),
        "mixing_floor": mixing(sets.real, sets.floor, k).mean().item(),
        "mixing_expected": expected_mixing(count, count),
        "coverage": ours["coverage"],
        "coverage_floor": floor["coverage"],
        "coverage_expected": expected_coverage(count, count, k),
        "density": ours["density"],
        "density_floor": floor["density"],
        "density_expected": 1.0,
    }


def _notes(numbers: dict[str, Any]) -> str:
    lines = [f"{numbers['images']} images each,", f"{numbers['neighbours']} nearest neighbours", ""]
    for name, meaning in (
        ("mixing", "neighbours from the\nother source"),
        ("coverage", "real images with a\ngenerated one near"),
        ("density", "generated images in\nthe midst of real ones"),
    ):
        lines += [f"{name}  {numbers[name]:.3f}", f"  train images  {numbers[f'{name}_floor']:.3f}"]
        lines += [f"  expected  {numbers[f'{name}_expected']:.3f}", f"({meaning})", ""]
    return "\n".join(lines)


def _labels(dataset: ImageData, rows: Tensor) -> np.ndarray:
    return dataset.test.labels[rows].numpy() if dataset.class_names else np.full(len(rows), -1)


def _draw(
    shown: Shown,
    flags: DistributionFlags,
    folder: Path,
    chart: Map,
    labels: np.ndarray,
    made: Generated,
    numbers: dict[str, Any],
    read: Any,
) -> None:
    names = shown.model.spec.class_names
    count = len(labels)
    asked = np.full(count, -1) if made.labels is None else made.labels.numpy()
    real, generated = Cloud(chart.points[:count], labels), Cloud(chart.points[count:], asked)
    title = shown.title(f"{flags.method} of {flags.features}, seed {flags.show.seed}", made.nfe)
    path = folder / f"distribution.{flags.show.format}"
    source_map = SourceMap(real, names, chart.axes, _notes(numbers))
    source_map.draw(generated, path, title)
    if not flags.show.animate:
        return
    film = []
    for t, frame in zip(made.frame_times[1:], made.estimates, strict=True):
        moved = Cloud(chart.transform(read(frame).numpy()), asked[: len(frame)])
        film.append(source_map.frame(moved, f"{title}: clean estimates at t = {t:.2f}"))
    shown.animate(film, folder)


if __name__ == "__main__":
    run_command(main)
