"""Densities with a known normaliser and their exact denoisers: Gaussians, told apart by a label or mixed."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from models.diffusion.denoiser import Estimate
from models.diffusion.noise_schedules import NoiseLevel, NoiseSchedule
from tests.exact import ExactGaussian, correlated_gaussian


def log_density_of(exact: ExactGaussian, clean: Tensor) -> Tensor:
    """(N,) float64 log-densities of the Gaussian in nats."""
    return noisy_log_density_of(exact, clean, exact.noise_schedule.level(torch.zeros(())))


def noisy_log_density_of(exact: ExactGaussian, noisy: Tensor, level: NoiseLevel) -> Tensor:
    """Return (N,) log-densities of the noisy images at a level of shape ()."""
    alpha, sigma = level.alpha, level.sigma
    variances = alpha**2 * exact.variances + sigma**2
    rotated = (noisy.double() - alpha * exact.mean).flatten(1) @ exact.basis
    return -0.5 * (rotated**2 / variances + (2 * math.pi * variances).log()).sum(1)


class Classes:
    """The exact denoiser of data in which each label has a Gaussian of its own. `images` counts what it was shown."""

    def __init__(self, schedule: NoiseSchedule, shape: tuple[int, int, int], count: int):
        self.schedule = schedule
        self.each = [correlated_gaussian(schedule, shape, seed) for seed in range(count)]
        self.images = 0

    def __call__(self, noisy: Tensor, level: NoiseLevel, label: Tensor | None = None) -> Estimate:
        assert label is not None and len(label) == len(noisy)
        self.images += len(noisy)
        every = [exact(noisy, level) for exact in self.each]
        rows = torch.arange(len(noisy))
        clean, noise = (torch.stack(half)[label, rows] for half in zip(*every, strict=True))
        return Estimate(clean, noise)

    def draw(self, count: int, seed: int = 0) -> tuple[Tensor, Tensor]:
        """float64 clean images and their labels, in turn."""
        generator = torch.Generator().manual_seed(seed)
        labels = torch.arange(count) % len(self.each)
        clean = [
            self.each[label].draw_noisy(self.schedule.level(torch.zeros(())), 1, generator)[0]
            for label in labels.tolist()
        ]
        return torch.stack(clean), labels

    def log_posterior(self, clean: Tensor, log_prior: Tensor) -> Tensor:
        """(N, K) by Bayes' rule from the closed forms."""
        return (torch.stack([log_density_of(exact, clean) for exact in self.each], 1) + log_prior).log_softmax(1)


class Mixture:
    """The exact denoiser of Gaussians mixed in equal parts."""

    def __init__(self, parts: list[ExactGaussian]):
        self.schedule = parts[0].noise_schedule
        self.parts = parts

    def __call__(self, noisy: Tensor, level: NoiseLevel, label: Tensor | None = None) -> Estimate:
        alpha, sigma = level.coefficients(noisy)
        shares = torch.stack([noisy_log_density_of(part, noisy, level) for part in self.parts]).softmax(0)
        clean = torch.einsum("kn,knchw->nchw", shares, torch.stack([part(noisy, level).clean for part in self.parts]))
        return Estimate(clean, (noisy - alpha * clean) / sigma)

    def log_density(self, clean: Tensor) -> Tensor:
        every = torch.stack([log_density_of(part, clean) for part in self.parts])
        return every.logsumexp(0) - torch.tensor(float(len(self.parts))).log()
