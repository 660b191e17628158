"""Denoisers: functions (noisy, level, label) -> estimate that losses, samplers and guidance call alike.

`NetworkDenoiser` reads a network through its prediction. Clipping, fixed labels and counting are functions from a
denoiser to a denoiser, as is guidance in `guidance.py`.
"""

from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn

from models.diffusion.noise_schedules import NoiseLevel
from models.diffusion.predictions import Prediction


class Estimate(NamedTuple):
    """Both parts of `noisy = alpha * clean + sigma * noise`, each (N, C, H, W) in the dtype of the noisy images."""

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
    """Return the estimate whose clean part is given; t > 0."""
    alpha, sigma = level.coefficients(noisy)
    return Estimate(clean, (noisy - alpha * clean) / sigma)


def in_autocast(device: torch.device, dtype: torch.dtype | None) -> torch.autocast:
    """Return the context in which networks compute in `dtype` where that pays; None leaves them as they are."""
    return torch.autocast(device.type, dtype, enabled=dtype is not None)


@dataclass(frozen=True)
class NetworkDenoiser:
    """Network read through its prediction. Only the network computes in `autocast`, if that is set."""

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
    """Clip the clean estimate to [low, high] and derive the noise again from the clipped one; t > 0."""

    def clip(noisy: Tensor, level: NoiseLevel, label: Tensor | None = None) -> Estimate:
        return estimate_from_clean(noisy, level, denoiser(noisy, level, label).clean.clamp(low, high))

    return clip


def with_labels(denoiser: Denoiser, labels: Tensor | None) -> Denoiser:
    """Fix the labels (N,) of a batch, as samplers need it."""

    def labelled(noisy: Tensor, level: NoiseLevel, label: Tensor | None = None) -> Estimate:
        return denoiser(noisy, level, labels)

    return labelled


class Counter:
    """Number of images that a denoiser's network has seen."""

    images = 0


def counted(denoiser: Denoiser) -> tuple[Denoiser, Counter]:
    """Return the denoiser and the counter of the images that it sees."""
    counter = Counter()

    def count(noisy: Tensor, level: NoiseLevel, label: Tensor | None = None) -> Estimate:
        counter.images += len(noisy)
        return denoiser(noisy, level, label)

    return count, counter
