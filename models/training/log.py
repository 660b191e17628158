"""The log of a training run: losses summed on the device, rows of metrics.csv, TensorBoard, and the summary."""

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
from models.training.objectives import Objective, TestLoss

COLUMNS = (
    *("step", "epoch", "seconds", "images_per_second", "lr", "grad_norm"),
    *("train_loss", "test_loss", "train_grid_loss"),
)


class TrainingLog:
    """Log that sums losses between rows. It writes each row to metrics.csv, training_log.txt and TensorBoard."""

    def __init__(self, run: Run, objective: Objective, batch_size: int, device: torch.device):
        self.run, self.parts, self.batch_size = run, objective.parts, batch_size
        by_part = [f"{split}_loss_{part}" for split in ("test", "train") for part in objective.parts]
        self.metrics = Metrics(run.folder / "metrics.csv", [*COLUMNS, *by_part, *objective.figures])
        self.board: Any = None
        # Sums (row 0) and counts (row 1) since the last row, of the loss and of each part, on this rank.
        self.loss_sums = torch.zeros(2, 1 + len(objective.parts), device=device)
        self.row_seconds, self.row_step = 0.0, 0
        self.other_seconds = {"evaluation": 0.0, "pictures": 0.0, "checkpoints": 0.0}

    def open_board(self, step: int) -> None:
        """Also write TensorBoard files. Values that an interrupted run wrote there after `step` are hidden."""
        from torch.utils.tensorboard.writer import SummaryWriter

        self.board = SummaryWriter(str(self.run.folder / "tensorboard"), purge_step=step + 1)

    @contextmanager
    def timed(self, work: str) -> Iterator[None]:
        """Add the duration of the block to `other_seconds[work]`, which is not training time."""
        started = time.perf_counter()
        yield
        self.other_seconds[work] += time.perf_counter() - started

    def describe(self, step: int, seconds: float) -> str:
        """Return step, mean loss and speed since the last row, for the progress bar. Waits for the device."""
        loss, count = self.loss_sums[:, 0].tolist()
        speed = (step - self.row_step) * self.batch_size / max(seconds - self.row_seconds, 1e-9)
        return f"step {step}  loss {loss / max(count, 1):.4f}  {speed:.0f} images/s"

    def row(self, step: int, seconds: float, tested: TestLoss, facts: Mapping[str, Any]) -> dict[str, Any]:
        """Log a row and reset the sums. tested: the evaluation, the same on all ranks. facts: epoch, lr, grad_norm."""
        sums, counts = distributed.sum_over_ranks(self.loss_sums).tolist()
        images, elapsed = (step - self.row_step) * self.batch_size, seconds - self.row_seconds
        self.loss_sums.zero_()
        self.row_seconds, self.row_step = seconds, step
        row = {
            "step": step,
            "seconds": round(seconds, 2),
            "images_per_second": images / elapsed if elapsed > 0 else None,
            **facts,
            "train_loss": sums[0] / max(counts[0], 1),
            "test_loss": tested.test,
            "train_grid_loss": tested.train,
            **{f"test_loss_{part}": value for part, value in zip(self.parts, tested.parts, strict=True)},
            **{f"train_loss_{part}": sums[k] / counts[k] for k, part in enumerate(self.parts, 1) if counts[k]},
            **(tested.figures or {}),
        }
        if processes.is_rank_zero():
            self.metrics.add(row)
        self.run.log(
            f"epoch {row['epoch']:.2f}  step {step}  train {row['train_loss']:.4f}  test {row['test_loss']:.4f} "
            f"(gap {row['test_loss'] - row['train_grid_loss']:+.4f})  lr {row['lr']:.2e}  "
            f"{row['images_per_second'] or 0:.0f} images/s  {duration(seconds)}"
            + (f"  {tested.note}" if tested.note else "")
        )
        if self.board is not None:
            for name, value in row.items():
                if name != "step" and value is not None:
                    self.board.add_scalar(name, value, step)
            self.board.flush()
        return row

    def draw_curves(self) -> None:
        """Draw the losses of all rows."""
        draw_loss_curves(self.metrics.rows, self.run.folder / "loss_curves.png", self.run.folder.name)

    def write_summary(self, step: int, seconds: float, epoch: float, facts: Mapping[str, Any]) -> None:
        """Write performance_metrics.txt and the last log line. facts: further lines of the file."""
        others = ", ".join(f"{work} {duration(spent)}" for work, spent in self.other_seconds.items())
        self.run.log(f"trained {step} steps in {duration(seconds)}; {others}")
        images, last = step * self.batch_size, self.metrics.rows[-1]
        lines = {
            "steps": step,
            "epochs": f"{epoch:.2f}",
            "images": images,
            "training_seconds": f"{seconds:.1f}",
            **{f"{work}_seconds": f"{spent:.1f}" for work, spent in self.other_seconds.items()},
            "images_per_second": f"{images / max(seconds, 1e-9):.1f}",
            "final_train_loss": last["train_loss"],
            "final_test_loss": last["test_loss"],
            **facts,
        }
        text = "".join(f"{key}: {value}\n" for key, value in lines.items())
        write_text(self.run.folder / "performance_metrics.txt", text)

    def state(self) -> dict[str, Any]:
        """Return the values that a checkpoint stores beside the loss sums."""
        return {"row_seconds": self.row_seconds, "row_step": self.row_step}

    def restore(self, loss_sums: Tensor, state: Mapping[str, Any], step: int) -> None:
        """Restore the log at a checkpoint. loss_sums: sums over all ranks of the run that wrote it."""
        self.row_seconds, self.row_step = state["row_seconds"], state["row_step"]
        if processes.is_rank_zero():
            self.loss_sums.copy_(loss_sums)
            self.metrics.cut_after(step)
