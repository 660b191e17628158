"""Times: how training times are drawn, and the grids that samplers walk.

A density is a quantile function: it turns uniform numbers in [0, 1) into times in (0, 1], so stratified and plain
draws share one formula. A grid is S + 1 decreasing times from 1 (a chain's last step) to 0, in float64.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from models.diffusion.noise_schedules import NoiseSchedule
from models.errors import UserError

# Noise deviations over which EDM samples (Karras et al. 2022, table 1): many schedules go on, some to infinity.
SMALLEST_NOISE, LARGEST_NOISE = 0.002, 80.0
SMALLEST_TIME = 1e-5


def _normal_quantile(u: Tensor, mean: float, deviation: float) -> Tensor:
    return mean + deviation * torch.special.ndtri(u.clamp(1e-12, 1 - 1e-12))


def _discrete(u: Tensor, schedule: NoiseSchedule, mean: float, deviation: float) -> Tensor:
    """k/T with k uniform in 1..T (Ho et al. 2020, algorithm 1)."""
    if schedule.steps is None:
        raise UserError("discrete times need a chain: give --timesteps, or draw them continuously")
    return ((u * schedule.steps).floor() + 1) / schedule.steps


def _uniform(u: Tensor, schedule: NoiseSchedule, mean: float, deviation: float) -> Tensor:
    """Uniform on (0, 1]."""
    return 1 - u


def _logit_normal(u: Tensor, schedule: NoiseSchedule, mean: float, deviation: float) -> Tensor:
    """sigmoid of a normal (Esser et al. 2024, eq. 19); mean > 0 favours noise."""
    return torch.sigmoid(_normal_quantile(u, mean, deviation))


def _log_normal(u: Tensor, schedule: NoiseSchedule, mean: float, deviation: float) -> Tensor:
    """ln(sigma/alpha) normal (Karras et al. 2022, table 1: mean -1.2, deviation 1.2)."""
    return schedule.t_from_log_snr(-2 * _normal_quantile(u, mean, deviation))


Quantile = Callable[[Tensor, NoiseSchedule, float, float], Tensor]
DENSITIES: dict[str, tuple[Quantile, float, float]] = {
    "discrete": (_discrete, 0.0, 1.0),
    "uniform": (_uniform, 0.0, 1.0),
    "logit_normal": (_logit_normal, 0.0, 1.0),
    "log_normal": (_log_normal, -1.2, 1.2),
}


@dataclass(frozen=True)
class TimeDensity:
    """One row of DENSITIES with its mean and deviation (None: the paper's), drawn stratified or independently."""

    name: str
    mean: float | None = None
    deviation: float | None = None
    stratified: bool = True

    def __post_init__(self) -> None:
        if self.name not in DENSITIES:
            raise UserError(f"unknown time density {self.name!r}: choose from {', '.join(DENSITIES)}")
        if self.deviation is not None and self.deviation <= 0:
            raise UserError(f"--time_deviation {self.deviation}: takes more than 0")

    def draw(self, uniforms: Tensor, schedule: NoiseSchedule) -> Tensor:
        """(N,) independent uniforms in [0, 1) -> (N,) float64 times in [1e-5, 1].

        Stratified: the i-th number falls in the i-th of N equal slices, so that a batch covers all times.
        """
        quantile, mean, deviation = DENSITIES[self.name]
        u = uniforms.double()
        if self.stratified:
            u = (torch.arange(len(u), device=u.device) + u) / len(u)
        mean = mean if self.mean is None else self.mean
        deviation = deviation if self.deviation is None else self.deviation
        return quantile(u, schedule, mean, deviation).clamp(SMALLEST_TIME, 1.0)


def _uniform_grid(schedule: NoiseSchedule, steps: int) -> Tensor:
    """Equal steps in t; on a chain each time is one of the chain's own, respaced to any S in 1..T."""
    times = torch.linspace(1, 0, steps + 1, dtype=torch.float64)
    if schedule.steps is None:
        return times
    return (times * schedule.steps).round() / schedule.steps


def _noise_range(schedule: NoiseSchedule) -> tuple[float, float]:
    """(largest, smallest) sigma/alpha of a grid: the schedule's own where it stays within EDM's, else EDM's."""
    first = torch.tensor(1 / (schedule.steps or 1e9), dtype=torch.float64)
    last = torch.ones((), dtype=torch.float64)
    smallest, largest = ((-schedule.log_snr(t) / 2).exp().item() for t in (first, last))
    return min(largest, LARGEST_NOISE), max(smallest, SMALLEST_NOISE)


def _from_noise(schedule: NoiseSchedule, levels: Tensor) -> Tensor:
    """Times of the given sigma/alpha, with the first moved to the schedule's very end and 0 appended."""
    times = schedule.t_from_log_snr(-2 * levels.log())
    times[0] = 1.0
    return torch.cat([times, torch.zeros(1, dtype=torch.float64)])


def _karras_grid(schedule: NoiseSchedule, steps: int, rho: float = 7.0) -> Tensor:
    """Equal steps in (sigma/alpha)^(1/rho), Karras et al. 2022 eq. 5."""
    largest, smallest = _noise_range(schedule)
    place = torch.linspace(0, 1, steps, dtype=torch.float64)
    levels = (largest ** (1 / rho) + place * (smallest ** (1 / rho) - largest ** (1 / rho))) ** rho
    return _from_noise(schedule, levels)


def _log_snr_grid(schedule: NoiseSchedule, steps: int) -> Tensor:
    """Equal steps in the log signal-to-noise ratio (Lu et al. 2022)."""
    largest, smallest = _noise_range(schedule)
    logs = torch.linspace(math.log(largest), math.log(smallest), steps, dtype=torch.float64)
    return _from_noise(schedule, logs.exp())


GRIDS: dict[str, Callable[[NoiseSchedule, int], Tensor]] = {
    "uniform": _uniform_grid,
    "karras": _karras_grid,
    "log_snr": _log_snr_grid,
}


def build_times(grid: str, schedule: NoiseSchedule, steps: int) -> Tensor:
    """(S + 1,) decreasing float64 times from 1 to 0. Raises UserError: unknown grid, S < 1, S > T on a chain."""
    if grid not in GRIDS:
        raise UserError(f"unknown grid {grid!r}: choose from {', '.join(GRIDS)}")
    if steps < 1:
        raise UserError(f"{steps} sampling steps: --steps takes 1 or more")
    if schedule.steps is not None and steps > schedule.steps:
        raise UserError(f"{steps} sampling steps on a chain of {schedule.steps}: --steps takes 1..{schedule.steps}")
    return GRIDS[grid](schedule, steps)


BINS = 10


def bin_of(t: Tensor) -> Tensor:
    """The bin 0..9 of times in (0, 1]: bin k holds (k/10, (k+1)/10]."""
    return ((t * BINS).ceil().long() - 1).clamp(0, BINS - 1)
