"""Do two sets of images lie in the same places? Numbers read off nearest neighbours, in any space of features.

All take features (N, D) and answer image by image; what the shares would be for two sets from one distribution stands
beside them, because none of them would be 0 or 1.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

CHUNK = 512


def _squares(rows: Tensor, columns: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """(which rows, squared distances) for some rows at a time. Float64: float32 would lose what near neighbours differ
    by; whole numbers, as grey levels are, come out exact."""
    rows, columns = rows.double(), columns.double()
    lengths = columns.square().sum(1)
    for chosen in torch.arange(len(rows), device=rows.device).split(CHUNK):
        part = rows[chosen]
        squares = torch.addmm(lengths[None], part, columns.T, alpha=-2).add_(part.square().sum(1, keepdim=True))
        yield chosen, squares.clamp_(min=0)


def _own_squares(points: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Among the points of one set, each infinitely far from itself."""
    for chosen, squares in _squares(points, points):
        squares[torch.arange(len(chosen)), chosen] = torch.inf
        yield chosen, squares


def mixing(one: Tensor, other: Tensor, k: int) -> Tensor:
    """(N + M,) the share of each point's k nearest neighbours, among all points of both sets, that belong to the other
    set. With k = 1 this is where leave-one-out 1-NN classification errs (Lopez-Paz & Oquab 2017)."""
    both = torch.cat([one, other])
    from_one = torch.arange(len(both), device=both.device) < len(one)
    shares = []
    for chosen, squares in _own_squares(both):
        nearest = squares.topk(k, largest=False).indices  # (rows, k)
        shares.append((from_one[nearest] != from_one[chosen, None]).double().mean(1))
    return torch.cat(shares).cpu()


def expected_mixing(one: int, other: int) -> float:
    """The mean of `mixing` for sets of these sizes from one distribution: n / (2n - 1) where both are n."""
    both = one + other
    return 2 * one * other / (both * (both - 1))


class Manifolds(NamedTuple):
    """Image by image: of the generated, whether it lies in some ball around a real image (precision), and in how many
    of them over k (density, which may pass 1); of the real, whether it lies in a ball around a generated image
    (recall), and whether its own ball holds one (coverage)."""

    precision: Tensor
    density: Tensor
    recall: Tensor
    coverage: Tensor


def manifolds(real: Tensor, generated: Tensor, k: int) -> Manifolds:
    """Kynkäänniemi et al. 2019 eq. 2 and Naeem et al. 2020 eq. 4 and 5. The ball around a point reaches to its k-th
    nearest neighbour of its own set."""
    real_reach, generated_reach = _reaches(real, k), _reaches(generated, k)
    balls = torch.zeros(len(generated), dtype=torch.float64, device=real.device)
    recall, coverage = [], []
    for chosen, squares in _squares(real, generated):
        inside = squares <= real_reach[chosen, None]
        balls += inside.sum(0)
        coverage.append(inside.any(1))
        recall.append((squares <= generated_reach).any(1))
    return Manifolds((balls > 0).cpu(), (balls / k).cpu(), torch.cat(recall).cpu(), torch.cat(coverage).cpu())


def _reaches(points: Tensor, k: int) -> Tensor:
    """(N,) squared distances to the k-th nearest neighbour."""
    return torch.cat([squares.kthvalue(k, dim=1).values for _, squares in _own_squares(points)])


def expected_coverage(real: int, generated: int, k: int) -> float:
    """The mean coverage of sets of these sizes from one distribution (Naeem et al. 2020, appendix A)."""
    missed = 1.0
    for index in range(k):
        missed *= (real - 1 - index) / (real + generated - 1 - index)
    return 1 - missed


class Nearest(NamedTuple):
    """Of each row: the squared distance to the nearest of the columns, and which of them that is."""

    squares: Tensor
    columns: Tensor


def nearest(rows: Tensor, columns: Tensor) -> Nearest:
    """Of sets that are not one and the same: a point would be nearest to itself."""
    parts = [squares.min(1) for _, squares in _squares(rows, columns)]
    return Nearest(*(torch.cat(each).cpu() for each in zip(*parts, strict=True)))


def distance_to(rows: Tensor, columns: Tensor, k: int) -> Tensor:
    """(N,) distance of each row to its k-th nearest column: small in the midst of them, large far out."""
    return torch.cat([squares.kthvalue(k, dim=1).values for _, squares in _squares(rows, columns)]).sqrt().cpu()
