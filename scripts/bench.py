"""Benchmark the training loop and the samplers. Step times are compared as ratios measured in one process.

The table `training` compares our training step with a bare step of the same network and with an eager loop.
`streaming` compares our step on streamed JPEG files with our step on images in memory. `sampling` has the seconds per
image of every sampler. Two tables are measured only on request: `start` has the seconds until the first training step;
`gpu` compares memory layouts, precisions, batch sizes and CUDA graphs. The images are random, except in `start` and
with --images. Their content affects only the decoding time.
"""

if not __package__:
    __import__("cli")  # says what to type, and exits

import copy
import io
import math
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal, NamedTuple, cast, get_args
from zipfile import ZipFile

import numpy as np
import psutil
import torch
from torch import nn
from torch.utils.data import DataLoader

import data
from models import devices
from models.devices import peak_memory
from models.diffusion.denoiser import in_autocast
from models.diffusion.samplers import SAMPLERS
from models.errors import UserError
from models.generation import Sampling, generate
from models.learning_rate import OptimizerSettings
from models.optim import build_optimizer
from models.progress import progress
from models.ranges import PositiveInt
from models.runs.files import write_text
from models.runs.run import Run
from scripts.cli.arguments import parse_flags, split_at_dashes
from scripts.cli.command import run_command
from scripts.cli.flags import TrainFlags, usual_workers
from scripts.tasks.denoising import assemble, build_spec, fit_space
from scripts.tasks.gpu_table import BATCHES, gpu_table
from scripts.tasks.measuring import settings_to_measure
from scripts.tasks.peers import PILDataset
from scripts.tasks.sampling import make_folder
from scripts.tasks.start_table import start_table

IMAGES = 4096
SAMPLER_STEPS = (10, 24)
SAMPLED = 64
# Steps per turn. A multiple of 4, because the loop updates its EMA every 4 steps. The first steps of a turn are not
# typical: workers have read batches ahead, and caches hold another loop's data. In TURN steps, both effects are small.
TURN = 12
DESCRIPTION = """Measure the training loop and the samplers. Prints the path of the tables.

Flags after -- are for train_flow, as in: -- --compile --network.width 8"""
Table = Literal["training", "streaming", "sampling", "gpu", "start"]


@dataclass(frozen=True)
class BenchFlags:
    """Settings of `bench`."""

    recipe: str = "mnist"
    """Recipe of train_flow. It sets the network, optimizer and batch size."""
    tables: tuple[Table, ...] = ("training", "streaming", "sampling")
    """Tables to measure. gpu and start are not measured by default. gpu takes three to four minutes. start has the
    seconds until the first training step."""
    rounds: PositiveInt = 15
    """Number of interleaved rounds. The median over the rounds is reported."""
    images: str = ""
    """Folder or zip of images to stream. Default: random JPEGs of 32x32."""
    workers: PositiveInt = field(default_factory=usual_workers)
    """Processes that decode streamed images."""
    batches: tuple[PositiveInt, ...] = BATCHES
    """Batch sizes of the gpu table."""
    device: str = "auto"
    """auto, cpu, cuda, mps."""
    out: str = "experiments/bench.txt"
    """Text file for the tables."""


def _random_images() -> data.ImageData:
    rng = np.random.default_rng(0)
    images = torch.from_numpy(rng.integers(0, 256, (IMAGES, 1, 28, 28), dtype=np.uint8))
    split = data.Split(images, torch.from_numpy(rng.integers(0, 10, IMAGES)))
    return data.ImageData("random", split, split, class_names=tuple("0123456789"), flips=False)


def eager_loop(network: nn.Module, split: data.Split, settings: TrainFlags, device: torch.device) -> Callable[[], None]:
    """Return the training step of a typical small repository.

    A DataLoader reads images through PIL. The optimizer is plain Adam, the loss is read at every step, and the EMA is
    updated parameter by parameter.
    """
    from torchvision import transforms

    images = PILDataset(split, [transforms.ToTensor(), transforms.Normalize((0.5,), (0.5,))])
    loader = DataLoader(images, settings.optimizer.batch_size, shuffle=True, drop_last=True)
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
        with in_autocast(device, devices.autocast_dtype(settings.run.precision)):
            output = network((1 - level) * clean + level * noise, t, label)
        loss = nn.functional.mse_loss(output.float(), noise - clean)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        loss.item()
        with torch.no_grad():
            for averaged, current in zip(average.parameters(), network.parameters(), strict=True):
                averaged.mul_(0.999).add_(current, alpha=0.001)

    return step


