"""Comparisons of cells, against made-up studies with known truth, the paired t test and textbook least squares."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from models.evaluation.comparisons import Comparison, Difference, compare_with_reference, power

TRIES = 2000
NAN = math.nan


def made_up_studies(cells: int, seeds: int, deviations: float = 0.0) -> np.ndarray:
    """Draw (tries, cells, seeds): residuals of deviation 0.3, effects of seeds, and a difference of the last cell."""
    random = np.random.default_rng([cells, seeds])
    values = 40 + 5 * random.normal(size=(TRIES, 1, seeds)) + 0.3 * random.normal(size=(TRIES, cells, seeds))
    values[:, -1] += 0.3 * deviations
    return values


def compared(comparison: Comparison) -> list[Difference]:
    return [difference for difference in comparison.differences if difference is not None]


def calls(comparison: Comparison) -> list[bool]:
    """Return which differences are significant, after checking that they are those with intervals without zero."""
    differences = compared(comparison)
    called = [difference.significant for difference in differences]
    assert called == [difference.low > 0 or difference.high < 0 for difference in differences]
    assert called == [difference.p < 0.05 for difference in differences]
    return called


@pytest.mark.parametrize(("cells", "seeds"), [(5, 3), (12, 3), (4, 5)])
def test_equal_cells_are_rarely_called_different(cells: int, seeds: int) -> None:
    """Holm's method allows false calls in 5 % of the tries; 6.5 % is that and three binomial deviations."""
    false = sum(any(calls(compare_with_reference(values))) for values in made_up_studies(cells, seeds))
    assert 0.01 * TRIES < false <= 0.065 * TRIES


@pytest.mark.parametrize("deviations", [3, 4, 6])
def test_the_power_is_that_of_simulated_studies(deviations: float) -> None:
    """Calls of the first step agree within three binomial deviations. Later steps add less than 5 % of the tries."""
    comparisons = [compare_with_reference(values) for values in made_up_studies(5, 3, deviations)]
    critical = stats.t.isf(0.05 / 4 / 2, df=8) * math.sqrt(2 / 3)
    first = sum(abs(compared(comparison)[-1].value) > critical * comparison.deviation for comparison in comparisons)
    predicted = power(5, 3, deviations)
    assert first / TRIES == pytest.approx(predicted, abs=3 * math.sqrt(predicted * (1 - predicted) / TRIES))
    called = sum(calls(comparison)[-1] for comparison in comparisons)
    assert first <= called < first + 0.05 * TRIES


def test_the_power_at_its_ends() -> None:
    assert power(5, 3, 0) == pytest.approx(0.05 / 4)
    assert power(5, 3, -4) == power(5, 3, 4)
    assert [power(cells, 3, 1000) for cells in (2, 5, 200)] == [1, 1, 1]
    assert power(5, 1, 1000) == power(1, 5, 1000) == 0


def test_two_cells_are_the_paired_t_test() -> None:
    one, other = values = made_up_studies(2, 5, 2)[0]
    comparison = compare_with_reference(values)
    test = stats.ttest_rel(other, one)
    (difference,) = compared(comparison)
    assert difference[:4] == pytest.approx((np.mean(other - one), *test.confidence_interval(0.95), test.pvalue))
    assert comparison.deviation == pytest.approx(np.std(other - one, ddof=1) / math.sqrt(2))
    assert comparison.degrees == 4
    assert comparison.differences[0] is None
    (reverse,) = compared(compare_with_reference(values, reference=1))
    assert reverse[:4] == pytest.approx((-difference.value, -difference.high, -difference.low, difference.p))


