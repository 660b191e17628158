"""Rank of this process in a distributed task, and the CPU cores that it may use. Does not import torch."""

import os
import platform
import time
from pathlib import Path

REPORT_DELAY_SECONDS = 5.0


def _from_environment(name: str, default: int) -> int:
    """Return the value of torchrun's variable, or the default if torchrun did not start this process."""
    return int(os.environ[name]) if "TORCHELASTIC_RUN_ID" in os.environ else default


def rank() -> int:
    """Return the rank of this process in the task, 0..world_size() - 1."""
    return _from_environment("RANK", 0)


def world_size() -> int:
    """Return the number of processes of the task on all machines."""
    return _from_environment("WORLD_SIZE", 1)


def local_rank() -> int:
    """Return the rank of this process on its machine, which is also the index of its GPU."""
    return _from_environment("LOCAL_RANK", 0)


def local_world_size() -> int:
    """Return the number of processes of the task on this machine."""
    return _from_environment("LOCAL_WORLD_SIZE", 1)


def is_rank_zero() -> bool:
    """Return True on rank 0, the only rank that writes files and prints."""
    return rank() == 0


def delay_failure_report() -> None:
    """Sleep on ranks other than 0. If another rank failed first, torchrun ends this rank during the sleep."""
    if not is_rank_zero():
        time.sleep(REPORT_DELAY_SECONDS)


def rank_share(count: int) -> tuple[int, int]:
    """Return (start, stop) of this rank's contiguous share of `count` items."""
    return count * rank() // world_size(), count * (rank() + 1) // world_size()


def cores() -> int:
    """Return the number of logical CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def threads_per_rank(ranks: int) -> int:
    """Return the physical cores that this process may use, divided by the ranks on this machine, at least 1."""
    import psutil

    return max(1, min(psutil.cpu_count(logical=False) or cores(), cores()) // ranks)


def cpu_name() -> str:
    """Return the model name of the CPU, or its architecture if the system does not report a model."""
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def process_age() -> float:
    """Return the seconds since this process began, including the start of Python and all imports."""
    import psutil

    began = psutil.Process().create_time()
    if hasattr(time, "CLOCK_BOOTTIME"):  # psutil derives `began` from the boot time, which is rounded to a second
        return time.clock_gettime(time.CLOCK_BOOTTIME) - (began - psutil.boot_time())
    return time.time() - began
