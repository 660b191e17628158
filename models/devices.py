"""Devices and precisions: which ones a task computes with, and how a process is prepared for them."""

from __future__ import annotations

import ctypes
import math
import os
import resource
import sys
import time

import torch
from torch import nn

from models import distributed, processes
from models.errors import UserError
from models.processes import cpu_name


def pick_device(name: str) -> torch.device:
    """ "auto" is CUDA, then MPS, then the CPU; of several GPUs each process of a task gets its own. Where the variable
    GPUS asks for some, the CPU will not do.

    Raises UserError for a device that is not there.
    """
    if name == "auto":
        available = (
            "cuda" if torch.cuda.is_available() else "",
            "mps" if torch.backends.mps.is_available() else "",
        )
        name = next((device for device in available if device), "cpu")
        asked = os.environ.get("GPUS", "")
        if name == "cpu" and asked.isdigit() and int(asked) > 0:
            raise UserError(f"GPUS={asked}: torch finds no GPU on this machine; GPUS=0 takes its CPU")
    try:
        device = torch.device(name)
        if device.type == "cuda" and processes.world_size() > 1:  # whichever the config of a run to resume names
            device = torch.device("cuda", processes.local_rank())
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"--device {name} is not there: {str(error).splitlines()[0]}") from None
    return device


PRECISIONS = ("float32", "bf16", "float64")


def describe_device(device: torch.device) -> str:
    """The name of a GPU, or that of the CPU with the threads that torch takes."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    threads = torch.get_num_threads()
    return f"{cpu_name()}, {threads} thread{'s' if threads > 1 else ''}" if device.type == "cpu" else str(device)


def pick_precision(name: str, device: torch.device) -> str:
    """ "auto" is bf16 on a GPU that computes in it and float32 elsewhere (CPUs without bf16 units crawl)."""
    if name == "auto":
        return (
            "bf16" if device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False) else "float32"
        )
    return name


def bf16_ratio(network: nn.Module, shape: tuple[int, int, int], images: int = 16) -> float:
    """Seconds of a forward and backward pass in bf16 autocast over those in float32, here and now, on the CPU."""
    noisy, t = torch.zeros(images, *shape), torch.full((images,), 0.5)
    seconds = []
    for enabled in (False, True):
        best = math.inf
        for _ in range(3):
            started = time.perf_counter()
            with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
                output = network(noisy, t, None)
            torch.autograd.grad(output.float().sum(), list(network.parameters()), allow_unused=True)
            best = min(best, time.perf_counter() - started)
        seconds.append(best)
    return seconds[1] / seconds[0]


def autocast_dtype(precision: str) -> torch.dtype | None:
    return torch.bfloat16 if precision == "bf16" else None


def prepare_device(device: torch.device, precision: str = "float32") -> None:
    """Settings every process that computes wants: no denormals on CPUs, TF32 convolutions on GPUs. Meets the other
    processes of the task."""
    torch.set_default_dtype(torch.float64 if precision == "float64" else torch.float32)
    distributed.join(device)
    torch.set_flush_denormal(True)
    if device.type == "cuda":
        if device.index is not None:  # else helpers, as for pinned memory, would open the first GPU as well
            torch.cuda.set_device(device)
        torch.backends.cudnn.benchmark = True  # shapes hardly change
        torch.backends.cuda.matmul.allow_tf32 = True
        torch.backends.cudnn.allow_tf32 = True


def keep_freed_memory(device: torch.device) -> None:
    """For loops of equal steps on a CPU: has glibc keep large blocks that are freed. Every step asks for those of the
    last one, and to have them back from the kernel, page by page, takes a tenth of a step. Work of many sizes would
    only take more memory, an evaluation three times as much. Other C libraries stay as they are."""
    if device.type != "cpu":
        return
    libc = ctypes.CDLL(None)
    if hasattr(libc, "gnu_get_libc_version"):
        trim_threshold, mmap_max = -1, -4  # malloc.h
        libc.mallopt(trim_threshold, -1)
        libc.mallopt(mmap_max, 0)


def peak_memory(device: torch.device) -> int:
    """Bytes: the device's peak on a GPU, the process's elsewhere."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
