"""Gaussian data, whose denoiser has a closed form: the truth for samplers, predictions and losses.

A sampler of such data is affine in its start and in every draw, so the mean and the variance of its images can be
computed instead of estimated: see `moments`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from models.diffusion.denoiser import Estimate, NetworkDenoiser
from models.diffusion.noise_schedules import Chain, NoiseLevel, NoiseSchedule
from models.diffusion.predictions import Prediction
from models.diffusion.samplers import Step
from models.diffusion.times import Grid

Walk = Callable[..., Iterator[Step]]


def levels(schedule: NoiseSchedule, t: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
    """Return alpha and sigma at the times t, shaped to broadcast against the images."""
    return schedule.level(t).coefficients(like)


def betas_of(chain: Chain) -> Tensor:
    """Return beta_1..beta_T of a chain: 1 - alpha_bar_k / alpha_bar_{k-1} (Ho et al. 2020, section 2)."""
    alpha_bar = chain.table**2
    return 1 - alpha_bar[1:] / alpha_bar[:-1]


class ExactGaussian:
    """Ideal denoiser of Gaussian data: E[clean | noisy] and E[noise | noisy], for levels of shape () or (N,).

    mean: (C, H, W). covariance: (D, D) of the D = C * H * W pixels. `calls` counts the evaluations.
    """

    def __init__(self, noise_schedule: NoiseSchedule, mean: Tensor, covariance: Tensor):
        self.noise_schedule = noise_schedule
        self.mean = mean.double()
        self.variances, self.basis = torch.linalg.eigh(covariance.double())
        self.calls = 0

    def _centred(self, noisy: Tensor, alpha: Tensor) -> Tensor:
        """(N, D) in the eigenbasis."""
        return (noisy.double() - alpha.double() * self.mean).flatten(1) @ self.basis

    def _images(self, rotated: Tensor, like: Tensor) -> Tensor:
        return (rotated @ self.basis.T).reshape(like.shape)

    def __call__(self, noisy: Tensor, level: NoiseLevel, label: Tensor | None = None) -> Estimate:
        self.calls += 1
        alpha, sigma = level.coefficients(noisy.double())
        a, s = alpha.flatten(1), sigma.flatten(1)
        shrunk = self._centred(noisy, alpha) / (a**2 * self.variances + s**2)
        clean = self.mean + self._images(a * self.variances * shrunk, noisy)
        noise = self._images(s * shrunk, noisy)
        return Estimate(clean.to(noisy.dtype), noise.to(noisy.dtype))

    def flow_map(self, noisy: Tensor, start: NoiseLevel, end: NoiseLevel) -> Tensor:
        """Return where the probability-flow ODE takes float64 images from `start` to `end`, in closed form."""
        (a, s), (b, r) = (level.coefficients(noisy) for level in (start, end))
        growth = ((b.flatten(1) ** 2 * self.variances + r.flatten(1) ** 2) / self._total(a, s)).sqrt()
        return b * self.mean + self._images(growth * self._centred(noisy, a), noisy)

    def _total(self, alpha: Tensor, sigma: Tensor) -> Tensor:
        return alpha.flatten(1) ** 2 * self.variances + sigma.flatten(1) ** 2

    def draw_noisy(self, level: NoiseLevel, count: int, generator: torch.Generator) -> Tensor:
        """Draw (count, C, H, W) float64 images at a level of shape (), from their true distribution."""
        normal = torch.randn(count, len(self.variances), dtype=torch.float64, generator=generator)
        empty = torch.zeros(count, *self.mean.shape, dtype=torch.float64)
        alpha, sigma = level.coefficients(empty)
        return alpha * self.mean + self._images(self._total(alpha, sigma).sqrt() * normal, empty)


class EmittingTarget(nn.Module):
    """A network that answers exactly what its prediction asks for."""

    def __init__(self, exact: ExactGaussian, prediction: Prediction):
        super().__init__()
        self.exact, self.prediction = exact, prediction

    def forward(self, scaled: Tensor, t: Tensor, label: Tensor | None) -> Tensor:
        level = self.exact.noise_schedule.level(t)
        alpha, sigma = level.coefficients(scaled)
        estimate = self.exact(scaled / self.prediction.input_scale(alpha, sigma), level)
        return self.prediction.target(estimate.clean, estimate.noise, alpha, sigma)


def through_network(exact: ExactGaussian, prediction: Prediction) -> NetworkDenoiser:
    """The same denoiser, but by way of a network and a prediction."""
    return NetworkDenoiser(EmittingTarget(exact, prediction), prediction)


def pixel_gaussian(schedule: NoiseSchedule, mean: Sequence[float], deviation: Sequence[float]) -> ExactGaussian:
    """Independent pixels in one row: images of shape (1, 1, D)."""
    variances = torch.tensor(deviation, dtype=torch.float64) ** 2
    return ExactGaussian(schedule, torch.tensor(mean, dtype=torch.float64).reshape(1, 1, -1), variances.diag())


def correlated_gaussian(schedule: NoiseSchedule, shape: tuple[int, int, int], seed: int = 0) -> ExactGaussian:
    """A random mean and a full covariance with deviations between about 0.2 and 1.5."""
    generator = torch.Generator().manual_seed(seed)
    size = shape[0] * shape[1] * shape[2]
    basis, _ = torch.linalg.qr(torch.randn(size, size, dtype=torch.float64, generator=generator))
    deviations = torch.linspace(0.2, 1.5, size, dtype=torch.float64)
    mean = torch.randn(*shape, dtype=torch.float64, generator=generator)
    return ExactGaussian(schedule, mean, basis @ (deviations**2).diag() @ basis.T)


class Moments(NamedTuple):
    """Of the noisy images at a time that a sampler reached: (D,) each, beside what they should be."""

    t: Tensor
    mean: Tensor
    variance: Tensor
    true_mean: Tensor
    true_variance: Tensor


def moments(walk: Walk, exact: ExactGaussian, grid: Grid, **options: object) -> list[Moments]:
    """Return the moments after every step of a sampler that starts in the true distribution at grid[0].

    exact: a `pixel_gaussian`. One image starts at the mean, one a unit beside it, and one more gets a unit for each
    draw: their differences are the coefficients of an affine map, and the variance is a sum of their squares.
    """
    rows = len(grid) + 1
    deviation = exact.variances.sqrt()[exact.basis.abs().argmax(1)]
    alpha, sigma = grid.levels.alpha, grid.levels.sigma
    noisy = (alpha[0] * exact.mean).expand(rows, *exact.mean.shape).clone()
    noisy[1] += 1
    drawn = 0

    def draw(shape: Sequence[int]) -> Tensor:
        nonlocal drawn
        units = torch.zeros(*shape, dtype=torch.float64)
        units[2 + drawn] = 1
        drawn += 1
        return units

    reached = []
    for index, step in enumerate(walk(exact, noisy, grid, draw, **options), start=1):
        mean, *others = step.noisy.flatten(1)
        coefficients = torch.stack(others) - mean
        coefficients[0] *= (alpha[0] ** 2 * deviation**2 + sigma[0] ** 2).sqrt()
        variance = alpha[index] ** 2 * deviation**2 + sigma[index] ** 2
        reached.append(
            Moments(step.level.t, mean, coefficients.square().sum(0), alpha[index] * exact.mean.flatten(), variance)
        )
    return reached


def no_draw(shape: Sequence[int]) -> Tensor:
    """For samplers that must not ask for fresh noise."""
    raise AssertionError("a deterministic sampler drew noise")
