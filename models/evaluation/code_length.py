"""How many nats a model needs to code an image of 8-bit levels: two upper bounds on -log p(image).

On a chain, the variational bound of the ancestral sampler (Ho et al. 2020 eq. 5). On any schedule, the density along
the probability-flow ODE (`likelihood.py`) of the image spread over its levels: a level is an interval of one level's
width around it, and by Jensen's inequality the log of the probability of the intervals is at least the mean of
log density + D log width over uniform places within them (Theis et al. 2016, section 3.1).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from models.autoencoders.loss import unit_kl
from models.diffusion.denoiser import Denoiser, add_noise
from models.diffusion.flow_time import t_of
from models.diffusion.noise_schedules import NoiseSchedule
from models.errors import UserError
from models.evaluation.images import Images
from models.evaluation.likelihood import Ode, log_density, rising_grid

Parts = dict[str, Tensor]  # Nats of each image, (N,) float64, by what they pay for; their sum is the bound.


class GreyLevels(NamedTuple):
    """Where the first and the last of 256 equally spaced levels lie in clean images."""

    low: float
    high: float

    @property
    def width(self) -> float:
        """From one level to the next: 2/255 in [-1, 1]."""
        return (self.high - self.low) / 255


@dataclass(frozen=True)
class VariationalBound:
    """By the bound of a chain. steps: network evaluations an image, 0 (or the chain's length and more) for every step.

    With fewer, the first step is always among them and the others are drawn from groups of neighbours, one from each,
    and count for their group: the mean is that of the whole chain. Groups are small near the image, where terms are
    large.
    """

    steps: int = 100

    def check(self, schedule: NoiseSchedule, shape: Sequence[int], initial_noise: str = "gaussian") -> None:
        """Raises UserError for values that cannot be, or a model that has no such bound."""
        if schedule.steps is None:
            raise UserError("--method vlb needs a chain, and the run's noise schedule is continuous: take --method ode")
        if schedule.steps < 2:
            raise UserError("--method vlb needs a chain of 2 steps or more")
        if initial_noise != "gaussian":
            raise UserError(f"--method vlb needs Gaussian noise at t = 1, and the run has {initial_noise} noise")
        if self.steps < 0 or self.steps == 1:
            raise UserError(f"--vlb_steps {self.steps}: takes 2 or more, or 0 for every step of the chain")

    def evaluations(self, schedule: NoiseSchedule) -> int:
        """Of the network, for each image."""
        assert schedule.steps is not None
        return min(self.steps or schedule.steps, schedule.steps)

    @torch.no_grad()
    def nats(self, denoiser: Denoiser, images: Images, label: Tensor | None, levels: GreyLevels) -> Parts:
        """prior: L_T, what the end of the chain still knows. steps: the sum of the KLs. decoder: L_0."""
        schedule, clean, noises = denoiser.noise_schedule, images.clean, images.noises()
        assert schedule.steps is not None
        alpha, sigma = schedule.alpha(torch.ones(())), schedule.sigma(torch.ones(()))
        prior = unit_kl(alpha * clean.cpu().double(), 2 * sigma.log())
        first = torch.full((len(images),), 1 / schedule.steps, dtype=torch.float64)
        estimate = denoiser(add_noise(schedule, clean, next(noises), first), first, label)
        decoder = -discretised_gaussian(clean.cpu(), estimate.clean.cpu(), decoder_deviation(schedule), levels)
        k, weights = self._drawn_steps(schedule, images)
        steps = torch.zeros(len(images), dtype=torch.float64)
        for group, noise in zip(range(k.shape[1]), noises, strict=False):
            t = k[:, group].double() / schedule.steps
            error = denoiser(add_noise(schedule, clean, noise, t), t, label).clean - clean
            steps += weights[:, group] * error.square().flatten(1).sum(1).cpu()
        return {"prior": prior.flatten(1).sum(1), "steps": steps, "decoder": decoder.flatten(1).sum(1)}

    def _drawn_steps(self, schedule: NoiseSchedule, images: Images) -> tuple[Tensor, Tensor]:
        """(N, groups) each: steps k among 2..T, and what |clean error|^2 counts there: the size of the group times
        1/2 (SNR(k - 1) - SNR(k)), which makes it the KL of posteriors of equal variance (Kingma et al. 2021 eq. 13)."""
        assert schedule.steps is not None
        edges = groups(schedule.steps - 1, self.evaluations(schedule) - 1)
        sizes = edges.diff()
        k = 2 + edges[:-1] + (images.uniforms("steps", len(sizes)) * sizes).long()
        snr = schedule.log_snr(torch.arange(schedule.steps + 1).double() / schedule.steps).exp()
        return k, sizes * (snr[k - 1] - snr[k]) / 2


def groups(count: int, wanted: int) -> Tensor:
    """(wanted + 1,) edges that cut `count` >= wanted neighbours into groups of one or more, smallest first."""
    place = torch.arange(wanted + 1)
    return place + ((count - wanted) * (place.double() / wanted) ** 3).floor().long()


def decoder_deviation(schedule: NoiseSchedule) -> float:
    """Of the chain's last draw: of the posterior at the second step, since the first step's is 0.

    sigma_s^2 (1 - SNR(t) / SNR(s)) is beta-tilde (Ho et al. 2020 eq. 7) for s, t = 1/T, 2/T.
    """
    assert schedule.steps is not None
    times = torch.tensor([1, 2], dtype=torch.float64) / schedule.steps
    (ratio,) = schedule.log_snr(times).diff().tolist()
    return schedule.sigma(times[0]).item() * math.sqrt(-math.expm1(ratio))


def discretised_gaussian(clean: Tensor, mean: Tensor, deviation: float, levels: GreyLevels) -> Tensor:
    """Float64 log-probabilities of levels: the Gaussian's mass within half a level's width of each, and beyond the
    first and the last of them (Ho et al. 2020 eq. 13), so that the 256 sum to 1. clean: on the levels."""
    # Levels by their numbers, so that neighbours share an edge to the last bit.
    number = ((clean.double() - levels.low) / levels.width).round()
    start, step = (levels.low - mean.double()) / deviation, levels.width / deviation
    lower = torch.where(number == 0, -math.inf, start + (number - 0.5) * step)
    upper = torch.where(number == 255, math.inf, start + (number + 0.5) * step)
    # Mirrored to the left of the mean, where the tail's logarithm is exact however far it lies.
    right = lower + upper > 0
    lower, upper = torch.where(right, -upper, lower), torch.where(right, -lower, upper)
    log_lower, log_upper = torch.special.log_ndtr(lower), torch.special.log_ndtr(upper)
    return log_upper + torch.log1p(-(log_lower - log_upper).exp())


@dataclass(frozen=True)
class SpreadDensity(Ode):
    """By the density of the image spread uniformly over its levels.

    first: flow time at which the ODE ends, on the side of the image. The image is read as what is left there after
    division by alpha, so that a `first` above 0 is a model of its own that never asks for finer detail than its noise;
    0.0023 is the noise-to-signal ratio of the spread itself, 2/255 / sqrt(12).
    """

    steps: int = 50
    first: float = 0.0023
    probes: int = 1

    def evaluations(self, schedule: NoiseSchedule) -> int:
        """Of the network, for each image."""
        return 2 * self.steps

    def nats(self, denoiser: Denoiser, images: Images, label: Tensor | None, levels: GreyLevels) -> Parts:
        """density: all of it."""
        schedule, clean = denoiser.noise_schedule, images.clean
        grid = rising_grid(schedule, self.steps, self.first)
        alpha = schedule.alpha(t_of(schedule, grid[0])).item()
        spread = clean + levels.width * (images.uniforms("levels", *clean.shape[1:]) - 0.5).to(clean)
        found = log_density(denoiser, alpha * spread, label, grid, self.probes_of(images))
        return {"density": -(found + clean[0].numel() * math.log(alpha * levels.width))}


def bits_per_dimension(nats: Tensor, dimensions: int) -> Tensor:
    """Nats of whole images -> bits of each of their numbers."""
    return nats / (dimensions * math.log(2))


Method = VariationalBound | SpreadDensity
