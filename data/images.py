"""What every data set becomes: a train and a test split of uint8 images with labels, and facts about them.

The readers work in numpy and hand their arrays to `make_split`, the one place that checks them and turns them
into tensors; those of image files come from `sources/streamed.py`. Batches are cut in `batches.py`; scaling to
floats is a space's business, in `models`.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from models.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

    from data.readers.streamed import Broken, Streamed


@dataclass(frozen=True)
class Split:
    """Images uint8 (N, C, H, W), in memory or streamed, and labels int64 (N,), all zero for unlabelled data.

    sha256: of images that come from files, what tells them apart, the same in memory and streamed; None elsewhere.
    """

    images: Tensor | Streamed
    labels: Tensor
    sha256: str | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def in_memory(self) -> Tensor:
        """All images as a tensor. Raises UserError where they are streamed."""
        from data.readers.streamed import Streamed

        if isinstance(self.images, Streamed):
            both = _gibibytes(self.images) * self.images.broken.total / len(self)
            raise UserError(
                f"this takes all {len(self)} images of a split at once, and they are streamed: give it a "
                f"--memory_limit of {math.ceil(1000 * both) / 1000} GiB"
            )
        return self.images


@dataclass(frozen=True)
class ImageData:
    """A data set, in memory or streamed from its files.

    `class_names[label]` names a label; it is empty for unlabelled data. `flips` says whether a mirrored image
    is as likely as the image, so that training may flip. `broken` counts the pictures of a streamed data set that
    cannot be decoded; it is None in memory.
    """

    name: str
    train: Split
    test: Split
    class_names: tuple[str, ...]
    flips: bool
    broken: Broken | None = None

    def within(self, memory_limit: float | None) -> ImageData:
        """Its images read into memory, if both splits take at most so many GiB; None: the variable MEMORY_LIMIT, else
        half of what is free.

        Raises UserError for images that cannot be decoded, or a limit below 0.
        """
        from data.readers.memory import free_memory
        from data.readers.streamed import Streamed, read_both

        limit, told = memory_limit, os.environ.get("MEMORY_LIMIT")
        if limit is None:
            limit = _number(told) if told else free_memory() / 2**31
        if not limit >= 0:
            named = f"--memory_limit {limit}" if memory_limit is not None else f"MEMORY_LIMIT={told}"
            raise UserError(f"{named}: takes 0 or more GiB")
        train, test = self.train.images, self.test.images
        if not isinstance(train, Streamed) or not isinstance(test, Streamed):
            return self
        if _gibibytes(train) + _gibibytes(test) > limit:
            return self
        images = read_both(train, test)
        splits = (replace(split, images=each) for split, each in zip((self.train, self.test), images, strict=True))
        return ImageData(self.name, *splits, class_names=self.class_names, flips=self.flips)


class DataSet:
    """Base class of the data sets: the constructor's keyword-only arguments are the options of one."""

    def load(self, root: Path) -> ImageData:
        """Return the data set, from the files in `root`. Raises UserError."""
        raise NotImplementedError


def _number(text: str) -> float:
    """Not a number where it is none."""
    try:
        return float(text)
    except ValueError:
        return math.nan


def _gibibytes(images: Streamed) -> float:
    return math.prod(images.shape) / 2**30


def make_split(images: np.ndarray, labels: np.ndarray, classes: int, place: str) -> Split:
    """A checked Split from images uint8 (N, H, W) or (N, C, H, W) and integer labels (N,) in [0, classes).

    `place` names the files in the message of a UserError: other shapes, different counts, no image at all, or
    a label out of range.
    """
    import torch

    if images.dtype != np.uint8 or images.ndim not in (3, 4) or labels.ndim != 1 or 0 in images.shape:
        raise UserError(f"{place}: not a set of labelled uint8 images (shapes {images.shape} and {labels.shape})")
    if len(images) != len(labels):
        raise UserError(f"{place}: {len(images)} images but {len(labels)} labels")
    labels = labels.astype(np.int64)
    if labels.min() < 0 or labels.max() >= classes:
        raise UserError(f"{place}: labels run from {labels.min()} to {labels.max()}, expected 0 to {classes - 1}")
    if images.ndim == 3:
        images = images[:, None]  # (N, 1, H, W)
    # torch wants memory it may write to; arrays that view the bytes of a file are not.
    images = np.require(images, requirements=["C", "W"])
    return Split(torch.from_numpy(images), torch.from_numpy(labels))