def bare_step(
    network: nn.Module, settings: TrainFlags, shape: tuple[int, ...], device: torch.device
) -> Callable[[], None]:
    """Return a step that runs forward pass, backward pass and optimizer on one fixed batch."""
    batch_size = settings.optimizer.batch_size
    optimizer = build_optimizer(network, OptimizerSettings(optimizer=settings.optimizer.optimizer, lr=1e-4))
    network = cast(nn.Module, torch.compile(network)) if settings.run.compile == "on" else network
    noisy, target = (torch.randn(batch_size, *shape, device=device) for _ in range(2))
    t, label = torch.rand(batch_size, device=device), torch.randint(0, 10, (batch_size,), device=device)

    def step() -> None:
        with in_autocast(device, devices.autocast_dtype(settings.run.precision)):
            output = network(noisy, t, label)
        nn.functional.mse_loss(output.float(), target).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


class StepTime(NamedTuple):
    """Mean wall-clock seconds and CPU seconds of a step in this process."""

    seconds: float
    processor: float


def interleaved(steps: dict[str, Callable[[], None]], rounds: int, device: torch.device) -> dict[str, list[StepTime]]:
    """Return the mean step time of each turn, by name.

    A turn calls the same step TURN times. A round has one turn of each step. An extra first round is a warm-up and is
    not returned. The order of the turns changes from round to round.
    """
    turns: dict[str, list[StepTime]] = {name: [] for name in steps}
    for index in range(rounds + 1):
        order = list(steps)[index % len(steps) :] + list(steps)[: index % len(steps)]
        for name in order[:: 1 if index % 2 else -1]:
            started, spent = time.perf_counter(), time.process_time()
            for _ in range(TURN):
                steps[name]()
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            ended = StepTime((time.perf_counter() - started) / TURN, (time.process_time() - spent) / TURN)
            if index >= 1:
                turns[name].append(ended)
    return turns


def _step_lines(turns: dict[str, list[StepTime]], base: str, batch_size: int) -> dict[str, str]:
    """Return one line per step: median time, and median ratio to the step `base` in the same round."""
    lines = {}
    for name, times in turns.items():
        ratio = statistics.median(a.seconds / b.seconds for a, b in zip(times, turns[base], strict=True))
        step = statistics.median(turn.seconds for turn in times)
        lines[name] = f"{name:<16} {step:8.4f} s  {batch_size / step:8.1f} images/s  {ratio:6.3f} x {base}"
    return lines


def _training_table(flags: BenchFlags, settings: TrainFlags, folder: Path, device: torch.device) -> list[str]:
    images = _random_images()
    prepared = assemble(settings, images)
    networks = [copy.deepcopy(prepared.network).train() for _ in range(2)]
    run = Run.create(folder, "bench", "random", None)
    trainer = prepared.trainer(run)
    size = settings.optimizer.batch_size
    steps = {
        "our loop": trainer.timed_step,
        "bare step": bare_step(networks[0], settings, tuple(images.train.images.shape[1:]), device),
        "eager PIL loop": eager_loop(networks[1], images.train, settings, device),
    }
    turns = interleaved(steps, flags.rounds, device)
    run.end("finished")
    parameters = sum(weight.numel() for weight in prepared.network.parameters()) / 1e6
    compiled = ", compiled except for the eager loop" if settings.run.compile == "on" else ""
    lines = [
        f"one step of {settings.network} of {parameters:.2f} M parameters{compiled}, {settings.optimizer.optimizer}, "
        f"batch {size}, {flags.rounds} interleaved rounds of {TURN} steps, {device}, {settings.run.precision}",
        *_step_lines(turns, "bare step", size).values(),
    ]
    return [*lines, f"peak memory {peak_memory(device) / 2**20:.0f} MB"]


