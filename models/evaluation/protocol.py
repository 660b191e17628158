"""Protocol of an evaluation: real images, feature networks and settings. Its card is part of every report."""

from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from models.devices import measuring_device
from models.evaluation.classifier import Classifier, ClassifierSettings, cache_key, fit_classifier, for_inference
from models.evaluation.features import (
    Extractor,
    FeaturesAndLogits,
    cached_features,
    cached_squares,
    cached_tensors,
    hash_words,
)
from models.evaluation.image_sets import LabelledImages, RealImages
from models.evaluation.measures import MAX_PAIRED, MeasureSettings, Reference, measure_floor, random_rows
from models.evaluation.statistics import Measurement
from models.spaces import ImageRows

VERSION = 2  # Version of the measures. Reports of different versions are not compared.


@dataclass(frozen=True)
class Protocol:
    """Real images, feature networks and settings of an evaluation.

    cache: folder for results that depend on real images alone. device: trains classifiers and computes measures. The
    CPU replaces MPS for the measures.
    """

    real: RealImages
    extractors: Sequence[Extractor]
    settings: MeasureSettings
    cache: Path
    device: torch.device

    @property
    def measuring(self) -> torch.device:
        """The device on which features are compared."""
        return measuring_device(self.device)

    def sample_features(self, extractor: Extractor, images: ImageRows) -> FeaturesAndLogits:
        """Return the features of images to measure, on the device of the measures."""
        return extractor.extract(images).on(self.measuring)

    def train_features(self, extractor: Extractor) -> FeaturesAndLogits:
        return self._features(extractor, self.real.train)

    def test_features(self, extractor: Extractor) -> FeaturesAndLogits:
        return self._features(extractor, self.real.test)

    def _features(self, extractor: Extractor, split: LabelledImages) -> FeaturesAndLogits:
        return cached_features(extractor, split.images, split.identity.key, self.cache).on(self.measuring)

    def test_squares(self, space: str, test: Tensor, train: Tensor) -> Tensor:
        """Return the squared distance of each test point (M, D) to its nearest training point (N, D), (M,)."""
        return cached_squares(
            space, test, train, (self.real.train.identity.key, self.real.test.identity.key), self.cache
        )

    def floor(
        self, extractor: Extractor, reference: Reference, count: int, measured: Collection[str]
    ) -> dict[str, Measurement]:
        """Return `measure_floor` of `floor_rows(count)`, without resamples.

        The result is cached by data, network, number of images, settings and type of device. reference: from
        `Reference.of`. measured: names of the measures of the samples. A cached floor is replaced if it lacks one of
        them other than fd_limit.
        """
        rows, needed = self.floor_rows(count), set(measured) - {f"fd_limit_{extractor.name}"}
        facts = (VERSION, self.settings, len(rows), self.measuring.type)
        key = hash_words(self.real.train.identity.key, self.real.test.identity.key, extractor.name, *map(str, facts))

        def compute() -> dict[str, Tensor]:
            floor = measure_floor(self.test_features(extractor), rows, reference, extractor.name, self.settings)
            return {name: torch.tensor(row[:3], dtype=torch.float64) for name, row in floor.items()}

        def fits(tensors: dict[str, Tensor]) -> bool:
            return needed <= tensors.keys() and all(row.shape == (3,) for row in tensors.values())

        tensors = cached_tensors(f"floor-{extractor.name}-{key}", (self.cache,), compute, fits)
        return {name: Measurement(*row.tolist()) for name, row in tensors.items()}

    def recognised_after(self, examples: LabelledImages) -> Tensor:
        """Train a classifier on images. Return whether it recognises each test image, bool (M,)."""
        network = fit_classifier(self._learning, examples, len(self.real.class_names), self.device)
        output = Classifier(for_inference(network, self.device), {}).extract(self.real.test.images)
        return output.predictions == self.real.test.labels

    def recognised_after_real(self, count: int) -> Tensor:
        """Return `recognised_after` of `count` random training images, or of all if there are fewer.

        The result is cached by data, count, settings and type of device.
        """
        train, test = self.real.train, self.real.test
        rows = random_rows(len(train), min(count, len(train)), self.settings.seed, "learning")
        key = f"{train.identity.key} {test.identity.key} {len(rows)} {self.device.type}"

        def compute() -> dict[str, Tensor]:
            return {"recognised": self.recognised_after(train[rows])}

        def fits(tensors: dict[str, Tensor]) -> bool:
            return len(tensors["recognised"]) == len(test)

        name = f"recognised-{cache_key(self._learning, key)}"
        return cached_tensors(name, (self.cache,), compute, fits)["recognised"]

    @property
    def _learning(self) -> ClassifierSettings:
        return ClassifierSettings(flips=self.real.flips, seed=self.settings.seed)

    def floor_rows(self, count: int) -> Tensor:
        """Return the rows of the floor: `count` random test images, or all test images if there are fewer."""
        return random_rows(len(self.real.test), count, self.settings.seed, "floor")

    def card(self, count: int) -> dict[str, Any]:
        """Return the facts that must be equal in two reports to compare them. count: number of measured images."""
        train, test = self.real.train, self.real.test
        accuracies = [network.accuracy if isinstance(network, Classifier) else None for network in self.extractors]
        return {
            "version": VERSION,
            "images": count,
            "dataset": self.real.name,
            "reference": f"train split, {len(train)} images; pairs with {min(count, MAX_PAIRED, len(train))} of them",
            **train.identity.facts("reference_"),
            "floor": f"test split, {min(count, len(test))} images",
            **test.identity.facts("floor_"),
            "extractors": [network.name for network in self.extractors],
            "accuracy_of_extractors": accuracies,
            **asdict(self.settings),
            "interval": "95 %, normal bootstrap over the images measured, or of recall and coverage over the training "
            "images; Wilson's for shares",
        }
