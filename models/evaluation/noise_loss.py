"""Noise-prediction loss by t: mean squared error of the estimated noise.

It does not depend on the prediction type and loss weighting of a model, so it is suitable for comparing models.
"""

import torch
from torch import Tensor

from models.diffusion.denoiser import Denoiser, add_noise
from models.diffusion.noise_schedules import NoiseSchedule
from models.diffusion.times import BINS, TimeDensity, bin_of
from models.evaluation.images import Images


@torch.no_grad()
def noise_losses(
    denoiser: Denoiser, schedule: NoiseSchedule, images: Images, label: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Return (t, losses), each (N, 10) float64 on the CPU: mean squared errors of the noise at ten values of t.

    Each tenth of [0, 1], or of a chain's steps, gives one uniform t, so that the mean over an image's ten losses is an
    unbiased estimate of L_simple (Ho et al. 2020 eq. 14). label: (N,) or None.
    """
    density = TimeDensity("uniform" if schedule.steps is None else "discrete", stratified=False)
    t = density.draw((torch.arange(BINS) + images.uniforms("times", BINS)) / BINS, schedule)
    losses = torch.empty_like(t)
    for draw, noise in zip(range(BINS), images.noises(), strict=False):
        level = schedule.level(t[:, draw])
        estimate = denoiser(add_noise(images.clean, noise, level), level, label)
        losses[:, draw] = (estimate.noise - noise).square().flatten(1).mean(1).cpu()
    return t, losses


def by_bin(t: Tensor, losses: Tensor) -> Tensor:
    """Return (N, 10): the mean loss of each image in ten bins of t. Empty bins, as in short chains, are NaN."""
    sums, counts = torch.zeros(2, len(t), BINS, dtype=losses.dtype)
    bins = bin_of(t)
    return sums.scatter_add(1, bins, losses) / counts.scatter_add(1, bins, torch.ones_like(losses))
