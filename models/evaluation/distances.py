"""Distances between the distributions of two sets of images, in a space of features.

Features are (N, D). Moments and kernels are computed in float64 on the device of the features. Results are on the CPU.
The Frechet distance decreases with N even between two sets from one distribution. Compare it only with the distance of
a set of real images of the same size.
"""

from typing import NamedTuple

import torch
from torch import Tensor

CHUNK = 1024
EXTRAPOLATED_SIZES = 8


class Gaussian(NamedTuple):
    """Moments of a set of features: mean (D,), and a triangular factor F, at most (D, D), of the covariance F'F."""

    mean: Tensor
    factor: Tensor


def gaussian(features: Tensor, counts: Tensor | None = None) -> Gaussian:
    """Return the moments of the features (N, D) of N >= 2 images. counts: (N,), how often each occurs; default 1."""
    features = features.double()
    counts = features.new_ones(len(features)) if counts is None else counts.to(features.device)
    total = counts.sum()
    mean = counts @ features / total
    centred = (features - mean) * (counts / (total - 1)).sqrt()[:, None]
    return Gaussian(mean.cpu(), torch.linalg.qr(centred, mode="r").R.cpu())  # Small: later steps are faster on the CPU.


def frechet_distance(one: Gaussian, other: Gaussian) -> float:
    """Return the squared 2-Wasserstein distance of two Gaussians (Dowson & Landau 1982 eq. 4; Heusel et al. 2017).

    tr (S1 S2)^(1/2) is computed as the sum of the singular values of F1 F2', where S = F'F. This avoids the
    root of a small eigenvalue, which would increase its rounding error from 1e-16 to 1e-8.
    """
    root = torch.linalg.svdvals(one.factor @ other.factor.T).sum()
    spread = one.factor.square().sum() + other.factor.square().sum()
    return ((one.mean - other.mean).square().sum() + spread - 2 * root).item()


def frechet_resampled(features: Tensor, reference: Gaussian, counts: Tensor) -> Tensor:
    """Return the distance of each resample, (draws,). counts: (draws, N), how often each image occurs in a resample."""
    distances = [frechet_distance(gaussian(features, row), reference) for row in counts]
    return torch.tensor(distances, dtype=torch.float64)


def frechet_limit(features: Tensor, reference: Gaussian, seed: int) -> float:
    """Extrapolate the distance to infinitely many images by a line in 1 / n (Chong & Forsyth 2020, section 4).

    The line is fitted to random subsets. Their sizes n run from a fifth of the images to all, evenly spaced in 1 / n.
    """
    count = len(features)
    generator = torch.Generator().manual_seed(seed)
    sizes = count / torch.linspace(1, 5, EXTRAPOLATED_SIZES, dtype=torch.float64)
    sizes = sizes.round().clamp(min=2)
    distances = []
    for size in sizes.long().tolist():
        rows = torch.randperm(count, generator=generator)[:size]
        distances.append(frechet_distance(gaussian(features[rows]), reference))
    design = torch.stack([torch.ones_like(sizes), 1 / sizes], dim=1)
    return torch.linalg.lstsq(design, torch.tensor(distances, dtype=torch.float64)[:, None]).solution[0].item()


def kernel_distance(features: Tensor, reference: Tensor, counts: Tensor | None = None) -> tuple[float, Tensor]:
    """Return the unbiased squared maximum mean discrepancy, and its value in each resample of `features`, (draws,).

    The kernel is (x'y / D + 1)^3 (Binkowski et al. 2018, section 3.1 and eq. 4). counts: (draws, N), as from
    `resampled_counts`. Pairs of an image with itself are excluded.
    """
    features, reference = features.double(), reference.double()
    once = features.new_ones(1, len(features))
    weights = once if counts is None else torch.cat([once, counts.to(features.device)])
    reference_term = _within(reference, reference.new_ones(1, len(reference)))
    distances = _within(features, weights) + reference_term - 2 * _across(features, reference, weights)
    return distances[0].item(), distances[1:].cpu()


def _kernel(rows: Tensor, columns: Tensor) -> Tensor:
    base = torch.addmm(rows.new_ones(1, 1), rows, columns.T, alpha=1 / rows.shape[1])
    return base.square().mul_(base)  # Many times faster than base**3.


def _within(features: Tensor, weights: Tensor) -> Tensor:
    """Return the mean kernel value over pairs of different images, (draws,). weights: (draws, N)."""
    total = features.new_zeros(len(weights))
    for rows in torch.arange(len(features), device=features.device).split(CHUNK):
        total += ((weights @ _kernel(features, features[rows])) * weights[:, rows]).sum(1)
    itself = weights.square() @ (features.square().sum(1) / features.shape[1] + 1) ** 3
    return (total - itself) / (weights.sum(1).square() - weights.square().sum(1))


def _across(features: Tensor, reference: Tensor, weights: Tensor) -> Tensor:
    """Return the mean kernel value over pairs of an image and a reference image, (draws,)."""
    sums = torch.cat([_kernel(rows, reference).sum(1) for rows in features.split(CHUNK)])
    return weights @ sums / (weights.sum(1) * len(reference))
