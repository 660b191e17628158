"""Intervals that stand beside a measured share."""

from __future__ import annotations

import math
from statistics import NormalDist


def wilson_interval(successes: int, count: int, confidence: float = 0.95) -> tuple[float, float]:
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
