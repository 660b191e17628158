"""Pixels as a space: uint8 images to float32 in [-1, 1] and back. Nothing else in the repository scales pixels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self

import torch
from torch import Tensor

from models.randomness import StepRandomness
from models.spaces import Fitted, ImageRows, Locate, Space, Surroundings


@dataclass(frozen=True)
class Pixels(Space):
    """shape: (C, H, W) of one encoded example. deviation: of the encoded pixels of the training split about their mean,
    EDM's sigma_data."""

    shape: tuple[int, int, int]
    deviation: float

    bounds = (-1.0, 1.0)
    grey_levels = (-1.0, 1.0)
    needs = ()

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of the uint8 images."""
        return self.shape

    @classmethod
    def fit(cls, images: ImageRows, flips: bool, around: Surroundings) -> Fitted:
        """The images themselves, as uint8, are what batches are cut from, and mirrored there."""
        rows = slice(None) if around.measured is None else around.measured
        return Fitted(cls.measure(images[rows]), images, None, {}, [])

    @classmethod
    def measure(cls, images: Tensor) -> Self:
        """The space of a training split, uint8 (N, C, H, W); the deviation is taken over every pixel of it."""
        counts = torch.bincount(images.flatten().int(), minlength=256).double()
        values = cls.scale(torch.arange(256)).double()
        mean = (counts * values).sum() / counts.sum()
        variance = (counts * (values - mean) ** 2).sum() / counts.sum()
        return cls(shape=(images.shape[1], images.shape[2], images.shape[3]), deviation=variance.sqrt().item())

    @classmethod
    def from_facts(cls, facts: Mapping[str, Any], locate: Locate) -> Self:
        return cls(tuple(facts["shape"]), float(facts["deviation"]))

    def facts(self) -> dict[str, Any]:
        return asdict(self)

    @staticmethod
    def scale(images: Tensor) -> Tensor:
        return images.to(torch.get_default_dtype()) * (2 / 255) - 1

    def draw(self, prepared: Tensor, randomness: StepRandomness) -> Tensor:
        return self.scale(prepared)

    def encode(self, images: Tensor) -> Tensor:
        """uint8 (N, C, H, W) -> float32 in [-1, 1]."""
        return self.scale(images)

    def decode(self, clean: Tensor) -> Tensor:
        """float (N, C, H, W) -> uint8, rounded half to even and clipped."""
        return ((clean.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
