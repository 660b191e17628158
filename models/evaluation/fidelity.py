"""How near reconstructions are to their images: mean squared and absolute error, PSNR and SSIM.

Images are uint8, as files and pictures show them; errors are taken with pixels scaled to [-1, 1], a data range of 2.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from models.spaces.pixels import Pixels

DATA_RANGE = 2.0
WINDOW, WINDOW_DEVIATION = 11, 1.5


@dataclass(frozen=True)
class Fidelity:
    """Means over all images. psnr: in dB, of the mean squared error over all of them; infinite without error."""

    images: int
    mse: float
    l1: float
    psnr: float
    ssim: float


def fidelity(pairs: Iterable[tuple[Tensor, Tensor]]) -> Fidelity:
    """Of batches of (images, reconstructions), uint8 (N, C, H, W) each, at least one image in all."""
    count, sums = 0, torch.zeros(3, dtype=torch.float64)
    for images, others in pairs:
        a, b = (Pixels.scale(each.cpu()).double() for each in (images, others))
        error = (a - b).flatten(1)
        sums += torch.stack([error.square().mean(1).sum(), error.abs().mean(1).sum(), ssim(a, b).sum()])
        count += len(images)
    mse, l1, similarity = (sums / count).tolist()
    return Fidelity(count, mse, l1, 10 * math.log10(DATA_RANGE**2 / mse) if mse > 0 else math.inf, similarity)


def ssim(images: Tensor, others: Tensor) -> Tensor:
    """(N, C, H, W) float in [-1, 1] -> (N,) structural similarity (Wang et al. 2004, eq. 13), 1 for equal images.

    The window is Gaussian, 11x11 with deviation 1.5, and lies wholly inside the image; a smaller image has the largest
    odd window that fits. The mean is taken over places and channels.
    """
    size = min(WINDOW, *(side - 1 + side % 2 for side in images.shape[2:]))
    offsets = torch.arange(size, dtype=images.dtype, device=images.device) - size // 2
    weights = (-0.5 * (offsets / WINDOW_DEVIATION) ** 2).exp()
    weights = (weights / weights.sum()).expand(images.shape[1], 1, size)

    def local_mean(values: Tensor) -> Tensor:
        down = F.conv2d(values, weights[..., None], groups=len(weights))
        return F.conv2d(down, weights[:, :, None], groups=len(weights))

    c1, c2 = (0.01 * DATA_RANGE) ** 2, (0.03 * DATA_RANGE) ** 2
    a, b = local_mean(images), local_mean(others)
    spread = local_mean(images**2) - a**2 + local_mean(others**2) - b**2
    covariance = local_mean(images * others) - a * b
    similarity = (2 * a * b + c1) * (2 * covariance + c2) / ((a**2 + b**2 + c1) * (spread + c2))
    return similarity.flatten(1).mean(1)
