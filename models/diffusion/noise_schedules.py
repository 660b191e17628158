"""Noise schedules: alpha(t) and sigma(t) of `noisy = alpha * clean + sigma * noise`, t = 0 clean, t = 1 noise.

A schedule is two curves. Tabulated chains of T steps (DDPM) live on the grid k/T and are joined linearly in alpha;
their continuous forms and the straight flow are closed formulas. What the network predicts, how training times
are drawn and which times a sampler walks are in `predictions.py` and `times.py`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from models.errors import UserError

MAX_BETA = 0.999
REFERENCE_STEPS = 1000
BETA_FIRST, BETA_LAST = 1e-4, 0.02


class NoiseSchedule(Protocol):
    """alpha(t) and sigma(t), their derivatives and the log signal-to-noise ratio, for t in [0, 1] of any shape.

    All are computed in float64 and returned in float64: cast last. `steps` is the length T of a tabulated chain
    and None for a continuous schedule. At t = 0, alpha = 1 and sigma = 0.
    """

    @property
    def steps(self) -> int | None: ...

    def alpha(self, t: Tensor) -> Tensor: ...
    def sigma(self, t: Tensor) -> Tensor: ...
    def alpha_derivative(self, t: Tensor) -> Tensor: ...
    def sigma_derivative(self, t: Tensor) -> Tensor: ...
    def log_snr(self, t: Tensor) -> Tensor: ...
    def t_from_log_snr(self, log_snr: Tensor) -> Tensor: ...


class Flow:
    """The straight line alpha = 1 - t, sigma = t (Lipman et al. 2023, Liu et al. 2023)."""

    steps = None

    def alpha(self, t: Tensor) -> Tensor:
        return 1 - t.double()

    def sigma(self, t: Tensor) -> Tensor:
        return t.double()

    def alpha_derivative(self, t: Tensor) -> Tensor:
        return -torch.ones_like(t, dtype=torch.float64)

    def sigma_derivative(self, t: Tensor) -> Tensor:
        return torch.ones_like(t, dtype=torch.float64)

    def log_snr(self, t: Tensor) -> Tensor:
        t = t.double()
        return 2 * (torch.log1p(-t) - t.log())

    def t_from_log_snr(self, log_snr: Tensor) -> Tensor:
        return torch.sigmoid(-log_snr.double() / 2)


class VariancePreserving:
    """sigma = sqrt(1 - alpha^2) for any decreasing alpha(t) with alpha(0) = 1; the base of all DDPM schedules."""

    steps: int | None = None

    def alpha(self, t: Tensor) -> Tensor:
        raise NotImplementedError

    def alpha_derivative(self, t: Tensor) -> Tensor:
        raise NotImplementedError

    def t_from_alpha(self, alpha: Tensor) -> Tensor:
        raise NotImplementedError

    def sigma(self, t: Tensor) -> Tensor:
        return (1 - self.alpha(t) ** 2).clamp(min=0).sqrt()

    def sigma_derivative(self, t: Tensor) -> Tensor:
        """-alpha * alpha' / sigma; infinite at t = 0."""
        return -self.alpha(t) * self.alpha_derivative(t) / self.sigma(t)

    def log_snr(self, t: Tensor) -> Tensor:
        alpha_bar = self.alpha(t) ** 2
        return alpha_bar.log() - torch.log1p(-alpha_bar)

    def t_from_log_snr(self, log_snr: Tensor) -> Tensor:
        return self.t_from_alpha(torch.sigmoid(log_snr.double()).sqrt())


