"""Denoising losses, one per image. The training loop averages them, in total and per bin of t.

A weighting applies to the error of the clean estimate or of the noise estimate, as in its paper. A factor that
depends on the prediction converts the error of the network's output to this error, so equal estimates have equal losses
with every prediction. Only the weighting `uniform` applies to the error of the output itself.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from models.diffusion.denoiser import NetworkDenoiser
from models.diffusion.noise import COUPLINGS, INITIAL_NOISES, shape_noise
from models.diffusion.noise_schedules import NoiseLevel, NoiseSchedule
from models.diffusion.predictions import Prediction
from models.diffusion.times import TimeDensity
from models.errors import UserError
from models.randomness import StepRandomness


class Distance(NamedTuple):
    """Distance between output and target, element by element.

    degree: its degree of homogeneity, distance(k * x) = k ** degree * distance(x); None if it is not homogeneous.
    """

    function: Callable[[Tensor, Tensor], Tensor]
    degree: int | None


def _l1(output: Tensor, target: Tensor) -> Tensor:
    return (output - target).abs()


def _l2(output: Tensor, target: Tensor) -> Tensor:
    return (output - target).square()


def _huber(output: Tensor, target: Tensor) -> Tensor:
    """Huber loss with delta = 1: quadratic for errors up to 1, linear above."""
    return F.huber_loss(output, target, reduction="none")


DISTANCES: dict[str, Distance] = {"l2": Distance(_l2, 2), "l1": Distance(_l1, 1), "huber": Distance(_huber, None)}


class _Arguments(NamedTuple):
    """Arguments of a weighting: the levels in float64, their schedule and the prediction."""

    level: NoiseLevel
    schedule: NoiseSchedule
    prediction: Prediction

    @property
    def snr(self) -> Tensor:
        return (self.level.alpha / self.level.sigma) ** 2

    @property
    def clean_error(self) -> Tensor:
        return self.prediction.clean_error(self.level.alpha, self.level.sigma)

    @property
    def noise_error(self) -> Tensor:
        return self.prediction.noise_error(self.level.alpha, self.level.sigma)


# Weight of the clean or noise error, and the size of that error for a unit error of the network's output.
Weighted = tuple[Tensor, Tensor]


def _uniform(at: _Arguments, limit: float) -> Weighted:
    """Weight 1 for the error of the network's output (L_simple for eps)."""
    ones = torch.ones_like(at.level.t)
    return ones, ones


def _variational(at: _Arguments, limit: float) -> Weighted:
    """Weight of the noise error in the variational bound, clipped to [0, limit].

    One term of the bound is 1/2 (SNR(s) / SNR(t) - 1) |noise error|^2 with s = t - 1/T (Kingma et al. 2021 eq. 14;
    for s > 0 it is beta^2 / (2 beta-tilde alpha (1 - alpha-bar)), Ho et al. 2020 eq. 12 with the posterior
    variance). The weight is infinite at the first step, hence the clip. A continuous schedule uses T = 1000.
    """
    before = (at.level.t - 1 / (at.schedule.steps or 1000)).clamp(min=0)
    ratio = (at.schedule.log_snr(before) - at.schedule.log_snr(at.level.t)).exp()
    return (0.5 * (ratio - 1)).clamp(0, limit), at.noise_error


def _min_snr(at: _Arguments, limit: float) -> Weighted:
    """min(SNR, gamma) on the clean error (Hang et al. 2023). It is min/SNR on eps errors, min/(SNR + 1) on v errors."""
    return at.snr.clamp(max=limit), at.clean_error


def _soft_min_snr(at: _Arguments, limit: float) -> Weighted:
    """SNR * gamma / (SNR + gamma) on the clean error (Crowson et al. 2024, section 4.3)."""
    return at.snr * limit / (at.snr + limit), at.clean_error


# Each weighting with its default limit: the clip of the variational weight, gamma of the others.
WEIGHTINGS: dict[str, tuple[Callable[[_Arguments, float], Weighted], float]] = {
    "uniform": (_uniform, 0.0),
    "variational": (_variational, 1.0),
    "min_snr": (_min_snr, 5.0),
    "soft_min_snr": (_soft_min_snr, 4.0),
}


class LossWeights(NamedTuple):
    """(N,) float64 factors of a batch. `scale` multiplies output and target, `weight` the distance between them."""

    scale: Tensor
    weight: Tensor

    def __getitem__(self, rows: slice) -> LossWeights:  # pyright: ignore[reportIncompatibleMethodOverride]
        return LossWeights(self.scale[rows], self.weight[rows])


