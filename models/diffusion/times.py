"""Times: densities of training times, and the time grids of samplers.

A density is a quantile function: it maps uniform numbers in [0, 1) to times in (0, 1], so stratified and independent
draws share one formula. A grid is S + 1 decreasing times from 1 (a chain's last step) to 0, with their levels.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import overload

import torch
from torch import Tensor

from models.diffusion.noise_schedules import NoiseLevel, NoiseSchedule
from models.errors import UserError

# Range of sigma/alpha in EDM's sampling (Karras et al. 2022, table 1). Many schedules exceed it, some without bound.
SMALLEST_NOISE, LARGEST_NOISE = 0.002, 80.0
SMALLEST_TIME = 1e-5
BINS = 10


def bin_of(t: Tensor) -> Tensor:
    """Return the bin 0..9 of times in (0, 1]: bin k holds (k/10, (k+1)/10]."""
    return ((t * BINS).ceil().long() - 1).clamp(0, BINS - 1)


def _normal_quantile(u: Tensor, mean: float, deviation: float) -> Tensor:
    return mean + deviation * torch.special.ndtri(u.clamp(1e-12, 1 - 1e-12))


def _discrete(u: Tensor, schedule: NoiseSchedule, mean: float, deviation: float) -> Tensor:
    """k/T with k uniform in 1..T (Ho et al. 2020, algorithm 1)."""
    if schedule.steps is None:
        raise UserError("`times discrete`: needs a chain", "set `timesteps`", "use `times uniform`")
    return ((u * schedule.steps).floor() + 1) / schedule.steps


def _uniform(u: Tensor, schedule: NoiseSchedule, mean: float, deviation: float) -> Tensor:
    """Uniform on (0, 1]."""
    return 1 - u


def _logit_normal(u: Tensor, schedule: NoiseSchedule, mean: float, deviation: float) -> Tensor:
    """Sigmoid of a normal variable (Esser et al. 2024, eq. 19); mean > 0 favours noise."""
    return torch.sigmoid(_normal_quantile(u, mean, deviation))


def _log_normal(u: Tensor, schedule: NoiseSchedule, mean: float, deviation: float) -> Tensor:
    """Times with a normal ln(sigma/alpha) (Karras et al. 2022, table 1: mean -1.2, deviation 1.2)."""
    return schedule.t_from_log_snr(-2 * _normal_quantile(u, mean, deviation))


Quantile = Callable[[Tensor, NoiseSchedule, float, float], Tensor]
# Each quantile function with its default mean and deviation.
DENSITIES: dict[str, tuple[Quantile, float, float]] = {
    "discrete": (_discrete, 0.0, 1.0),
    "uniform": (_uniform, 0.0, 1.0),
    "logit_normal": (_logit_normal, 0.0, 1.0),
    "log_normal": (_log_normal, -1.2, 1.2),
}


@dataclass(frozen=True)
class TimeDensity:
    """Density of training times. name: a row of DENSITIES. mean, deviation: None for the row's defaults.

    stratified: whether the quantiles of a batch are evenly spread over [0, 1) instead of drawn independently.
    """

    name: str
    mean: float | None = None
    deviation: float | None = None
    stratified: bool = True

    def __post_init__(self) -> None:
        if self.name not in DENSITIES:
            raise UserError(f"`times` {self.name!r}: choose from {', '.join(DENSITIES)}")
        if self.deviation is not None and self.deviation <= 0:
            raise UserError(f"`time_deviation` {self.deviation}: must be more than 0")

    def quantile(self, u: Tensor, schedule: NoiseSchedule) -> Tensor:
        """Map uniform numbers in [0, 1) to float64 times in [1e-5, 1]."""
        quantile, mean, deviation = DENSITIES[self.name]
        mean = mean if self.mean is None else self.mean
        deviation = deviation if self.deviation is None else self.deviation
        return quantile(u.double(), schedule, mean, deviation).clamp(SMALLEST_TIME, 1.0)

    def draw(self, uniforms: Tensor, schedule: NoiseSchedule) -> Tensor:
        """Map (N,) independent uniforms in [0, 1) to (N,) float64 times in [1e-5, 1].

        If stratified, the i-th uniform is moved to the i-th of N equal slices, so that a batch covers all times.
        """
        u = uniforms.double()
        if self.stratified:
            u = (torch.arange(len(u), device=u.device) + u) / len(u)
        return self.quantile(u, schedule)


@dataclass(frozen=True)
class TimeBins:
    """Bins of t under a density: the mass of each bin, and times inside a bin."""

    density: TimeDensity
    schedule: NoiseSchedule

    def _rising(self, u: Tensor) -> Tensor:
        """Return the quantiles at u, increasing in u. A decreasing quantile function is evaluated at 1 - u."""
        ends = self.density.quantile(torch.tensor([0.25, 0.75], dtype=torch.float64), self.schedule)
        return self.density.quantile(u if ends[0] <= ends[1] else 1 - u, self.schedule)

    def edges(self) -> Tensor:
        """Return the distribution function of t at the 11 edges of the ten bins, (11,)."""
        bins = torch.arange(BINS - 1)
        low, high = torch.zeros(2, BINS - 1, dtype=torch.float64)
        high += 1
        for _ in range(60):  # bisection, which also works for the discrete times of a chain
            middle = (low + high) / 2
            below = bin_of(self._rising(middle)) <= bins
            low, high = torch.where(below, middle, low), torch.where(below, high, middle)
        ends = torch.tensor([0.0, 1.0], dtype=torch.float64)
        return torch.cat([ends[:1], high, ends[1:]])

    def frozen_times(self, uniforms: Tensor, order: Tensor) -> tuple[Tensor, Tensor]:
        """Return (N,) times, equally many in each bin to within 1, and (N,) weights that sum to 1.

        The weighted mean of the losses at these times estimates the mean loss under the density: the weights of a bin
        sum to the bin's mass, and the times inside a bin follow the density. Bins without mass get no time. If N is
        below the number of bins, some bins get none. uniforms: (N,) in [0, 1). order: (N,) permutation that assigns the
        times to the images.
        """
        edges, count = self.edges(), len(uniforms)
        masses = edges.diff()
        bins = (masses > 1e-12).nonzero()[:, 0]
        bins = bins[torch.linspace(0, len(bins) - 1, min(count, len(bins))).round().long()]
        turn = torch.arange(count) * len(bins) // count  # equal numbers, to within one
        sizes = torch.bincount(turn, minlength=len(bins))
        position = torch.arange(count) - (sizes.cumsum(0) - sizes)[turn]
        chosen = bins[turn]
        share = (position + uniforms.double()) / sizes[turn]
        t = self._rising(edges[chosen] + masses[chosen] * share)
        weights = masses[chosen] / sizes[turn]
        return t[order], (weights / weights.sum())[order]


@dataclass(frozen=True)
class Grid:
    """Path of a sampler: S + 1 noise levels with decreasing t.

    halfway: the S levels between neighbouring levels, at the mean of their flow times. A slice of a grid is a grid.
    """

    levels: NoiseLevel
    halfway: NoiseLevel

    @classmethod
    def of(cls, schedule: NoiseSchedule, t: Tensor) -> Grid:
        """Return the grid of (S + 1,) decreasing times, computed in float64 on the CPU."""
        levels = schedule.level(t.double().cpu())
        flow_time = levels.flow_time
        return cls(levels, schedule.level_at((flow_time[:-1] + flow_time[1:]) / 2))

    def __len__(self) -> int:
        return len(self.levels)

    def __iter__(self) -> Iterator[NoiseLevel]:
        return (self.levels[index] for index in range(len(self)))

    @overload
    def __getitem__(self, rows: int) -> NoiseLevel: ...
    @overload
    def __getitem__(self, rows: slice) -> Grid: ...
    def __getitem__(self, rows: int | slice) -> NoiseLevel | Grid:
        if isinstance(rows, int):
            return self.levels[rows]
        start, stop, _ = rows.indices(len(self))
        return Grid(self.levels[start:stop], self.halfway[start : max(start, stop - 1)])


def _uniform_grid(schedule: NoiseSchedule, steps: int) -> Tensor:
    """Equal steps in t. On a chain of T steps, times are rounded to multiples of 1/T.

    On variance-preserving schedules every solver has only first order on this grid, since sigma grows like sqrt(t)
    near t = 0. On the flow schedule and on log-SNR grids, each solver has its nominal order.
    """
    times = torch.linspace(1, 0, steps + 1, dtype=torch.float64)
    if schedule.steps is None:
        return times
    return (times * schedule.steps).round() / schedule.steps


def _flow_time_grid(schedule: NoiseSchedule, steps: int) -> Tensor:
    """Equal steps in flow time, sigma / (alpha + sigma). On the flow schedule, this is the uniform grid."""
    flow_time = torch.linspace(schedule.last_flow_time(), 0, steps + 1, dtype=torch.float64)
    return torch.cat([torch.ones(1, dtype=torch.float64), schedule.level_at(flow_time[1:-1]).t, flow_time[-1:]])


def _noise_range(schedule: NoiseSchedule) -> tuple[float, float]:
    """Return the largest and smallest sigma/alpha of a grid: the schedule's range, limited to EDM's range."""
    first = torch.tensor(1 / (schedule.steps or 1e9), dtype=torch.float64)
    last = torch.ones((), dtype=torch.float64)
    smallest, largest = ((-schedule.log_snr(t) / 2).exp().item() for t in (first, last))
    return min(largest, LARGEST_NOISE), max(smallest, SMALLEST_NOISE)


def _from_noise(schedule: NoiseSchedule, ratios: Tensor) -> Tensor:
    """Return the times of the given sigma/alpha ratios. The first time is replaced by 1, and 0 is appended."""
    times = schedule.t_from_log_snr(-2 * ratios.log())
    times[0] = 1.0
    return torch.cat([times, torch.zeros(1, dtype=torch.float64)])


def _karras_grid(schedule: NoiseSchedule, steps: int, rho: float = 7.0) -> Tensor:
    """Equal steps in (sigma/alpha)^(1/rho), Karras et al. 2022 eq. 5."""
    largest, smallest = _noise_range(schedule)
    position = torch.linspace(0, 1, steps, dtype=torch.float64)
    ratios = (largest ** (1 / rho) + position * (smallest ** (1 / rho) - largest ** (1 / rho))) ** rho
    return _from_noise(schedule, ratios)


def _log_snr_grid(schedule: NoiseSchedule, steps: int) -> Tensor:
    """Equal steps in the log signal-to-noise ratio (Lu et al. 2022)."""
    largest, smallest = _noise_range(schedule)
    logs = torch.linspace(math.log(largest), math.log(smallest), steps, dtype=torch.float64)
    return _from_noise(schedule, logs.exp())


GRIDS: dict[str, Callable[[NoiseSchedule, int], Tensor]] = {
    "uniform": _uniform_grid,
    "flow_time": _flow_time_grid,
    "karras": _karras_grid,
    "log_snr": _log_snr_grid,
}


def build_grid(name: str, schedule: NoiseSchedule, steps: int) -> Grid:
    """Return the grid of S steps from t = 1 to 0. Raises UserError for an unknown grid, S < 1, or S > T on a chain."""
    if name not in GRIDS:
        raise UserError(f"`grid` {name!r}: choose from {', '.join(GRIDS)}")
    if steps < 1:
        raise UserError(f"`steps` {steps}: must be at least 1")
    if schedule.steps is not None and steps > schedule.steps:
        raise UserError(f"`steps` {steps}: must be at most {schedule.steps}, the length of the chain")
    return Grid.of(schedule, GRIDS[name](schedule, steps))
