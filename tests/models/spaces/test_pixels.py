"""Pixels there and back: every byte survives, and what lies outside is rounded and clipped, never wrapped."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from models.spaces.pixels import Pixels

SPACE = Pixels((1, 16, 16), 0.5)
BYTES = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16)


def test_every_byte_survives() -> None:
    clean = SPACE.encode(BYTES)
    assert clean.dtype == torch.float32
    assert (clean.min(), clean.max()) == (-1, 1)
    assert SPACE.decode(clean).equal(BYTES)
    assert SPACE.decode(clean.bfloat16()).dtype == torch.uint8


def test_clipped_and_rounded_half_to_even() -> None:
    clean = torch.tensor([-3.0, -1.0039, 1.02, 7.0])
    assert SPACE.decode(clean).tolist() == [0, 0, 255, 255]
    between = torch.tensor([10.4, 10.6, 127.5, 254.5], dtype=torch.float64) / 127.5 - 1
    assert SPACE.decode(between.float()).tolist() == [10, 11, 128, 254]


@pytest.mark.parametrize("shape", [(40, 1, 8, 8), (7, 3, 5, 9)])
def test_shape_and_deviation_are_measured(shape: tuple[int, ...]) -> None:
    images = torch.randint(0, 200, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    space = Pixels.measure(images)
    assert space.shape == shape[1:]
    expected = np.std(images.numpy().astype(np.float64) / 127.5 - 1)
    assert space.deviation == pytest.approx(float(expected), rel=1e-6)
