"""Train and test splits of uint8 images with labels: the common form of all data sets.

Readers of published files pass numpy arrays to `make_split`, which checks them and returns a Split. Data sets of image
files come from `readers/streamed.py`. `batches.py` cuts the batches, and `models/spaces` converts images to floats.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from typing_extensions import Doc

from models.errors import UserError
from models.ranges import Range

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from data.readers.streamed import Broken, Streamed

# Options that the data sets of image files share, with their help texts.
Sides = Annotated[
    tuple[Annotated[int, Range(1, 4096)], ...],
    Doc(
        "Height and width of every image, or one number for both. Default: the images' own size, which must be the "
        "same for all."
    ),
]
Crop = Annotated[
    bool,
    Doc("Crop to the largest centred box with the aspect ratio of size, then scale. With no_crop, stretch the image."),
]
Channels = Annotated[Literal[1, 3, 4], Doc("3 for colour, 1 for grayscale, 4 for colour with transparency.")]
Background = Annotated[Literal["white", "black", "grey"], Doc("Colour under transparent parts, if channels is not 4.")]
WhiteLevel = Annotated[
    int,
    Range(0),
    Doc(
        "Value in the files that becomes white, such as 4095 for 12-bit values in 16-bit files. Files that cannot "
        "hold larger values ignore it: 4095 has no effect on 8-bit files. 0: the largest value of the file's type."
    ),
]
Pad = Annotated[int, Range(0, 1024), Doc("Black pixels added on each side after scaling.")]
HeldOutShare = Annotated[
    float,
    Range(0, 1, open_low=True, open_high=True),
    Doc("Share of the images held out for testing if there are no test images."),
]
Flips = Annotated[bool, Doc("Mirror images at random in training. Use it only if mirrored images are equally likely.")]


@dataclass(frozen=True)
class Split:
    """Images uint8 (N, C, H, W), in memory or streamed, and labels int64 (N,), all zero for unlabelled data.

    identify, hash_contents: the functions behind `sha256` and `contents`. listing: returns the name, the size with any
    stored checksum, and the label of each image file. All three are None if the images do not come from image files.
    """

    images: Tensor | Streamed
    labels: Tensor
    identify: Callable[[], str] | None = None
    listing: Callable[[], Iterable[tuple[str, str, int]]] | None = None
    hash_contents: Callable[[bool], str | None] | None = None

    def __len__(self) -> int:
        return len(self.labels)

    @cached_property
    def sha256(self) -> str | None:
        """Hash of names, sizes, labels and decoding options of image files, in memory or not. None for other images."""
        return None if self.identify is None else self.identify()

    def contents(self, read: bool = True) -> str | None:
        """Return the hash of contents and labels of image files. None for other images.

        Files that changed since they were last read are read again. With read=False, None is returned instead.
        """
        return None if self.hash_contents is None else self.hash_contents(read)

    def with_images(self, images: Tensor) -> Split:
        """Return the split with `images` in memory. Its `contents` is the hash of the files that were just read."""
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
    """Train and test split of a data set. class_names: the name of each label, empty for unlabelled data.

    flips: whether mirrored images are equally likely, so that training may flip. broken: record of the images
    that cannot be decoded, None for images in memory. notes: lines for the user about the data.
    """

    name: str
    train: Split
    test: Split
    class_names: tuple[str, ...]
    flips: bool
    broken: Broken | None = None
    notes: tuple[str, ...] = ()

    @property
    def untrained(self) -> tuple[int, ...]:
        """Labels of the classes that have no training image."""
        counts = self.train.labels.bincount(minlength=len(self.class_names)).tolist()
        return tuple(label for label in range(len(self.class_names)) if counts[label] == 0)

    def fitted(self, size: tuple[int, ...], pad: int) -> ImageData:
        """Return the data set with images scaled to the option `size`, and with `pad` black pixels on each side.

        Raises UserError if the images are streamed, or if the result does not fit in the free memory.
        """
        sides = sides_of(size)
        if sides is None and pad == 0:
            return self
        import torch

        from data.readers.pictures import fit_images

        train, test = (
            replace(split, images=torch.from_numpy(fit_images(split.in_memory().numpy(), sides, pad)))
            for split in (self.train, self.test)
        )
        return replace(self, train=train, test=test)

    def keep_digests(self, folder: Path) -> None:
        """Keep the hashes of streamed image files in a file of this folder. Does nothing for images in memory."""
        if self.broken is None:
            return
        from data.readers.streamed import Streamed

        for split in (self.train, self.test):
            assert isinstance(split.images, Streamed)
            split.images.tree.digests.keep_in(folder)

    def within(self, memory_limit: float | None) -> ImageData:
        """Return the data set, in memory if both splits together take at most `memory_limit` GiB.

        Default: the variable MEMORY_LIMIT, else half of the free memory. Raises UserError for unreadable images.
        """
        limit = _memory_limit(memory_limit)
        if self.broken is None:
            return self
        from data.readers.memory import free_memory
        from data.readers.streamed import Streamed, look_at_some, read_both

        train, test = self.train.images, self.test.images
        assert isinstance(train, Streamed) and isinstance(test, Streamed)
        if _gibibytes(train) + _gibibytes(test) > (free_memory() / 2**31 if limit is None else limit):
            return replace(self, notes=(*self.notes, *look_at_some(train)))
        first, second, notes = read_both(train, test)
        splits = self.train.with_images(first), self.test.with_images(second)
        return replace(self, train=splits[0], test=splits[1], broken=None, notes=(*self.notes, *notes))


class DataSet:
    """Base class of the data sets. The keyword-only arguments of a constructor are the options of a data set.

    older: whether to hold out images as earlier versions of this project did, for runs of these versions.
    known_classes: class names of a trained run, in label order. This order is kept if the data have the same classes.
    """

    older = False
    known_classes: Sequence[str] = ()

    def begin(self, root: Path) -> None:
        """Begin to read the files in a thread. `load` then waits for them. The default does nothing."""

    def load(self, root: Path) -> ImageData:
        """Return the data set, read from the files in `root`. Raises UserError."""
        raise NotImplementedError


def sides_of(size: tuple[int, ...]) -> tuple[int, int] | None:
    """Return the option `dataset.size` as (H, W), None if it is empty. Raises UserError for more than two numbers."""
    if len(size) > 2:
        raise UserError(f"`dataset.size` {' '.join(map(str, size))}: takes one or two numbers")
    return (size[0], size[-1]) if size else None


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
    import numpy as np
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
