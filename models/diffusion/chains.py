"""Tables of alpha for DDPM chains of any length, from published betas or from a continuous form."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

MAX_BETA = 0.999
REFERENCE_STEPS = 1000
BETA_FIRST, BETA_LAST = 1e-4, 0.02


def _linear_betas(position: Tensor) -> Tensor:
    """Straight line from 1e-4 to 0.02 (Ho et al. 2020, section 4); position in [0, 1]."""
    return BETA_FIRST + position * (BETA_LAST - BETA_FIRST)


def _quadratic_betas(position: Tensor) -> Tensor:
    """Square of a straight line from sqrt(1e-4) to sqrt(0.02)."""
    return (BETA_FIRST**0.5 + position * (BETA_LAST**0.5 - BETA_FIRST**0.5)) ** 2


def _sigmoid_betas(position: Tensor) -> Tensor:
    """Logistic function of [-6, 6], scaled to values between 1e-4 and 0.02."""
    return BETA_FIRST + torch.sigmoid(12 * position - 6) * (BETA_LAST - BETA_FIRST)


BetaCurve = Callable[[Tensor], Tensor]
BETAS: dict[str, BetaCurve] = {"linear": _linear_betas, "quadratic": _quadratic_betas, "sigmoid": _sigmoid_betas}


def _published_betas(curve: BetaCurve, steps: int) -> Tensor:
    """Spread the published betas over T steps. A chain of fewer than 1000 steps keeps some signal at t = 1."""
    return curve(torch.linspace(0, 1, steps, dtype=torch.float64))


def _rescaled_betas(curve: BetaCurve, steps: int) -> Tensor:
    """Interpolate the published chain of 1000 steps at k/T, so that chains of all lengths end at the same alpha.

    Exception: betas are limited to MAX_BETA. This changes all chains of one step and some of two steps. The last alpha
    of these chains is at most 0.032.
    """
    log_alpha_bar = torch.log1p(-_published_betas(curve, REFERENCE_STEPS)).cumsum(0)
    reference = torch.cat([torch.zeros(1, dtype=torch.float64), log_alpha_bar])
    position = torch.arange(steps + 1, dtype=torch.float64) / steps * REFERENCE_STEPS
    left = position.floor().long().clamp(max=REFERENCE_STEPS - 1)
    return _betas_of(reference[left] + (position - left) * (reference[left + 1] - reference[left]))


CHAIN_BETAS: dict[str, Callable[[BetaCurve, int], Tensor]] = {
    "rescaled": _rescaled_betas,
    "published": _published_betas,
}


def _betas_of(log_alpha_bar: Tensor) -> Tensor:
    return (1 - log_alpha_bar.diff().exp()).clamp(max=MAX_BETA)


def chain_table(name: str, log_alpha: Callable[[Tensor], Tensor], steps: int, chain_betas: str) -> Tensor:
    """Return alpha at k = 1..T, before `zero_last` is applied.

    log_alpha: log alpha(t) of the continuous form. It is used for schedules that are not in BETAS.
    """
    if name in BETAS:
        betas = CHAIN_BETAS[chain_betas](BETAS[name], steps)
    else:
        betas = _betas_of(2 * log_alpha(torch.arange(steps + 1, dtype=torch.float64) / steps))
    return (0.5 * torch.log1p(-betas).cumsum(0)).exp()


def zero_last(table: Tensor) -> Tensor:
    """Shift and scale alpha so that the last value is 0 and the first is unchanged (Lin et al. 2024, algorithm 1)."""
    if len(table) == 1:
        return torch.zeros_like(table)
    return (table - table[-1]) * table[0] / (table[0] - table[-1])
