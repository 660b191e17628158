"""Do two sets of images lie in the same places? Numbers read off nearest neighbours, in any space of features.

All take features (N, D) and answer with shares; what they would be for two sets from one distribution stands beside
them, because none of them would be 0 or 1.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

CHUNK = 1024


def _distances(rows: Tensor, columns: Tensor):
    """(first row, distances) for some rows at a time, float64: float32 would lose what near neighbours differ by."""
    columns = columns.double()
    for first in range(0, len(rows), CHUNK):
        yield first, torch.cdist(rows[first : first + CHUNK].double(), columns)


def mixing(one: Tensor, other: Tensor, k: int) -> float:
    """The share of the k nearest neighbours, over all points of both sets, that belong to the other set."""
    both = torch.cat([one, other])
    from_one = torch.arange(len(both)) < len(one)
    crossing = 0
    for first, distances in _distances(both, both):
        mine = torch.arange(first, first + len(distances))
        distances[mine - first, mine] = torch.inf
        nearest = distances.topk(k, largest=False).indices.cpu()  # (rows, k)
        crossing += int((from_one[nearest] != from_one[mine, None]).sum())
    return crossing / (len(both) * k)


def expected_mixing(one: int, other: int) -> float:
    """The mean of `mixing` for sets of these sizes from one distribution: n / (2n - 1) where both are n."""
    both = one + other
    return 2 * one * other / (both * (both - 1))


class Cover(NamedTuple):
    """Density and coverage of generated images; density may pass 1."""

    density: float
    coverage: float


def cover(real: Tensor, generated: Tensor, k: int) -> Cover:
    """Naeem et al. 2020, eq. 4 and 5. Each real point has a ball that reaches to its k-th nearest real neighbour.

    density: how many balls hold a generated point, on average, over k. coverage: the share of balls that hold one.
    """
    hits, covered = 0, 0
    for first, distances in _distances(real, real):
        radii = distances.kthvalue(k + 1, dim=1).values  # the first is the point itself
        for _, others in _distances(real[first : first + CHUNK], generated):
            inside = others <= radii[:, None]
            hits += int(inside.sum())
            covered += int(inside.any(dim=1).sum())
    return Cover(hits / (k * len(generated)), covered / len(real))


def expected_coverage(real: int, generated: int, k: int) -> float:
    """The mean coverage of sets of these sizes from one distribution (Naeem et al. 2020, appendix A)."""
    missed = 1.0
    for index in range(k):
        missed *= (real - 1 - index) / (real + generated - 1 - index)
    return 1 - missed
