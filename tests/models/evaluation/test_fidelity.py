"""Fidelity of reconstructions, against closed forms and the SSIM of torchmetrics."""

from __future__ import annotations

import math

import pytest
import torch

from models.evaluation.fidelity import fidelity, ssim

EXPECTED = [
    ((1, 28, 28), [0.6999201645812388, 0.6999025085547396]),
    ((3, 32, 20), [0.37780021110251155, 0.374286392590312]),
    ((1, 11, 13), [0.5996981337117441, 0.6620000160976771]),
]


def waves(phase: float, channels: int, height: int, width: int) -> torch.Tensor:
    """Images that need no random generator."""
    places = torch.arange(2 * channels * height * width, dtype=torch.float64)
    return torch.sin(places * 0.37 + phase).reshape(2, channels, height, width)


def test_errors_of_a_known_difference() -> None:
    """A difference of ten grey levels is 20/255 on [-1, 1]."""
    images = torch.randint(0, 240, (7, 3, 9, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    result = fidelity([(images[:4], images[:4] + 10), (images[4:], images[4:] + 10)])
    assert result.images == 7
    assert result.mse == pytest.approx((20 / 255) ** 2) and result.l1 == pytest.approx(20 / 255)
    assert result.psnr == pytest.approx(20 * math.log10(255 / 10))
    assert 0 < result.ssim < 1


def test_equal_images() -> None:
    images = torch.randint(0, 256, (3, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    result = fidelity([(images, images)])
    assert (result.mse, result.l1, result.psnr) == (0, 0, math.inf) and result.ssim == pytest.approx(1)


def test_flat_images_have_the_ssim_of_their_means() -> None:
    """Without structure, only the luminance term remains (Wang et al. 2004, eq. 6)."""
    one, other = torch.full((1, 1, 28, 28), 0.5), torch.full((1, 1, 28, 28), -0.25)
    c1 = 0.02**2
    expected = (2 * 0.5 * -0.25 + c1) / (0.5**2 + 0.25**2 + c1)
    assert ssim(one.double(), other.double()).item() == pytest.approx(expected)


@pytest.mark.parametrize("shape", [(1, 1), (2, 5), (8, 8), (10, 36)])
def test_small_images_have_a_smaller_window(shape: tuple[int, int]) -> None:
    images = waves(0.1, 1, *shape)
    assert ssim(images, images).tolist() == pytest.approx([1, 1])
    assert (ssim(images, -images) < 1).all()


@pytest.mark.parametrize(("shape", "expected"), EXPECTED)
def test_ssim_is_that_of_torchmetrics_away_from_the_border(shape: tuple[int, int, int], expected: list[float]) -> None:
    """torchmetrics 1.9 pads images by mirroring. Its full map without the border follows the paper's definition."""
    assert ssim(waves(0.0, *shape), 0.5 * waves(0.5, *shape)).tolist() == pytest.approx(expected, rel=1e-9)
