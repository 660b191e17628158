"""Which process of a task this is, what it may compute on, and since when it runs. Imports no torch."""

from __future__ import annotations

import os
import platform
import time
from pathlib import Path


def _from_environment(name: str, default: int) -> int:
    """Return what torchrun says in this variable, or the default in a process that torchrun did not start."""
    return int(os.environ[name]) if "TORCHELASTIC_RUN_ID" in os.environ else default


def rank() -> int:
    return _from_environment("RANK", 0)


def world_size() -> int:
    return _from_environment("WORLD_SIZE", 1)


def local_rank() -> int:
    """The place among the processes of this machine, which is the number of its GPU."""
    return _from_environment("LOCAL_RANK", 0)


def local_world_size() -> int:
    """How many of them this machine has."""
    return _from_environment("LOCAL_WORLD_SIZE", 1)


def is_first() -> bool:
    """Whether this process is the one that writes and speaks."""
    return rank() == 0


def rank_share(count: int) -> tuple[int, int]:
    """The bounds of this process's part of `count` things, one part after the other."""
    return count * rank() // world_size(), count * (rank() + 1) // world_size()


def cores() -> int:
    """How many this process may compute on, hyperthreads counted."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def threads_per_process(processes: int) -> int:
    """Cores for each of the processes on this machine, of those that they may use, at least 1."""
    import psutil

    return max(1, min(psutil.cpu_count(logical=False) or cores(), cores()) // processes)


def cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def process_age() -> float:
    """Seconds since this process began: the interpreter's start and all imports are among them."""
    import psutil

    began = psutil.Process().create_time()
    if hasattr(time, "CLOCK_BOOTTIME"):  # psutil has it from the boot, whose time of day is known to a second only
        return time.clock_gettime(time.CLOCK_BOOTTIME) - (began - psutil.boot_time())
    return time.time() - began
