"""Spaces in which denoisers work, found by name. A module with a subclass of Space is a space (pixels.py -> Pixels).

A space converts uint8 images to the network's input and back. It is fitted once to the training split. Its `facts` are
stored in every checkpoint of a denoiser and are enough to rebuild the space.
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
class Identity:
    """Hashes of a split.

    sha256: hash of pixels and labels; for image files, of names, file sizes, labels and decoding options. contents: for
    image files, hash of contents, labels and decoding options; "" if it is unknown or there are no image files.
    """

    sha256: str = ""
    contents: str = ""

    @classmethod
    def from_facts(cls, facts: Mapping[str, Any], prefix: str = "") -> Self:
        return cls(str(facts.get(f"{prefix}sha256", "")), str(facts.get(f"{prefix}contents", "")))

    def facts(self, prefix: str = "") -> dict[str, str]:
        """Return the hashes under the keys that `from_facts` reads."""
        return {f"{prefix}sha256": self.sha256} | ({f"{prefix}contents": self.contents} if self.contents else {})

    @property
    def key(self) -> str:
        """Hash that names the cached results of the images: `contents` if known, else `sha256`."""
        return self.contents or self.sha256

    def matches(self, other: Identity) -> bool:
        """Return whether both splits hold the same images. Compares `contents` if both are known, else `sha256`."""
        return self.contents == other.contents if self.by_contents(other) else self.sha256 == other.sha256

    def by_contents(self, other: Identity) -> bool:
        """Return whether `matches` compares contents."""
        return bool(self.contents and other.contents)


@dataclass(frozen=True)
class Surroundings:
    """Context of a fit: data set, folder of the runs, and device.

    identify: returns the identity of the training split. measured: indices of the images whose standard deviation is
    measured, None for all images.
    """

    dataset: str = ""
    identify: Callable[[], Identity] = Identity
    experiments_dir: Path = Path("experiments")
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    measured: Tensor | None = None


class ImageRows(Protocol):
    """Images uint8 (N, C, H, W): a tensor, or images that are decoded when they are indexed."""

    @property
    def shape(self) -> torch.Size: ...
    def __len__(self) -> int: ...
    def __getitem__(self, rows: Any, /) -> Tensor: ...
    def split(self, size: int, /) -> Iterable[Tensor]: ...


class Fitted(NamedTuple):
    """Fitted space. prepared: training split (N, ...) from which batches are cut. report: lines for the log.

    mirrored: the mirrored split, if `prepared` itself cannot be mirrored. options: the resolved options of `fit`.
    """

    space: Space
    prepared: ImageRows
    mirrored: Tensor | None
    options: dict[str, Any]
    report: list[str]


class Space:
    """Base class of the spaces. The keyword-only arguments of `fit` are the options of a space.

    shape: (C, H, W) of a clean image, the network's input. image_shape: (C, H, W) of the uint8 image. deviation:
    standard deviation over all elements of the encoded training split, EDM's sigma_data. bounds: range of clean images,
    None if unknown. grey_levels: values of the grey levels 0 and 255 in clean images, None if these images are latents.
    needs: checkpoint files from which the space was built.
    """

    shape: tuple[int, int, int]
    image_shape: tuple[int, int, int]
    deviation: float
    bounds: tuple[float, float] | None
    grey_levels: tuple[float, float] | None
    needs: Sequence[Path]

    @classmethod
    def fit(cls, images: ImageRows, flips: bool, around: Surroundings) -> Fitted:
        """Fit the space to a training split, uint8 (N, C, H, W). Raises UserError for wrong options."""
        raise NotImplementedError

    @classmethod
    def from_facts(cls, facts: Mapping[str, Any], locate: Locate) -> Self:
        """Rebuild the space from its `facts()`. locate: finds a checkpoint file by its SHA-256. Raises UserError."""
        raise NotImplementedError

    def facts(self) -> dict[str, Any]:
        """Return everything that defines the space, as plain lists, numbers and strings."""
        raise NotImplementedError

    def to(self, device: torch.device) -> Self:
        """Move the space's tensors to the device."""
        return self

    def draw(self, prepared: Tensor, randomness: StepRandomness) -> Tensor:
        """Return the clean images (N, *shape) of a training batch. prepared: the batch's rows of `Fitted.prepared`."""
        raise NotImplementedError

    def encode(self, images: Tensor) -> Tensor:
        """Convert uint8 images (N, C, H, W) to clean images, float32 (N, *shape)."""
        raise NotImplementedError

    def decode(self, clean: Tensor) -> Tensor:
        """Convert clean images (N, *shape) to uint8 images (N, C, H, W), rounded half to even and clipped."""
        raise NotImplementedError


def to_facts(space: Space) -> dict[str, Any]:
    """Return the facts and the name of a space, for `from_facts`."""
    return {"name": type(space).__module__.rpartition(".")[2], **space.facts()}


def from_facts(facts: Mapping[str, Any], locate: Locate) -> Space:
    """Rebuild a space from `to_facts`. Raises UserError if the facts do not describe a space."""
    rest = dict(facts)
    try:
        return SPACES.find(str(rest.pop("name", "pixels"))).from_facts(rest, locate)
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"the checkpoint does not describe a space ({error})") from None
