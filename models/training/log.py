"""What a training says of itself: losses summed on the device, a row of them in every log, and the summary."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from models import distributed, processes
from models.drawing.loss_curves import draw_loss_curves
from models.progress import duration
from models.runs.files import write_text
from models.runs.metrics import Metrics
from models.runs.run import Run
from models.training.display import Board
from models.training.objectives import Objective, TestLoss

COLUMNS = (
    "step",
    "epoch",
    "seconds",
    "images_per_second",
    "lr",
    "grad_norm",
    "train_loss",
    "test_loss",
    "train_grid_loss",
)


class TrainingLog:
    """Sums what steps lose since the last row; one row goes to metrics.csv, the log and TensorBoard alike."""

    def __init__(self, run: Run, objective: Objective, batch_size: int, device: torch.device):
        self.run, self.parts, self.batch_size = run, objective.parts, batch_size
        by_part = [f"{split}_loss_{part}" for split in ("test", "train") for part in objective.parts]
        self.metrics = Metrics(run.folder / "metrics.csv", [*COLUMNS, *by_part, *objective.figures])
        self.board: Board | None = None
        # Sums and counts since the last row, of the loss and of each part, in this process.
        self.gathered = torch.zeros(2, 1 + len(objective.parts), device=device)
        self.row_seconds, self.row_step = 0.0, 0
        self.aside = {"evaluation": 0.0, "pictures": 0.0, "checkpoints": 0.0}

    def open_board(self, step: int) -> None:
        """Writes TensorBoard's files too, from this step on."""
        self.board = Board(self.run.folder / "tensorboard", step)

    def gather(self, loss: Tensor, count: int, parts: Tensor) -> None:
        """Adds the sum of this many images' losses, and the sums and counts of its parts (2, len(parts))."""
        self.gathered[0, 0] += loss
        self.gathered[1, 0] += count
        self.gathered[:, 1:] += parts

    @contextmanager
    def timed(self, what: str) -> Iterator[None]:
        """Adds the block's seconds to what is told apart from training."""
        started = time.perf_counter()
        yield
        self.aside[what] += time.perf_counter() - started

    def describe(self, step: int, seconds: float) -> str:
        """The moment in a few words. Waits for the device."""
        loss, count = self.gathered[:, 0].tolist()
        speed = (step - self.row_step) * self.batch_size / max(seconds - self.row_seconds, 1e-9)
        return f"step {step}  loss {loss / max(count, 1):.4f}  {speed:.0f} images/s"

    def row(self, step: int, seconds: float, tested: TestLoss, facts: Mapping[str, Any]) -> dict[str, Any]:
        """The row since the last one, in every log, and a fresh start of what it sums.

        tested: what the first process measured, in each. facts: epoch, lr and grad_norm.
        """
        sums, counts = distributed.total(self.gathered).tolist()
        images, lasted = (step - self.row_step) * self.batch_size, seconds - self.row_seconds
        self.gathered.zero_()
        self.row_seconds, self.row_step = seconds, step
        row = {
            "step": step,
            "seconds": round(seconds, 2),
            "images_per_second": images / lasted if lasted > 0 else None,
            **facts,
            "train_loss": sums[0] / max(counts[0], 1),
            "test_loss": tested.test,
            "train_grid_loss": tested.train,
            **{f"test_loss_{part}": value for part, value in zip(self.parts, tested.parts, strict=True)},
            **{f"train_loss_{part}": sums[k] / counts[k] for k, part in enumerate(self.parts, 1) if counts[k]},
            **(tested.figures or {}),
        }
        if processes.is_first():
            self.metrics.add(row)
        self.run.log(
            f"epoch {row['epoch']:.2f}  step {step}  train {row['train_loss']:.4f}  test {row['test_loss']:.4f} "
            f"(gap {row['test_loss'] - row['train_grid_loss']:+.4f})  lr {row['lr']:.2e}  "
            f"{row['images_per_second'] or 0:.0f} images/s  {duration(seconds)}"
            + (f"  {tested.note}" if tested.note else "")
        )
        if self.board is not None:
            self.board.write(row)
        return row

    def draw(self) -> None:
        """The rows so far as curves."""
        draw_loss_curves(self.metrics.rows, self.run.folder / "loss_curves.png", self.run.folder.name)

    def summarise(self, step: int, seconds: float, epoch: float, facts: Mapping[str, Any]) -> None:
        """performance_metrics.txt, and a line of the log. facts: what only the trainer knows."""
        beside = ", ".join(f"{what} {duration(spent)}" for what, spent in self.aside.items())
        self.run.log(f"trained {step} steps in {duration(seconds)}; beside it: {beside}")
        images, last = step * self.batch_size, self.metrics.rows[-1]
        lines = {
            "steps": step,
            "epochs": f"{epoch:.2f}",
            "images": images,
            "training_seconds": f"{seconds:.1f}",
            **{f"{what}_seconds": f"{spent:.1f}" for what, spent in self.aside.items()},
            "images_per_second": f"{images / max(seconds, 1e-9):.1f}",
            "final_train_loss": last["train_loss"],
            "final_test_loss": last["test_loss"],
            **facts,
        }
        text = "".join(f"{key}: {value}\n" for key, value in lines.items())
        write_text(self.run.folder / "performance_metrics.txt", text)

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps besides `gathered`."""
        return {"row_seconds": self.row_seconds, "row_step": self.row_step}

    def restore(self, gathered: Tensor, kept: Mapping[str, Any], step: int) -> None:
        """Goes back to what a checkpoint of this step kept; `gathered` is the sum over its processes."""
        self.row_seconds, self.row_step = kept["row_seconds"], kept["row_step"]
        if processes.is_first():
            self.gathered.copy_(gathered)
            self.metrics.cut_after(step)
