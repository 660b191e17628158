"""The noise-prediction loss by t: how far the estimated noise is from the noise that was added.

Whatever the prediction and the weighting that a model was trained with, so that models can be compared.
"""

from __future__ import annotations

import torch
from torch import Tensor

from models.diffusion.denoiser import Denoiser, add_noise
from models.diffusion.times import BINS, TimeDensity, bin_of
from models.evaluation.images import Images


@torch.no_grad()
def noise_losses(denoiser: Denoiser, images: Images, label: Tensor | None) -> tuple[Tensor, Tensor]:
    """(t, losses), each (N, 10) float64 on the CPU: mean squared errors of the estimated noise at ten times an image.

    The k-th time is uniform over the k-th of ten equal parts of all times (of a chain: of its steps), so the mean of an
    image's ten is an unbiased estimate of L_simple, Ho et al. 2020 eq. 14. label: (N,) or None.
    """
    schedule = denoiser.noise_schedule
    density = TimeDensity("uniform" if schedule.steps is None else "discrete", stratified=False)
    t = density.draw((torch.arange(BINS) + images.uniforms("times", BINS)) / BINS, schedule)
    losses = torch.empty_like(t)
    for draw, noise in zip(range(BINS), images.noises(), strict=False):
        at = t[:, draw]
        estimate = denoiser(add_noise(schedule, images.clean, noise, at), at, label)
        losses[:, draw] = (estimate.noise - noise).square().flatten(1).mean(1).cpu()
    return t, losses


def by_bin(t: Tensor, losses: Tensor) -> Tensor:
    """(N, 10) mean losses of each image in the ten bins of t; NaN where it has none (short chains have empty bins)."""
    sums, counts = torch.zeros(2, len(t), BINS, dtype=losses.dtype)
    bins = bin_of(t)
    return sums.scatter_add(1, bins, losses) / counts.scatter_add(1, bins, torch.ones_like(losses))
