"""Quality of samples during training: two measures that take seconds."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from models.evaluation.distances import Gaussian, frechet_distance, gaussian
from models.evaluation.features import Extractor
from models.evaluation.recognition import accuracy

DISTANCE, RECOGNISED = "sample_distance", "sample_recognised"


@dataclass(frozen=True)
class SampleTest:
    """Test of `count` samples, at least 2. train: moments of the features of all training images.

    Distances decrease with the number of samples. Compare only distances with the same `count`.
    """

    extractor: Extractor
    train: Gaussian
    count: int

    @staticmethod
    def names(labelled: bool) -> tuple[str, ...]:
        """Return the names of the measures. labelled: whether samples are drawn with labels."""
        return (DISTANCE, RECOGNISED) if labelled else (DISTANCE,)

    @staticmethod
    def describe(values: Mapping[str, float]) -> str:
        """Return the text of the measures for the log."""
        recognised = f", recognised {values[RECOGNISED]:.1%}" if RECOGNISED in values else ""
        return f"sample distance {values[DISTANCE]:.4g}{recognised}"

    def measure(self, images: Tensor, labels: Sequence[int] | None) -> dict[str, float]:
        """Measure uint8 images (N, C, H, W): squared Frechet distance and, with labels, share of recognised images."""
        output = self.extractor.extract(images)
        values = {DISTANCE: frechet_distance(gaussian(output.features), self.train)}
        if labels is not None:
            values[RECOGNISED] = accuracy(output.predictions, torch.tensor(labels))
        return values
