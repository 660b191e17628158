"""Fidelity of reconstructions: mean squared and absolute error, PSNR and SSIM, of pixels scaled to [-1, 1]."""

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
    """Means over all images. psnr: in dB, from the mean squared error over all images; infinite if the error is 0."""

    images: int
    mse: float
    l1: float
    psnr: float
    ssim: float


def fidelity(pairs: Iterable[tuple[Tensor, Tensor]]) -> Fidelity:
    """Measure batches of (images, reconstructions), both uint8 (N, C, H, W), with at least one image in total.

    Each batch is measured on its device, which must have float64.
    """
    count, sums = 0, torch.zeros(3, dtype=torch.float64)
    for batch in pairs:
        images, reconstructions = (Pixels.scale(part).double() for part in batch)
        error = (images - reconstructions).flatten(1)
        similarity = ssim(images, reconstructions)
        sums += torch.stack([error.square().mean(1).sum(), error.abs().mean(1).sum(), similarity.sum()]).cpu()
        count += len(images)
    mse, l1, mean_ssim = (sums / count).tolist()
    return Fidelity(count, mse, l1, 10 * math.log10(DATA_RANGE**2 / mse) if mse > 0 else math.inf, mean_ssim)


def ssim(images: Tensor, others: Tensor) -> Tensor:
    """Return the structural similarity (N,) of float images (N, C, H, W) in [-1, 1] (Wang et al. 2004, eq. 13).

    The Gaussian window has a standard deviation of 1.5 and 11x11 pixels, fewer if the image is smaller. No padding.
    """
    # torchmetrics pads images by mirroring, which is not the paper's definition, and rejects images of 5x5 or smaller.
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
