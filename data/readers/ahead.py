"""Decoding ahead: worker processes that have the next batches ready when a training loop asks for them."""

from __future__ import annotations

import ctypes
import functools
import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from itertools import count
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from data.readers.streamed import Streamed
from models.errors import UserError

_DIE_WITH_PARENT = 1  # PR_SET_PDEATHSIG of Linux's prctl


class ReadAhead:
    """The images of step after step of a stream, decoded by `workers` processes before they are asked for; by none,
    when they are.

    rows_of(step): the rows of a batch. pinned: hand them over in memory from which a GPU copies by itself.
    """

    def __init__(
        self, images: Streamed, rows_of: Callable[[int], list[int]], workers: int, pinned: bool = False
    ) -> None:
        self._broken, self._rows = images.broken, _RowsOfSteps(rows_of)
        self._loader = DataLoader(
            _Decoding(images),
            batch_sampler=self._rows,
            num_workers=workers,
            collate_fn=_as_it_is,
            pin_memory=pinned,
            multiprocessing_context="fork" if workers else None,
            worker_init_fn=functools.partial(_start_worker, os.getpid()),
            generator=torch.Generator(),  # or it would draw a number from the global one
        )
        self._batches: Iterator[_Decoded | UserError] | None = None
        self._next = 0

    def at(self, step: int) -> Tensor:
        """uint8 (N, C, H, W) on the CPU; reads on from there if it is not the step after the last one.

        Raises UserError for too many broken pictures, RuntimeError if a worker died.
        """
        if self._batches is None or step != self._next:
            self._batches = None  # which ends its workers
            self._rows.first = step
            self._batches = iter(self._loader)
        self._next = step + 1
        found = next(self._batches)
        if isinstance(found, UserError):
            raise found
        images, bad = found
        self._broken.note(len(images), bad)
        return images


_Decoded = tuple[Tensor, dict[str, str]]


class _Decoding(Dataset):
    """What a worker does with the rows of a batch."""

    def __init__(self, images: Streamed) -> None:
        self._images = images

    def __getitems__(self, rows: list[int]) -> _Decoded | UserError:
        pixels = np.empty((len(rows), *self._images.shape[1:]), np.uint8)
        try:
            bad = self._images.decode(rows, pixels)
        except UserError as error:
            return error  # Raised here it would reach the user with two tracebacks around it.
        return torch.from_numpy(pixels), bad


class _RowsOfSteps:
    """The rows of step `first`, and of all that follow."""

    def __init__(self, rows_of: Callable[[int], list[int]]) -> None:
        self.first, self._rows_of = 0, rows_of

    def __iter__(self) -> Iterator[list[int]]:
        return map(self._rows_of, count(self.first))


def _as_it_is(batch: Any) -> Any:
    return batch


def _start_worker(parent: int, number: int) -> None:
    """The parent alone heeds the signals that a terminal or a scheduler sends to all, and ends its workers; they end
    with it, however it ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    if sys.platform == "linux":
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_end_when_told, args=(parent,), daemon=True).start()
        ctypes.CDLL(None).prctl(_DIE_WITH_PARENT, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)
    warnings.simplefilter("ignore")  # Pillow's, of odd metadata


def _end_when_told(parent: int) -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent:
        pass
    os._exit(0)
