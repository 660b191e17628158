"""Comparison of two sets of images by nearest neighbours, in any space of features.

Functions take features (N, D) on any device with float64, and return one value per image, on the CPU. `expected_mixing`
and `expected_coverage` return the expected means for two sets from the same distribution.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

CHUNK = 512
BLOCK = 16_384  # Points of `columns` that `nearest` converts to float64 at once.


def _squares(rows: Tensor, columns: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield chunks of row indices with their squared distances to all columns, exact for integers."""
    # float32 is too coarse to distinguish near neighbours.
    rows, columns = rows.double(), columns.double()
    lengths = columns.square().sum(1)
    for indices in torch.arange(len(rows), device=rows.device).split(CHUNK):
        chunk = rows[indices]
        squares = torch.addmm(lengths[None], chunk, columns.T, alpha=-2).add_(chunk.square().sum(1, keepdim=True))
        yield indices, squares.clamp_(min=0)


def _squares_within(points: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the chunks of `_squares` between the points of one set. The distance of a point to itself is infinite."""
    for indices, squares in _squares(points, points):
        squares[torch.arange(len(indices), device=indices.device), indices] = torch.inf
        yield indices, squares


def mixing(one: Tensor, other: Tensor, k: int) -> Tensor:
    """Return the share of the k nearest neighbours of each point that belong to the other set, (N + M,).

    With k = 1, the share is 1 where leave-one-out 1-NN classification errs (Lopez-Paz & Oquab 2017).
    """
    both = torch.cat([one, other])
    from_one = torch.arange(len(both), device=both.device) < len(one)
    shares = []
    for indices, squares in _squares_within(both):
        neighbours = squares.topk(k, largest=False).indices  # (rows, k)
        shares.append((from_one[neighbours] != from_one[indices, None]).double().mean(1))
    return torch.cat(shares).cpu()


def expected_mixing(one: int, other: int) -> float:
    """Return the mean of `mixing` for two sets of these sizes from one distribution; n / (2n - 1) for sizes n, n."""
    both = one + other
    return 2 * one * other / (both * (both - 1))


class Manifolds(NamedTuple):
    """Precision and density of each generated image, recall and coverage of each real image, mixing of all images.

    The ball around a point reaches to its k-th nearest neighbour in its own set. precision: whether a generated image
    lies in the ball of a real image. density: the number of real images in whose balls it lies, divided by k. recall:
    whether a real image lies in the ball of a generated image. coverage: whether the ball of a real image contains a
    generated image. mixed: whether an image's nearest neighbour is in the other set, generated images first. A tie
    counts as the image's own set.
    """

    precision: Tensor
    density: Tensor
    recall: Tensor
    coverage: Tensor
    mixed: Tensor


def manifolds(real: Tensor, generated: Tensor, k: int) -> Manifolds:
    """Compare two sets of features by balls (Kynkäänniemi et al. 2019, eq. 2; Naeem et al. 2020, eq. 4 and 5)."""
    (real_nearest, real_radii), (generated_nearest, generated_radii) = (_own(points, k) for points in (real, generated))
    balls = torch.zeros(len(generated), dtype=torch.float64, device=real.device)
    to_real = torch.full_like(generated_nearest, torch.inf)
    recall, coverage, real_mixed = [], [], []
    for indices, squares in _squares(real, generated):
        inside = squares <= real_radii[indices, None]
        balls += inside.sum(0)
        coverage.append(inside.any(1))
        recall.append((squares <= generated_radii).any(1))
        real_mixed.append(squares.amin(1) < real_nearest[indices])
        to_real = torch.minimum(to_real, squares.amin(0))
    mixed = torch.cat([to_real < generated_nearest, *real_mixed])
    return Manifolds(
        (balls > 0).cpu(), (balls / k).cpu(), torch.cat(recall).cpu(), torch.cat(coverage).cpu(), mixed.cpu()
    )


def _own(points: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Return the squared distances of each point to the nearest and the k-th nearest other point, (N,) each."""
    least = torch.cat([_least(squares, k) for _, squares in _squares_within(points)])
    return least[:, 0], least[:, -1]


def _least(squares: Tensor, k: int) -> Tensor:
    """Return the k least values of each row, sorted. `topk` is several times faster than `kthvalue` for a small k."""
    return squares.topk(k, dim=1, largest=False).values


def expected_coverage(real: int, generated: int, k: int) -> float:
    """Return the mean coverage for two sets of these sizes from one distribution (Naeem et al. 2020, appendix A)."""
    missed = 1.0
    for index in range(k):
        missed *= (real - 1 - index) / (real + generated - 1 - index)
    return 1 - missed


class Nearest(NamedTuple):
    """Squared distance of each point of `rows` to the nearest point of `columns`, and the index of that point."""

    squares: Tensor
    columns: Tensor


def nearest(rows: Tensor, columns: Tensor) -> Nearest:
    """Find the point of `columns` (M, D) nearest to each point of `rows` (N, D). A point in both finds itself."""
    least = torch.full((len(rows),), torch.inf, dtype=torch.float64, device=rows.device)
    column = torch.zeros(len(rows), dtype=torch.long, device=rows.device)
    for first in range(0, len(columns), BLOCK):
        for indices, squares in _squares(rows, columns[first : first + BLOCK]):
            values, positions = squares.min(1)
            nearer = values < least[indices]
            least[indices] = torch.where(nearer, values, least[indices])
            column[indices] = torch.where(nearer, first + positions, column[indices])
    return Nearest(least.cpu(), column.cpu())


def distance_to(rows: Tensor, columns: Tensor, k: int) -> Tensor:
    """Return the distance of each of `rows` to its k-th nearest point of `columns`, (N,). It is large for outliers."""
    return torch.cat([_least(squares, k)[:, -1] for _, squares in _squares(rows, columns)]).sqrt().cpu()
