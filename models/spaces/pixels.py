"""Pixels as a space: uint8 images scaled to float32 in [-1, 1]."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self

import torch
from torch import Tensor

from models.randomness import StepRandomness
from models.spaces import Fitted, ImageRows, Locate, Space, Surroundings


@dataclass(frozen=True)
class Pixels(Space):
    """Pixels in [-1, 1], with the shape (C, H, W) of the images."""

    shape: tuple[int, int, int]
    deviation: float

    bounds = (-1.0, 1.0)
    grey_levels = (-1.0, 1.0)
    needs = ()

    @property
    def image_shape(self) -> tuple[int, int, int]:
        return self.shape

    @classmethod
    def fit(cls, images: ImageRows, flips: bool, around: Surroundings) -> Fitted:
        """Measure the standard deviation. Batches are cut from the uint8 images, which can be mirrored directly."""
        rows = slice(None) if around.measured is None else around.measured
        return Fitted(cls.measure(images[rows]), images, None, {}, [])

    @classmethod
    def measure(cls, images: Tensor) -> Self:
        """Return the space of images uint8 (N, C, H, W), with the standard deviation of all their pixels."""
        counts = torch.bincount(images.flatten(), minlength=256).double()
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
        return self.scale(images)

    def decode(self, clean: Tensor) -> Tensor:
        return ((clean.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
