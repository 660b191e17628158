"""Plan of a computation: the host's decisions, packed into one buffer that is copied to the device in one transfer."""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import cycle
from math import prod
from typing import Any

import torch
from torch import Tensor

# A host buffer is reused only after its copy to the device has ended. With three buffers in turn, waiting is rare.
HOST_BUFFERS = 3
ALIGNMENT = 16


class PlanBuffer:
    """Memory for the plans of one computation.

    Plans with the same names and shapes have the same addresses, so that a recorded CUDA graph reads each new plan.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._memories: dict[Any, _Memory] = {}

    def send(self, plan: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Copy a plan from the CPU to the device, without waiting, and return its tensors on the device.

        Floating-point numbers are rounded to the default dtype.
        """
        rounded = {
            name: values.to(torch.get_default_dtype()) if values.is_floating_point() else values
            for name, values in plan.items()
        }
        layout = tuple((name, values.dtype, values.shape) for name, values in rounded.items())
        if layout not in self._memories:
            self._memories[layout] = _Memory(layout, self.device)
        return self._memories[layout].send(rounded)


@dataclass
class _HostBuffer:
    """Pinned memory. copied: event recorded after the copy to the device."""

    whole: Tensor
    parts: dict[str, Tensor]
    copied: torch.cuda.Event


class _Memory:
    """Device memory for one layout: (name, dtype, shape) of each tensor. On a CPU, plans are written to it directly."""

    def __init__(self, layout: tuple[tuple[str, torch.dtype, torch.Size], ...], device: torch.device) -> None:
        self._layout = layout
        size = sum(_padded(dtype, shape) for _, dtype, shape in layout)
        self._whole = torch.empty(size, dtype=torch.uint8, device=device)
        self._parts = self._cut(self._whole)
        self._hosts = cycle([self._host(size) for _ in range(HOST_BUFFERS)] if device.type == "cuda" else [None])

    def _host(self, size: int) -> _HostBuffer:
        whole = torch.empty(size, dtype=torch.uint8, pin_memory=True)
        return _HostBuffer(whole, self._cut(whole), torch.cuda.Event())

    def _cut(self, whole: Tensor) -> dict[str, Tensor]:
        parts, first = {}, 0
        for name, dtype, shape in self._layout:
            parts[name] = whole[first : first + prod(shape) * dtype.itemsize].view(dtype).view(shape)
            first += _padded(dtype, shape)
        return parts

    def send(self, plan: Mapping[str, Tensor]) -> dict[str, Tensor]:
        host = next(self._hosts)
        if host is not None:
            host.copied.synchronize()
        for name, values in plan.items():
            (self._parts if host is None else host.parts)[name].copy_(values)
        if host is not None:
            self._whole.copy_(host.whole, non_blocking=True)
            host.copied.record()
        return self._parts


def _padded(dtype: torch.dtype, shape: torch.Size) -> int:
    """Return the bytes of a tensor, rounded up so that the next tensor is aligned."""
    return -(-prod(shape) * dtype.itemsize // ALIGNMENT) * ALIGNMENT
