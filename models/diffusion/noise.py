"""Noise at t = 1: Gaussian, or another distribution of mean 0 and variance 1 from which a flow may start.

Every distribution is computed from Gaussian noise, so all use the same random stream. Samplers that add noise
assume that the noise is Gaussian. The other distributions need deterministic samplers.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from models.errors import UserError


def _gaussian(noise: Tensor) -> Tensor:
    return noise


def _uniform(noise: Tensor) -> Tensor:
    """Map normal noise to uniform noise on [-sqrt(3), sqrt(3)] by the normal CDF."""
    return math.sqrt(3) * torch.special.erf(noise / math.sqrt(2))


def _bernoulli(noise: Tensor) -> Tensor:
    """-1 or 1, each with probability 1/2."""
    return torch.where(noise < 0, -1.0, 1.0).to(noise)


INITIAL_NOISES: dict[str, Callable[[Tensor], Tensor]] = {
    "gaussian": _gaussian,
    "uniform": _uniform,
    "bernoulli": _bernoulli,
}


def shape_noise(name: str, gaussian: Tensor) -> Tensor:
    """Map Gaussian noise to a distribution of INITIAL_NOISES, by a non-decreasing function. Raises UserError."""
    if name not in INITIAL_NOISES:
        raise UserError(f"`initial_noise` {name!r}: choose from {', '.join(INITIAL_NOISES)}")
    return INITIAL_NOISES[name](gaussian)


def _independent(clean: Tensor, noise: Tensor, label: Tensor | None) -> Tensor:
    return noise


def _optimal(clean: Tensor, noise: Tensor, label: Tensor | None) -> Tensor:
    """Permute the noise in each class to minimise its total squared distance to the images (Pooladian et al. 2023).

    With a permutation across classes, the noise of a label would have another distribution than in sampling.
    """
    from scipy.optimize import linear_sum_assignment  # slow to import, and rarely needed

    coupled = noise.clone()
    groups = [torch.arange(len(clean))] if label is None else [(label == k).nonzero()[:, 0] for k in label.unique()]
    for rows in groups:
        costs = torch.cdist(clean[rows].flatten(1), noise[rows].flatten(1)) ** 2
        _, columns = linear_sum_assignment(costs.cpu().numpy())
        coupled[rows] = noise[rows[torch.from_numpy(columns).to(rows.device)]]
    return coupled


COUPLINGS: dict[str, Callable[[Tensor, Tensor, Tensor | None], Tensor]] = {
    "independent": _independent,
    "optimal": _optimal,
}
