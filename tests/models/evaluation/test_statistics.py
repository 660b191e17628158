"""The interval against published values."""

from __future__ import annotations

import math

import pytest
import torch

from models.errors import UserError
from models.evaluation.statistics import mean_interval, refuse_infinite, wilson_interval


@pytest.mark.parametrize(
    ("successes", "count", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_interval_as_in_newcombe_1998_table_1(successes: int, count: int, low: float, high: float) -> None:
    assert wilson_interval(successes, count) == pytest.approx((low, high), abs=5e-5)
    mirrored = wilson_interval(count - successes, count)
    assert mirrored == pytest.approx((1 - high, 1 - low), abs=5e-5)


def test_nothing_seen_says_nothing() -> None:
    assert wilson_interval(0, 0) == (0.0, 1.0)
    assert wilson_interval(7, 7)[1] == 1.0


def test_the_interval_of_a_mean_is_so_many_standard_errors_wide() -> None:
    low, high = mean_interval(torch.tensor([1.0, 2.0, 3.0, 6.0]))
    error = math.sqrt(14 / 3 / 4)
    assert (low, high) == pytest.approx((3 - 1.959964 * error, 3 + 1.959964 * error), rel=1e-6)


def test_it_covers_the_mean_as_often_as_it_says() -> None:
    drawn = torch.randn(2000, 50, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    covered = sum(low < 0 < high for low, high in map(mean_interval, drawn))
    assert covered / 2000 == pytest.approx(0.95, abs=0.015)


def test_what_is_not_finite_is_refused() -> None:
    refuse_infinite(torch.zeros(2))
    with pytest.raises(UserError, match="not finite"):
        refuse_infinite(torch.tensor([0.0, math.nan]))
