"""Choice of device and precision, and setup of the process for them."""

import ctypes
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
    """Return the device called `name`; "auto" is CUDA if available, else MPS, else the CPU; with GPUS=0
    in the environment, it is the CPU. Each rank has its own GPU.

    Raises UserError if the device is not available, or if GPUS > 0 in the environment and "auto" finds no GPU.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
        gpus = os.environ.get("GPUS", "")
        if gpus == "0":
            name = "cpu"
        if name == "cpu" and gpus.isdigit() and int(gpus) > 0:
            raise UserError(f"GPUS={gpus}: torch finds no GPU on this machine", "use the CPU with GPUS=0")
    try:
        device = torch.device(name)
        if device.type == "cuda" and processes.world_size() > 1:  # overrides the GPU index in `name`
            device = torch.device("cuda", processes.local_rank())
        if device.type not in ("cpu", "cuda", "mps"):
            raise UserError(f"`device` {name}: choose auto, cpu, cuda, cuda:1 or mps")
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"`device` {name}: not available ({str(error).splitlines()[0]})") from None
    return device


def describe_device(device: torch.device) -> str:
    """Return the name of a GPU, or the name of the CPU with the number of torch's threads."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    threads = torch.get_num_threads()
    return f"{cpu_name()}, {threads} thread{'s' if threads > 1 else ''}" if device.type == "cpu" else str(device)


def pick_precision(name: str, device: torch.device) -> str:
    """Return the precision; "auto" is bf16 on a GPU with bf16 units, else float32. Most CPUs are slow in bf16.

    Raises UserError for bf16 on a GPU without bf16 units, where it would be emulated.
    """
    native = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    if name == "bf16" and device.type == "cuda" and not native:
        message = f"`precision` bf16: {describe_device(device)} has no bf16 units"
        raise UserError(message, "use `precision` float32", "use `device` cpu")
    return name if name != "auto" else "bf16" if native else "float32"


def measuring_device(device: torch.device) -> torch.device:
    """Return the device for measures in float64: `device`, or the CPU instead of MPS, which has no float64."""
    return torch.device("cpu") if device.type == "mps" else device


def bf16_ratio(network: nn.Module, shape: tuple[int, int, int], images: int = 16) -> float:
    """Return the time of a forward and backward pass on this CPU in bf16 autocast, divided by its time in float32."""
    noisy, t = torch.zeros(images, *shape), torch.full((images,), 0.5)

    def seconds(bf16: bool) -> float:
        started = time.perf_counter()
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            output = network(noisy, t, None)
        torch.autograd.grad(output.float().sum(), list(network.parameters()), allow_unused=True)
        return time.perf_counter() - started

    float32, bf16 = (min(seconds(enabled) for _ in range(3)) for enabled in (False, True))
    return bf16 / float32


def autocast_dtype(precision: str) -> torch.dtype | None:
    """Return the dtype of autocast for a precision, or None for no autocast."""
    return torch.bfloat16 if precision == "bf16" else None


def prepare_device(device: torch.device, precision: str = "float32") -> None:
    """Set torch's default dtype, join the process group, flush denormals on CPUs and allow TF32 on GPUs."""
    torch.set_default_dtype(torch.float64 if precision == "float64" else torch.float32)
    distributed.init_process_group(device)
    torch.set_flush_denormal(True)
    if device.type == "cuda":
        if device.index is not None:
            torch.cuda.set_device(device)  # Without it, torch's helper threads also open a context on GPU 0.
        torch.backends.cudnn.benchmark = True  # shapes rarely change
        torch.backends.cuda.matmul.allow_tf32 = True
        torch.backends.cudnn.allow_tf32 = True


def keep_freed_memory(device: torch.device) -> None:
    """Make glibc keep freed memory, for training on a CPU. Otherwise a tenth of each step is spent on page faults.

    Do not use it where tensor sizes vary: an evaluation would need three times the memory.
    """
    if device.type != "cpu":
        return
    libc = ctypes.CDLL(None)
    if hasattr(libc, "gnu_get_libc_version"):
        trim_threshold, mmap_max = -1, -4  # malloc.h
        libc.mallopt(trim_threshold, -1)
        libc.mallopt(mmap_max, 0)


def peak_memory(device: torch.device) -> int:
    """Return the peak memory in bytes: of the GPU on CUDA, of the process on other devices."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
