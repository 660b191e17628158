"""Worker processes that decode the next batches before a training loop asks for them."""

import ctypes
import functools
import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from itertools import count

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from data.readers.streamed import Streamed
from models.errors import UserError

_DIE_WITH_PARENT = 1  # PR_SET_PDEATHSIG of Linux's prctl
_Decoded = tuple[Tensor, dict[str, str]]  # images, and the reason for each broken image, by name


class ReadAhead:
    """Streamed images of successive steps, decoded ahead by `workers` processes, or on demand if `workers` is 0.

    rows_of(step): the rows of a batch. pinned: return page-locked memory, from which a GPU copies asynchronously.
    """

    def __init__(
        self, images: Streamed, rows_of: Callable[[int], list[int]], workers: int, pinned: bool = False
    ) -> None:
        self._images, self._rows_of, self._workers, self._pinned = images, rows_of, workers, pinned
        self._batches: Iterator[_Decoded | UserError] | None = None
        self._next = 0

    def at(self, step: int) -> Tensor:
        """Return the images of a step, uint8 (N, C, H, W) on the CPU. If `step` is not the next step, reading restarts.

        Raises UserError for too many broken images, RuntimeError if a worker has crashed.
        """
        if self._batches is None or step != self._next:
            self._batches = None  # ends the workers
            self._batches = self._read_from(step)
        self._next = step + 1
        batch = next(self._batches)
        if isinstance(batch, UserError):
            raise batch
        images, broken = batch
        self._images.broken.note(len(images), broken)
        return images

    def _read_from(self, step: int) -> Iterator[_Decoded | UserError]:
        loader = DataLoader(
            _Decoder(self._images),
            batch_sampler=map(self._rows_of, count(step)),
            num_workers=self._workers,
            collate_fn=lambda batch: batch,
            pin_memory=self._pinned,
            multiprocessing_context="fork" if self._workers else None,
            worker_init_fn=functools.partial(_start_worker, os.getpid()),
            generator=torch.Generator(),  # otherwise the loader draws a number from the global generator
        )
        return iter(loader)


class _Decoder(Dataset):
    """Dataset that decodes the rows of a batch in a worker."""

    def __init__(self, images: Streamed) -> None:
        self._images = images

    def __getitems__(self, rows: list[int]) -> _Decoded | UserError:
        pixels = np.empty((len(rows), *self._images.shape[1:]), np.uint8)
        try:
            broken = self._images.decode(rows, pixels)
        except UserError as error:
            return error  # If raised here, the user would see two more tracebacks.
        return torch.from_numpy(pixels), broken


def _start_worker(parent: int, worker: int) -> None:
    """Make a worker ignore signals from a terminal or scheduler, and exit when its parent sends SIGTERM or exits."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    if sys.platform == "linux":
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_exit_on_sigterm_of, args=(parent,), daemon=True).start()
        ctypes.CDLL(None).prctl(_DIE_WITH_PARENT, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)
    warnings.simplefilter("ignore")  # Pillow warns of odd metadata


def _exit_on_sigterm_of(parent: int) -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent:
        pass
    os._exit(0)
