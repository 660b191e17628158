"""Log-density of images under a denoiser, by the change of variables along the probability-flow ODE.

The ODE is integrated from the image to noise in flow coordinates (see `samplers.py`). In these coordinates, the
position is noisy / (alpha + sigma), its slope is noise - clean, and the derivative of log p is minus the divergence of
the slope (Chen et al. 2018 eq. 8). Random probes, fixed during the integration, estimate the divergence (Hutchinson;
Grathwohl et al. 2019 section 3.1). With all unit vectors as probes, the divergence is exact, at a cost that suits small
latents only.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from models.diffusion.denoiser import Denoiser
from models.diffusion.noise_schedules import NoiseLevel, NoiseSchedule
from models.diffusion.times import Grid
from models.errors import UserError
from models.evaluation.images import Images
from models.randomness import derive_seed, image_draw
from models.ranges import NonNegativeInt, PositiveInt, check_ranges

MOST_EXACT = 512  # Dimensions up to which the exact trace is allowed.


def density_grid(schedule: NoiseSchedule, steps: int, first: float, power: float = 2.0) -> Grid:
    """Return a grid of `steps` steps from noise to the flow time `first`.

    The flow times to the power 1 / `power` are equally spaced, so that the grid is dense near the image.
    """
    start, end = first ** (1 / power), schedule.last_flow_time() ** (1 / power)
    flow_time = torch.linspace(end, start, steps + 1, dtype=torch.float64) ** power
    flow_time[-1] = first
    levels = schedule.level_at(flow_time)
    return Grid(levels, schedule.level_at((flow_time[:-1] + flow_time[1:]) / 2))


def random_probes(seed: int, indices: Sequence[int], shape: Sequence[int], count: int, device: torch.device) -> Tensor:
    """Return (count, N, C, H, W) signs / sqrt(count). The expected sum of probe * J probe is the trace of J."""
    draw = image_draw(derive_seed(seed, "probes"), indices, device)
    normal = draw((len(indices), count, *shape)).transpose(0, 1)
    return torch.where(normal < 0, -1.0, 1.0) / math.sqrt(count)


def exact_probes(shape: Sequence[int], device: torch.device) -> Tensor:
    """Return (D, 1, C, H, W), one unit vector for each dimension. The sum of probe * J probe is the trace of J."""
    size = math.prod(shape)
    return torch.eye(size, device=device).reshape(size, 1, *shape)


def log_density(denoiser: Denoiser, noisy: Tensor, label: Tensor | None, grid: Grid, probes: Tensor) -> Tensor:
    """Return (N,) float64 log-densities in nats, on the CPU, of images (N, C, H, W) at grid[-1].

    grid: S steps, as from `density_grid`. Midpoint rule: 2 S network evaluations, S of them with one backward pass per
    probe. The denoiser is never called at grid[0]. The density at grid[0] is a Gaussian. Its variance is that of
    noisy images if clean images have unit variance.
    """
    size, first, last = noisy[0].numel(), grid[-1], grid[0]
    position = noisy / first.flow_scale.item()
    change = torch.zeros(len(noisy), dtype=torch.float64)
    for index in range(len(grid) - 1, 0, -1):
        here, middle = grid[index], grid.halfway[index - 1]
        span = (grid[index - 1].flow_time - here.flow_time).item()
        halfway = position + span / 2 * _slope(denoiser, position, here, label)
        slope, divergence = _slope_and_divergence(denoiser, halfway, middle, label, probes)
        position = position + span * slope
        change += span * divergence
    variance = (last.alpha**2 + last.sigma**2).item()
    squares = (position.cpu().double() * last.flow_scale).square().flatten(1).sum(1)
    end = -0.5 * (squares / variance + size * math.log(2 * math.pi * variance))
    return end + change + size * math.log(last.flow_scale / first.flow_scale)


@dataclass(frozen=True)
class Ode:
    """Density along the ODE. A subclass inherits its settings from `method_settings.py`."""

    ode_steps: int
    first_time: float
    probes: int

    def check(self, schedule: NoiseSchedule, shape: Sequence[int], initial_noise: str = "gaussian") -> None:
        """Raise UserError for values out of range, or for a model with other than Gaussian noise."""
        if initial_noise != "gaussian":
            raise UserError(f"a likelihood needs Gaussian noise at t = 1, and the run has {initial_noise} noise")
        check_ranges({"ode_steps": self.ode_steps}, {"ode_steps": PositiveInt})
        check_ranges({"probes": self.probes}, {"probes": NonNegativeInt})
        if not 0 <= self.first_time < schedule.last_flow_time():
            raise UserError(f"`first_time` {self.first_time:g}: must be at least 0 and below the flow time at t = 1")
        if self.probes == 0 and math.prod(shape) > MOST_EXACT:
            cost = f"the exact trace of {math.prod(shape)} dimensions costs as many backward passes per step"
            raise UserError(f"`probes` 0: {cost}, and at most {MOST_EXACT} are allowed", "use 1 or more `probes`")

    def probes_of(self, images: Images) -> Tensor:
        """Return random probes for each image (count, N, C, H, W), or unit vectors for all images (D, 1, C, H, W)."""
        shape, device = images.clean.shape[1:], images.clean.device
        if self.probes == 0:
            return exact_probes(shape, device)
        return random_probes(images.seed, images.numbers, shape, self.probes, device)


@torch.no_grad()
def _slope(denoiser: Denoiser, position: Tensor, level: NoiseLevel, label: Tensor | None) -> Tensor:
    estimate = denoiser(level.flow_scale.item() * position, level, label)
    return estimate.noise - estimate.clean


@torch.enable_grad()
def _slope_and_divergence(
    denoiser: Denoiser, position: Tensor, level: NoiseLevel, label: Tensor | None, probes: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the slope, and its divergence (N,) in float64, estimated with the probes."""
    position = position.detach().requires_grad_()
    estimate = denoiser(level.flow_scale.item() * position, level, label)
    slope = estimate.noise - estimate.clean
    divergence = torch.zeros(len(position), dtype=torch.float64)
    for probe in probes:
        probe = probe.to(position).expand_as(position)
        (gradient,) = torch.autograd.grad((slope * probe).sum(), position, retain_graph=True)
        divergence += (gradient * probe).flatten(1).sum(1).cpu()
    return slope.detach(), divergence
