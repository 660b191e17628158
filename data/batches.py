"""Batches addressed by step: the images live as uint8 on the training device and are indexed and flipped
there; streamed ones are decoded ahead by the CPU, and flipped on the device as well.

A batch is a pure function of (seed, step), so that a resumed run meets the same batches without replaying the
earlier ones. Of several processes each asks for its own share of every batch. Scaling to floats is left to the space.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from data.images import Split
from data.readers.ahead import ReadAhead
from data.readers.streamed import Streamed
from models.errors import UserError

# Keeps this stream apart from others that are seeded with (seed, small integer).
_STREAM = 0xBA7C


class Batches:
    """Step-addressable batches of a split.

    The stream is one permutation of the split per epoch after another, cut into batches of exactly
    `batch_size`: a batch may straddle epochs, and `batch_size` may exceed the split, so every image comes
    once per epoch and none is dropped. With `flips`, each image is mirrored left to right with probability
    1/2, anew every epoch; the order of the images is the same with and without. `mirrored` holds the mirrored
    images where mirroring takes more than turning the last dimension round. `share`, a pair of bounds, cuts the
    rows from the first up to the second out of every batch. `workers` is how many processes decode streamed images.

    Raises UserError for a batch size below 1, an empty split, or images that do not fit into a GPU.
    """

    def __init__(
        self,
        split: Split,
        batch_size: int,
        seed: int,
        flips: bool = False,
        device: torch.device | str = "cpu",
        mirrored: Tensor | None = None,
        share: tuple[int, int] | None = None,
        workers: int = 1,
    ) -> None:
        if batch_size < 1:
            raise UserError(f"batch size {batch_size} is too small: at least 1")
        if len(split) == 0:
            raise UserError("cannot cut batches of an empty split")
        self.batch_size = batch_size
        self._flips = flips
        self._device = torch.device(device)
        place = torch.device("cpu") if isinstance(split.images, Streamed) else self._device
        self._order = _Order(len(split), batch_size, seed, share or (0, batch_size), place)
        self._labels = split.labels.to(place)
        self._mirrored = None if mirrored is None else _on(self._device, mirrored)
        if isinstance(split.images, Streamed):
            self._images = ReadAhead(split.images, self._order.rows, workers, pinned=self._device.type == "cuda")
        else:
            self._images = _on(self._device, split.images)

    def __len__(self) -> int:
        """Number of images in the split."""
        return len(self._labels)

    def epoch_of(self, step: int) -> int:
        """Epoch, from 0, of the first image of the batch at `step`."""
        return step * self.batch_size // len(self)

    def at(self, step: int) -> tuple[Tensor, Tensor]:
        """The share of batch number `step`, from 0: images uint8 (N, C, H, W) and labels int64 (N,)."""
        if step < 0:
            raise ValueError(f"step {step} is negative")
        order, mirrored = self._order.at(step)
        labels = self._labels.index_select(0, order)
        if isinstance(self._images, ReadAhead):
            parts = (self._images.at(step), labels, mirrored)
            images, labels, mirrored = (part.to(self._device, non_blocking=True) for part in parts)
        else:
            images = self._images.index_select(0, order)
        if self._flips:
            others = images.flip(3) if self._mirrored is None else self._mirrored.index_select(0, order)
            images = torch.where(mirrored[:, None, None, None], others, images)
        return images, labels


def _on(device: torch.device, images: Tensor) -> Tensor:
    """The images on the device. Raises UserError where they would leave less than half of a GPU's free memory."""
    if device.type == "cuda" and images.device.type != "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        if images.nbytes > free / 2:
            raise UserError(
                f"the training images take {images.nbytes / 2**30:.1f} GiB, and {device} has {free / 2**30:.1f} GiB "
                "free: take --device cpu or fewer images; those of folders are streamed with --memory_limit 0"
            )
    return images.to(device)


class _Order:
    """Which images every batch is made of, as rows of the split, and which of them are mirrored."""

    def __init__(self, size: int, batch_size: int, seed: int, share: tuple[int, int], device: torch.device) -> None:
        self._size, self._batch_size, self._seed = size, batch_size, seed
        self._share, self._device = share, device
        self._epochs: dict[int, tuple[Tensor, Tensor]] = {}

    def rows(self, step: int) -> list[int]:
        """As numbers."""
        return self.at(step)[0].tolist()

    def at(self, step: int) -> tuple[Tensor, Tensor]:
        """Of the share of the batch: its rows, and whether each is mirrored."""
        first, end = (step * self._batch_size + bound for bound in self._share)
        size = self._size
        parts = []
        for epoch in range(first // size, (end - 1) // size + 1):
            order, mirrored = self._epoch(epoch)
            inside = slice(max(first - epoch * size, 0), end - epoch * size)
            parts.append((order[inside], mirrored[inside]))
        if len(parts) == 1:
            return parts[0]
        orders, flips = zip(*parts, strict=True)
        return torch.cat(orders), torch.cat(flips)

    def _epoch(self, epoch: int) -> tuple[Tensor, Tensor]:
        # One copy to the device per epoch, none per step. Two are kept for the batches that straddle.
        if epoch not in self._epochs:
            random = np.random.default_rng((self._seed, epoch, _STREAM))
            order = torch.from_numpy(random.permutation(self._size))
            mirrored = torch.from_numpy(random.random(self._size) < 0.5)
            if len(self._epochs) >= 2:
                del self._epochs[next(iter(self._epochs))]
            self._epochs[epoch] = order.to(self._device), mirrored.to(self._device)
        return self._epochs[epoch]
