"""Denoisers: functions (noisy, level, label) -> estimate, the same for losses, samplers and guidance.

`NetworkDenoiser` converts the output of its network to an estimate, as its `Prediction` says. Clipping, fixed labels,
counting and guidance (`guidance.py`) are functions from a denoiser to a denoiser.
"""

from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn

from models.diffusion.noise_schedules import NoiseLevel
from models.diffusion.predictions import Prediction


class Estimate(NamedTuple):
    """Estimate of both parts of `noisy = alpha * clean + sigma * noise`, (N, C, H, W) in the dtype of `noisy`."""

    clean: Tensor
    noise: Tensor


class Denoiser(Protocol):
    """A function from noisy images to an estimate.

    noisy: (N, C, H, W). level: of shape () or (N,). label: (N,) int64, or None for no class.
    """

    def __call__(self, noisy: Tensor, level: NoiseLevel, label: Tensor | None = None) -> Estimate: ...


def add_noise(clean: Tensor, noise: Tensor, level: NoiseLevel) -> Tensor:
    """Return alpha * clean + sigma * noise."""
    alpha, sigma = level.coefficients(clean)
    return alpha * clean + sigma * noise


def estimate_from_clean(noisy: Tensor, level: NoiseLevel, clean: Tensor) -> Estimate:
    """Return the estimate that has this clean part, with the noise that follows from it. Requires t > 0."""
    alpha, sigma = level.coefficients(noisy)
    return Estimate(clean, (noisy - alpha * clean) / sigma)


def in_autocast(device: torch.device, dtype: torch.dtype | None) -> torch.autocast:
    """Return torch's autocast context for `dtype`; None disables autocast."""
    return torch.autocast(device.type, dtype, enabled=dtype is not None)


@dataclass(frozen=True)
class NetworkDenoiser:
    """Denoiser made of a network and its prediction. autocast: dtype of autocast, for the network only."""

    network: nn.Module
    prediction: Prediction
    autocast: torch.dtype | None = None

    def output(self, noisy: Tensor, level: NoiseLevel, label: Tensor | None = None) -> Tensor:
        """Return the network's output (N, C, H, W) for the scaled noisy images, in their dtype."""
        alpha, sigma = level.coefficients(noisy)
        t = level.t.to(noisy, non_blocking=True).expand(len(noisy))
        scaled = self.prediction.input_scale(alpha, sigma) * noisy
        with in_autocast(noisy.device, self.autocast):
            return self.network(scaled, t, label).to(noisy.dtype)

    def __call__(self, noisy: Tensor, level: NoiseLevel, label: Tensor | None = None) -> Estimate:
        level = level.like(noisy)
        return Estimate(*self.prediction.solve(self.output(noisy, level, label), noisy, *level.coefficients(noisy)))


def clipped(denoiser: Denoiser, low: float, high: float) -> Denoiser:
    """Clip the clean estimate to [low, high] and compute the noise from the clipped estimate. Requires t > 0."""

    def clip(noisy: Tensor, level: NoiseLevel, label: Tensor | None = None) -> Estimate:
        return estimate_from_clean(noisy, level, denoiser(noisy, level, label).clean.clamp(low, high))

    return clip


def with_labels(denoiser: Denoiser, labels: Tensor | None) -> Denoiser:
    """Call the denoiser with these labels (N,) of a batch, since samplers pass no labels."""

    def labelled(noisy: Tensor, level: NoiseLevel, label: Tensor | None = None) -> Estimate:
        return denoiser(noisy, level, labels)

    return labelled


class Counter:
    """Counter of the images that were passed to a denoiser."""

    images = 0


def counted(denoiser: Denoiser) -> tuple[Denoiser, Counter]:
    """Return the denoiser and a counter of the images that are passed to it."""
    counter = Counter()

    def count(noisy: Tensor, level: NoiseLevel, label: Tensor | None = None) -> Estimate:
        counter.images += len(noisy)
        return denoiser(noisy, level, label)

    return count, counter
