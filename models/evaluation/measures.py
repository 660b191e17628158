"""Measures of a set of images against real training images, each with its interval. They are the rows of a report.

The same functions measure generated images and, as the floor, real test images.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from models.evaluation.distances import (
    Gaussian,
    frechet_distance,
    frechet_limit,
    frechet_resampled,
    gaussian,
    kernel_distance,
)
from models.evaluation.features import FeaturesAndLogits
from models.evaluation.memorisation import Memorisation
from models.evaluation.neighbours import manifolds
from models.evaluation.recognition import inception_score
from models.evaluation.statistics import (
    Measurement,
    bootstrap_measurement,
    mean_measurement,
    resampled_counts,
    share_measurement,
)
from models.randomness import derive_seed

MAX_PAIRED = 10_000  # Largest number of images of each set that are compared in pairs. Time grows with its square.
MIN_LIMIT_RATIO = 5  # Images per feature below which the smallest subset of `frechet_limit` has a singular covariance.
FLOOR_SETS = 20
WIDE, WIDE_DRAWS = 512, 10  # With more than WIDE features, a resample takes seconds, so only 10 are drawn.


@dataclass(frozen=True)
class MeasureSettings:
    """Settings of all measures. k: nearest neighbours. draws: resamples. extrapolate: also measure `frechet_limit`."""

    k: int = 5
    draws: int = 100
    seed: int = 0
    extrapolate: bool = False


@dataclass(frozen=True)
class Reference:
    """Features of real training images: moments of all, and features of a random subset for pairwise measures."""

    moments: Gaussian
    paired: Tensor

    @classmethod
    def of(cls, train: Tensor, count: int, seed: int) -> Reference:
        """Build the reference from features (N, D) of the training split. count: images to compare in pairs."""
        rows = random_rows(len(train), min(count, MAX_PAIRED), seed, "reference")
        return cls(gaussian(train), train[rows].double())

    def with_pairs(self, count: int) -> Reference:
        """Return the reference that `of` would build with this smaller count."""
        return Reference(self.moments, self.paired[:count])


def measure_features(
    output: FeaturesAndLogits, reference: Reference, name: str, settings: MeasureSettings
) -> dict[str, Measurement]:
    """Measure images against the reference. Returns measurements by name. Each name ends with `name`.

    Intervals cover the random choice of the measured images. Those of recall and coverage cover the choice of the
    reference images instead. The interval of one_nn covers both choices.
    """
    features = output.features.double()
    counts = resampled_counts(len(features), settings.draws, settings.seed)
    rows = {f"fd_{name}": measure_frechet(features, reference.moments, settings)}
    if settings.extrapolate and len(features) > MIN_LIMIT_RATIO * features.shape[1]:
        rows[f"fd_limit_{name}"] = Measurement(frechet_limit(features, reference.moments, settings.seed))
    paired, paired_counts = features, counts
    if len(features) > MAX_PAIRED:
        paired = features[random_rows(len(features), MAX_PAIRED, settings.seed, "paired").sort().values]
        paired_counts = resampled_counts(MAX_PAIRED, settings.draws, settings.seed)
    rows[f"kd_{name}"] = bootstrap_measurement(*kernel_distance(paired, reference.paired, paired_counts))
    scores = inception_score(output.logits, torch.cat([torch.ones(1, len(features), dtype=torch.float64), counts]))
    rows[f"is_{name}"] = bootstrap_measurement(scores[0].item(), scores[1:])
    compared = manifolds(reference.paired, paired, settings.k)
    reference_counts = resampled_counts(len(reference.paired), settings.draws, settings.seed)
    rows[f"precision_{name}"] = share_measurement(compared.precision, paired_counts)
    rows[f"recall_{name}"] = share_measurement(compared.recall, reference_counts)
    rows[f"density_{name}"] = mean_measurement(compared.density, paired_counts)
    rows[f"coverage_{name}"] = share_measurement(compared.coverage, reference_counts)
    rows[f"one_nn_{name}"] = share_measurement(~compared.mixed, torch.cat([paired_counts, reference_counts], dim=1))
    return rows


def measure_floor(
    test: FeaturesAndLogits, rows: Tensor, reference: Reference, name: str, settings: MeasureSettings
) -> dict[str, Measurement]:
    """Measure rows of the test images as the floor. Its fd is the value of `frechet_floor`, unless that is None."""
    floor = FeaturesAndLogits(test.features[rows], test.logits[rows])
    measured = measure_features(floor, reference.with_pairs(len(rows)), name, settings)
    distance = frechet_floor(test.features, reference.moments, len(rows), settings.seed)
    return measured if distance is None else measured | {f"fd_{name}": distance}


def covariance_warnings(count: int, width: int, name: str) -> list[str]:
    """Return a warning if `count` images are too few to estimate the covariance of `width` features."""
    text = f"{count} images for {width} features of {name}: their covariance is singular; measure more images"
    return [text] if count <= width else []


def random_rows(size: int, count: int, seed: int, stream: str) -> Tensor:
    """Draw min(count, size) rows of 0..size-1 without replacement. A smaller count gives the first of these rows."""
    generator = torch.Generator().manual_seed(derive_seed(seed, stream))
    return torch.randperm(size, generator=generator)[:count]


def measure_frechet(features: Tensor, reference: Gaussian, settings: MeasureSettings) -> Measurement:
    """Return the squared Frechet distance of features (N, D) with its interval."""
    counts = resampled_counts(len(features), settings.draws, settings.seed)
    counts = counts[:WIDE_DRAWS] if features.shape[1] > WIDE else counts
    distance = frechet_distance(gaussian(features), reference)
    return _not_negative(bootstrap_measurement(distance, frechet_resampled(features, reference, counts)))


def frechet_floor(features: Tensor, reference: Gaussian, count: int, seed: int) -> Measurement | None:
    """Return the squared Frechet distance of `count` real images, drawn from features (N, D); None if 2 * count > N.

    The value is the mean over random sets; the interval contains 95 % of such sets.
    """
    if 2 * count > len(features):
        return None
    generator = torch.Generator().manual_seed(derive_seed(seed, "floors"))
    sets = [torch.randperm(len(features), generator=generator)[:count] for _ in range(FLOOR_SETS)]
    distances = [frechet_distance(gaussian(features[rows]), reference) for rows in sets]
    values = torch.tensor(distances, dtype=torch.float64)
    return _not_negative(bootstrap_measurement(values.mean().item(), values))


def _not_negative(distance: Measurement) -> Measurement:
    return distance._replace(low=max(0.0, distance.low))


def memory_measures(memorisation: Memorisation, name: str, settings: MeasureSettings) -> dict[str, Measurement]:
    """Return the measures of memorisation with their intervals. name: the space in which distances are measured."""
    counts = resampled_counts(len(memorisation.distances), settings.draws, settings.seed)
    return {
        f"nearest_train_{name}": mean_measurement(memorisation.distances, counts),
        f"near_copies_{name}": share_measurement(memorisation.near_copy, counts),
        f"nearer_to_train_{name}": share_measurement(memorisation.nearer_to_train, counts),
    }


def grey_measures(images: Tensor, settings: MeasureSettings) -> dict[str, Measurement]:
    """Return mean and standard deviation of the grey levels 0..255. They reveal a wrong conversion to uint8."""
    counts = resampled_counts(len(images), settings.draws, settings.seed)
    pixels = images.flatten(1).double()
    means, squares = pixels.mean(1), pixels.square().mean(1)
    size = counts.sum(1)
    resampled = ((counts @ squares) / size - ((counts @ means) / size) ** 2).clamp(min=0).sqrt()
    deviation = (squares.mean() - means.mean() ** 2).clamp(min=0).sqrt().item()
    return {"grey_mean": mean_measurement(means, counts), "grey_deviation": bootstrap_measurement(deviation, resampled)}
