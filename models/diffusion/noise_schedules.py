"""Noise schedules: alpha(t) and sigma(t) of `noisy = alpha * clean + sigma * noise`, t = 0 clean, t = 1 noise.

A chain of T steps (DDPM) is a table of alpha on the grid k/T, interpolated linearly. The continuous forms and the
straight flow are closed formulas. `NoiseLevel` holds a schedule's values at given times. It is made once per batch
or grid. Denoisers, losses and samplers receive it instead of the schedule.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from models.diffusion.chains import BETA_FIRST, BETA_LAST, BETAS, CHAIN_BETAS, REFERENCE_STEPS, chain_table, zero_last
from models.errors import UserError, suggestion


@dataclass(frozen=True)
class NoiseLevel:
    """Times with their alpha and sigma, all of one shape: () for a point of a grid, (N,) for a batch.

    A schedule returns them in float64. Indexing takes the same rows of all three.
    """

    t: Tensor
    alpha: Tensor
    sigma: Tensor

    def __len__(self) -> int:
        return len(self.t)

    def __getitem__(self, rows: Any) -> NoiseLevel:
        return NoiseLevel(self.t[rows], self.alpha[rows], self.sigma[rows])

    def like(self, images: Tensor) -> NoiseLevel:
        """Return the same levels in the images' dtype and on their device. The copy does not wait for the device."""
        return NoiseLevel(*(values.to(images, non_blocking=True) for values in (self.t, self.alpha, self.sigma)))

    def coefficients(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return alpha and sigma in the images' dtype and on their device, shaped to broadcast against them."""
        shape = (-1,) + (1,) * (images.dim() - 1)
        alpha, sigma = self.alpha.reshape(shape), self.sigma.reshape(shape)
        return alpha.to(images, non_blocking=True), sigma.to(images, non_blocking=True)

    @property
    def half_log_snr(self) -> Tensor:
        """log(alpha / sigma): infinity if sigma is 0, minus infinity if alpha is 0."""
        return (self.alpha / self.sigma).log()

    @property
    def flow_scale(self) -> Tensor:
        """alpha + sigma: noisy / (alpha + sigma) moves on a straight line between clean and noise."""
        return self.alpha + self.sigma

    @property
    def flow_time(self) -> Tensor:
        """sigma / (alpha + sigma), the time t at which the straight flow has the same SNR: 0 clean, 1 noise."""
        return self.sigma / (self.alpha + self.sigma)

    @property
    def unit_deviation(self) -> Tensor:
        """Standard deviation of noisy images if the data are unit Gaussian: 1 if the schedule preserves variance."""
        return torch.hypot(self.alpha, self.sigma)


class NoiseSchedule:
    """Base class: alpha(t), sigma(t) and the log signal-to-noise ratio, for t in [0, 1] of any shape.

    All three are returned in float64; callers cast them. `steps` is the length T of a chain, None for a continuous
    schedule. At t = 0, alpha = 1 and sigma = 0.
    """

    steps: int | None = None

    def alpha(self, t: Tensor) -> Tensor:
        raise NotImplementedError

    def sigma(self, t: Tensor) -> Tensor:
        raise NotImplementedError

    def log_snr(self, t: Tensor) -> Tensor:
        """Return log(alpha^2 / sigma^2)."""
        raise NotImplementedError

    def t_from_log_snr(self, log_snr: Tensor) -> Tensor:
        """Return the times t at which log(alpha^2 / sigma^2) has the given values."""
        raise NotImplementedError

    def level(self, t: Tensor) -> NoiseLevel:
        """Return the levels at the times t, in float64 on the device of t."""
        t = t.double()
        return NoiseLevel(t, self.alpha(t), self.sigma(t))

    def level_at(self, flow_time: Tensor) -> NoiseLevel:
        """Return the levels at these flow times, sigma / (alpha + sigma)."""
        return self.level(self.t_from_log_snr(-2 * torch.logit(flow_time.double())))

    def last_flow_time(self) -> float:
        """Return the flow time at t = 1: 1 for pure noise, slightly less if some signal is left."""
        return self.level(torch.ones(())).flow_time.item()


class Flow(NoiseSchedule):
    """Straight line alpha = 1 - t, sigma = t (Lipman et al. 2023, Liu et al. 2023)."""

    def alpha(self, t: Tensor) -> Tensor:
        return 1 - t.double()

    def sigma(self, t: Tensor) -> Tensor:
        return t.double()

    def log_snr(self, t: Tensor) -> Tensor:
        t = t.double()
        return 2 * (torch.log1p(-t) - t.log())

    def t_from_log_snr(self, log_snr: Tensor) -> Tensor:
        return torch.sigmoid(-log_snr.double() / 2)


class VariancePreserving(NoiseSchedule):
    """Schedule with sigma = sqrt(1 - alpha^2), for a decreasing alpha(t) with alpha(0) = 1."""

    def sigma(self, t: Tensor) -> Tensor:
        return (1 - self.alpha(t) ** 2).clamp(min=0).sqrt()

    def log_snr(self, t: Tensor) -> Tensor:
        alpha_bar = self.alpha(t) ** 2
        return alpha_bar.log() - torch.log1p(-alpha_bar)


class Chain(VariancePreserving):
    """DDPM chain: alpha at k/T for k = 0..T from a table, interpolated linearly in between.

    table: alpha at k = 1..T, decreasing within [0, 1). At k = 0, alpha is 1.
    """

    steps: int

    def __init__(self, table: Tensor):
        self.steps = len(table)
        self.table = torch.cat([torch.ones(1, dtype=torch.float64), table.double()])

    def alpha(self, t: Tensor) -> Tensor:
        table = self.table.to(t.device)
        position = t.double() * self.steps
        left = position.ceil().long().sub(1).clamp(0, self.steps - 1)
        return table[left] + (position - left) * (table[left + 1] - table[left])

    def t_from_log_snr(self, log_snr: Tensor) -> Tensor:
        table = self.table.to(log_snr.device)
        alpha = torch.sigmoid(log_snr.double()).sqrt().clamp(float(table[-1]), 1.0)
        right = torch.searchsorted(-table, -alpha).clamp(1, self.steps)
        left = right - 1
        return (left + (table[left] - alpha) / (table[left] - table[right])) / self.steps


@dataclass(frozen=True)
class Curve:
    """Closed form of log alpha(t) for t in [0, 1]. inverse: None if the inverse has no closed form."""

    log_alpha: Callable[[Tensor], Tensor]
    inverse: Callable[[Tensor], Tensor] | None


class Continuous(VariancePreserving):
    """Continuous schedule alpha(t) = (exp(log_alpha(t)) - shift) * scale.

    With zero terminal SNR, shift and scale bring alpha(1) to 0 and keep alpha(0) = 1.
    """

    def __init__(self, curve: Curve, zero_terminal_snr: bool = False):
        self.curve = curve
        one = torch.ones((), dtype=torch.float64)
        self.shift = float(curve.log_alpha(one).exp()) if zero_terminal_snr else 0.0
        self.scale = 1 / (1 - self.shift)

    def alpha(self, t: Tensor) -> Tensor:
        # Devices round differently. Without the clamp, alpha could be outside [0, 1] by a rounding error.
        return ((self.curve.log_alpha(t.double()).exp() - self.shift) * self.scale).clamp(0, 1)

    def t_from_log_snr(self, log_snr: Tensor) -> Tensor:
        log_alpha = torch.nn.functional.logsigmoid(log_snr.double()) / 2
        if self.shift > 0:
            log_alpha = (log_alpha.exp() / self.scale + self.shift).log()
        if self.curve.inverse is not None:
            return self.curve.inverse(log_alpha).clamp(0, 1)
        low, high = torch.zeros_like(log_alpha), torch.ones_like(log_alpha)
        for _ in range(60):  # bisection to the precision of float64
            middle = (low + high) / 2
            above = self.curve.log_alpha(middle) > log_alpha
            low, high = torch.where(above, middle, low), torch.where(above, high, middle)
        return (low + high) / 2


COSINE_OFFSET = 0.008
COSINE_START = math.cos(COSINE_OFFSET / (1 + COSINE_OFFSET) * math.pi / 2)


def _cosine_log_alpha(t: Tensor) -> Tensor:
    """Logarithm of the cosine in Nichol & Dhariwal 2021 eq. 17 (alpha is the square root of their alpha-bar)."""
    return (torch.cos((t + COSINE_OFFSET) / (1 + COSINE_OFFSET) * math.pi / 2).clamp(min=0) / COSINE_START).log()


def _cosine_inverse(log_alpha: Tensor) -> Tensor:
    angle = torch.acos((log_alpha.exp() * COSINE_START).clamp(max=1))
    return angle * 2 / math.pi * (1 + COSINE_OFFSET) - COSINE_OFFSET


# log alpha(t) = -1/2 * 1000 * integral of beta from 0 to t, in closed form for each row of BETAS.
def _linear_log_alpha(t: Tensor) -> Tensor:
    """Song et al. 2021 eq. 29 with beta from 0.1 to 20."""
    return -0.5 * REFERENCE_STEPS * (BETA_FIRST * t + (BETA_LAST - BETA_FIRST) * t**2 / 2)


def _linear_inverse(log_alpha: Tensor) -> Tensor:
    area, slope = -2 * log_alpha / REFERENCE_STEPS, BETA_LAST - BETA_FIRST
    return 2 * area / (BETA_FIRST + (BETA_FIRST**2 + 2 * slope * area).sqrt())


def _quadratic_log_alpha(t: Tensor) -> Tensor:
    first, slope = BETA_FIRST**0.5, BETA_LAST**0.5 - BETA_FIRST**0.5
    return -0.5 * REFERENCE_STEPS * ((first + slope * t) ** 3 - first**3) / (3 * slope)


def _quadratic_inverse(log_alpha: Tensor) -> Tensor:
    first, slope = BETA_FIRST**0.5, BETA_LAST**0.5 - BETA_FIRST**0.5
    return ((first**3 - 6 * slope * log_alpha / REFERENCE_STEPS) ** (1 / 3) - first) / slope


def _sigmoid_log_alpha(t: Tensor) -> Tensor:
    softplus = torch.nn.functional.softplus
    area = (softplus(12 * t - 6) - softplus(torch.full_like(t, -6.0))) / 12
    return -0.5 * REFERENCE_STEPS * (BETA_FIRST * t + (BETA_LAST - BETA_FIRST) * area)


def build_noise_schedule(
    name: str, steps: int | None = None, zero_terminal_snr: bool = False, chain_betas: str = "rescaled"
) -> NoiseSchedule:
    """Return the schedule of that name: a chain of `steps` >= 1, or the continuous form if steps is None.

    chain_betas: key of CHAIN_BETAS, for the chains of BETAS. Raises UserError for an unknown name, for steps < 1, for a
    chain of the flow schedule, and for "published" with a continuous schedule or a schedule that is not in BETAS.
    """
    if name not in NOISE_SCHEDULES:
        choices = f"choose from {', '.join(NOISE_SCHEDULES)}{suggestion(name, NOISE_SCHEDULES)}"
        raise UserError(f"`noise_schedule` {name!r}: {choices}")
    if steps is not None and steps < 1:
        raise UserError(f"`timesteps` {steps}: must be at least 1, or 0 for the continuous form")
    if chain_betas not in CHAIN_BETAS:
        raise UserError(f"`chain_betas` {chain_betas!r}: choose from {', '.join(CHAIN_BETAS)}")
    curve = NOISE_SCHEDULES[name]
    if chain_betas == "published" and (name not in BETAS or steps is None):
        if name in BETAS:
            reason, way_out = "a continuous schedule has no betas", "set `timesteps`, e.g. 1000"
        else:
            reason = f"the {name} schedule has no betas, only {', '.join(BETAS)} have them"
            way_out = "use `noise_schedule linear`"
        raise UserError(f"`chain_betas published`: {reason}", "leave out `chain_betas`", way_out)
    if curve is None:
        if steps is not None:
            raise UserError(
                f"`timesteps` {steps}: the flow schedule is continuous",
                "use `timesteps 0`",
                "choose a chain, e.g. `noise_schedule cosine`",
            )
        return Flow()
    if steps is None:
        return Continuous(curve, zero_terminal_snr)
    table = chain_table(name, curve.log_alpha, steps, chain_betas)
    return Chain(zero_last(table) if zero_terminal_snr else table)


# Curves of the variance-preserving schedules. None stands for the class `Flow`.
NOISE_SCHEDULES: dict[str, Curve | None] = {
    "flow": None,
    "cosine": Curve(_cosine_log_alpha, _cosine_inverse),
    "linear": Curve(_linear_log_alpha, _linear_inverse),
    "quadratic": Curve(_quadratic_log_alpha, _quadratic_inverse),
    "sigmoid": Curve(_sigmoid_log_alpha, None),
}
