"""The log-density of images under a denoiser, by the change of variables along the probability-flow ODE.

The ODE is walked from the image to noise in flow coordinates (see `samplers.py`): place = noisy / (alpha + sigma)
has the slope noise - clean, and log p changes by minus its divergence (Chen et al. 2018 eq. 8). The divergence is
estimated with random probes that stay the same along a walk (Hutchinson; Grathwohl et al. 2019 section 3.1), or
exact with one probe for each dimension, which small latents can afford.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from models.diffusion.denoiser import Denoiser
from models.diffusion.flow_time import last_flow_time, t_of
from models.diffusion.noise_schedules import NoiseSchedule
from models.errors import UserError
from models.evaluation.images import Images
from models.randomness import derive_seed, image_draw

MOST_EXACT = 512


def rising_grid(schedule: NoiseSchedule, steps: int, first: float, power: float = 2.0) -> Tensor:
    """(S + 1,) flow times from `first` to the schedule's end, equally spaced in their root: dense near the image,
    where the density of images is made."""
    start, end = first ** (1 / power), last_flow_time(schedule) ** (1 / power)
    grid = torch.linspace(start, end, steps + 1, dtype=torch.float64) ** power
    grid[0] = first
    return grid


def random_probes(seed: int, indices: Sequence[int], shape: Sequence[int], count: int, device: torch.device) -> Tensor:
    """(count, N, C, H, W) signs over sqrt(count), a pure function of (seed, index of the image): the sum of
    probe * J probe over the probes has the trace of J as its expectation."""
    draw = image_draw(derive_seed(seed, "probes"), indices, device)
    normal = draw((len(indices), count, *shape)).transpose(0, 1)
    return torch.where(normal < 0, -1.0, 1.0) / math.sqrt(count)


def exact_probes(shape: Sequence[int], device: torch.device) -> Tensor:
    """(D, 1, C, H, W): one unit vector for each dimension, whose sum is the trace itself."""
    size = math.prod(shape)
    return torch.eye(size, device=device).reshape(size, 1, *shape)


def log_density(denoiser: Denoiser, noisy: Tensor, label: Tensor | None, flow_times: Tensor, probes: Tensor) -> Tensor:
    """(N,) float64 log-densities in nats, on the CPU, of images (N, C, H, W) at flow_times[0]; at 0 they are clean.

    flow_times: (S + 1,) rising to the schedule's end, as from `rising_grid`. The midpoint rule: 2 S network
    evaluations, of which S with one backward pass a probe; neither end of time but the first is evaluated.
    The noise at the end is taken for Gaussian, of the variance that unit data would have there.
    """
    schedule, size = denoiser.noise_schedule, noisy[0].numel()
    ends, middles = _moments(schedule, flow_times), _moments(schedule, (flow_times[:-1] + flow_times[1:]) / 2)
    place = noisy / ends[0].scale
    change = torch.zeros(len(noisy), dtype=torch.float64)
    for here, middle, span in zip(ends, middles, flow_times.diff().tolist(), strict=False):
        halfway = place + span / 2 * _slope(denoiser, place, here, label)
        slope, divergence = _slope_and_divergence(denoiser, halfway, middle, label, probes)
        place = place + span * slope
        change += span * divergence
    last = ends[-1]
    squares = (place.cpu().double() * last.scale).square().flatten(1).sum(1)
    end = -0.5 * (squares / last.variance + size * math.log(2 * math.pi * last.variance))
    return end + change + size * math.log(last.scale / ends[0].scale)


@dataclass(frozen=True)
class Ode:
    """How a density is taken.

    steps: of the ODE, two network evaluations each. first: flow time at which the density is taken, 0 for the clean
    image itself. probes: random probes of the divergence, 0 for the exact trace (one backward pass a dimension).
    """

    steps: int
    first: float
    probes: int

    def check(self, schedule: NoiseSchedule, shape: Sequence[int], initial_noise: str = "gaussian") -> None:
        """Raises UserError for values that cannot be, or a model whose noise has no such density."""
        if initial_noise != "gaussian":
            raise UserError(f"a likelihood needs Gaussian noise at t = 1, and the run has {initial_noise} noise")
        if self.steps < 1:
            raise UserError(f"--ode_steps {self.steps}: takes 1 or more")
        if not 0 <= self.first < last_flow_time(schedule):
            raise UserError(f"--first_time {self.first:g}: a time from 0 up to, not including, 1")
        if self.probes < 0:
            raise UserError(f"--probes {self.probes}: takes 1 or more, or 0 for the exact trace")
        if self.probes == 0 and math.prod(shape) > MOST_EXACT:
            raise UserError(
                f"--probes 0: the exact trace of {math.prod(shape)} dimensions costs as many backward passes"
                f" a step (at most {MOST_EXACT}); take 1 or more"
            )

    def probes_of(self, images: Images) -> Tensor:
        """(count, N, C, H, W) random probes of each image, or the exact ones of all: (D, 1, C, H, W)."""
        shape, device = images.clean.shape[1:], images.clean.device
        if self.probes == 0:
            return exact_probes(shape, device)
        return random_probes(images.seed, images.numbers, shape, self.probes, device)


class _Moment(NamedTuple):
    """One time of the walk: the place there is noisy / scale; variance: of noisy images of unit data."""

    t: Tensor
    scale: float
    variance: float


def _moments(schedule: NoiseSchedule, flow_times: Tensor) -> list[_Moment]:
    t = t_of(schedule, flow_times)
    alpha, sigma = schedule.alpha(t), schedule.sigma(t)
    return list(map(_Moment, t, (alpha + sigma).tolist(), (alpha**2 + sigma**2).tolist()))


@torch.no_grad()
def _slope(denoiser: Denoiser, place: Tensor, moment: _Moment, label: Tensor | None) -> Tensor:
    estimate = denoiser(moment.scale * place, moment.t, label)
    return estimate.noise - estimate.clean


@torch.enable_grad()
def _slope_and_divergence(
    denoiser: Denoiser, place: Tensor, moment: _Moment, label: Tensor | None, probes: Tensor
) -> tuple[Tensor, Tensor]:
    """The slope, and (N,) float64 traces of its derivative by the place, as far as the probes see it."""
    place = place.detach().requires_grad_()
    estimate = denoiser(moment.scale * place, moment.t, label)
    slope = estimate.noise - estimate.clean
    divergence = torch.zeros(len(place), dtype=torch.float64)
    for probe in probes:
        probe = probe.to(place).expand_as(place)
        (seen,) = torch.autograd.grad((slope * probe).sum(), place, retain_graph=True)
        divergence += (seen * probe).flatten(1).sum(1).cpu()
    return slope.detach(), divergence
