"""Choice of devices, settings of a process, and its share of the cores."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest
import torch

from models import devices, processes
from models.errors import UserError
from scripts.cli.flags import usual_workers
from tests.commands.tasks import REPOSITORY

COUNT = """
import resource, torch
from models import devices
devices.prepare_device(torch.device("cpu"))
devices.keep_freed_memory(torch.device("cpu"))
for _ in range(4):  # the heap grows in the first rounds
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(5):
        torch.ones(10_000_000)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is not glibc")
def test_freed_memory_is_reused_without_page_faults() -> None:
    done = subprocess.run([sys.executable, "-c", COUNT], cwd=REPOSITORY, check=True, capture_output=True, text=True)
    assert int(done.stdout.split()[-1]) < 100  # 50,000 pages of 4 KiB if the memory was returned to the kernel


@pytest.mark.parametrize("name", ["cuda", "cuda:0", "cuda:3", "auto"])
def test_each_rank_takes_its_own_gpu(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """This also holds for a resumed run whose settings name the GPU of rank 0."""
    monkeypatch.setattr(torch, "zeros", lambda *_, device: None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert str(devices.pick_device(name)) == ("cuda" if name == "auto" else name)
    monkeypatch.setattr(processes, "world_size", lambda: 2)
    monkeypatch.setattr(processes, "local_rank", lambda: 1)
    assert str(devices.pick_device(name)) == "cuda:1" and str(devices.pick_device("cpu")) == "cpu"


def test_the_current_gpu_is_the_named_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """`cuda` has no index, and torch.cuda.set_device refuses it."""
    chosen: list[torch.device] = []
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: chosen.append(torch.device(device)))
    for name in ("cuda", "cuda:1"):
        devices.prepare_device(torch.device(name))
    assert chosen == [torch.device("cuda:1")]


def test_missing_gpus_are_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setenv("GPUS", "0")
    assert devices.pick_device("auto").type == "cpu"
    monkeypatch.setenv("GPUS", "2")
    assert devices.pick_device("cpu").type == "cpu"
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(UserError, match=r"GPUS=2: torch finds no GPU.*GPUS=0"):
        devices.pick_device("auto")
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    monkeypatch.setattr(torch, "zeros", lambda *_, device: None)
    assert devices.pick_device("auto").type == "mps"


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system has no CPU affinity")
def test_cores_are_those_of_the_cpu_affinity(monkeypatch: pytest.MonkeyPatch) -> None:
    allowed = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(allowed)})
        counts = (processes.cores(), processes.threads_per_rank(1), processes.threads_per_rank(3), usual_workers())
        assert counts == (1, 1, 1, 1)
    finally:
        os.sched_setaffinity(0, allowed)
    monkeypatch.setattr("scripts.cli.flags.cores", lambda: 8)
    assert usual_workers() == 4
    monkeypatch.setattr("scripts.cli.flags.local_world_size", lambda: 2)
    assert usual_workers() == 3
