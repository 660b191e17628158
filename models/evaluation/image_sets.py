"""Sets of images to measure: the real images of a data set, and samples."""

import hashlib
from dataclasses import dataclass, field, replace
from typing import Any, Self

from torch import Tensor

from models.spaces import Identity, ImageRows


@dataclass(frozen=True)
class LabelledImages:
    """Images uint8 (N, C, H, W) with labels int64 (N,). identity: hashes of both, if known."""

    images: ImageRows
    labels: Tensor
    identity: Identity = field(default_factory=Identity)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, rows: Tensor) -> Self:
        return replace(self, images=self.images[rows], labels=self.labels[rows], identity=Identity())


@dataclass(frozen=True)
class RealImages:
    """Two splits of a data set. class_names: empty if unlabelled. flips: whether mirrored images are equally likely."""

    name: str
    class_names: tuple[str, ...]
    flips: bool
    train: LabelledImages
    test: LabelledImages


@dataclass(frozen=True)
class Samples:
    """Images to be measured, uint8 (N, C, H, W). card: how they were generated.

    labels: the requested classes, (N,), or None. title: a short name for pictures.
    """

    images: Tensor
    labels: Tensor | None
    title: str
    card: dict[str, Any]


def sha256_of(*tensors: Tensor) -> str:
    """Return the SHA-256 of the values of CPU tensors, in the given order."""
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(tensor.contiguous().numpy().data)
    return digest.hexdigest()
