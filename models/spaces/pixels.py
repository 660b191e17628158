"""Pixels as a space: uint8 images to float32 in [-1, 1] and back. Nothing else in the repository scales pixels."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Pixels:
    """shape: (C, H, W) of one encoded example. deviation: of the encoded pixels of the training split about their mean,
    EDM's sigma_data."""

    shape: tuple[int, int, int]
    deviation: float

    bounds = (-1.0, 1.0)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of the uint8 images."""
        return self.shape

    @classmethod
    def measure(cls, images: Tensor) -> Pixels:
        """The space of a training split, uint8 (N, C, H, W); the deviation is taken over every pixel of it."""
        counts = torch.bincount(images.flatten().int(), minlength=256).double()
        values = cls.scale(torch.arange(256)).double()
        mean = (counts * values).sum() / counts.sum()
        variance = (counts * (values - mean) ** 2).sum() / counts.sum()
        return cls(shape=(images.shape[1], images.shape[2], images.shape[3]), deviation=variance.sqrt().item())

    @staticmethod
    def scale(images: Tensor) -> Tensor:
        return images.float() * (2 / 255) - 1

    def encode(self, images: Tensor) -> Tensor:
        """uint8 (N, C, H, W) -> float32 in [-1, 1]."""
        return self.scale(images)

    def decode(self, clean: Tensor) -> Tensor:
        """float (N, C, H, W) -> uint8, rounded half to even and clipped."""
        return ((clean.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
