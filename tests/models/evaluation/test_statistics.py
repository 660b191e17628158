"""Intervals, against published values, closed forms and the spread of independent samples."""

from __future__ import annotations

import math

import pytest
import torch

from models.errors import UserError
from models.evaluation.distances import frechet_distance, frechet_resampled, gaussian
from models.evaluation.statistics import (
    Measurement,
    bootstrap_measurement,
    difference_of_shares,
    mean_interval,
    mean_measurement,
    refuse_infinite,
    resampled_counts,
    wilson_interval,
)


@pytest.mark.parametrize(
    ("successes", "count", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_interval_as_in_newcombe_1998_table_1(successes: int, count: int, low: float, high: float) -> None:
    assert wilson_interval(successes, count) == pytest.approx((low, high), abs=5e-5)
    mirrored = wilson_interval(count - successes, count)
    assert mirrored == pytest.approx((1 - high, 1 - low), abs=5e-5)


def closed_form(successes: int, count: int) -> tuple[float, float]:
    """Wilson's interval as in Newcombe 1998, eq. 3."""
    share, z = successes / count, 1.959963984540054
    half = z * math.sqrt(share * (1 - share) / count + z**2 / (4 * count**2))
    return tuple((share + z**2 / (2 * count) + sign * half) / (1 + z**2 / count) for sign in (-1, 1))  # type: ignore


@pytest.mark.parametrize("count", [1, 7, 100, 9999, 60000])
def test_wilson_interval_is_the_closed_form_and_exact_at_the_ends(count: int) -> None:
    for successes in (0, 1, count // 3, count - 1, count):
        assert wilson_interval(successes, count) == pytest.approx(closed_form(successes, count), abs=1e-12)
    assert wilson_interval(0, count)[0] == 0.0 and wilson_interval(count, count)[1] == 1.0


def test_without_images_the_interval_is_everything() -> None:
    assert wilson_interval(0, 0) == (0.0, 1.0)


def test_the_interval_of_a_mean_is_its_standard_errors_wide() -> None:
    low, high = mean_interval(torch.tensor([1.0, 2.0, 3.0, 6.0]))
    error = math.sqrt(14 / 3 / 4)
    assert (low, high) == pytest.approx((3 - 1.959964 * error, 3 + 1.959964 * error), rel=1e-6)


def test_the_interval_of_a_mean_covers_it_in_95_percent() -> None:
    drawn = torch.randn(2000, 50, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    covered = sum(low < 0 < high for low, high in map(mean_interval, drawn))
    assert covered / 2000 == pytest.approx(0.95, abs=0.015)


def test_numbers_that_are_not_finite_are_refused() -> None:
    refuse_infinite(torch.zeros(2))
    with pytest.raises(UserError, match="not finite"):
        refuse_infinite(torch.tensor([0.0, math.nan]))


def half_width(measurement: Measurement) -> float:
    return (measurement.high - measurement.low) / 2


def test_the_bootstrap_interval_of_a_mean_is_the_analytic_one() -> None:
    values = torch.rand(400, generator=torch.Generator().manual_seed(0), dtype=torch.float64) ** 3
    measured = mean_measurement(values, resampled_counts(400, 2000, 0))
    assert measured.value == pytest.approx(values.mean().item(), rel=1e-12)
    assert (measured.low + measured.high) / 2 == pytest.approx(measured.value, rel=1e-12)
    assert half_width(measured) == pytest.approx(1.96 * values.std().item() / 400**0.5, rel=0.05)


def test_resamples_have_as_many_images_and_are_fixed_by_the_seed() -> None:
    counts = resampled_counts(50, 200, 0)
    assert counts.shape == (200, 50) and (counts.sum(1) == 50).all() and (counts >= 0).all()
    assert torch.equal(counts, resampled_counts(50, 200, 0)) and not torch.equal(counts, resampled_counts(50, 200, 1))
    assert torch.equal(counts[:20], resampled_counts(50, 20, 0))
    never = (counts == 0).double().mean().item()
    assert never == pytest.approx((1 - 1 / 50) ** 50, abs=0.01)


def test_the_interval_of_a_distance_is_as_wide_as_the_spread_of_independent_samples() -> None:
    """The distances are far from 0, where they are nearly linear in the moments of a sample."""
    reference = gaussian(torch.randn(500, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64))
    sets = [
        0.5 + 1.3 * torch.randn(150, 8, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        for seed in range(1, 41)
    ]
    true = torch.tensor([frechet_distance(gaussian(features), reference) for features in sets]).std().item()
    counts = resampled_counts(150, 60, 0)
    measured = [bootstrap_measurement(0, frechet_resampled(features, reference, counts)) for features in sets[:5]]
    deviation = sum(map(half_width, measured)) / 5 / 1.96
    assert true / 1.5 < deviation < true * 1.5


def test_the_interval_of_a_difference_of_shares() -> None:
    """Newcombe 1998b, table II (a): 56/70 less 48/80 has the interval [0.0524, 0.3339]. Also shares of 0."""
    one, other = (Measurement(k / n, *wilson_interval(k, n)) for k, n in ((48, 80), (56, 70)))
    assert difference_of_shares(one, other) == pytest.approx((0.0524, 0.3339), abs=5e-5)
    none = Measurement(0.0, *wilson_interval(0, 20))
    low, high = difference_of_shares(none, none)
    assert low < 0 < high
    low, high = difference_of_shares(one, one, correlation=1.0)
    assert high - low < 0.2 * (one.high - one.low)
