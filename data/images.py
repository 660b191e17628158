"""Train and test splits of uint8 images with labels: the common form of all data sets.

Readers of published files pass numpy arrays to `make_split`, which checks them and returns tensors. Data sets of image
files come from `readers/streamed.py`. Batches are cut in `batches.py`. A space in `models` scales images to floats.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np

from models.errors import UserError
from models.ranges import Range

if TYPE_CHECKING:
    from torch import Tensor

    from data.readers.streamed import Broken, Streamed

# Types of options that the data sets of image files share.
Sides = tuple[Annotated[int, Range(1, 4096)], ...]
HeldOutShare = Annotated[float, Range(0, 1, open_low=True, open_high=True)]


@dataclass(frozen=True)
class Split:
    """Images uint8 (N, C, H, W), in memory or streamed, and labels int64 (N,), all zero for unlabelled data.

    identify, hash_contents: the functions behind `sha256` and `contents`.
    """

    images: Tensor | Streamed
    labels: Tensor
    identify: Callable[[], str] | None = None
    hash_contents: Callable[[bool], str | None] | None = None

    def __len__(self) -> int:
        return len(self.labels)

    @cached_property
    def sha256(self) -> str | None:
        """Hash of names, sizes and labels of image files, the same in memory and streamed. None for other images."""
        return None if self.identify is None else self.identify()

    def contents(self, read: bool = True) -> str | None:
        """Return the hash of contents and labels of image files. None for other images.

        Files that changed since they were last read are read again. Without `read`, None is returned instead.
        """
        return None if self.hash_contents is None else self.hash_contents(read)

    def with_images(self, images: Tensor) -> Split:
        """Return the split with its images in memory, just read from their files, and the hash of what was read."""
        contents = self.contents()
        return replace(self, images=images, hash_contents=lambda read: contents)

    def in_memory(self) -> Tensor:
        """Return all images as a tensor. Raises UserError if they are streamed."""
        import torch

        if isinstance(self.images, torch.Tensor):
            return self.images
        both = _gibibytes(self.images) * self.images.broken.total / len(self)
        message = f"all {len(self)} images of a split are needed at once, but they are streamed"
        raise UserError(message, f"raise `memory_limit` to {math.ceil(1000 * both) / 1000} GiB")


@dataclass(frozen=True)
class ImageData:
    """Data set. class_names: the name of each label, empty for unlabelled data.

    flips: whether mirrored images are equally likely, so that training may flip. broken: record of the images
    that cannot be decoded, None for images in memory.
    """

    name: str
    train: Split
    test: Split
    class_names: tuple[str, ...]
    flips: bool
    broken: Broken | None = None

    def keep_digests(self, folder: Path) -> None:
        """Keep the hashes of streamed image files in a file of this folder. Images in memory are read anyway."""
        if self.broken is None:
            return
        from data.readers.streamed import Streamed

        for split in (self.train, self.test):
            assert isinstance(split.images, Streamed)
            split.images.tree.digests.keep_in(folder)

    def within(self, memory_limit: float | None) -> ImageData:
        """Return the data set with its images in memory if both splits take at most `memory_limit` GiB.

        None: the variable MEMORY_LIMIT, else half of the free memory. Raises UserError for images that cannot be read.
        """
        limit = _memory_limit(memory_limit)
        if self.broken is None:
            return self
        from data.readers.memory import free_memory
        from data.readers.streamed import Streamed, read_both

        train, test = self.train.images, self.test.images
        assert isinstance(train, Streamed) and isinstance(test, Streamed)
        if _gibibytes(train) + _gibibytes(test) > (free_memory() / 2**31 if limit is None else limit):
            return self
        images = zip((self.train, self.test), read_both(train, test), strict=True)
        splits = (split.with_images(tensor) for split, tensor in images)
        return ImageData(self.name, *splits, class_names=self.class_names, flips=self.flips)


class DataSet:
    """Base class of the data sets. The keyword-only arguments of a constructor are the options of a data set."""

    def load(self, root: Path) -> ImageData:
        """Return the data set, read from the files in `root`. Raises UserError."""
        raise NotImplementedError


def _memory_limit(option: float | None) -> float | None:
    """Return the option, else the variable MEMORY_LIMIT, else None. Raises UserError for a limit below 0."""
    text = os.environ.get("MEMORY_LIMIT", "") if option is None else str(option)
    if not text:
        return None
    try:
        limit = float(text)
    except ValueError:
        limit = math.nan
    if not limit >= 0:
        raise UserError(f"{'MEMORY_LIMIT=' if option is None else '`memory_limit` '}{text}: must be at least 0 GiB")
    return limit


def _gibibytes(images: Streamed) -> float:
    return math.prod(images.shape) / 2**30


def make_split(images: np.ndarray, labels: np.ndarray, classes: int, source: str) -> Split:
    """Return a split of images uint8 (N, H, W) or (N, C, H, W) and integer labels (N,) in [0, classes).

    source: name of the files in messages. Raises UserError for other shapes, counts or labels, and for an empty set.
    """
    import torch

    if images.dtype != np.uint8 or images.ndim not in (3, 4) or labels.ndim != 1 or 0 in images.shape:
        raise UserError(f"{source}: not a set of labelled uint8 images (shapes {images.shape} and {labels.shape})")
    if len(images) != len(labels):
        raise UserError(f"{source}: {len(images)} images but {len(labels)} labels")
    labels = labels.astype(np.int64)
    if labels.min() < 0 or labels.max() >= classes:
        raise UserError(f"{source}: labels run from {labels.min()} to {labels.max()}, expected 0 to {classes - 1}")
    if images.ndim == 3:
        images = images[:, None]  # (N, 1, H, W)
    # torch wants writable memory. Arrays that view the bytes of a file are read-only.
    images = np.require(images, requirements=["C", "W"])
    return Split(torch.from_numpy(images), torch.from_numpy(labels))