def test_holms_steps_by_hand() -> None:
    """The third of four is not called, and the fourth keeps its level, 0.05 / 2."""
    residuals = 0.1 * np.array([[1, -1, 0], [-1, 1, 0], [0, 1, -1], [0, -1, 1], [0, 0, 0]])
    values = residuals + np.array([[3.0], [3.0], [3.21], [1.0], [5.0]]) + np.array([10.0, 20.0, 30.0])
    comparison = compare_with_reference(values)
    assert comparison.deviation == pytest.approx(0.1) and comparison.degrees == 8
    error = 0.1 * math.sqrt(2 / 3)
    equal, small, low, high = compared(comparison)
    assert [difference.value for difference in (equal, small, low, high)] == pytest.approx([0, 0.21, -2, 2])
    assert calls(comparison) == [False, False, True, True]
    raw = 2 * stats.t.sf(np.array([0, 0.21, 2, 2]) / error, df=8)
    assert raw[1] < 0.05 < 2 * raw[1]  # without the correction, it would be called
    expected = [1, 2 * raw[1], 4 * raw[2], 4 * raw[3]]
    assert [difference.p for difference in (equal, small, low, high)] == pytest.approx(expected)
    halves = sorted((difference.high - difference.low) / 2 / error for difference in compared(comparison))
    assert halves == pytest.approx([stats.t.isf(level / 2, df=8) for level in (0.05 / 2, 0.05 / 2, 0.05 / 3, 0.05 / 4)])


def test_missing_values_are_fitted_by_least_squares() -> None:
    """Against the normal equations of the model without its redundant column; one cell has no value at all."""
    values = made_up_studies(5, 4, 2)[0]
    values[1, 2] = values[2, 0] = values[2, 1] = NAN
    values[0, 3], values[3] = math.inf, NAN
    comparison = compare_with_reference(values)
    cell, seed = np.isfinite(values).nonzero()
    design = np.stack([*(cell == k for k in (0, 1, 2, 4)), *(seed == k for k in (1, 2, 3))], axis=1).astype(float)
    inverse = np.linalg.inv(design.T @ design)
    observed = values[cell, seed]
    fitted = inverse @ design.T @ observed
    assert comparison.degrees == len(observed) - 7
    residuals = observed - design @ fitted
    assert comparison.deviation == pytest.approx(math.sqrt(residuals @ residuals / comparison.degrees))
    assert [row for row in range(5) if comparison.differences[row] is None] == [0, 3]
    errors = []
    for row, difference in zip((1, 2, 3), compared(comparison), strict=True):
        assert difference.value == pytest.approx(fitted[row] - fitted[0])
        errors.append(comparison.deviation * math.sqrt(inverse[row, row] + inverse[0, 0] - 2 * inverse[row, 0]))
        halves = [stats.t.isf(0.05 / left / 2, comparison.degrees) * errors[-1] for left in (3, 2, 1)]
        assert any((difference.high - difference.low) / 2 == pytest.approx(half) for half in halves)
    assert max(errors) == errors[1]  # the cell with the fewest values
    shift = comparison.detectable / errors[1] if comparison.detectable else NAN
    assert stats.nct.sf(stats.t.isf(0.05 / 3 / 2, comparison.degrees), comparison.degrees, shift) == pytest.approx(0.8)


def test_the_detectable_difference_has_a_power_of_80_percent() -> None:
    comparison = compare_with_reference(made_up_studies(12, 3)[0])
    assert comparison.detectable is not None
    assert power(12, 3, comparison.detectable / comparison.deviation) == pytest.approx(0.8, abs=1e-4)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([[0.1], [0.2], [0.4]], [0.1, 0.3]),  # one seed
        ([[0.1, NAN], [NAN, 0.2], [0.4, 0.7]], [-0.2, 0.3]),  # as many parameters as values
        ([[0.1, NAN], [NAN, 0.2]], []),  # no seed in common
        ([[NAN, NAN], [0.1, 0.2], [0.1, 0.3]], []),  # no reference
        ([[NAN, NAN], [NAN, NAN]], []),
    ],
)
def test_too_few_values_have_no_interval(values: list[list[float]], expected: list[float]) -> None:
    comparison = compare_with_reference(np.array(values))
    assert [difference.value for difference in compared(comparison)] == pytest.approx(expected)
    assert all(np.isnan(difference[1:4]).all() and not difference.significant for difference in compared(comparison))
    assert comparison.detectable is None


def test_seeds_that_agree_exactly_give_no_interval_and_no_difference() -> None:
    """Sums of decimal fractions are not exact, and rounding errors are no deviation."""
    values = np.array([0.1, 0.1, 0.2, 0.1])[:, None] + np.array([0.1, 0.2, 0.7])
    comparison = compare_with_reference(values)
    assert comparison.deviation == 0 and comparison.detectable is None
    assert [difference.value for difference in compared(comparison)] == pytest.approx([0, 0.1, 0])
    assert all(np.isnan(difference[1:4]).all() and not difference.significant for difference in compared(comparison))
