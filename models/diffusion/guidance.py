"""Guidance: a denoiser and labels in, a guided denoiser out.

The scale convention is u + s * (c - u): s = 0 unconditional, s = 1 plain conditional, s > 1 guided. Other papers
and repositories write s = 1 + w, or w * c + (1 - w) * u with s = w.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from models.diffusion.denoiser import Denoiser, Estimate, estimate_from_clean
from models.diffusion.noise_schedules import NoiseSchedule


@dataclass(frozen=True)
class Guided:
    """Classifier-free guidance (Ho & Salimans 2022), or autoguidance (Karras et al. 2024) where `weak` is given.

    denoiser: gives the conditional half c, and u from the null label. weak: another denoiser that gives u from
    the same labels instead. null_label: the number of classes. interval: guided only where low <= t <= high
    (Kynkaanniemi et al. 2024). rescale: share in [0, 1] by which the clean estimate is brought back to the
    deviation of the conditional one (Lin et al. 2024, eq. 15-16).
    """

    denoiser: Denoiser
    scale: float
    null_label: int
    interval: tuple[float, float] = (0.0, 1.0)
    rescale: float = 0.0
    weak: Denoiser | None = None

    @property
    def noise_schedule(self) -> NoiseSchedule:
        return self.denoiser.noise_schedule

    def __call__(self, noisy: Tensor, t: Tensor, label: Tensor | None = None) -> Estimate:
        """t is a scalar, as samplers give it: one time for the whole batch."""
        low, high = self.interval
        unguided = self.weak is None and label is None  # no half to guide by
        if self.scale == 1 or unguided or not low <= float(t) <= high:
            return self.denoiser(noisy, t, label)
        conditional, other = self._halves(noisy, t, label)
        clean = other.clean + self.scale * (conditional.clean - other.clean)
        if self.rescale == 0:
            return Estimate(clean, other.noise + self.scale * (conditional.noise - other.noise))
        wanted, found = (x.flatten(1).std(dim=1).view(-1, 1, 1, 1) for x in (conditional.clean, clean))
        clean = self.rescale * clean * wanted / found + (1 - self.rescale) * clean
        return estimate_from_clean(self.noise_schedule, noisy, t, clean)

    def _halves(self, noisy: Tensor, t: Tensor, label: Tensor | None) -> tuple[Estimate, Estimate]:
        """(conditional, the other half); one forward pass where one network answers both."""
        if self.weak is not None:
            return self.denoiser(noisy, t, label), self.weak(noisy, t, label)
        assert label is not None
        labels = torch.cat([label, torch.full_like(label, self.null_label)])
        both = self.denoiser(torch.cat([noisy, noisy]), t, labels)
        return Estimate(*(x.chunk(2)[0] for x in both)), Estimate(*(x.chunk(2)[1] for x in both))


@dataclass(frozen=True)
class Labelled:
    """A denoiser with the labels of its batch bound, as samplers want it."""

    denoiser: Denoiser
    label: Tensor | None

    @property
    def noise_schedule(self) -> NoiseSchedule:
        return self.denoiser.noise_schedule

    def __call__(self, noisy: Tensor, t: Tensor, label: Tensor | None = None) -> Estimate:
        return self.denoiser(noisy, t, self.label)


@dataclass(frozen=True)
class Between:
    """A denoiser between two labels: (1 - weight) of the estimate under `first` and weight of that under `second`.

    first, second: (N,); weight: (N,) in [0, 1]. One forward pass of twice the images.
    """

    denoiser: Denoiser
    first: Tensor
    second: Tensor
    weight: Tensor

    @property
    def noise_schedule(self) -> NoiseSchedule:
        return self.denoiser.noise_schedule

    def __call__(self, noisy: Tensor, t: Tensor, label: Tensor | None = None) -> Estimate:
        both = self.denoiser(torch.cat([noisy, noisy]), t, torch.cat([self.first, self.second]))
        weight = self.weight.to(noisy).view(-1, 1, 1, 1)
        clean, noise = ((1 - weight) * half.chunk(2)[0] + weight * half.chunk(2)[1] for half in both)
        return Estimate(clean, noise)
