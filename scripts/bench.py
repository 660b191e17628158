"""Measures the training loop and the samplers, as ratios taken side by side in one process.

(a) our step against the bare forward-backward-update of the same network, (b) against an eager loop that reads
images one by one through PIL and a DataLoader, (c) seconds per image of every sampler. Random images: speed does
not depend on what they show.
"""

from __future__ import annotations

import copy
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

import data
from models import build
from models.generation import Sampling, generate
from models.optim import build_optimizer
from models.progress import peak_memory
from models.run import Run, write_text
from models.samplers import SAMPLERS
from scripts.arguments import check_positive, gather, parse
from scripts.command import run_command
from scripts.denoising import assemble, build_spec, complete, fit_space
from scripts.flags import FLOW, TrainFlags
from scripts.training import fingerprint, resolve

IMAGES = 4096
SAMPLER_STEPS = (10, 24)
SAMPLED = 64


@dataclass(frozen=True)
class BenchFlags:
    """Settings of `bench`."""

    recipe: str = "mnist"
    """The network and batch size measured, by recipe of train_flow."""
    rounds: int = 15
    """Interleaved rounds; the median is reported."""
    device: str = "auto"
    """auto, cpu, cuda, mps."""
    out: str = "experiments/bench.txt"
    """File that gets the table as well."""


class _RandomImages:
    """28x28 random images in the shape of a data set."""

    def load(self) -> data.ImageData:
        rng = np.random.default_rng(0)
        images = torch.from_numpy(rng.integers(0, 256, (IMAGES, 1, 28, 28), dtype=np.uint8))
        labels = torch.from_numpy(rng.integers(0, 10, IMAGES))
        split = data.Split(images, labels)
        return data.ImageData("random", split, split, class_names=tuple("0123456789"), flips=False)


class _PILDataset(Dataset):
    """One image at a time from an array through PIL, as torchvision's data sets do."""

    def __init__(self, split: data.Split):
        from torchvision import transforms  # slow to import, and --help does without

        self.images, self.labels = split.images.squeeze(1).numpy(), split.labels
        steps = [transforms.ToTensor(), transforms.Normalize((0.5,), (0.5,))]
        self.transform = transforms.Compose(steps)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        from PIL import Image

        clean: Any = self.transform(Image.fromarray(self.images[index]))
        return clean, int(self.labels[index])


def eager_loop(network: nn.Module, split: data.Split, batch_size: int, device: torch.device) -> Callable[[], None]:
    """A step of the loop most small repositories use: PIL, DataLoader, plain Adam, a loss read at every step and an
    average updated parameter by parameter."""
    loader = DataLoader(_PILDataset(split), batch_size, shuffle=True, drop_last=True)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-4, foreach=False)
    average = copy.deepcopy(network)
    batches = iter(loader)

    def step() -> None:
        nonlocal batches
        try:
            clean, label = next(batches)
        except StopIteration:
            batches = iter(loader)
            clean, label = next(batches)
        clean, label = clean.to(device), label.to(device)
        t, noise = torch.rand(len(clean), device=device), torch.randn_like(clean)
        level = t.view(-1, 1, 1, 1)
        output = network((1 - level) * clean + level * noise, t, label)
        loss = nn.functional.mse_loss(output, noise - clean)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        loss.item()
        with torch.no_grad():
            for mine, theirs in zip(average.parameters(), network.parameters(), strict=True):
                mine.mul_(0.999).add_(theirs, alpha=0.001)

    return step


def bare_step(network: nn.Module, batch_size: int, shape: tuple[int, ...], device: torch.device):
    """Forward, backward and update on one fixed batch, and nothing else."""
    optimizer = build_optimizer(network, 1e-4, 0.01, (0.9, 0.99))
    noisy, target = (torch.randn(batch_size, *shape, device=device) for _ in range(2))
    t, label = torch.rand(batch_size, device=device), torch.randint(0, 10, (batch_size,), device=device)

    def step() -> None:
        nn.functional.mse_loss(network(noisy, t, label), target).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def interleaved(steps: dict[str, Callable[[], None]], rounds: int, device: torch.device) -> dict[str, list[float]]:
    """Seconds of each step, in rounds of one each after two that do not count; who begins changes, since whoever
    follows a step finds the caches as that one left them."""
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for index in range(rounds + 2):
        order = list(steps)[index % len(steps) :] + list(steps)[: index % len(steps)]
        for name in order[:: 1 if index % 2 else -1]:
            started = time.perf_counter()
            steps[name]()
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            if index >= 2:
                seconds[name].append(time.perf_counter() - started)
    return seconds


def _training_table(flags: BenchFlags, settings: TrainFlags, folder: Path, device: torch.device) -> list[str]:
    images = _RandomImages().load()
    prepared = assemble(settings, images)
    networks = [copy.deepcopy(prepared.network).train() for _ in range(2)]
    run = Run.create(folder, "bench", "random", None)
    trainer = prepared.trainer(run)
    size = settings.optimizer.batch_size
    steps = {
        "our loop": trainer.train_step,
        "bare step": bare_step(networks[0], size, tuple(images.train.images.shape[1:]), device),
        "eager PIL loop": eager_loop(networks[1], images.train, size, device),
    }
    seconds = interleaved(steps, flags.rounds, device)
    run.end("finished")
    bare = seconds["bare step"]
    lines = [f"one step of {settings.network} at batch {size}, {flags.rounds} interleaved rounds, {device}"]
    for name, values in seconds.items():
        ratio = statistics.median(a / b for a, b in zip(values, bare, strict=True))
        speed = size / statistics.median(values)
        lines.append(f"{name:<16} {statistics.median(values):8.4f} s  {speed:8.1f} images/s  {ratio:6.3f} x bare")
    lines.append(f"peak memory {peak_memory(device) / 2**20:.0f} MB")
    return lines


def _sampler_table(settings: TrainFlags, device: torch.device) -> list[str]:
    images = _RandomImages().load()
    spec = build_spec(settings, images, fit_space(settings, images, fingerprint(images)).space)
    denoiser = spec.denoiser(spec.build_network().to(device).eval().requires_grad_(False))
    labels = [index % spec.classes for index in range(SAMPLED)]
    lines = [f"{'sampler':<14} {'steps':>5} {'NFE':>5} {'s/image':>9}   ({SAMPLED} images, {device})"]
    for name in SAMPLERS:
        for steps in SAMPLER_STEPS:
            sampling = Sampling(name, steps)
            started = time.perf_counter()
            (batch,) = generate(denoiser, spec.space, sampling, SAMPLED, labels, spec.classes, 0, device, SAMPLED)
            each = (time.perf_counter() - started) / SAMPLED
            lines.append(f"{name:<14} {steps:>5} {batch.nfe:>5g} {each:>9.5f}")
    return lines


def main(argv: list[str]) -> None:
    flags = parse(argv, BenchFlags(), "bench", "Measure the loop and the samplers. Prints the table's path.")
    check_positive(flags, "rounds")
    settings = parse(gather(["--recipe", flags.recipe], "train_flow"), FLOW, "bench", "")
    settings = complete(resolve(replace(settings, run=replace(settings.run, device=flags.device))))
    device = torch.device(settings.run.device)
    build.prepare_device(device)
    with TemporaryDirectory() as folder:
        lines = [*_training_table(flags, settings, Path(folder), device), "", *_sampler_table(settings, device)]
    text = "\n".join([f"torch {torch.__version__}, {torch.get_num_threads()} threads", *lines]) + "\n"
    write_text(Path(flags.out), text)
    print(text, file=sys.stderr)
    print(flags.out)


if __name__ == "__main__":
    run_command(main)
