"""Code length of 8-bit images in nats: two upper bounds on -log p(image).

`VariationalBound` is the bound of a chain's ancestral sampler (Ho et al. 2020 eq. 5). `SpreadDensity` uses the density
of the dequantised image along the probability-flow ODE (`likelihood.py`), for any schedule. Dequantisation replaces a
grey level by a uniform position in an interval of one level's width. By Jensen's inequality, log p(image) is at least
the mean of log density + D log width over these positions (Theis et al. 2016, section 3.1).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from models.autoencoders.loss import unit_kl
from models.diffusion.denoiser import Denoiser, add_noise
from models.diffusion.noise_schedules import NoiseSchedule
from models.errors import UserError
from models.evaluation.images import Images
from models.evaluation.likelihood import Ode, density_grid, log_density
from models.evaluation.method_settings import DensitySettings, VlbSettings

Parts = dict[str, Tensor]  # Nats of each image, (N,) float64, by part of the bound; their sum is the bound.


class GreyLevels(NamedTuple):
    """Values of the grey levels 0 and 255 in clean images. The 256 levels are equally spaced."""

    low: float
    high: float

    @property
    def width(self) -> float:
        """Distance from one level to the next: 2/255 in [-1, 1]."""
        return (self.high - self.low) / 255


@dataclass(frozen=True)
class VariationalBound(VlbSettings):
    """Variational bound of a chain. vlb_steps: network evaluations per image; 0 for every step of the chain.

    The first step is always evaluated. The other steps form groups of consecutive steps. One random step of each group
    is evaluated and weighted by the group's size, so the estimate is unbiased. Near the image, terms are large and
    groups are small.
    """

    def check(self, schedule: NoiseSchedule, shape: Sequence[int], initial_noise: str = "gaussian") -> None:
        """Raise UserError for values out of range, or for a model without such a bound."""
        if schedule.steps is None:
            message = "`method vlb`: it needs a chain, and the run's noise schedule is continuous"
            raise UserError(message, "use `method ode`")
        if schedule.steps < 2:
            raise UserError("`method vlb`: it needs a chain of at least 2 steps")
        if initial_noise != "gaussian":
            raise UserError(f"`method vlb`: it needs Gaussian noise at t = 1, and the run has {initial_noise} noise")
        if self.vlb_steps < 0 or self.vlb_steps == 1:
            raise UserError(f"`vlb_steps` {self.vlb_steps}: must be at least 2, or 0 for every step of the chain")

    def evaluations(self, schedule: NoiseSchedule) -> int:
        assert schedule.steps is not None
        return min(self.vlb_steps or schedule.steps, schedule.steps)

    @torch.no_grad()
    def nats(
        self, denoiser: Denoiser, schedule: NoiseSchedule, images: Images, label: Tensor | None, levels: GreyLevels
    ) -> Parts:
        """Return the parts of the bound (Ho et al. eq. 5): prior = L_T, steps = L_1 + ... + L_(T-1), decoder = L_0."""
        clean, noises = images.clean, images.noises()
        assert schedule.steps is not None
        last = schedule.level(torch.ones(()))
        prior = unit_kl(last.alpha * clean.cpu().double(), 2 * last.sigma.log())
        first = schedule.level(torch.full((len(images),), 1 / schedule.steps, dtype=torch.float64))
        estimate = denoiser(add_noise(clean, next(noises), first), first, label)
        decoder = -discretised_gaussian(clean.cpu(), estimate.clean.cpu(), decoder_deviation(schedule), levels)
        k, weights = self._drawn_steps(schedule, images)
        steps = torch.zeros(len(images), dtype=torch.float64)
        for group, noise in zip(range(k.shape[1]), noises, strict=False):
            level = schedule.level(k[:, group].double() / schedule.steps)
            error = denoiser(add_noise(clean, noise, level), level, label).clean - clean
            steps += weights[:, group] * error.square().flatten(1).sum(1).cpu()
        return {"prior": prior.flatten(1).sum(1), "steps": steps, "decoder": decoder.flatten(1).sum(1)}

    def _drawn_steps(self, schedule: NoiseSchedule, images: Images) -> tuple[Tensor, Tensor]:
        """Return random steps k in 2..T, and the weights of |clean error|^2 at these steps, (N, groups) each.

        A weight is the size of the group times 1/2 (SNR(k - 1) - SNR(k)) (Kingma et al. 2021 eq. 13).
        """
        assert schedule.steps is not None
        edges = groups(schedule.steps - 1, self.evaluations(schedule) - 1)
        sizes = edges.diff()
        k = 2 + edges[:-1] + (images.uniforms("steps", len(sizes)) * sizes).long()
        snr = schedule.log_snr(torch.arange(schedule.steps + 1).double() / schedule.steps).exp()
        return k, sizes * (snr[k - 1] - snr[k]) / 2


def groups(count: int, number: int) -> Tensor:
    """Divide `count` steps into `number` <= `count` non-empty groups, smallest first. Returns edges, (number + 1,)."""
    index = torch.arange(number + 1)
    return index + ((count - number) * (index.double() / number) ** 3).floor().long()


def decoder_deviation(schedule: NoiseSchedule) -> float:
    """Return the decoder's standard deviation: the posterior standard deviation at step 2, because it is 0 at step 1.

    sigma_s^2 (1 - SNR(t) / SNR(s)) is beta-tilde (Ho et al. 2020 eq. 7) for s, t = 1/T, 2/T.
    """
    assert schedule.steps is not None
    times = torch.tensor([1, 2], dtype=torch.float64) / schedule.steps
    (ratio,) = schedule.log_snr(times).diff().tolist()
    return schedule.sigma(times[0]).item() * math.sqrt(-math.expm1(ratio))


def discretised_gaussian(clean: Tensor, mean: Tensor, deviation: float, levels: GreyLevels) -> Tensor:
    """Return float64 log-probabilities of grey levels (Ho et al. 2020 eq. 13). clean: images with grey-level values.

    The probability of a level is the Gaussian's mass within half a width of it. The end levels also get the tails.
    """
    # Edges are computed from integer level numbers, so that adjacent levels share exactly the same edge.
    number = ((clean.double() - levels.low) / levels.width).round()
    start, step = (levels.low - mean.double()) / deviation, levels.width / deviation
    lower = torch.where(number == 0, -math.inf, start + (number - 0.5) * step)
    upper = torch.where(number == 255, math.inf, start + (number + 0.5) * step)
    # Intervals right of the mean are mirrored to its left, where log_ndtr is accurate even far from the mean.
    right = lower + upper > 0
    lower, upper = torch.where(right, -upper, lower), torch.where(right, -lower, upper)
    log_lower, log_upper = torch.special.log_ndtr(lower), torch.special.log_ndtr(upper)
    return log_upper + torch.log1p(-(log_lower - log_upper).exp())


@dataclass(frozen=True)
class SpreadDensity(DensitySettings, Ode):
    """Density of the image after uniform dequantisation.

    The dequantised image, multiplied by alpha, is used as the image at `first_time`. A large `first_time` ignores fine
    detail. The default, 0.0023, is the standard deviation of the dequantisation, 2/255 / sqrt(12).
    """

    def evaluations(self, schedule: NoiseSchedule) -> int:
        return 2 * self.ode_steps

    def nats(
        self, denoiser: Denoiser, schedule: NoiseSchedule, images: Images, label: Tensor | None, levels: GreyLevels
    ) -> Parts:
        """Return the nats of each image. This bound has one part, named density."""
        clean, grid = images.clean, density_grid(schedule, self.ode_steps, self.first_time)
        alpha = grid[-1].alpha.item()
        spread = clean + levels.width * (images.uniforms("levels", *clean.shape[1:]) - 0.5).to(clean)
        density = log_density(denoiser, alpha * spread, label, grid, self.probes_of(images))
        return {"density": -(density + clean[0].numel() * math.log(alpha * levels.width))}


def bits_per_dimension(nats: Tensor, dimensions: int) -> Tensor:
    """Turn nats of whole images into bits per dimension."""
    return nats / (dimensions * math.log(2))


Method = VariationalBound | SpreadDensity
