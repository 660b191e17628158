"""The spaces in which denoisers work: every module here that exposes a class of its own name (pixels.py -> Pixels).

A space turns uint8 images into what the network sees and back. It is fitted once to the training split, and from then
on is the facts that every checkpoint of its denoisers carries. Nothing outside this package asks which space it has.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol, Self

import torch
from torch import Tensor

from models.errors import UserError
from models.randomness import StepRandomness
from models.variants import SPACES

Locate = Callable[[str], Path]


@dataclass(frozen=True)
class Surroundings:
    """Where a space is fitted: the data it is for, the folder in which it may look for runs, and its device.

    measured: the rows of the images that its deviation is taken on, None for all.
    """

    dataset: str = ""
    data_sha256: str = ""
    experiments_dir: Path = Path("experiments")
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    measured: Tensor | None = None


class ImageRows(Protocol):
    """uint8 (N, C, H, W): a tensor, or images that are decoded when rows of them are asked for."""

    @property
    def shape(self) -> torch.Size: ...
    def __len__(self) -> int: ...
    def __getitem__(self, rows: Any, /) -> Tensor: ...
    def split(self, size: int, /) -> Iterable[Tensor]: ...


class Fitted(NamedTuple):
    """A space, and the training split as its batches are cut from: (N, ...) and, where mirroring cannot be done on
    that, the same of the mirrored images. options: as they were resolved. report: lines for the log."""

    space: Space
    prepared: ImageRows
    mirrored: Tensor | None
    options: dict[str, Any]
    report: list[str]


class Space:
    """shape: (C, H, W) of a clean image as the network sees it; image_shape: of the uint8 image. deviation: of all
    numbers of the encoded training split about their mean, EDM's sigma_data. bounds: of clean images, None for none.
    grey_levels: where the levels 0 and 255 of a pixel lie in clean images, None where those are no pixels. needs:
    checkpoint files that it is made of.
    """

    shape: tuple[int, int, int]
    image_shape: tuple[int, int, int]
    deviation: float
    bounds: tuple[float, float] | None
    grey_levels: tuple[float, float] | None
    needs: Sequence[Path]

    @classmethod
    def fit(cls, images: ImageRows, flips: bool, around: Surroundings) -> Fitted:
        """The space of a training split, uint8 (N, C, H, W). Keyword-only arguments beside these are its flags.

        Raises UserError for options that do not fit.
        """
        raise NotImplementedError

    @classmethod
    def from_facts(cls, facts: Mapping[str, Any], locate: Locate) -> Self:
        """The space that gave `facts()`. locate: the checkpoint file of a SHA-256. Raises UserError."""
        raise NotImplementedError

    def facts(self) -> dict[str, Any]:
        """All that it is, as plain numbers and words."""
        raise NotImplementedError

    def to(self, device: torch.device) -> Self:
        """Move what the space computes with to the device."""
        return self

    def draw(self, prepared: Tensor, randomness: StepRandomness) -> Tensor:
        """A training batch cut from what `fit` prepared -> clean."""
        raise NotImplementedError

    def encode(self, images: Tensor) -> Tensor:
        """uint8 (N, C, H, W) -> clean, float32 (N, *shape)."""
        raise NotImplementedError

    def decode(self, clean: Tensor) -> Tensor:
        """(N, *shape) -> uint8 (N, C, H, W), rounded half to even and clipped."""
        raise NotImplementedError


def to_facts(space: Space) -> dict[str, Any]:
    """The facts of a space with its name, from which `from_facts` makes it again."""
    return {"name": type(space).__module__.rpartition(".")[2], **space.facts()}


def from_facts(facts: Mapping[str, Any], locate: Locate) -> Space:
    """Raises UserError for facts that are not those of a space."""
    rest = dict(facts)
    try:
        return SPACES.find(str(rest.pop("name", "pixels"))).from_facts(rest, locate)
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"the checkpoint describes no space ({error})") from None
