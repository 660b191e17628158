"""How far the distribution of one set of images is from that of another, in a space of features.

All in float64. Features are (N, D); a distance falls with N even between sets of one distribution, so it says
something only beside that of as many real images.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

CHUNK = 1024
EXTRAPOLATED_SIZES = 8


class Gaussian(NamedTuple):
    """The mean (D,) and a factor F of the covariance F'F of a set of features: its triangle, at most (D, D)."""

    mean: Tensor
    factor: Tensor


def gaussian(features: Tensor, counts: Tensor | None = None) -> Gaussian:
    """The moments of features of two or more images; counts (N,): how often each of them is there, else once."""
    features = features.double()
    counts = torch.ones(len(features), dtype=torch.float64) if counts is None else counts
    total = counts.sum()
    mean = counts @ features / total
    centred = (features - mean) * (counts / (total - 1)).sqrt()[:, None]
    return Gaussian(mean, torch.linalg.qr(centred, mode="r").R)


def frechet_distance(one: Gaussian, other: Gaussian) -> float:
    """The squared 2-Wasserstein distance of two Gaussians (Dowson & Landau 1982 eq. 4; Heusel et al. 2017 eq. 6).

    tr (S1 S2)^(1/2) is the sum of the singular values of F1 F2' where S = F'F: with no covariance formed and no root of
    a small eigenvalue taken, which would blow its rounding error 1e-16 up to 1e-8.
    """
    root = torch.linalg.svdvals(one.factor @ other.factor.T).sum()
    spread = one.factor.square().sum() + other.factor.square().sum()
    return ((one.mean - other.mean).square().sum() + spread - 2 * root).item()


def frechet_resampled(features: Tensor, reference: Gaussian, counts: Tensor) -> Tensor:
    """(draws,) distances of the resamples that `counts` (draws, N) describes."""
    found = [frechet_distance(gaussian(features, each), reference) for each in counts]
    return torch.tensor(found, dtype=torch.float64)


def frechet_limit(features: Tensor, reference: Gaussian, seed: int) -> float:
    """What the distance tends to as the set of images grows (Chong & Forsyth 2020 section 4): a line in 1 / n.

    Fitted to random subsets of n, from a fifth of the images on, the sizes evenly spaced in 1 / n.
    """
    count = len(features)
    generator = torch.Generator().manual_seed(seed)
    sizes = count / torch.linspace(1, 5, EXTRAPOLATED_SIZES, dtype=torch.float64)
    sizes = sizes.round().clamp(min=2)
    found = []
    for size in sizes.long().tolist():
        rows = torch.randperm(count, generator=generator)[:size]
        found.append(frechet_distance(gaussian(features[rows]), reference))
    design = torch.stack([torch.ones_like(sizes), 1 / sizes], dim=1)
    return torch.linalg.lstsq(design, torch.tensor(found, dtype=torch.float64)[:, None]).solution[0].item()


def kernel_distance(features: Tensor, reference: Tensor, counts: Tensor | None = None) -> tuple[float, Tensor]:
    """The unbiased squared maximum mean discrepancy with the kernel (x'y / D + 1)^3 (Binkowski et al. 2018 section 3.1
    and eq. 4), and its values (draws,) in the resamples of `features` that `counts` (draws, N) describes.

    Pairs of an image with itself count in no resample, or it would be another distance than the one of all images.
    """
    features, reference = features.double(), reference.double()
    once = torch.ones(1, len(features), dtype=torch.float64)
    weights = once if counts is None else torch.cat([once, counts])
    of_reference = _within(reference, torch.ones(1, len(reference), dtype=torch.float64))
    found = _within(features, weights) + of_reference - 2 * _across(features, reference, weights)
    return found[0].item(), found[1:]


def _kernel(rows: Tensor, columns: Tensor) -> Tensor:
    base = rows @ columns.T / rows.shape[1] + 1
    return base * base * base  # seven times as quick as the power


def _within(features: Tensor, weights: Tensor) -> Tensor:
    """(draws,) mean kernel values over pairs of different images, weighted by (draws, N)."""
    total = torch.zeros(len(weights), dtype=torch.float64)
    for rows in torch.arange(len(features)).split(CHUNK):
        total += ((weights @ _kernel(features, features[rows])) * weights[:, rows]).sum(1)
    itself = weights.square() @ (features.square().sum(1) / features.shape[1] + 1) ** 3
    return (total - itself) / (weights.sum(1).square() - weights.square().sum(1))


def _across(features: Tensor, reference: Tensor, weights: Tensor) -> Tensor:
    """(draws,) mean kernel values over pairs of an image and one of the reference."""
    sums = torch.cat([_kernel(rows, reference).sum(1) for rows in features.split(CHUNK)])
    return weights @ sums / (weights.sum(1) * len(reference))
