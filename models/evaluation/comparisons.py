"""Comparisons of a study's cells with a reference cell, paired by seed, with Holm's correction.

A study trains each cell (one setting) with the same seeds. The few seeds of one cell give a poor estimate of its
variance, so the variance over seeds is pooled over all cells that are compared.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import special

DETECTION = 0.8  # probability that a true difference of `Comparison.detectable` is found significant
ROUNDING = 1e-12  # differences and residuals below this share of the largest value count as 0


class Difference(NamedTuple):
    """Cell minus reference with its interval. significant: whether the interval excludes zero.

    p is adjusted by Holm's method, so significant means p < level. p, low and high are NaN without degrees of freedom,
    and if all seeds agree exactly.
    """

    value: float
    low: float
    high: float
    p: float
    significant: bool


@dataclass(frozen=True)
class Comparison:
    """Differences of all cells from the reference cell.

    differences: one per cell; None for the reference, and for a cell that cannot be compared because runs failed
    deviation: standard deviation of the residuals over seeds, pooled over all cells; NaN without degrees of freedom
    degrees: degrees of freedom of the deviation
    detectable: smallest true difference that is significant with a probability of 80 %; None if there are no intervals.
        If runs failed, it applies to the cell with the largest standard error
    """

    reference: int
    differences: list[Difference | None]
    deviation: float
    degrees: int
    detectable: float | None


def compare_with_reference(values: np.ndarray, reference: int = 0, level: float = 0.05) -> Comparison:
    """Compare each cell with the reference cell. values: (cells, seeds), NaN or infinite where a run failed.

    The model is value = cell + seed + residual with one residual variance, fitted by least squares to the finite
    values. If all values are finite, a difference is the mean of the paired differences, and the deviation has
    (cells - 1)(seeds - 1) degrees of freedom. Holm's step-down method (Holm 1979) tests the differences in decreasing
    order of |difference| / standard error. Each interval has the level of its step. After the first difference that is
    not significant, all later ones keep that step's level.
    """
    values = np.asarray(values, dtype=float)
    present = np.isfinite(values)
    fit = _fit(tuple(map(tuple, present.tolist())), reference)
    observed = values[present]
    rounding = ROUNDING * np.abs(observed).max(initial=0)
    residuals = _without_rounding(fit.residuals @ observed, rounding)
    deviation = math.sqrt(np.square(residuals).sum() / fit.degrees) if fit.degrees > 0 else math.nan
    estimates = _without_rounding(fit.contrasts @ observed, rounding)
    errors = fit.errors * deviation
    degrees = fit.degrees if deviation > 0 else 0  # If all seeds agree exactly, their true deviation is unknown.

    differences: list[Difference | None] = [None] * len(values)
    for row, difference in zip(fit.rows, _holm(estimates, errors, degrees, level), strict=True):
        differences[row] = difference
    detectable, comparisons = None, len(fit.rows)
    if degrees > 0 and comparisons > 0:
        shift = special.nctdtrinc(degrees, 1 - DETECTION, _critical_value(level / comparisons, degrees))
        detectable = float(shift * errors.max())
    return Comparison(reference, differences, deviation, fit.degrees, detectable)


class _Fit(NamedTuple):
    """Least-squares fit of value = cell + seed. It depends on which runs have a value, not on the values.

    rows: cells that can be compared with the reference
    contrasts: (rows, runs), the weights of the runs in each difference
    errors: (rows,), standard errors of the differences, in standard deviations of the residuals
    residuals: (runs, runs), matrix that turns values into residuals
    """

    rows: list[int]
    contrasts: NDArray[np.float64]
    errors: NDArray[np.float64]
    residuals: NDArray[np.float64]
    degrees: int


@lru_cache(maxsize=8)  # in most studies, all measures have values for the same runs
def _fit(present: tuple[tuple[bool, ...], ...], reference: int) -> _Fit:
    runs = np.array(present)
    cells, seeds = runs.shape
    cell, seed = runs.nonzero()
    design = np.hstack([np.eye(cells)[cell], np.eye(seeds)[seed]])  # (runs, cells + seeds)
    inverse = np.linalg.pinv(design)
    contrasts = inverse[:cells] - inverse[reference]
    unbiased = np.eye(cells, cells + seeds) - np.eye(cells, cells + seeds)[reference]
    comparable = np.isclose(contrasts @ design, unbiased, atol=1e-6).all(axis=1)
    rows = [row for row in range(cells) if comparable[row] and row != reference]
    residuals = np.eye(len(cell)) - design @ inverse
    errors = np.linalg.norm(contrasts[rows], axis=1)
    return _Fit(rows, contrasts[rows], errors, residuals, round(np.trace(residuals)))


def _without_rounding(numbers: NDArray[np.float64], rounding: float) -> NDArray[np.float64]:
    return np.where(np.abs(numbers) <= rounding, 0.0, numbers)


def _critical_value(level: float, degrees: int) -> float:
    """Return the two-sided critical value of Student's t."""
    return float(-special.stdtrit(degrees, level / 2))


def _holm(estimates: NDArray[np.float64], errors: NDArray[np.float64], degrees: int, level: float) -> list[Difference]:
    """Return a `Difference` for each estimate, in the same order. errors: standard errors of the estimates."""
    if degrees <= 0:
        return [Difference(float(value), math.nan, math.nan, math.nan, False) for value in estimates]
    differences: dict[int, Difference] = {}
    ratios = np.abs(estimates) / errors
    p, step_level, stopped = 0.0, level, False
    for step, row in enumerate(np.argsort(-ratios, kind="stable")):
        left = len(estimates) - step
        p = min(1.0, max(p, left * 2 * float(special.stdtr(degrees, -ratios[row]))))
        step_level = step_level if stopped else level / left
        value, half = float(estimates[row]), _critical_value(step_level, degrees) * float(errors[row])
        significant = abs(value) > half
        stopped = stopped or not significant
        differences[int(row)] = Difference(value, value - half, value + half, p, significant)
    return [differences[row] for row in range(len(estimates))]


def power(cells: int, seeds: int, deviations: float, level: float = 0.05) -> float:
    """Return the probability that a cell's difference from the reference is significant, if no run fails.

    deviations: true difference of the cell, in standard deviations of the residuals. The result is the probability at
    the first step of Holm's method, from the noncentral t distribution. If no other cell differs, later steps add less
    than `level`. If others differ, the true power is higher.
    """
    degrees = (cells - 1) * (seeds - 1)
    if degrees <= 0:
        return 0.0
    critical = _critical_value(level / (cells - 1), degrees)
    tails = special.nctdtr(degrees, abs(deviations) / math.sqrt(2 / seeds), np.array([critical, -critical]))
    below, opposite = np.nan_to_num(tails)  # scipy returns NaN for tails that are too thin to be computed
    return float(1 - below + opposite)
