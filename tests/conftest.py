"""What all tests share: one thread, so that they run alike on any machine, and patience with slow ones."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest
import torch
from hypothesis import settings

from models import progress

torch.set_num_threads(1)

for handed_down in ("MAKEFLAGS", "MAKEOVERRIDES", "MFLAGS", "RAW_ARGS"):  # from `make test ARGS=...` to makes in tests
    os.environ.pop(handed_down, None)
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # without bytecode each child spends 3 s on compiling torch

for number in (signal.SIGHUP, signal.SIGINT):  # `nohup make test &` ignores both, and children would inherit that
    if signal.getsignal(number) is signal.SIG_IGN:
        signal.signal(number, signal.SIG_DFL if number == signal.SIGHUP else signal.default_int_handler)

progress.LINE_SECONDS = 1e6  # in this process; progress depends on how busy the machine is

settings.register_profile("patient", deadline=None)
settings.load_profile("patient")


@pytest.fixture(autouse=True)
def _usual_numbers() -> Iterator[None]:
    """Tasks flush denormals in their process, and hypothesis cannot draw numbers in one that does; or compute in
    float64, or in more threads."""
    yield
    torch.set_num_threads(1)
    torch.set_flush_denormal(False)
    torch.set_default_dtype(torch.float32)