class Chain(VariancePreserving):
    """A DDPM chain: alpha at k/T for k = 0..T, from a table, linear in between.

    `table` is alpha at k = 1..T, decreasing within [0, 1).
    """

    def __init__(self, table: Tensor):
        self.steps = len(table)
        self.table = torch.cat([torch.ones(1, dtype=torch.float64), table.double()])

    @property
    def betas(self) -> Tensor:
        """beta_1..beta_T: 1 - alpha_bar_k / alpha_bar_{k-1} (Ho et al. 2020, section 2)."""
        alpha_bar = self.table**2
        return 1 - alpha_bar[1:] / alpha_bar[:-1]

    def _cell(self, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Left end, right end and position within the cell of the grid that holds t."""
        assert self.steps is not None
        table = self.table.to(t.device)
        place = t.double() * self.steps
        left = place.ceil().long().sub(1).clamp(0, self.steps - 1)
        return table[left], table[left + 1], place - left

    def alpha(self, t: Tensor) -> Tensor:
        left, right, place = self._cell(t)
        return left + place * (right - left)

    def alpha_derivative(self, t: Tensor) -> Tensor:
        left, right, _ = self._cell(t)
        assert self.steps is not None
        return (right - left) * self.steps

    def t_from_alpha(self, alpha: Tensor) -> Tensor:
        assert self.steps is not None
        table = self.table.to(alpha.device)
        alpha = alpha.double().clamp(float(table[-1]), 1.0)
        right = torch.searchsorted(-table, -alpha).clamp(1, self.steps)
        left = right - 1
        return (left + (table[left] - alpha) / (table[left] - table[right])) / self.steps


class Continuous(VariancePreserving):
    """A closed formula log alpha(t) with its derivative and inverse; `scale`, `shift` bring alpha(1) to zero.

    alpha(t) = (exp(log_alpha(t)) - shift) * scale, so that zero terminal SNR keeps alpha(0) = 1.
    """

    def __init__(self, log_alpha: Callable[[Tensor], Tensor], zero_terminal_snr: bool = False):
        self.log_alpha = log_alpha
        one = torch.ones((), dtype=torch.float64)
        self.shift = float(log_alpha(one).exp()) if zero_terminal_snr else 0.0
        self.scale = 1 / (1 - self.shift)

    def alpha(self, t: Tensor) -> Tensor:
        # Devices round differently: without the clamp, the ends could lie a rounding error outside [0, 1].
        return ((self.log_alpha(t.double()).exp() - self.shift) * self.scale).clamp(0, 1)

    def alpha_derivative(self, t: Tensor) -> Tensor:
        with torch.enable_grad():
            t = t.detach().double().requires_grad_()
            return torch.autograd.grad(self.alpha(t).sum(), t)[0]

    def t_from_alpha(self, alpha: Tensor) -> Tensor:
        """By bisection to float64 precision: every alpha(t) here is monotone, few have a closed inverse."""
        low, high = torch.zeros_like(alpha), torch.ones_like(alpha)
        for _ in range(60):
            middle = (low + high) / 2
            above = self.alpha(middle) > alpha
            low, high = torch.where(above, middle, low), torch.where(above, high, middle)
        return (low + high) / 2


def _cosine_log_alpha(t: Tensor, offset: float = 0.008) -> Tensor:
    """log cos of the angle, Nichol & Dhariwal 2021 eq. 17 (alpha is the square root of their alpha-bar)."""
    start = math.cos(offset / (1 + offset) * math.pi / 2)
    return (torch.cos((t + offset) / (1 + offset) * math.pi / 2).clamp(min=0) / start).log()


def _linear_betas(place: Tensor) -> Tensor:
    """beta from 1e-4 to 0.02 in a straight line (Ho et al. 2020, section 4); place in [0, 1]."""
    return BETA_FIRST + place * (BETA_LAST - BETA_FIRST)


def _quadratic_betas(place: Tensor) -> Tensor:
    """The square of a straight line between the square roots of the same ends."""
    return (BETA_FIRST**0.5 + place * (BETA_LAST**0.5 - BETA_FIRST**0.5)) ** 2


def _sigmoid_betas(place: Tensor) -> Tensor:
    """A logistic curve over [-6, 6] between the same ends."""
    return BETA_FIRST + torch.sigmoid(12 * place - 6) * (BETA_LAST - BETA_FIRST)


# log alpha(t) = -1/2 * integral of beta; each integral of a beta above is closed, in units of 1000 steps.
def _linear_log_alpha(t: Tensor) -> Tensor:
    """Song et al. 2021 eq. 29 with beta from 0.1 to 20."""
    return -0.5 * REFERENCE_STEPS * (BETA_FIRST * t + (BETA_LAST - BETA_FIRST) * t**2 / 2)


def _quadratic_log_alpha(t: Tensor) -> Tensor:
    first, slope = BETA_FIRST**0.5, BETA_LAST**0.5 - BETA_FIRST**0.5
    return -0.5 * REFERENCE_STEPS * ((first + slope * t) ** 3 - first**3) / (3 * slope)


def _sigmoid_log_alpha(t: Tensor) -> Tensor:
    softplus = torch.nn.functional.softplus
    area = (softplus(12 * t - 6) - softplus(torch.full_like(t, -6.0))) / 12
    return -0.5 * REFERENCE_STEPS * (BETA_FIRST * t + (BETA_LAST - BETA_FIRST) * area)


BETAS = {"linear": _linear_betas, "quadratic": _quadratic_betas, "sigmoid": _sigmoid_betas}
LOG_ALPHAS = {
    "cosine": _cosine_log_alpha,
    "linear": _linear_log_alpha,
    "quadratic": _quadratic_log_alpha,
    "sigmoid": _sigmoid_log_alpha,
}
NAMES = ("flow", *LOG_ALPHAS)


def _chain_table(name: str, steps: int) -> Tensor:
    """alpha at k = 1..T before any rescaling.

    The chains given by betas are defined at T = 1000, as published. Any other T walks the same curve in steps of
    1/T, so that every length ends at the same noise and lengths can be compared; the cosine defines every T itself.
    Where one step would need a beta above MAX_BETA (all chains of one step, a few of two), alpha ends at up to 0.03.
    """
    grid = torch.arange(steps + 1, dtype=torch.float64) / steps
    if name in BETAS:
        betas = BETAS[name](torch.linspace(0, 1, REFERENCE_STEPS, dtype=torch.float64))
        reference = torch.cat([torch.zeros(1, dtype=torch.float64), torch.log1p(-betas).cumsum(0)])
        place = grid * REFERENCE_STEPS
        left = place.floor().long().clamp(max=REFERENCE_STEPS - 1)
        log_alpha_bar = reference[left] + (place - left) * (reference[left + 1] - reference[left])
    else:
        log_alpha_bar = 2 * LOG_ALPHAS[name](grid)
    betas = (1 - (log_alpha_bar[1:] - log_alpha_bar[:-1]).exp()).clamp(max=MAX_BETA)
    return (0.5 * torch.log1p(-betas).cumsum(0)).exp()


def _zero_last(table: Tensor) -> Tensor:
    """Shift and scale alpha so that the last is 0 and the first unchanged (Lin et al. 2024, algorithm 1)."""
    if len(table) == 1:
        return torch.zeros_like(table)
    return (table - table[-1]) * table[0] / (table[0] - table[-1])


def build_noise_schedule(name: str, steps: int | None = None, zero_terminal_snr: bool = False) -> NoiseSchedule:
    """The schedule of that name: a chain of `steps` >= 1, or the continuous form where steps is None.

    Raises UserError for an unknown name, steps < 1, or a chain of the flow (which has no betas).
    """
    if name not in NAMES:
        raise UserError(f"unknown noise schedule {name!r}: choose from {', '.join(NAMES)}")
    if steps is not None and steps < 1:
        raise UserError(f"a chain of {steps} steps: --timesteps takes 1 or more (0 for the continuous form)")
    if name == "flow":
        if steps is not None:
            raise UserError("the flow schedule is continuous: use --timesteps 0, or a chain such as cosine")
        return Flow()
    if steps is None:
        return Continuous(LOG_ALPHAS[name], zero_terminal_snr)
    table = _chain_table(name, steps)
    return Chain(_zero_last(table) if zero_terminal_snr else table)
