"""What every data set becomes: a train and a test split of uint8 images with labels, and facts about them.

The readers work in numpy and hand their arrays to `make_split`, the one place that checks them and turns them
into tensors. Batches are cut in `batches.py`; scaling to floats is a space's business, in `models`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from data.errors import DataError

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Split:
    """Images uint8 (N, C, H, W) and labels int64 (N,), all zero for unlabelled data."""

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class ImageData:
    """A data set in memory.

    `class_names[label]` names a label; it is empty for unlabelled data. `flips` says whether a mirrored image
    is as likely as the image, so that training may flip.
    """

    name: str
    train: Split
    test: Split
    class_names: tuple[str, ...]
    flips: bool


def make_split(images: np.ndarray, labels: np.ndarray, classes: int, place: str) -> Split:
    """A checked Split from images uint8 (N, H, W) or (N, C, H, W) and integer labels (N,) in [0, classes).

    `place` names the files in the message of a DataError: other shapes, different counts, no image at all, or
    a label out of range.
    """
    import torch

    if images.dtype != np.uint8 or images.ndim not in (3, 4) or labels.ndim != 1 or 0 in images.shape:
        raise DataError(f"{place}: not a set of labelled uint8 images (shapes {images.shape} and {labels.shape})")
    if len(images) != len(labels):
        raise DataError(f"{place}: {len(images)} images but {len(labels)} labels")
    labels = labels.astype(np.int64)
    if labels.min() < 0 or labels.max() >= classes:
        raise DataError(f"{place}: labels run from {labels.min()} to {labels.max()}, expected 0 to {classes - 1}")
    if images.ndim == 3:
        images = images[:, None]  # (N, 1, H, W)
    # torch wants memory it may write to; arrays that view the bytes of a file are not.
    images = np.require(images, requirements=["C", "W"])
    return Split(torch.from_numpy(images), torch.from_numpy(labels))
