"""Pictures for the tests of drawing, and what their pixels must be."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image
from torch import Tensor

LONG_TITLE = "20260208_143052-ddpm-mnist · step 12,000 · DDIM, 50 NFE · guidance 1.5 · EMA weights"


def random_images(*shape: int) -> Tensor:
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def pixels(image: Image.Image) -> np.ndarray:
    """Return the pixels of an image of any mode, (H, W, 3)."""
    return np.asarray(image.convert("RGB")).astype(int)


def enlarged(image: Tensor, scale: int) -> np.ndarray:
    """Return an image (C, H, W) of more than 16 pixels a side as a sheet must show it, (H * scale, W * scale, 3)."""
    large = np.kron(image.numpy(), np.ones((1, scale, scale), np.uint8))
    return np.broadcast_to(large, (3, *large.shape[1:])).transpose(1, 2, 0).astype(int)