def _streaming_table(flags: BenchFlags, settings: TrainFlags, folder: Path, device: torch.device) -> list[str]:
    path = Path(flags.images or _random_jpegs(folder)).absolute()
    steps, runs = {}, []
    for name, limit in (("in memory", math.inf), ("streamed", 0.0)):
        images = data.load("folder", {"path": str(path), "flips": True}, path.parent, limit)
        runs.append(Run.create(folder, "bench", "folder", None))
        steps[name] = assemble(settings, images).trainer(runs[-1]).timed_step
    turns = interleaved(steps, flags.rounds, device)
    decoding = sum(sum(child.cpu_times()[:2]) for child in psutil.Process().children())
    for run in runs:
        run.end("finished")
    of_workers = {"in memory": 0.0, "streamed": decoding / TURN / (flags.rounds + 1)}
    lines = [
        f"one step on {len(images.train)} images of {path.name}, {settings.run.workers} workers, "
        f"{flags.rounds} interleaved rounds of {TURN} steps, {device}"
    ]
    for name, line in _step_lines(turns, "in memory", settings.optimizer.batch_size).items():
        processor = statistics.median(turn.processor for turn in turns[name]) + of_workers[name]
        lines.append(f"{line}  {processor:8.4f} processor seconds")
    return lines


def _random_jpegs(folder: Path) -> Path:
    from PIL import Image

    rng = np.random.default_rng(0)
    with ZipFile(folder / "random.zip", "w") as archive:
        for number in range(IMAGES):
            memory = io.BytesIO()
            Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(memory, "JPEG")
            archive.writestr(f"{number % 10}/{number}.jpg", memory.getvalue())
    return folder / "random.zip"


def _sampler_table(settings: TrainFlags, device: torch.device) -> list[str]:
    images = _random_images()
    spec = build_spec(settings, images, fit_space(settings, images).space)
    network, precision = spec.build_network().to(device).eval().requires_grad_(False), settings.run.precision
    model = spec.model(network, device, devices.autocast_dtype(precision))
    labels = [index % spec.classes for index in range(SAMPLED)]

    def timed(sampling: Sampling) -> tuple[float, float]:
        started = time.perf_counter()
        (batch,) = generate(model, sampling, SAMPLED, labels, 0, SAMPLED)
        return batch.nfe, (time.perf_counter() - started) / SAMPLED

    lines = [f"{'sampler':<14} {'steps':>5} {'NFE':>5} {'s/image':>9}   ({SAMPLED} images, {device}, {precision})"]
    timed(Sampling("euler", min(SAMPLER_STEPS)))  # Warm-up: the first batch includes the start of the device.
    for name in SAMPLERS:
        for steps in SAMPLER_STEPS:
            nfe, seconds = timed(Sampling(name, steps))
            lines.append(f"{name:<14} {steps:>5} {nfe:>5g} {seconds:>9.5f}")
    return lines


def main(argv: list[str]) -> None:
    argv, further = split_at_dashes(argv)
    flags = parse_flags(argv, BenchFlags(), "bench", DESCRIPTION)
    if not flags.tables:
        raise UserError(f"`tables`: choose from {', '.join(get_args(Table))}")
    words = ["--recipe", flags.recipe, *further, "--device", flags.device, "--workers", str(flags.workers)]
    settings = settings_to_measure(words)
    make_folder(Path(flags.out).parent)
    device = torch.device(settings.run.device)
    devices.prepare_device(device, settings.run.precision)
    devices.keep_freed_memory(device)
    with TemporaryDirectory() as temporary:
        folder = Path(temporary)
        measure: dict[str, Callable[[], list[str]]] = {
            "training": lambda: _training_table(flags, settings, folder, device),
            "streaming": lambda: _streaming_table(flags, settings, folder, device),
            "sampling": lambda: _sampler_table(settings, device),
            "start": lambda: start_table(words, folder),
            "gpu": lambda: gpu_table(words, _random_images(), folder, flags.batches),
        }
        lines = [f"torch {torch.__version__}, {torch.get_num_threads()} threads"]
        for name in flags.tables:
            with progress(f"measuring {name}", None):
                lines += [*measure[name](), ""]
            text = "\n".join(lines) + "\n"
            write_text(Path(flags.out), text)  # An error in a later table must not lose this one.
    print(text, file=sys.stderr)
    print(flags.out)


if __name__ == "__main__":
    run_command(main)
