"""Batches addressed by step. A batch is a pure function of (seed, step), so training can resume at any step.

The uint8 images stay on the training device and are indexed and flipped there. Streamed images are decoded ahead on the
CPU and flipped on the device. With several processes, each process takes a share of every batch.
"""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from data.images import Split
from data.readers.ahead import ReadAhead
from data.readers.streamed import Streamed
from models.errors import UserError

# Separates this random stream from other streams, which are seeded with (seed, small integer).
_STREAM = 0xBA7C


class Batches:
    """Batches of a split, addressed by step.

    Each epoch is a permutation of the split. The epochs follow one another as one stream, which is cut into batches of
    exactly `batch_size`. A batch may straddle epochs, and `batch_size` may exceed the split.

    flips: mirror each image left to right with probability 1/2, drawn anew per epoch. Flips do not change the order
    of images. mirrored: the mirrored images, if mirroring is more than reversing the last dimension. share: this
    process takes the rows [first, end) of every batch. workers: number of processes that decode streamed images.
    Raises UserError for an empty split or images that do not fit on a GPU.
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
        if len(split) == 0:
            raise UserError("cannot cut batches of an empty split")
        self.batch_size = batch_size
        self._flips = flips
        self._device = torch.device(device)
        self._order = _Order(len(split), batch_size, seed, share or (0, batch_size))
        self._labels = split.labels if isinstance(split.images, Streamed) else split.labels.to(self._device)
        self._mirrored = None if mirrored is None else _to_device(mirrored, self._device)
        if isinstance(split.images, Streamed):
            self._images = ReadAhead(split.images, self._order.rows, workers, pinned=self._device.type == "cuda")
        else:
            self._images = _to_device(split.images, self._device)

    def __len__(self) -> int:
        return len(self._labels)

    def plan(self, step: int) -> dict[str, Tensor]:
        """Return CPU tensors (N, ...) from which `gather` makes this process's share of batch `step`, counted from 0.

        Keys: `rows` for images in memory; `images` (decoded) and `labels` for streamed images. With flips, there is
        also `flipped`, a boolean mask.
        """
        if step < 0:
            raise ValueError(f"step {step} is negative")
        rows, flipped = self._order.at(step)
        plan = {"flipped": flipped} if self._flips else {}
        if isinstance(self._images, ReadAhead):
            return {"images": self._images.at(step), "labels": self._labels.index_select(0, rows), **plan}
        return {"rows": rows, **plan}

    def gather(self, plan: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Return images uint8 (N, C, H, W) and labels int64 (N,).

        plan: all or some rows of the tensors that the method `plan` returned, on the device.
        """
        if isinstance(self._images, ReadAhead):
            images, labels = plan["images"], plan["labels"]
        else:
            images, labels = (values.index_select(0, plan["rows"]) for values in (self._images, self._labels))
        if self._flips:
            mirrored = images.flip(3) if self._mirrored is None else self._mirrored.index_select(0, plan["rows"])
            images = torch.where(plan["flipped"][:, None, None, None], mirrored, images)
        return images, labels

    def at(self, step: int) -> tuple[Tensor, Tensor]:
        """Return the images and labels of this process's share of batch `step`, on the device."""
        return self.gather({name: values.to(self._device) for name, values in self.plan(step).items()})


def _to_device(images: Tensor, device: torch.device) -> Tensor:
    """Copy images to the device. Raises UserError if they would leave less than half of a GPU's free memory."""
    if device.type == "cuda" and images.device.type != "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        if images.nbytes > free / 2:
            message = (
                f"the training images take {images.nbytes / 2**30:.1f} GiB, more than half of {device}'s free "
                f"{free / 2**30:.1f} GiB"
            )
            ways_out = "use `device cpu`", "use fewer images", "stream image files with `memory_limit 0`"
            raise UserError(message, *ways_out)
    return images.to(device)


class _Order:
    def __init__(self, size: int, batch_size: int, seed: int, share: tuple[int, int]) -> None:
        self._size, self._batch_size, self._seed, self._share = size, batch_size, seed, share
        self._epochs: dict[int, tuple[Tensor, Tensor]] = {}

    def rows(self, step: int) -> list[int]:
        return self.at(step)[0].tolist()

    def at(self, step: int) -> tuple[Tensor, Tensor]:
        """Return the rows int64 (N,) of this process's share of a batch, and a mask bool (N,) of the mirrored rows."""
        first, end = (step * self._batch_size + bound for bound in self._share)
        size = self._size
        parts = []
        for epoch in range(first // size, (end - 1) // size + 1):
            rows, mirrored = self._epoch(epoch)
            inside = slice(max(first - epoch * size, 0), end - epoch * size)
            parts.append((rows[inside], mirrored[inside]))
        if len(parts) == 1:
            return parts[0]
        rows, mirrored = zip(*parts, strict=True)
        return torch.cat(rows), torch.cat(mirrored)

    def _epoch(self, epoch: int) -> tuple[Tensor, Tensor]:
        # Two epochs are kept, for batches that straddle them.
        if epoch not in self._epochs:
            random = np.random.default_rng((self._seed, epoch, _STREAM))
            rows = torch.from_numpy(random.permutation(self._size))
            mirrored = torch.from_numpy(random.random(self._size) < 0.5)
            if len(self._epochs) >= 2:
                del self._epochs[next(iter(self._epochs))]
            self._epochs[epoch] = rows, mirrored
        return self._epochs[epoch]
