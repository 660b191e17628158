"""From a config or a checkpoint to objects; the only place that assembles a denoiser.

`DenoiserSpec` is all that a denoiser is besides its weights. It is stored in every checkpoint, so that sampling
rebuilds from the checkpoint alone.
"""

from __future__ import annotations

import ctypes
import math
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from models import checkpoint, distributed, networks, spaces
from models.denoiser import NetworkDenoiser
from models.errors import UserError
from models.noise_schedules import build_noise_schedule
from models.predictions import build_prediction
from models.run import cpu_name
from models.spaces import Space


@dataclass(frozen=True)
class DenoiserSpec:
    """network: a name of `networks.names()` with its constructor's options. classes: 0 for unlabelled data.

    timesteps: length of the chain, 0 for a continuous schedule. label_drop: share of labels dropped in training,
    without which there is no unconditional half to guide by.
    """

    network: str
    network_options: dict[str, Any]
    space: Space
    classes: int
    class_names: tuple[str, ...]
    noise_schedule: str
    timesteps: int
    zero_terminal_snr: bool
    prediction: str
    label_drop: float
    initial_noise: str = "gaussian"

    def build_network(self) -> nn.Module:
        """A fresh network; its initial weights come from torch's generator. Raises UserError for bad options."""
        return networks.find(self.network)(self.space.shape, self.classes, **self.network_options)

    def denoiser(self, network: nn.Module, autocast: torch.dtype | None = None) -> NetworkDenoiser:
        """Raises UserError for a schedule and prediction that do not go together."""
        schedule = build_noise_schedule(self.noise_schedule, self.timesteps or None, self.zero_terminal_snr)
        return NetworkDenoiser(network, schedule, build_prediction(self.prediction, self.space.deviation), autocast)

    def facts(self) -> dict[str, Any]:
        """As plain lists, numbers and words, for YAML."""
        values = {each.name: getattr(self, each.name) for each in fields(self)}
        return checkpoint.plain({**values, "space": spaces.to_facts(self.space)})

    @classmethod
    def from_facts(cls, facts: Mapping[str, Any], locate: spaces.Locate) -> DenoiserSpec:
        """Raises UserError for facts that are not those of a denoiser, or a space that cannot be made again."""
        try:
            space = spaces.from_facts(facts["space"], locate)
            return cls(**{**facts, "space": space, "class_names": tuple(facts["class_names"])})
        except (KeyError, TypeError) as error:
            raise UserError(f"the checkpoint describes no denoiser ({error})") from None


@dataclass(frozen=True)
class Loaded:
    """A trained denoiser with what it is and where it comes from."""

    denoiser: NetworkDenoiser
    spec: DenoiserSpec
    step: int
    path: Path
    weights: str

    @property
    def space(self) -> Space:
        return self.spec.space


WEIGHTS = ("ema", "raw")
NEEDED = "autoencoder"  # Folder of a run with a copy of the checkpoint that its space needs.


def load_denoiser(
    path: Path,
    weights: str,
    device: torch.device,
    autocast: torch.dtype | None = None,
    autoencoder: Path | None = None,
) -> Loaded:
    """The denoiser of a checkpoint, in eval mode on the device. weights: "ema" or "raw". Raises UserError.

    autoencoder: the checkpoint file to decode with, where the space has one; None finds it by its hash.
    """
    tensors, facts = checkpoint.load(path)
    if "denoiser" not in facts:
        hint = ": it is an autoencoder's, which reconstruct takes" if "autoencoder" in facts else ""
        raise UserError(f"{path} is no denoiser's checkpoint{hint}")
    spec = DenoiserSpec.from_facts(facts["denoiser"], lambda sha256: locate(sha256, path, autoencoder))
    if autoencoder is not None and not spec.space.needs:
        raise UserError(f"--autoencoder {autoencoder}: {path} was trained on pixels and takes none")
    network = spec.build_network()
    prefix = "ema" if weights == "ema" else "network"
    checkpoint.fill(network, checkpoint.under(prefix, tensors), path)
    network.to(device).eval().requires_grad_(False)
    spec.space.to(device)
    return Loaded(spec.denoiser(network, autocast), spec, facts["step"], path, weights)


def locate(sha256: str, path: Path, given: Path | None = None) -> Path:
    """The checkpoint of that hash that the checkpoint `path` was trained upon.

    given: the file it is said to be; otherwise looked for in the run's own folder NEEDED and among the runs beside
    it. Raises UserError where there is none, or another.
    """
    if given is not None:
        found = checkpoint.load(given)[1]["sha256"]
        if found != sha256:
            raise UserError(
                f"--autoencoder {given} is another ({found[:12]}) than {path} was trained on ({sha256[:12]})"
            )
        return given
    run = path.parent.parent
    found = checkpoint.locate(sha256, [run / NEEDED, *sorted(run.parent.glob("*/checkpoints"))])
    if found is None:
        raise UserError(
            f"{path} was trained on an autoencoder ({sha256[:12]}) that is neither in {run / NEEDED} nor among "
            f"the runs in {run.parent}: name its checkpoint with --autoencoder"
        )
    return found


def match_weights(network: nn.Module, tensors: Mapping[str, Tensor]) -> str:
    """Copies every tensor whose name and shape agree, and says in one line what matched and what did not."""
    mine = network.state_dict()
    fitting = {key: value for key, value in tensors.items() if key in mine and mine[key].shape == value.shape}
    if not fitting:
        raise UserError("--init_from: no tensor of that run has the name and shape of one of this network")
    network.load_state_dict(fitting, strict=False)
    fresh = sorted(mine.keys() - fitting.keys())
    report = f"initial weights: {len(fitting)} of {len(mine)} tensors matched"
    return report + (f"; fresh: {', '.join(fresh[:8])}{' ...' if len(fresh) > 8 else ''}" if fresh else "")


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
        if device.type == "cuda" and distributed.size() > 1:  # whichever the config of a run to resume names
            device = torch.device("cuda", distributed.local_rank())
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