@dataclass(frozen=True)
class DenoisingLoss:
    """Distance between the network's output and its target, times a weight that depends on t.

    distance: a row of DISTANCES. weighting: a row of WEIGHTINGS; limit: its clip or gamma, None for the default.
    label_drop: probability that a label is replaced by the null label, drawn for each image. initial_noise, coupling:
    rows of INITIAL_NOISES and COUPLINGS. Raises UserError for unknown rows and for numbers out of range.
    """

    distance: str
    weighting: str
    limit: float | None
    density: TimeDensity
    label_drop: float
    null_label: int
    initial_noise: str = "gaussian"
    coupling: str = "independent"

    def __post_init__(self) -> None:
        for table, name, option in (
            (DISTANCES, self.distance, "loss"),
            (WEIGHTINGS, self.weighting, "weighting"),
            (INITIAL_NOISES, self.initial_noise, "initial_noise"),
            (COUPLINGS, self.coupling, "coupling"),
        ):
            if name not in table:
                raise UserError(f"`{option}` {name!r}: choose from {', '.join(table)}")
        if self.limit is not None and self.limit <= 0:
            raise UserError(f"`weight_limit` {self.limit}: must be more than 0")
        if not 0 <= self.label_drop <= 1:
            raise UserError(f"`label_drop` {self.label_drop}: must be at least 0 and at most 1")

    def weights(self, level: NoiseLevel, schedule: NoiseSchedule, prediction: Prediction) -> LossWeights:
        """Return the weights of levels (N,).

        A factor k on the error multiplies the distance by k ** degree, which becomes part of the weight. For Huber's
        distance, which has no degree, output and target are multiplied by k instead.
        """
        weigh, default = WEIGHTINGS[self.weighting]
        weight, factor = weigh(_Arguments(level, schedule, prediction), default if self.limit is None else self.limit)
        degree = DISTANCES[self.distance].degree
        if degree is None:
            return LossWeights(factor, weight)
        return LossWeights(torch.ones_like(factor), weight * factor**degree)

    def noise(self, randomness: StepRandomness, shape: Sequence[int]) -> Tensor:
        """Draw the noise at t = 1 for a part of a batch, (N, *shape), before coupling."""
        return shape_noise(self.initial_noise, randomness.noise(shape))

    def at(
        self,
        denoiser: NetworkDenoiser,
        clean: Tensor,
        label: Tensor | None,
        level: NoiseLevel,
        weights: LossWeights,
        noise: Tensor,
    ) -> Tensor:
        """Return the losses (N,) for these levels and weights, and this noise (N, C, H, W)."""
        level = level.like(clean)
        alpha, sigma = level.coefficients(clean)
        output = denoiser.output(alpha * clean + sigma * noise, level, label)
        target = denoiser.prediction.target(clean, noise, alpha, sigma)
        distance = DISTANCES[self.distance]
        if distance.degree is None:
            scale = weights.scale.to(clean, non_blocking=True).view(-1, 1, 1, 1)
            output, target = scale * output, scale * target
        errors = distance.function(output, target).flatten(1).mean(1)
        return errors * weights.weight.to(errors, non_blocking=True)

    def plan(self, schedule: NoiseSchedule, prediction: Prediction, randomness: StepRandomness) -> dict[str, Tensor]:
        """Draw the times of a part of a batch, and which labels are dropped. Return (N,) tensors on the CPU.

        Keys: t, alpha, sigma, scale and weight, in float64. If label_drop > 0, also "dropped", in bool.
        """
        level = schedule.level(randomness.part(self.density.draw(randomness.uniform("times"), schedule)))
        plan = {**vars(level), **self.weights(level, schedule, prediction)._asdict()}
        if self.label_drop > 0:
            plan["dropped"] = randomness.part(randomness.uniform("labels") < self.label_drop)
        return plan

    def __call__(
        self,
        denoiser: NetworkDenoiser,
        clean: Tensor,
        label: Tensor | None,
        plan: Mapping[str, Tensor],
        randomness: StepRandomness,
    ) -> Tensor:
        """Return the (N,) losses of a part of a batch. plan: the result of `plan`, moved to the device."""
        noise = COUPLINGS[self.coupling](clean, self.noise(randomness, clean.shape[1:]), label)
        if label is not None and "dropped" in plan:
            label = torch.where(plan["dropped"], self.null_label, label)
        level = NoiseLevel(plan["t"], plan["alpha"], plan["sigma"])
        return self.at(denoiser, clean, label, level, LossWeights(plan["scale"], plan["weight"]), noise)
