"""Table of step times on a GPU by memory layout, precision, batch size and mode (eager, recorded, compiled)."""

import gc
import time
from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import NamedTuple

import torch

from data import ImageData
from models import devices
from models.runs.run import Run
from scripts.cli.flags import TrainFlags
from scripts.tasks.denoising import assemble
from scripts.tasks.measuring import settings_to_measure

BATCHES = (128, 512, 2048)
WARM_STEPS = 8  # Warm-up steps, in which kernels are chosen and the step is recorded.
MEASURED_SECONDS = 1.0


class StepTimes(NamedTuple):
    """One row of the table. seconds: per step. first: seconds of all WARM_STEPS warm-up steps. memory: peak bytes."""

    layout: str
    precision: str
    batch_size: int
    mode: str
    seconds: float
    first: float
    memory: int

    def line(self) -> str:
        rate = self.batch_size / self.seconds
        return (
            f"{self.layout:<14} {self.precision:<9} {self.batch_size:>6} {self.mode:<20} "
            f"{1000 * self.seconds:>8.2f} {rate:>10.0f} {self.first:>8.1f} {self.memory / 2**20:>8.0f}"
        )


def gpu_table(words: Sequence[str], images: ImageData, folder: Path, batches: Sequence[int] = BATCHES) -> list[str]:
    """Return the lines of the table. words: arguments of `train_flow`. Each row adds its own flags."""
    device = torch.device(settings_to_measure(words).run.device)
    head = f"{'layout':<14} {'precision':<9} {'batch':>6} {'mode':<20} {'ms/step':>8} {'images/s':>10} {'first s':>8}"
    rows = list(_rows(words, images, folder, device, batches))
    return [f"{head} {'MB':>8}", *(row.line() for row in rows)]


def _rows(
    words: Sequence[str], images: ImageData, folder: Path, device: torch.device, batches: Sequence[int]
) -> Iterator[StepTimes]:
    """Yield all rows. Compiled steps are timed for the fastest layout and precision only, at two batch sizes."""
    gpu = device.type == "cuda"
    modes, precisions = (("eager", "recorded"), ("float32", "bf16")) if gpu else (("eager",), ("float32",))
    rows = []
    for row in product(("contiguous", "channels_last"), precisions, batches, modes):
        rows.append(_measure(words, images, folder, row))
        yield rows[-1]
    best = min((row for row in rows if row.batch_size == max(batches)), key=lambda row: row.seconds)
    # Each compilation takes half a minute.
    for batch_size in sorted({min(batches), max(batches)}) if gpu else ():
        yield _measure(words, images, folder, (best.layout, best.precision, batch_size, "compiled, recorded"))


def _measure(words: Sequence[str], images: ImageData, folder: Path, row: tuple[str, str, int, str]) -> StepTimes:
    layout, precision, batch_size, mode = row
    graph, compiled = ("on" if word in mode else "off" for word in ("recorded", "compiled"))
    flags = f"--precision {precision} --batch_size {batch_size} --graph {graph} --compile {compiled}"
    settings = settings_to_measure([*words, *flags.split()])
    device = torch.device(settings.run.device)
    devices.prepare_device(device, settings.run.precision)
    seconds, first = _time_steps(settings, images, folder, layout)
    memory = devices.peak_memory(device)
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
    return StepTimes(layout, precision, batch_size, mode, seconds, first, memory)


def _time_steps(settings: TrainFlags, images: ImageData, folder: Path, layout: str) -> tuple[float, float]:
    """Return the seconds per step, and the seconds of all WARM_STEPS warm-up steps."""
    prepared = assemble(settings, images)
    if layout == "channels_last":
        prepared.network.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    run = Run.create(folder, "bench", "random", None)
    trainer = prepared.trainer(run)

    def take(steps: int) -> float:
        started = time.perf_counter()
        for _ in range(steps):
            trainer.timed_step()
        trainer.check()  # waits for the device
        return time.perf_counter() - started

    first = take(WARM_STEPS)
    steps = max(1, round(MEASURED_SECONDS / (take(4) / 4)))
    seconds = take(steps) / steps
    run.end("finished")
    return seconds, first
