"""The denoiser: network + noise schedule + prediction, answering (noisy, t, label) with an estimate.

Losses and samplers call the same object. Anything callable as `(noisy, t, label) -> Estimate` that carries its
`noise_schedule` is a denoiser too: `Clipped` here, the guided ones in `guidance.py`, exact ones in the tests.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn

from models.diffusion.noise_schedules import NoiseSchedule
from models.diffusion.predictions import Prediction


class Estimate(NamedTuple):
    """Both halves of `noisy = alpha * clean + sigma * noise`, each (N, C, H, W) float32."""

    clean: Tensor
    noise: Tensor


class Denoiser(Protocol):
    """What losses, samplers and guidance ask for. t is a scalar or (N,); label is (N,) int64 or None (no class)."""

    @property
    def noise_schedule(self) -> NoiseSchedule: ...

    def __call__(self, noisy: Tensor, t: Tensor, label: Tensor | None = None) -> Estimate: ...


def levels(schedule: NoiseSchedule, t: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
    """alpha(t) and sigma(t) in the dtype and on the device of `like`, shaped to broadcast against its images."""
    shape = (-1,) + (1,) * (like.dim() - 1)
    alpha, sigma = schedule.alpha(t).reshape(shape), schedule.sigma(t).reshape(shape)
    return alpha.to(like, non_blocking=True), sigma.to(like, non_blocking=True)


def add_noise(schedule: NoiseSchedule, clean: Tensor, noise: Tensor, t: Tensor) -> Tensor:
    """alpha(t) * clean + sigma(t) * noise."""
    alpha, sigma = levels(schedule, t, clean)
    return alpha * clean + sigma * noise


def estimate_from_clean(schedule: NoiseSchedule, noisy: Tensor, t: Tensor, clean: Tensor) -> Estimate:
    """The estimate whose clean half is given; t > 0."""
    alpha, sigma = levels(schedule, t, noisy)
    return Estimate(clean, (noisy - alpha * clean) / sigma)


def in_autocast(device: torch.device, dtype: torch.dtype | None) -> torch.autocast:
    """What a network computes in the block is computed in dtype where that pays; None: as it is."""
    return torch.autocast(device.type, dtype, enabled=dtype is not None)


@dataclass(frozen=True)
class NetworkDenoiser:
    """A network read through its prediction; float32 in and out, the network alone in `autocast` if that is set."""

    network: nn.Module
    noise_schedule: NoiseSchedule
    prediction: Prediction
    autocast: torch.dtype | None = None

    def __post_init__(self) -> None:
        self.prediction.check(self.noise_schedule.alpha(torch.ones(())).item())

    def output(self, noisy: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        """The network's answer to the (scaled) noisy images, as float32: (N, C, H, W)."""
        alpha, sigma = levels(self.noise_schedule, t, noisy)
        t = t.to(noisy, non_blocking=True).expand(len(noisy))
        scaled = self.prediction.input_scale(alpha, sigma) * noisy
        with in_autocast(noisy.device, self.autocast):
            return self.network(scaled, t, label).to(noisy.dtype)

    def __call__(self, noisy: Tensor, t: Tensor, label: Tensor | None = None) -> Estimate:
        alpha, sigma = levels(self.noise_schedule, t, noisy)
        return Estimate(*self.prediction.solve(self.output(noisy, t, label), noisy, alpha, sigma))


@dataclass(frozen=True)
class Clipped:
    """Clips the clean estimate to the space's bounds and derives the noise again from what is left (t > 0)."""

    denoiser: Denoiser
    low: float
    high: float

    @property
    def noise_schedule(self) -> NoiseSchedule:
        return self.denoiser.noise_schedule

    def __call__(self, noisy: Tensor, t: Tensor, label: Tensor | None = None) -> Estimate:
        clean = self.denoiser(noisy, t, label).clean.clamp(self.low, self.high)
        return estimate_from_clean(self.noise_schedule, noisy, t, clean)
