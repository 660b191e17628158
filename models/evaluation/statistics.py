"""Intervals that stand beside a measured share or mean, and the refusal of what has none."""

from __future__ import annotations

import math
from statistics import NormalDist
from typing import NamedTuple

import torch
from torch import Tensor

from models.errors import UserError
from models.randomness import derive_seed

CONFIDENCE = 0.95
Z = NormalDist().inv_cdf((1 + CONFIDENCE) / 2)


class Measurement(NamedTuple):
    """A number and its 95 % interval. resampled: (draws,) the number in each resample, where there are some: with those
    of other images under the same noise they give the interval of a paired difference."""

    value: float
    low: float
    high: float
    resampled: Tensor | None = None


def wilson_interval(successes: int, count: int, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """The interval of a share that was observed as successes / count (Wilson 1927); (0, 1) where count is 0."""
    if count == 0:
        return 0.0, 1.0
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    share = successes / count
    centre = share + z**2 / (2 * count)
    half = z * math.sqrt(share * (1 - share) / count + z**2 / (4 * count**2))
    norm = 1 + z**2 / count
    # At the ends the formula is exactly 0 or 1, which rounding would miss.
    low = 0.0 if successes == 0 else (centre - half) / norm
    high = 1.0 if successes == count else (centre + half) / norm
    return low, high


def share(holds: Tensor, counts: Tensor | None = None) -> Measurement:
    """Of the images for which something holds, (N,) bool, with Wilson's interval. counts: (draws, N) of resamples."""
    successes, count = int(holds.sum()), len(holds)
    resampled = None if counts is None else counts @ holds.double() / count
    return Measurement(successes / count, *wilson_interval(successes, count), resampled)


def difference_of_shares(one: Measurement, other: Measurement, together: float = 0.0) -> tuple[float, float]:
    """The interval of other - one (Newcombe 1998, method 10): the reaches of both, squared and added, less what they
    share. together: the correlation of the two, 0 where they are independent. Unlike the spread of resamples it has a
    width where a share is 0 or 1."""

    def reach(first: float, second: float) -> float:
        return math.sqrt(max(0.0, first**2 + second**2 - 2 * together * first * second))

    value = other.value - one.value
    low = reach(one.high - one.value, other.value - other.low)
    high = reach(one.value - one.low, other.high - other.value)
    return value - low, value + high


def resampled_counts(count: int, draws: int, seed: int) -> Tensor:
    """(draws, count) float64: how often each of `count` images is in each resample of as many, with replacement."""
    generator = torch.Generator().manual_seed(derive_seed(seed, "bootstrap", count))
    rows = torch.randint(count, (draws, count), generator=generator)
    counts = torch.zeros(draws, count, dtype=torch.float64)
    return counts.scatter_add_(1, rows, torch.ones(draws, count, dtype=torch.float64))


def around(value: float, resampled: Tensor) -> Measurement:
    """The normal bootstrap interval (Efron & Tibshirani 1993, ch. 12): the spread of the resampled values about the
    value. Their own place is of no use: a resample holds images twice, which moves every distance between sets."""
    half = Z * resampled.std().item()
    return Measurement(value, value - half, value + half, resampled)


def mean(values: Tensor, counts: Tensor) -> Measurement:
    """Of (N,) values, with the interval of the resamples that `counts` (draws, N) describes."""
    values = values.double()
    return around(values.mean().item(), counts @ values / len(values))


def mean_interval(values: Tensor, confidence: float = 0.95) -> tuple[float, float]:
    """The interval of the mean of N >= 2 independent values, (N,): so many standard errors to both sides."""
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    mean, error = values.mean().item(), (values.var() / len(values)).sqrt().item()
    return mean - z * error, mean + z * error


def refuse_infinite(values: Tensor) -> None:
    """Raises UserError where a model's answers left something that is no finite number."""
    if not values.isfinite().all():
        raise UserError("the denoiser answers with numbers that are not finite: take other weights or float32")
