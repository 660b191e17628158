"""The measures of one set of images against real ones, each with its interval: what a report's rows are made of.

`Reference` holds what is measured against. The same function takes generated images and, for the floor beside them,
real test images, so that a row says how far from real the images are and how far real ones would be.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from models.evaluation.classifier import Read
from models.evaluation.distances import (
    Gaussian,
    frechet_distance,
    frechet_limit,
    frechet_resampled,
    gaussian,
    kernel_distance,
)
from models.evaluation.memorisation import Memorisation
from models.evaluation.neighbours import manifolds, mixing
from models.evaluation.recognition import inception_score
from models.evaluation.statistics import Measurement, around, mean, resampled_counts, share
from models.randomness import derive_seed

MOST_PAIRED = 10_000  # Images of each set whose pairs are looked at: time and memory grow with the square.
SHORTEST_LINE = 5  # Images over features below which the smallest subset of the line in 1 / n has no covariance.
FLOOR_SETS = 20
WIDE, WIDE_DRAWS = 512, 10  # A resample of features wider than this takes seconds.


@dataclass(frozen=True)
class Settings:
    """k: nearest neighbours. draws: resamples for the intervals. extrapolate: also the distance's limit in 1 / n."""

    k: int = 5
    draws: int = 100
    seed: int = 0
    extrapolate: bool = False


@dataclass(frozen=True)
class Reference:
    """Real training images in a space of features: the moments of all, and some of them to make pairs with."""

    all: Gaussian
    some: Tensor

    @classmethod
    def of(cls, train: Tensor, count: int, seed: int) -> Reference:
        """train: features (N, D) of the training split. count: how many are to make pairs, at most N."""
        return cls(gaussian(train), train[drawn(len(train), min(count, MOST_PAIRED), seed, "reference")].double())

    def cut(self, count: int) -> Reference:
        """The same with fewer to make pairs, where there are more: those that `of` would have taken."""
        return Reference(self.all, self.some[:count])


def measure(read: Read, reference: Reference, name: str, settings: Settings) -> dict[str, Measurement]:
    """Distances and shares of images against the reference, by name; `name` is that of the feature network.

    Intervals are over the images measured, the reference being given; those of recall and coverage over the reference.
    """
    features = read.features.double()
    counts = resampled_counts(len(features), settings.draws, settings.seed)
    found = {f"fd_{name}": frechet(features, reference.all, settings)}
    if settings.extrapolate and len(features) > SHORTEST_LINE * features.shape[1]:
        limit = frechet_limit(features, reference.all, settings.seed)
        found[f"fd_limit_{name}"] = Measurement(limit, math.nan, math.nan)
    some, paired = features, counts
    if len(features) > MOST_PAIRED:
        some = features[drawn(len(features), MOST_PAIRED, settings.seed, "paired").sort().values]
        paired = resampled_counts(MOST_PAIRED, settings.draws, settings.seed)
    kernel, kernels = kernel_distance(some, reference.some, paired)
    found[f"kd_{name}"] = around(kernel, kernels)
    scores = inception_score(read.logits, torch.cat([torch.ones(1, len(features), dtype=torch.float64), counts]))
    found[f"is_{name}"] = around(scores[0].item(), scores[1:])
    near = manifolds(reference.some, some, settings.k)
    of_reference = resampled_counts(len(reference.some), settings.draws, settings.seed)
    found[f"precision_{name}"] = share(near.precision, paired)
    found[f"recall_{name}"] = share(near.recall, of_reference)
    found[f"density_{name}"] = mean(near.density, paired)
    found[f"coverage_{name}"] = share(near.coverage, of_reference)
    own_nearest = mixing(some, reference.some, 1) == 0
    found[f"one_nn_{name}"] = share(own_nearest, torch.cat([paired, of_reference], dim=1))
    return found


def undetermined(count: int, width: int, name: str) -> list[str]:
    """The warning where so many images are too few for so many features."""
    if count > width:
        return []
    return [f"{count} images for {width} features of {name}: its covariance is not determined"]


def drawn(size: int, count: int, seed: int, stream: str) -> Tensor:
    """The numbers of `count` of `size` images, all where there are no more, in an order drawn by the seed: fewer of one
    stream are the first of more."""
    generator = torch.Generator().manual_seed(derive_seed(seed, stream))
    return torch.randperm(size, generator=generator)[:count]


def frechet_floor(features: Tensor, reference: Gaussian, count: int, seed: int) -> Measurement | None:
    """What the distance of `count` images is where they are real, (N, D): the mean over random sets of them and the
    range that 95 % of such sets lie in. None where there are too few real images for sets that differ."""
    if 2 * count > len(features):
        return None
    generator = torch.Generator().manual_seed(derive_seed(seed, "floors"))
    sets = [torch.randperm(len(features), generator=generator)[:count] for _ in range(FLOOR_SETS)]
    found = torch.tensor([frechet_distance(gaussian(features[rows]), reference) for rows in sets], dtype=torch.float64)
    spread = around(found.mean().item(), found)
    return spread._replace(low=max(0.0, spread.low))


def frechet(features: Tensor, reference: Gaussian, settings: Settings) -> Measurement:
    """The squared distance of features (N, D), with its interval."""
    counts = resampled_counts(len(features), settings.draws, settings.seed)
    used = counts[:WIDE_DRAWS] if features.shape[1] > WIDE else counts
    distance = frechet_distance(gaussian(features), reference)
    spread = around(distance, frechet_resampled(features, reference, used))
    return spread._replace(low=max(0.0, spread.low))  # there is no distance below 0


def memory_measures(found: Memorisation, name: str, settings: Settings) -> dict[str, Measurement]:
    """What nearest training images say, in the space `name`."""
    counts = resampled_counts(len(found.distances), settings.draws, settings.seed)
    return {
        f"nearest_train_{name}": mean(found.distances, counts),
        f"near_copies_{name}": share(found.near_copy, counts),
        f"nearer_to_train_{name}": share(found.nearer_to_train, counts),
    }


def grey_measures(images: Tensor, settings: Settings) -> dict[str, Measurement]:
    """Mean and deviation of the grey levels 0..255: where a wrong conversion to uint8 shows at once."""
    counts = resampled_counts(len(images), settings.draws, settings.seed)
    pixels = images.flatten(1).double()
    means, squares = pixels.mean(1), pixels.square().mean(1)
    size = counts.sum(1)
    spreads = ((counts @ squares) / size - ((counts @ means) / size) ** 2).clamp(min=0).sqrt()
    spread = (squares.mean() - means.mean() ** 2).clamp(min=0).sqrt().item()
    return {"grey_mean": mean(means, counts), "grey_deviation": around(spread, spreads)}
