"""Guidance: functions that turn a denoiser into a guided denoiser.

The guided estimate is u + s * (c - u), where c is conditional, and u is unconditional or of a weaker denoiser. s = 0
returns u, s = 1 returns c, s > 1 guides. Some papers write 1 + w for s. Others write w * c + (1 - w) * u, with w = s.
"""

import torch
from torch import Tensor

from models.diffusion.denoiser import Denoiser, Estimate, estimate_from_clean
from models.diffusion.noise_schedules import NoiseLevel


def guided(
    denoiser: Denoiser,
    scale: float,
    null_label: int,
    interval: tuple[float, float] = (0.0, 1.0),
    rescale: float = 0.0,
    weak: Denoiser | None = None,
) -> Denoiser:
    """Add classifier-free guidance (Ho & Salimans 2022), or autoguidance (Karras et al. 2024) if `weak` is given.

    denoiser: returns the estimate c for the labels, and u for the null label. weak: a weaker denoiser. If given, u is
    its estimate for the labels. null_label: the number of classes. interval: flow times between which images are
    guided, both included (Kynkaanniemi et al. 2024). rescale: share in [0, 1] by which the guided clean estimate is
    rescaled to the standard deviation of c's clean estimate (Lin et al. 2024, eq. 15-16). Levels must have shape ().

    Scale 1 costs one evaluation, and so does scale 0 without rescale. Other settings cost two, but only one
    outside the interval.
    """

    def guide(noisy: Tensor, level: NoiseLevel, label: Tensor | None = None) -> Estimate:
        nothing_to_guide_by = weak is None and label is None
        if scale == 1 or nothing_to_guide_by or not interval[0] <= float(level.flow_time) <= interval[1]:
            return denoiser(noisy, level, label)
        if scale == 0 and rescale == 0:
            return _other(noisy, level, label)
        conditional, other = _both(noisy, level, label)
        clean = other.clean + scale * (conditional.clean - other.clean)
        if rescale == 0:
            return Estimate(clean, other.noise + scale * (conditional.noise - other.noise))
        target, present = (images.flatten(1).std(dim=1).view(-1, 1, 1, 1) for images in (conditional.clean, clean))
        clean = rescale * clean * target / present + (1 - rescale) * clean
        return estimate_from_clean(noisy, level, clean)

    def _other(noisy: Tensor, level: NoiseLevel, label: Tensor | None) -> Estimate:
        """Return the estimate u."""
        if weak is not None:
            return weak(noisy, level, label)
        assert label is not None
        return denoiser(noisy, level, torch.full_like(label, null_label))

    def _both(noisy: Tensor, level: NoiseLevel, label: Tensor | None) -> tuple[Estimate, Estimate]:
        """Return c and u, in one forward pass if one network gives both."""
        if weak is not None:
            return denoiser(noisy, level, label), weak(noisy, level, label)
        assert label is not None
        labels = torch.cat([label, torch.full_like(label, null_label)])
        both = denoiser(torch.cat([noisy, noisy]), level, labels)
        return Estimate(*(part.chunk(2)[0] for part in both)), Estimate(*(part.chunk(2)[1] for part in both))

    return guide


def between_labels(denoiser: Denoiser, first: Tensor, second: Tensor, weight: Tensor) -> Denoiser:
    """Mix the estimates for two labels: (1 - weight) * estimate(first) + weight * estimate(second).

    first, second: (N,); weight: (N,) in [0, 1]. Costs one forward pass of 2 N images.
    """

    def mix(noisy: Tensor, level: NoiseLevel, label: Tensor | None = None) -> Estimate:
        both = denoiser(torch.cat([noisy, noisy]), level, torch.cat([first, second]))
        share = weight.to(noisy).view(-1, 1, 1, 1)
        clean, noise = ((1 - share) * part.chunk(2)[0] + share * part.chunk(2)[1] for part in both)
        return Estimate(clean, noise)

    return mix
