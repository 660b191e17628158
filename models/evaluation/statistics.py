"""Measurements with 95 % intervals: bootstrap intervals for means and distances, Wilson intervals for shares."""

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
    """Measured value and its 95 % interval. low and high are NaN if there is no interval.

    resampled: (draws,), the value in each bootstrap resample. Paired differences of two models are computed from it.
    """

    value: float
    low: float = math.nan
    high: float = math.nan
    resampled: Tensor | None = None


def wilson_interval(successes: int, count: int) -> tuple[float, float]:
    """Return the 95 % interval of a share observed as successes / count (Wilson 1927); (0, 1) if count is 0."""
    from scipy.stats import binomtest

    if count == 0:
        return 0.0, 1.0
    interval = binomtest(successes, count).proportion_ci(CONFIDENCE, method="wilson")
    # If none or all of the trials succeed, one end is exactly 0 or 1, but the floating-point result is not.
    return (float(interval.low) if successes > 0 else 0.0), (float(interval.high) if successes < count else 1.0)


def share_measurement(holds: Tensor, counts: Tensor | None = None) -> Measurement:
    """Return the share of True in `holds` (N,), with Wilson's interval. counts: (draws, N), see `resampled_counts`."""
    successes, count = int(holds.sum()), len(holds)
    resampled = None if counts is None else counts @ holds.double() / count
    return Measurement(successes / count, *wilson_interval(successes, count), resampled)


def difference_of_shares(one: Measurement, other: Measurement, correlation: float = 0.0) -> tuple[float, float]:
    """Return the 95 % interval of other - one (Newcombe 1998, method 10). correlation: between the two shares.

    Unlike a bootstrap interval, this interval has a positive width even if both shares are 0 or 1.
    """

    def length(first: float, second: float) -> float:
        return math.sqrt(max(0.0, first**2 + second**2 - 2 * correlation * first * second))

    value = other.value - one.value
    low = length(one.high - one.value, other.value - other.low)
    high = length(one.value - one.low, other.high - other.value)
    return value - low, value + high


def resampled_counts(count: int, draws: int, seed: int) -> Tensor:
    """Draw bootstrap resamples of `count` images. Returns float64 (draws, count), the occurrences of each image."""
    generator = torch.Generator().manual_seed(derive_seed(seed, "bootstrap", count))
    rows = torch.randint(count, (draws, count), generator=generator)
    counts = torch.zeros(draws, count, dtype=torch.float64)
    return counts.scatter_add_(1, rows, torch.ones(draws, count, dtype=torch.float64))


def bootstrap_measurement(value: float, resampled: Tensor) -> Measurement:
    """Return the value with its normal bootstrap interval (Efron & Tibshirani 1993, ch. 12).

    The interval is centred at the value, not at the mean of the resamples, because duplicates in resamples bias
    distances between sets.
    """
    half = Z * resampled.std().item()
    return Measurement(value, value - half, value + half, resampled)


def mean_measurement(values: Tensor, counts: Tensor) -> Measurement:
    """Return the mean of values (N,) with its bootstrap interval. counts: (draws, N), as from `resampled_counts`."""
    values = values.double()
    return bootstrap_measurement(values.mean().item(), counts @ values / len(values))


def mean_interval(values: Tensor) -> tuple[float, float]:
    """Return the 95 % interval of the mean of N >= 2 independent values (N,), from its standard error."""
    mean, error = values.mean().item(), (values.var() / len(values)).sqrt().item()
    return mean - Z * error, mean + Z * error


def refuse_infinite(values: Tensor) -> None:
    """Raise UserError if a value computed from the denoiser's output is not finite."""
    if not values.isfinite().all():
        message = "the denoiser returns numbers that are not finite"
        raise UserError(message, "use other `weights`", "use `precision float32`")
