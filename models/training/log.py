"""The log of a training run: losses summed on the device, rows of metrics.csv, the board, and the summary."""

import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from models import distributed, processes
from models.drawing.figure_files import in_formats
from models.drawing.loss_curves import draw_loss_curves
from models.progress import duration, progress
from models.runs.files import write_text
from models.runs.metrics import Metrics
from models.runs.run import Run
from models.training.boards import Board, open_board
from models.training.objectives import Objective, TestLoss

COLUMNS = (
    *("step", "epoch", "seconds", "images_per_second", "lr", "grad_norm"),
    *("train_loss", "test_loss", "train_grid_loss"),
)

# If log_every is 0, a row is due when the time since the last row reaches ROW_SHARE of the training time so far,
# but at least FEWEST_SECONDS and at most MOST_SECONDS. A row is also due when ROW_SHARE of the budget has been spent
# since the last row.
ROW_SHARE, FEWEST_SECONDS, MOST_SECONDS = 0.05, 3.0, 60.0
TAGS = {  # Tags of columns on the board. `_tag` makes the tags of the other columns.
    "train_loss": "loss/train",
    "test_loss": "loss/test",
    "train_grid_loss": "loss/train_grid",
    "lr": "optimizer/lr",
    "grad_norm": "optimizer/grad_norm",
    "images_per_second": "speed/images_per_second",
    "seconds": "speed/seconds",
    "epoch": "speed/epoch",
}


