"""The truth that samplers, predictions and losses are held against: Gaussian data, whose denoiser is a closed form.

Samplers of such data are affine in their start and in every draw, so the mean and the variance of what they make
can be computed instead of estimated: see `moments`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from models.diffusion.denoiser import Estimate, NetworkDenoiser, levels
from models.diffusion.noise_schedules import NoiseSchedule
from models.diffusion.predictions import Prediction
from models.diffusion.samplers import Step

Walk = Callable[..., Iterator[Step]]


class ExactGaussian:
    """The ideal denoiser of Gaussian data: E[clean | noisy] and E[noise | noisy], for t of shape () or (N,).

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

    def __call__(self, noisy: Tensor, t: Tensor, label: Tensor | None = None) -> Estimate:
        self.calls += 1
        alpha, sigma = levels(self.noise_schedule, t, noisy.double())
        a, s = alpha.flatten(1), sigma.flatten(1)
        shrunk = self._centred(noisy, alpha) / (a**2 * self.variances + s**2)
        clean = self.mean + self._images(a * self.variances * shrunk, noisy)
        noise = self._images(s * shrunk, noisy)
        return Estimate(clean.to(noisy.dtype), noise.to(noisy.dtype))

    def flow_map(self, noisy: Tensor, start: Tensor, end: Tensor) -> Tensor:
        """Where the probability-flow ODE takes float64 images from time `start` to time `end`, in closed form."""
        (a, s), (b, r) = (levels(self.noise_schedule, t, noisy) for t in (start, end))
        growth = ((b.flatten(1) ** 2 * self.variances + r.flatten(1) ** 2) / self._total(a, s)).sqrt()
        return b * self.mean + self._images(growth * self._centred(noisy, a), noisy)

    def _total(self, alpha: Tensor, sigma: Tensor) -> Tensor:
        return alpha.flatten(1) ** 2 * self.variances + sigma.flatten(1) ** 2

    def draw_noisy(self, t: Tensor, count: int, generator: torch.Generator) -> Tensor:
        """(count, C, H, W) float64 images of time t, from their true distribution."""
        normal = torch.randn(count, len(self.variances), dtype=torch.float64, generator=generator)
        empty = torch.zeros(count, *self.mean.shape, dtype=torch.float64)
        alpha, sigma = levels(self.noise_schedule, t, empty)
        return alpha * self.mean + self._images(self._total(alpha, sigma).sqrt() * normal, empty)


class EmittingTarget(nn.Module):
    """A network that answers exactly what its prediction asks for."""

    def __init__(self, exact: ExactGaussian, prediction: Prediction):
        super().__init__()
        self.exact, self.prediction = exact, prediction

    def forward(self, scaled: Tensor, t: Tensor, label: Tensor | None) -> Tensor:
        alpha, sigma = levels(self.exact.noise_schedule, t, scaled)
        estimate = self.exact(scaled / self.prediction.input_scale(alpha, sigma), t)
        return self.prediction.target(estimate.clean, estimate.noise, alpha, sigma)


def through_network(exact: ExactGaussian, prediction: Prediction) -> NetworkDenoiser:
    """The same denoiser, but by way of a network and a prediction."""
    return NetworkDenoiser(EmittingTarget(exact, prediction), exact.noise_schedule, prediction)


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


def moments(walk: Walk, exact: ExactGaussian, times: Tensor, **options: object) -> list[Moments]:
    """The moments after every step of a sampler that starts in the true distribution of times[0].

    exact: a `pixel_gaussian`. One image starts at the mean, one a unit beside it, and one more gets a unit for each
    draw: their differences are the coefficients of an affine map, and the variance is a sum of their squares.
    """
    schedule, rows = exact.noise_schedule, len(times) + 1
    deviation = exact.variances.sqrt()[exact.basis.abs().argmax(1)]
    alpha, sigma = schedule.alpha(times), schedule.sigma(times)
    noisy = (alpha[0] * exact.mean).expand(rows, *exact.mean.shape).clone()
    noisy[1] += 1
    drawn = 0

    def draw(shape: Sequence[int]) -> Tensor:
        nonlocal drawn
        units = torch.zeros(*shape, dtype=torch.float64)
        units[2 + drawn] = 1
        drawn += 1
        return units

    found = []
    for index, step in enumerate(walk(exact, noisy, times, draw, **options), start=1):
        mean, *others = step.noisy.flatten(1)
        coefficients = torch.stack(others) - mean
        coefficients[0] *= (alpha[0] ** 2 * deviation**2 + sigma[0] ** 2).sqrt()
        variance = alpha[index] ** 2 * deviation**2 + sigma[index] ** 2
        found.append(Moments(step.t, mean, coefficients.square().sum(0), alpha[index] * exact.mean.flatten(), variance))
    return found


def no_draw(shape: Sequence[int]) -> Tensor:
    """For samplers that must not ask for fresh noise."""
    raise AssertionError("a deterministic sampler drew noise")
