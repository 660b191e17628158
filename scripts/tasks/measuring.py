"""One evaluation of a set of images: every measure with its floor, the card that says how it was taken, the report.

The floor is what real test images get, as many of them, in the place of the images that are measured.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
import yaml
from torch import Tensor

from data import ImageData
from models.drawing import image_files, sheets
from models.drawing.confusion_matrix import draw_confusion_matrix
from models.evaluation.classifier import Classifier, LabelledImages, Read, Schooling, fit_classifier, frozen
from models.evaluation.distances import Gaussian, frechet_distance, gaussian
from models.evaluation.features import Extractor, read_kept
from models.evaluation.measures import (
    MOST_PAIRED,
    SHORTEST_LINE,
    WIDE,
    Reference,
    Settings,
    drawn,
    frechet_floor,
    grey_measures,
    measure,
    memory_measures,
    undetermined,
)
from models.evaluation.memorisation import Memorisation, memorisation
from models.evaluation.neighbours import distance_to
from models.evaluation.recognition import confusion, histogram_distance
from models.evaluation.statistics import Measurement, mean_interval, resampled_counts, share
from models.runs.files import write_text
from scripts.tasks.samples import Samples
from scripts.tasks.training import sha256_of, split_hash

RESAMPLED = "resampled.safetensors"  # Of every measure, its value in each resample.
VERSION = 2  # Of the measures: figures of two versions are not compared.
SHOWN, EXTREMES, PAIRS = 100, 30, 24
EXPECTED_NEAR_COPIES, MANY_NEAR_COPIES = 0.01, 0.05

# What a measure's name begins with -> how it is shown, and what it says.
MEANINGS = {
    "noise_loss": ("", "mean squared error of the estimated noise on real test images, ten times each"),
    "recognised": ("%", "taken by the classifier for the class that was asked for"),
    "cas": ("%", "real test images recognised by a classifier trained on these images (classification accuracy score)"),
    "class_shares": ("%", "classes of the images, as recognised, from those of the training split: total variation"),
    "fd_shares": ("", "what training images would get if their classes came as often as was asked for"),
    "fd": ("", "squared Frechet distance of the features from those of all training images; falls with n"),
    "fd_limit": ("", "the same for ever more images, by a line in 1 / n"),
    "kd": ("", "unbiased squared kernel distance (cubic kernel); about 0 for real images"),
    "is": ("", "exp of the information that an image's class carries (Inception Score's formula)"),
    "precision": ("%", "images in a ball around a training image: fidelity"),
    "recall": ("%", "training images in a ball around one of these: diversity"),
    "density": ("", "balls around training images that an image lies in, over k; about 1 for real images"),
    "coverage": ("%", "training images whose ball holds one of these"),
    "one_nn": ("%", "right answers of 1-nearest-neighbour, these against training images; 50 % if alike"),
    "nearest_train": ("", "mean distance to the nearest training image, root mean square over dimensions"),
    "near_copies": ("%", "nearer to a training image than 99 % of test images are to theirs"),
    "nearer_to_train": (
        "%",
        "nearer to some training image than to every test image; the floor is the training images' share of all",
    ),
    "grey_mean": ("", "mean grey level, 0..255"),
    "grey_deviation": ("", "deviation of the grey levels"),
}


@dataclass(frozen=True)
class Protocol:
    """What images are measured against, and how. kept: folder where the features of real images are kept."""

    dataset: ImageData
    extractors: Sequence[Extractor]
    settings: Settings
    kept: Path

    @cached_property
    def train_sha256(self) -> str:
        return split_hash(self.dataset.train)

    @cached_property
    def test_sha256(self) -> str:
        return split_hash(self.dataset.test)

    def read_train(self, extractor: Extractor) -> Read:
        return read_kept(extractor, self.dataset.train.images, self.train_sha256, self.kept)

    def read_test(self, extractor: Extractor) -> Read:
        return read_kept(extractor, self.dataset.test.images, self.test_sha256, self.kept)

    def floor_rows(self, count: int) -> Tensor:
        """Which test images stand in for `count` images: all, or as many drawn by the seed."""
        return drawn(len(self.dataset.test), count, self.settings.seed, "floor")

    def card(self, count: int) -> dict[str, Any]:
        """What two figures must have in common to be compared."""
        dataset = self.dataset
        paired = min(count, MOST_PAIRED, len(dataset.train))
        return {
            "version": VERSION,
            "images": count,
            "dataset": dataset.name,
            "reference": f"train split, {len(dataset.train)} images; pairs with {paired} of them",
            "reference_sha256": self.train_sha256,
            "floor": f"test split, {min(count, len(dataset.test))} images",
            "floor_sha256": self.test_sha256,
            "extractors": [extractor.name for extractor in self.extractors],
            "accuracy_of_extractors": [
                each.accuracy if isinstance(each, Classifier) else None for each in self.extractors
            ],
            **asdict(self.settings),
            "interval": "95 %, normal bootstrap over the images measured, or of recall and coverage over the training "
            "images; Wilson's for shares",
        }


@dataclass
class Evaluation:
    """The rows and pictures of one set of images. found, floors: by name of the measure. undetermined: names of the
    distances that no ratio to the floor goes with."""

    protocol: Protocol
    samples: Samples
    found: dict[str, Measurement] = field(default_factory=dict)
    floors: dict[str, Measurement] = field(default_factory=dict)
    undetermined: set[str] = field(default_factory=set)
    warnings: list[str] = field(default_factory=list)
    confusion: Tensor | None = None
    pixels: Memorisation | None = None
    remoteness: Tensor | None = None

    def measure(self, classification_accuracy: bool = False) -> None:
        """Everything; classification_accuracy: also train two classifiers."""
        count, dataset = len(self.samples.images), self.protocol.dataset
        if count > len(dataset.test):
            self.warnings.append(
                f"{count} images, but a floor of {len(dataset.test)}, all test images: distances fall with the number "
                f"of images, so take --num_images {len(dataset.test)} to compare them with it"
            )
        absent = 0 if self.samples.labels is None else len(dataset.class_names) - len(self.samples.labels.unique())
        if absent > 0:
            self.warnings.append(f"{absent} classes were not asked for, and the training images have them all")
        if not self.protocol.extractors:
            self.warnings.append(
                f"{dataset.name} has no classes, hence no feature network: name --extractors inception"
            )
        for extractor in self.protocol.extractors:
            self._measure_in(extractor)
        if classification_accuracy:
            self._measure_learning()
        self.pixels = self._measure_memory("pixels", *(each.flatten(1) for each in self._images()))
        self.found.update(grey_measures(self.samples.images, self.protocol.settings))
        floor = dataset.test.images[self.protocol.floor_rows(count)]
        self.floors.update(grey_measures(floor, self.protocol.settings))
        if int(self.samples.images.max()) <= 1:
            self.warnings.append("no pixel is above 1 of 255: images in 0..1 were written as uint8 without scaling")

    def _images(self) -> tuple[Tensor, Tensor, Tensor]:
        dataset = self.protocol.dataset
        return self.samples.images, dataset.train.in_memory(), dataset.test.in_memory()

    def _measure_in(self, extractor: Extractor) -> None:
        """All that one feature network sees."""
        protocol, settings, name = self.protocol, self.protocol.settings, extractor.name
        mine = extractor.read(self.samples.images)
        train_read, test_read = protocol.read_train(extractor), protocol.read_test(extractor)
        count, width = mine.features.shape
        rows = protocol.floor_rows(count)
        self.warnings += undetermined(count, width, name)
        if count <= width or count > len(rows):
            self.undetermined.add(f"fd_{name}")
        if settings.extrapolate and count <= SHORTEST_LINE * width:
            self.warnings.append(f"no limit of the distance: the line takes more than {SHORTEST_LINE * width} images")
        if isinstance(extractor, Classifier):
            self._recognise(name, mine, test_read, rows)
        reference = Reference.of(train_read.features, count, settings.seed)
        floor = Read(test_read.features[rows], test_read.logits[rows])
        of_floor = reference.cut(len(rows))
        self.floors.update(measure(floor, of_floor, name, settings))
        spread = frechet_floor(test_read.features, reference.all, len(rows), settings.seed)
        if spread is not None:
            self.floors[f"fd_{name}"] = spread
        self._weigh_shares(name, train_read.features, reference.all, rows)
        self.found.update(measure(mine, reference, name, settings))
        self._measure_memory(name, mine.features, train_read.features, test_read.features)
        if self.remoteness is None:
            self.remoteness = distance_to(mine.features, reference.some, settings.k)

    def _recognise(self, name: str, mine: Read, test_read: Read, rows: Tensor) -> None:
        dataset, asked = self.protocol.dataset, self.samples.labels
        labels, classes = dataset.test.labels, len(dataset.class_names)
        if asked is not None:
            settings = self.protocol.settings
            counts = resampled_counts(len(asked), settings.draws, settings.seed)
            self.found[f"recognised_{name}"] = share(mine.labels == asked, counts)
            self.floors[f"recognised_{name}"] = share(test_read.labels[rows] == labels[rows])
            if self.confusion is None:
                self.confusion = confusion(asked, mine.labels, classes)
        for where, found in ((self.found, mine.labels), (self.floors, test_read.labels[rows])):
            distance = histogram_distance(found, dataset.train.labels, classes)
            where[f"class_shares_{name}"] = Measurement(distance, math.nan, math.nan)

    def _weigh_shares(self, name: str, train: Tensor, reference: Gaussian, rows: Tensor) -> None:
        """What the classes asked for, as often as they were, are worth by themselves: the training images so weighted
        against all as they are."""
        dataset, asked = self.protocol.dataset, self.samples.labels
        if asked is None or train.shape[1] > WIDE:
            return
        classes = len(dataset.class_names)
        there = torch.bincount(dataset.train.labels, minlength=classes).double()
        for where, labels in ((self.found, asked), (self.floors, dataset.test.labels[rows])):
            wanted = torch.bincount(labels, minlength=classes) * (there > 0)
            weights = (wanted * len(train) / wanted.sum() / there)[dataset.train.labels]
            distance = frechet_distance(gaussian(train, weights), reference)
            where[f"fd_shares_{name}"] = Measurement(max(0.0, distance), math.nan, math.nan)
        alone = self.found[f"fd_shares_{name}"].value
        if alone > self.floors[f"fd_{name}"].value:
            self.warnings.append(
                "the classes were asked for in other shares than the training images have, which would give real "
                f"images a fd_{name} of {alone:.4g}, more than its floor: without --samples and --labels, evaluate "
                "asks in their shares"
            )

    def _measure_memory(self, name: str, samples: Tensor, train_points: Tensor, test: Tensor) -> Memorisation:
        found = memorisation(samples, train_points, test)
        self.found.update(memory_measures(found, name, self.protocol.settings))
        copies = self.found[f"near_copies_{name}"].value
        if copies > MANY_NEAR_COPIES:
            self.warnings.append(
                f"{100 * copies:.1f} % of the images are near copies of training images by {name}, where "
                f"{100 * EXPECTED_NEAR_COPIES:.0f} % of test images are: they show what the model remembers"
            )
        distances = found.test_distances
        self.floors[f"nearest_train_{name}"] = Measurement(distances.mean().item(), *mean_interval(distances))
        self.floors[f"near_copies_{name}"] = Measurement(EXPECTED_NEAR_COPIES, math.nan, math.nan)
        self.floors[f"nearer_to_train_{name}"] = Measurement(found.expected, math.nan, math.nan)
        return found

    def _measure_learning(self) -> None:
        """The classification accuracy score (Ravuri & Vinyals 2019), beside that of as many real training images."""
        dataset, samples, device = self.protocol.dataset, self.samples, torch.device("cpu")
        if samples.labels is None:
            self.warnings.append("no classification accuracy score: the images have no labels")
            return
        count = min(len(samples.images), len(dataset.train))
        rows = drawn(len(dataset.train), count, self.protocol.settings.seed, "learning")
        real = LabelledImages(dataset.train.images[rows], dataset.train.labels[rows])
        for where, shown in ((self.found, LabelledImages(samples.images, samples.labels)), (self.floors, real)):
            schooling = Schooling(flips=dataset.flips, seed=self.protocol.settings.seed)
            network = frozen(fit_classifier(schooling, shown, len(dataset.class_names), device), device)
            right = Classifier(network, {}).read(dataset.test.images).labels == dataset.test.labels
            where["cas"] = share(right)

    # -- the report -----------------------------------------------------------------------------------------------

    def write(self, folder: Path) -> None:
        """report.json for programs, report.txt for people, and the pictures."""
        card = {
            "protocol": self.protocol.card(len(self.samples.images)),
            "samples": {**self.samples.card, **self._hashes()},
            "versions": {"torch": str(torch.__version__), "numpy": np.__version__},
        }
        results = {
            name: {"found": for_json(found), "floor": for_json(self.floors.get(name))}
            for name, found in self.found.items()
        }
        content: dict[str, Any] = {"task": "samples", **card, "results": results, "warnings": self.warnings}
        if self.confusion is not None:
            content["confusion"] = self.confusion.tolist()
        write_text(folder / "report.json", json.dumps(content, indent=2, allow_nan=False) + "\n")
        resampled = {
            name: each.resampled.contiguous() for name, each in self.found.items() if each.resampled is not None
        }
        (folder / RESAMPLED).write_bytes(safetensors.torch.save(resampled))
        cards = yaml.safe_dump(card, sort_keys=False, allow_unicode=True)
        write_text(folder / "report.txt", f"{self.table()}\n\n{cards}")
        self._draw(folder)

    def _hashes(self) -> dict[str, Any]:
        labels = self.samples.labels
        return {
            "images_sha256": sha256_of(self.samples.images),
            "labels_sha256": None if labels is None else sha256_of(labels),
            "images_of_each_class": None if labels is None else torch.bincount(labels).tolist(),
        }

    def table(self) -> str:
        """The rows for people, what they mean, and the warnings."""
        count = len(self.samples.images)
        floor = min(count, len(self.protocol.dataset.test))
        width = max(map(len, self.found))
        heading = f"{'':<{width}}  {f'{count} images':<28}  {f'floor: {floor} test images':<28}  ratio"
        lines = [self.samples.title, "", heading]
        for name, found in self.found.items():
            floor_found = self.floors.get(name)
            lines.append(
                f"{name:<{width}}  {format_measurement(name, found):<28}  {format_measurement(name, floor_found):<28}  "
                f"{self._ratio(name)}".rstrip()
            )
        lines += ["", *(f"warning: {text}" for text in self.warnings), *([""] if self.warnings else [])]
        lines += [f"{kind:<16}{MEANINGS[kind][1]}" for kind in dict.fromkeys(map(kind_of, self.found))]
        return "\n".join(lines)

    def _ratio(self, name: str) -> str:
        """Of a distance: how many times the floor's, where both are of as many images and their covariances known."""
        floor = self.floors.get(name)
        if kind_of(name) != "fd" or floor is None or floor.value <= 0 or name in self.undetermined:
            return ""
        return f"{self.found[name].value / floor.value:.2f}"

    def _draw(self, folder: Path) -> None:
        images, names = self.samples.images, self.protocol.dataset.class_names
        labels, numbers = self.samples.labels, torch.arange(len(images))
        rows = self._classes_in_turn(numbers, numbers if labels is None else labels)[:SHOWN]
        whole = names if labels is not None and _in_turn(labels[rows], len(names)) else ()
        shown = f"{self.samples.title} ({len(rows)} of {len(images)})"
        image_files.save_image(sheets.sample_sheet(images[rows], whole, shown), folder / "samples.png")
        if self.remoteness is not None:
            order = self.remoteness.argsort()
            for word, rows in (("nearest to", order[:EXTREMES]), ("farthest from", order.flip(0)[:EXTREMES])):
                title = f"{self.samples.title}: the {len(rows)} {word} training images in features"
                image_files.save_image(sheets.grid(images[rows], 10, title=title), folder / f"{word.split()[0]}.png")
        if self.confusion is not None:
            path = folder / "confusion.png"
            draw_confusion_matrix(self.confusion.numpy(), names, path, self.samples.title)
        if self.pixels is not None:
            distances = self.pixels.distances
            closest = self._classes_in_turn(distances, distances)[:PAIRS]
            partners = self.protocol.dataset.train.images[self.pixels.nearest[closest]]
            title = f"{self.samples.title}: closest pairs in pixels, each with its training image to the right"
            image_files.save_image(sheets.pairs(images[closest], partners, 6, title), folder / "closest_pairs.png")

    def _classes_in_turn(self, values: Tensor, then: Tensor) -> Tensor:
        """The images by their values (N,), the least first, but one of each class before the second of any, in each
        turn by `then`: the closest pairs would else be of the plainest class alone."""
        labels = torch.zeros(len(values)) if self.samples.labels is None else self.samples.labels
        turns = torch.empty(len(values), dtype=torch.int64)
        for label in labels.unique():
            rows = (labels == label).nonzero()[:, 0]
            turns[rows[values[rows].argsort(stable=True)]] = torch.arange(len(rows))
        order = then.argsort(stable=True)
        return order[turns[order].argsort(stable=True)]


def _in_turn(labels: Tensor, classes: int) -> bool:
    return bool((labels == torch.arange(len(labels)) % classes).all())


def kind_of(name: str) -> str:
    """The longest word of MEANINGS that a measure's name begins with."""
    return max((kind for kind in MEANINGS if name == kind or name.startswith(f"{kind}_")), key=len)


def for_json(estimate: Measurement | None) -> dict[str, float | None] | None:
    """For JSON, which knows no NaN."""
    if estimate is None:
        return None
    numbers = {"value": estimate.value, "low": estimate.low, "high": estimate.high}
    return {key: number if math.isfinite(number) else None for key, number in numbers.items()}


def is_share(name: str) -> bool:
    return MEANINGS[kind_of(name)][0] == "%"


def format_value(name: str, value: float) -> str:
    """A value of a measure, as people read it."""
    return f"{100 * value:.2f} %" if is_share(name) else f"{value:.4g}"


def format_measurement(name: str, estimate: Measurement | None) -> str:
    if estimate is None:
        return "-"
    text = format_value(name, estimate.value)
    if not math.isfinite(estimate.low):
        return text
    low, high = (format_value(name, each).removesuffix(" %") for each in (estimate.low, estimate.high))
    return f"{text} [{low}, {high}]"
