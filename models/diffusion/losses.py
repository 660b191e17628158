"""Denoising and autoencoder losses: one number per image. The loop reduces and bins them.

Every weighting of time is written for the error of the clean estimate or of the noise estimate, as its paper does, and
carried over to the network's own output by one factor of the prediction, so it is right for each prediction.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from models.diffusion.denoiser import NetworkDenoiser, levels
from models.diffusion.noise import COUPLINGS, INITIAL_NOISES, shape_noise
from models.diffusion.noise_schedules import NoiseSchedule
from models.diffusion.predictions import Prediction
from models.diffusion.times import TimeDensity
from models.errors import UserError
from models.randomness import StepRandomness


def _l1(output: Tensor, target: Tensor) -> Tensor:
    return (output - target).abs()


def _l2(output: Tensor, target: Tensor) -> Tensor:
    return (output - target).square()


def _huber(output: Tensor, target: Tensor) -> Tensor:
    """Huber's loss with delta = 1, quadratic within one unit."""
    return F.huber_loss(output, target, reduction="none")


DISTANCES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"l2": _l2, "l1": _l1, "huber": _huber}


class _At(NamedTuple):
    """What a weighting may look at, in float64: where the times are and what the prediction is."""

    t: Tensor
    schedule: NoiseSchedule
    prediction: Prediction

    @property
    def alpha(self) -> Tensor:
        return self.schedule.alpha(self.t)

    @property
    def sigma(self) -> Tensor:
        return self.schedule.sigma(self.t)

    @property
    def snr(self) -> Tensor:
        return (self.alpha / self.sigma) ** 2


def _uniform(at: _At, limit: float) -> Tensor:
    """The network's own target, unweighted (L_simple for eps)."""
    return torch.ones_like(at.t)


def _variational(at: _At, limit: float) -> Tensor:
    """The bound's weight of the noise error, clipped to [0, limit].

    One term of the bound is 1/2 (SNR(s) / SNR(t) - 1) |noise error|^2 with s = t - 1/T (Kingma et al. 2021 eq. 14;
    for s > 0 it is beta^2 / (2 beta-tilde alpha (1 - alpha-bar)), Ho et al. 2020 eq. 12 with the posterior
    variance). It is infinite at the first step, hence the clip. A continuous schedule takes T = 1000.
    """
    before = (at.t - 1 / (at.schedule.steps or 1000)).clamp(min=0)
    ratio = (at.schedule.log_snr(before) - at.schedule.log_snr(at.t)).exp()
    weight = (0.5 * (ratio - 1)).clamp(0, limit)
    return weight * at.prediction.noise_error(at.alpha, at.sigma) ** 2


def _min_snr(at: _At, limit: float) -> Tensor:
    """min(SNR, gamma) on the clean error (Hang et al. 2023): for eps min/SNR, for v min/(SNR + 1)."""
    return at.snr.clamp(max=limit) * at.prediction.clean_error(at.alpha, at.sigma) ** 2


def _soft_min_snr(at: _At, limit: float) -> Tensor:
    """SNR * gamma / (SNR + gamma) on the clean error (Crowson et al. 2024, section 4.3)."""
    return at.snr * limit / (at.snr + limit) * at.prediction.clean_error(at.alpha, at.sigma) ** 2


# Each weighting with its default limit: the clip of the variational weight, gamma of the others.
WEIGHTINGS: dict[str, tuple[Callable[[_At, float], Tensor], float]] = {
    "uniform": (_uniform, 0.0),
    "variational": (_variational, 1.0),
    "min_snr": (_min_snr, 5.0),
    "soft_min_snr": (_soft_min_snr, 4.0),
}


@dataclass(frozen=True)
class DenoisingLoss:
    """distance between the network's output and its target, times a weight of t.

    distance: a row of DISTANCES. weighting: a row of WEIGHTINGS; limit: its clip or gamma (None: the default).
    label_drop: probability that an image's label is replaced by the null label, image by image. initial_noise,
    coupling: rows of INITIAL_NOISES and COUPLINGS.
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
        for table, name, word in (
            (DISTANCES, self.distance, "loss"),
            (WEIGHTINGS, self.weighting, "weighting"),
            (INITIAL_NOISES, self.initial_noise, "initial noise"),
            (COUPLINGS, self.coupling, "coupling"),
        ):
            if name not in table:
                raise UserError(f"unknown {word} {name!r}: choose from {', '.join(table)}")
        if self.limit is not None and self.limit <= 0:
            raise UserError(f"--weight_limit {self.limit}: takes more than 0")
        if not 0 <= self.label_drop <= 1:
            raise UserError(f"--label_drop {self.label_drop}: a share between 0 and 1")

    def weight(self, t: Tensor, schedule: NoiseSchedule, prediction: Prediction) -> Tensor:
        """(N,) times -> (N,) float64 weights of the output's loss."""
        weigh, default = WEIGHTINGS[self.weighting]
        return weigh(_At(t.double(), schedule, prediction), default if self.limit is None else self.limit)

    def noise(self, randomness: StepRandomness, shape: Sequence[int]) -> Tensor:
        """The noise at t = 1 for a part of a batch, (N, *shape), uncoupled."""
        return shape_noise(self.initial_noise, randomness.noise(shape))

    def at(self, denoiser: NetworkDenoiser, clean: Tensor, label: Tensor | None, t: Tensor, noise: Tensor) -> Tensor:
        """(N,) losses of given times (N,) and noise (N, C, H, W)."""
        schedule, prediction = denoiser.noise_schedule, denoiser.prediction
        alpha, sigma = levels(schedule, t, clean)
        output = denoiser.output(alpha * clean + sigma * noise, t, label)
        target = prediction.target(clean, noise, alpha, sigma)
        errors = DISTANCES[self.distance](output, target).flatten(1).mean(1)
        return errors * self.weight(t, schedule, prediction).to(errors, non_blocking=True)

    def __call__(
        self, denoiser: NetworkDenoiser, clean: Tensor, label: Tensor | None, randomness: StepRandomness
    ) -> tuple[Tensor, Tensor]:
        """(N,) losses and the (N,) times they were taken at."""
        t = randomness.part(self.density.draw(randomness.uniform("times"), denoiser.noise_schedule))
        noise = COUPLINGS[self.coupling](clean, self.noise(randomness, clean.shape[1:]), label)
        if label is not None and self.label_drop > 0:
            dropped = randomness.part(randomness.uniform("labels") < self.label_drop)
            label = torch.where(dropped.to(label.device, non_blocking=True), self.null_label, label)
        return self.at(denoiser, clean, label, t, noise), t
