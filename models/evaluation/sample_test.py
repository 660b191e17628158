"""How good the samples of a model in training are: a few figures that cost seconds, at every evaluation alike."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from models.evaluation.distances import Gaussian, frechet_distance, gaussian
from models.evaluation.features import Extractor

DISTANCE, RECOGNISED = "sample_distance", "sample_recognised"


@dataclass(frozen=True)
class SampleTest:
    """extractor: the feature network. train: moments of all training images in its features. count: how many samples,
    2 or more; distances fall with their number, so those of two counts are not compared."""

    extractor: Extractor
    train: Gaussian
    count: int

    @staticmethod
    def names(labelled: bool) -> tuple[str, ...]:
        """Of the figures of samples that were asked for by label, or of others."""
        return (DISTANCE, RECOGNISED) if labelled else (DISTANCE,)

    @staticmethod
    def describe(figures: Mapping[str, float]) -> str:
        """For the log."""
        words = [f"sample distance {figures[DISTANCE]:.4g}"]
        return ", ".join([*words, *(f"recognised {figures[name]:.1%}" for name in figures if name == RECOGNISED)])

    def measure(self, images: Tensor, labels: Sequence[int] | None) -> dict[str, float]:
        """Of uint8 (N, C, H, W): the squared Frechet distance and, where labels were asked for, the share that is
        recognised as them."""
        read = self.extractor.read(images)
        found = {DISTANCE: frechet_distance(gaussian(read.features), self.train)}
        if labels is not None:
            found[RECOGNISED] = (read.labels == torch.tensor(labels)).double().mean().item()
        return found