class TrainingLog:
    """Log that sums losses between rows. It writes each row to metrics.csv, training_log.txt and the board."""

    def __init__(
        self,
        run: Run,
        objective: Objective,
        batch_size: int,
        device: torch.device,
        log_every: int = 0,
        config: Mapping[str, Any] | None = None,
    ):
        """Create the log. config: settings for the board.

        log_every: steps between rows. With 0, rows are due by training time and spent budget; see `row_due`.
        """
        self.run, self.parts, self.batch_size = run, objective.parts, batch_size
        self.picture_format = objective.picture_format
        self.log_every, self.config = log_every, config or {}
        by_part = [f"{split}_loss_{part}" for split in ("test", "train") for part in objective.parts]
        self.metrics = Metrics(run.folder / "metrics.csv", [*COLUMNS, *by_part, *objective.figures])
        self.board: Board | None = None
        # Sums [0] and counts [1] of the loss and of each part since the last logged row, on this rank.
        self.loss_sums = torch.zeros(2, 1 + len(objective.parts), device=device)
        # Seconds, spent budget and step of the last row, and the step of the last row with a test loss, -1 for none.
        self.row_seconds, self.row_spent, self.row_step, self.tested_step = 0.0, 0.0, 0, -1
        self.other_seconds = {"evaluation": 0.0, "pictures": 0.0, "checkpoints": 0.0}

    def open_board(self, name: str, step: int) -> None:
        """Open the board, to which all rows and pictures are then added. name: a key of BOARDS, or "none"."""
        compared = TAGS["train_loss"], TAGS["test_loss"]
        self.board = open_board(name, self.run.folder, self.config, step, compared)

    @contextmanager
    def timed(self, work: str) -> Iterator[None]:
        """Add the duration of the block to `other_seconds[work]`, which is not training time."""
        started = time.perf_counter()
        with progress(work, None):
            yield
        self.other_seconds[work] += time.perf_counter() - started

    def describe(self, step: int, seconds: float) -> str:
        """Return step, mean loss and speed since the last row, for the progress bar. Waits for the device."""
        loss, count = self.loss_sums[:, 0].tolist()
        speed = (step - self.row_step) * self.batch_size / max(seconds - self.row_seconds, 1e-9)
        return f"step {step}  loss {loss / max(count, 1):.4f}  {speed:.0f} images/s"

    def row_due(self, step: int, seconds: float, spent: float) -> bool:
        """Return whether a row of the training loss is due at this step. spent: spent share of the budget."""
        if self.log_every:
            return step % self.log_every == 0
        wait = min(max(ROW_SHARE * seconds, FEWEST_SECONDS), MOST_SECONDS)
        return seconds - self.row_seconds >= wait or spent - self.row_spent >= ROW_SHARE - 1e-9

    def row(
        self, step: int, seconds: float, spent: float, tested: TestLoss | None, facts: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Log a row and reset the sums.

        tested: result of an evaluation, the same on all ranks, or None. facts: epoch, lr, grad_norm.
        """
        sums, counts = distributed.sum_over_ranks(self.loss_sums).tolist()
        images, elapsed = (step - self.row_step) * self.batch_size, seconds - self.row_seconds
        self.loss_sums.zero_()
        self.row_seconds, self.row_spent, self.row_step = seconds, spent, step
        row = {
            "step": step,
            "seconds": round(seconds, 2),
            "images_per_second": images / elapsed if elapsed > 0 else None,
            **facts,
            "train_loss": sums[0] / max(counts[0], 1),
            **{f"train_loss_{part}": sums[k] / counts[k] for k, part in enumerate(self.parts, 1) if counts[k]},
        }
        test = note = ""
        if tested is not None:
            self.tested_step = step
            row |= {"test_loss": tested.test, "train_grid_loss": tested.train, **(tested.figures or {})}
            row |= {f"test_loss_{part}": value for part, value in zip(self.parts, tested.parts, strict=True)}
            test = f"  test {tested.test:.4f} (gap {tested.test - tested.train:+.4f})"
            note = f"  {tested.note}" if tested.note else ""
        if processes.is_rank_zero():
            self.metrics.add(row)
        self.run.log(
            f"epoch {row['epoch']:.2f}  step {step}  train {row['train_loss']:.4f}{test}  lr {row['lr']:.2e}  "
            f"{row['images_per_second'] or 0:.0f} images/s  {duration(seconds)}{note}"
        )
        if self.board is not None:
            shown = {_tag(name): value for name, value in row.items() if name != "step" and value is not None}
            self.board.add_scalars(shown, step)
        return row

    def add_pictures(self, paths: Iterable[Path], step: int) -> None:
        """Add picture files to the board, if there is one. Tags: epoch_samples for sheets, final/NAME for others."""
        if self.board is None:
            return
        for path in paths:
            with Image.open(path) as picture:
                pixels = np.asarray(picture.convert("RGB"))
            folder = path.parent.relative_to(self.run.folder).name
            sheet = folder == "epoch_samples"  # All sheets have one tag, so that a board shows them as a series.
            self.board.add_picture(folder if sheet else f"final/{path.stem}", pixels, step)

    def draw_curves(self) -> None:
        """Draw the losses of all rows."""
        for path in in_formats(self.run.folder / "loss_curves.png", self.picture_format):
            draw_loss_curves(self.metrics.rows, path, self.run.folder.name)

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

    def close_board(self) -> None:
        if self.board is not None:
            self.board.close()

    def state(self) -> dict[str, Any]:
        """Return the values of the log that a checkpoint stores in addition to the loss sums."""
        names = ("row_seconds", "row_spent", "row_step", "tested_step")
        return {**{name: getattr(self, name) for name in names}, "other_seconds": dict(self.other_seconds)}

    def restore(self, loss_sums: Tensor, state: Mapping[str, Any], step: int) -> None:
        """Restore the log from a checkpoint. loss_sums: sums over all ranks. step: remove the rows after this step."""
        self.row_seconds, self.row_step = state["row_seconds"], state["row_step"]
        # Checkpoints of older versions lack row_spent and tested_step. All rows of their runs have a test loss.
        self.row_spent, self.tested_step = state.get("row_spent", 0.0), state.get("tested_step", self.row_step)
        self.other_seconds |= state.get("other_seconds", {})
        if processes.is_rank_zero():
            self.loss_sums.copy_(loss_sums)
            self.metrics.cut_after(step)


def _tag(column: str) -> str:
    """Return the tag of a column on the board. The tag begins with its group."""
    for group in ("test_loss", "train_loss", "sample"):
        if column.startswith(f"{group}_"):
            return f"{group}/{column.removeprefix(f'{group}_')}"
    return TAGS[column]
