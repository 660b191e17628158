"""The training loop, for every objective.

Random numbers are functions of (seed, step), so a resumed run gives the same result as an uninterrupted run. Steps do
not wait for the device: losses are read every few steps. After a non-finite gradient, the weights no longer change, and
the next check ends the run. All ranks share each batch and take the same decisions. Rank 0 writes the files.
"""

import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from models import distributed, processes
from models.devices import peak_memory
from models.learning_rate import OptimizerSettings
from models.processes import process_age
from models.progress import progress
from models.runs import checkpoints
from models.runs.run import Run
from models.training.budget import Budget
from models.training.clock import SharedClock
from models.training.interrupts import Interrupted, Interrupts
from models.training.log import TrainingLog
from models.training.objectives import Objective, TestLoss
from models.training.reporting import ReportSettings
from models.training.stepper import BatchSource, Stepper

READ_EVERY = 20
# Steps between EMA updates. Weights change little in four steps, and an update takes 2 % of a small network's step.
AVERAGE_EVERY = 4
# Kinds of work after a step. An evaluation also logs a row.
EVALUATION, ROW, SHEET, CHECKPOINT = "evaluation", "row", "sheet", "checkpoint"
# Pictures of a finished run that are also added to the board.
FINAL_PICTURES = ("final_samples/grid.png", "denoising_steps/*.png", "latent_space/*.png", "forward_noising.png")


@dataclass(frozen=True)
class TrainSettings:
    """Settings of the loop. seed: for all random numbers. compile: compile the network with torch.compile.

    best_by: the column of metrics.csv whose minimum marks the best checkpoint. obstacle: why steps are not recorded as
    a CUDA graph, None if they are.
    """

    optimizer: OptimizerSettings
    budget: Budget
    report: ReportSettings
    seed: int
    compile: bool
    best_by: str = "test_loss"
    obstacle: str | None = None


class Trainer:
    """The state of a run, and the steps that change it."""

    def __init__(
        self,
        objective: Objective,
        network: nn.Module,
        batches: BatchSource,
        settings: TrainSettings,
        run: Run,
        facts: dict[str, Any],
        device: torch.device,
        synchronize: Callable[[], None] = distributed.barrier,
    ):
        """Build the state. facts: stored in every checkpoint. synchronize: a barrier, called by all ranks at the same
        steps."""
        self.objective, self.settings, self.run, self.facts, self.device = objective, settings, run, facts, device
        self.batches, self.synchronize = batches, synchronize
        self.network = network.to(device).train()
        optimizer, report = settings.optimizer, settings.report
        self.log = TrainingLog(run, objective, optimizer.batch_size, device, report.log_every, facts.get("config", {}))
        self.stepper = Stepper(
            objective,
            self.network,
            batches,
            optimizer,
            settings.seed,
            settings.compile,
            self.log.loss_sums,
            settings.obstacle,
            run.log,
        )
        self.ema, self.optimizer = self.stepper.ema, self.stepper.optimizer
        works = EVALUATION, SHEET, CHECKPOINT
        between = report.epochs_between(len(batches) / optimizer.batch_size)
        self.epochs_between = dict(zip(works, between, strict=True))
        self.total_steps = settings.budget.steps(len(batches), optimizer.batch_size)
        self.step, self.clock = 0, SharedClock()
        self.averaged_progress = 0.0
        self.best_loss, self.worse = float("inf"), 0
        self.saved_step = -1
        self.due: list[str] = []

    @property
    def epoch(self) -> float:
        return self.step * self.settings.optimizer.batch_size / len(self.batches)

    @property
    def seconds(self) -> float:
        """Seconds of training, the same in all processes."""
        return self.clock.seconds

    @property
    def progress(self) -> float:
        """Share of the budget that is spent, 0..1."""
        return self.settings.budget.spent(self.total_steps, self.step, self.seconds)

    def train(self, interrupts: Interrupts) -> None:
        """Train until the budget or the patience is spent. After a signal, save a checkpoint and raise Interrupted."""
        wall_clock = self.settings.budget.wall_clock
        if processes.is_rank_zero():
            self.log.open_board(self.settings.report.logger, self.step)
        ended = time.perf_counter() - (process_age() if wall_clock else 0)
        with progress("", 1, "percent", lines=False) as advance:
            shown, compiling = 0.0, self.settings.compile
            stop = self.progress < 1 and self.do_due()  # work of the step at which the run was interrupted
            while self.progress < 1 and not stop:
                # Wall-clock time includes all work since the last step: start-up, evaluation, pictures, saving.
                started, epoch = ended if wall_clock else time.perf_counter(), self.epoch
                with progress("compiling", None) if compiling else nullcontext():
                    self.train_step()
                compiling = False
                self.due = [work for work, every in self.epochs_between.items() if _due(every, epoch, self.epoch)]
                # self.seconds is the same on all ranks, so all ranks take the same decision.
                if EVALUATION not in self.due and self.log.row_due(self.step, self.seconds, self.progress):
                    self.due.insert(0, ROW)
                if self.step % READ_EVERY == 0 or self.due:
                    self.check()  # waits for the queued steps, whose time is training time
                    self.run.note(**self._position())
                    advance(self.progress - shown, self.log.describe(self.step, self.seconds))
                    shown = self.progress
                ended = time.perf_counter()
                if signal := self.clock.advance(ended - started, interrupts.signal or 0, agree=bool(self.due)):
                    self.save()
                    raise Interrupted(signal)
                stop = self.progress < 1 and self.do_due()
            ended = time.perf_counter()
            self.check()
            self.clock.advance(time.perf_counter() - ended, 0, agree=True)
            self.finish()

    def do_due(self) -> bool:
        """Do the work that is due after a step. Returns True to stop early. A checkpoint stores the work still due."""
        stop = False
        while self.due and not stop:
            work = self.due.pop(0)
            if work == EVALUATION:
                stop = self.evaluate()
            elif work == ROW:
                self.write_row()
            elif work == SHEET:
                self.draw()
            else:
                self.save()
        return stop

    def train_step(self) -> None:
        """Take one optimizer step, and update the EMA every few steps."""
        self.stepper.take(self.step, self.progress)
        self.step += 1
        if self.step % AVERAGE_EVERY == 0 or self.settings.optimizer.ema == 0:
            self.average()

    def timed_step(self) -> None:
        """Take a step and count its time as `train` does, for benchmarks."""
        started = time.perf_counter()
        self.train_step()
        if self.step % READ_EVERY == 0:
            self.check()
        self.clock.advance(time.perf_counter() - started, 0)

    def average(self) -> None:
        """Update the EMA. Its decay depends on the share of the run since the last update."""
        if self.progress > self.averaged_progress:
            self.stepper.average(self.progress - self.averaged_progress)
            self.averaged_progress = self.progress

    def check(self) -> None:
        """Wait for the device and for all ranks.

        Raises FloatingPointError if a gradient was not finite; the weights have not changed since. Raises OSError if
        the run folder cannot be written, RuntimeError if a rank has ended.
        """
        self.synchronize()
        self.run.check()
        if float(self.stepper.found_inf) > 0:
            raise FloatingPointError(
                f"the gradient was not finite at or shortly before step {self.step}; earlier checkpoints are good: "
                "start a new run, from scratch or with init_from, with a lower lr, a lower clip or precision float32"
            )

    def evaluate(self) -> bool:
        """Log a row with the test loss. Save a checkpoint if the value of `best_by` in this row is the lowest so far.

        Returns True to stop early.
        """
        self.check()
        with self.log.timed("evaluation"):
            tested = distributed.run_on_rank_zero(lambda: self.objective.evaluate(self.ema.network))
        row = self.write_row(tested)
        self.run.update(test_loss=row["test_loss"])
        best_by, patience = self.settings.best_by, self.settings.budget.patience
        if row[best_by] < self.best_loss:
            self.best_loss, self.worse = row[best_by], 0
            self.save(best=True)
            return False
        self.worse += 1
        stop = 0 < patience <= self.worse
        if stop:
            self.run.log(f"early stop: no better {best_by.replace('_', ' ')} in {self.worse} evaluations")
        return stop

    def write_row(self, tested: TestLoss | None = None) -> dict[str, Any]:
        """Log a row of the training loss and, after an evaluation, of the test loss. Return the row."""
        facts = {"epoch": round(self.epoch, 3), **self._last_step()}
        row = self.log.row(self.step, self.seconds, self.progress, tested, facts)
        self.run.note(**self._position(), loss=row["train_loss"])
        return row

    def _last_step(self) -> dict[str, float]:
        return {"lr": float(self.optimizer.param_groups[0]["lr"]), "grad_norm": float(self.stepper.norm)}

    def draw(self) -> None:
        """Write a sample sheet with the EMA weights, and the loss curves."""
        if not processes.is_rank_zero():
            return
        folder = self.run.folder / "epoch_samples"
        folder.mkdir(exist_ok=True)
        title = f"{self.run.folder.name}, epoch {self.epoch:.1f}, step {self.step}, ema weights"
        with self.log.timed("pictures"):
            path = folder / f"step_{self.step:08d}.png"
            self.objective.draw_progress(self.ema.network, path, title)
            self.log.add_pictures([path], self.step)
            self.log.draw_curves()

    def finish(self) -> None:
        """Write the last row, checkpoint and pictures, and the summary."""
        self.due = []
        if distributed.run_on_rank_zero(lambda: self.log.tested_step != self.step or not self.log.metrics.rows):
            self.average()
            self.evaluate()
        self.save()
        if not processes.is_rank_zero():
            return
        title = f"{self.run.folder.name}, step {self.step}, ema weights"
        with self.log.timed("pictures"):
            note = self.objective.draw_final(self.ema.network, self.run.folder, title, self.seconds)
            if note:
                self.run.log(note)
            pictures = (path for pattern in FINAL_PICTURES for path in sorted(self.run.folder.glob(pattern)))
            self.log.add_pictures(pictures, self.step)
            self.log.draw_curves()
        facts = {
            f"best_{self.settings.best_by}": f"{self.best_loss:.6g}",
            "peak_memory_mb": f"{peak_memory(self.device) / 2**20:.0f}",
            "parameters": sum(p.numel() for p in self.network.parameters()),
        }
        self.log.write_summary(self.step, self.seconds, self.epoch, facts)

    def _position(self) -> dict[str, Any]:
        return {"step": self.step, "total_steps": self.total_steps, "progress": round(self.progress, 4)}

    def save(self, best: bool = False) -> None:
        """Write a checkpoint, unless this step has one and `best` is False. best: this step is the best so far."""
        self.check()
        if self.saved_step == self.step and not best:
            return
        with self.log.timed("checkpoints"):
            tensors = {
                **checkpoints.prefixed("network", self.network.state_dict()),
                **checkpoints.prefixed("ema", self.ema.network.state_dict()),
                **checkpoints.prefixed("optimizer", self._optimizer_tensors()),
                "gathered": distributed.sum_over_ranks(self.log.loss_sums),
            }
            state = {
                "seconds": self.seconds,
                **self.log.state(),
                "ema_updates": self.ema.updates,
                "averaged_progress": self.averaged_progress,
                "best_loss": self.best_loss,
                "worse": self.worse,
                "loss_version": self.objective.version,
                "due": self.due,
                **self._last_step(),
            }
            if processes.is_rank_zero():
                folder, facts = self.run.folder / "checkpoints", {**self.facts, "training": state}
                keep = self.settings.report.keep_checkpoints
                checkpoints.save_checkpoint(folder, self.step, tensors, facts, keep, best)
            self.run.update(**self._position())
            self.saved_step = self.step

    def _optimizer_tensors(self) -> dict[str, Tensor]:
        state = self.optimizer.state_dict()["state"]
        return {f"{index}.{key}": value for index, values in state.items() for key, value in values.items()}

    def restore(self, tensors: dict[str, Tensor], facts: dict[str, Any]) -> None:
        """Restore the state and the step that a checkpoint of this run stores."""
        self.network.load_state_dict(checkpoints.under("network", tensors))
        self.ema.network.load_state_dict(checkpoints.under("ema", tensors))
        optimizer_state: dict[int, dict[str, Tensor]] = {}
        for key, value in checkpoints.under("optimizer", tensors).items():
            index, name = key.split(".", 1)
            optimizer_state.setdefault(int(index), {})[name] = value
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": optimizer_state, "param_groups": groups})
        state = facts["training"]
        self.step = facts["step"]
        self.clock.set(state["seconds"])
        for group in self.optimizer.param_groups:  # The next step replaces this rate. A row that is still due logs it.
            group["lr"] = state.get("lr", group["lr"])
        self.stepper.norm.fill_(state.get("grad_norm", 0.0))
        self.ema.updates = state["ema_updates"]
        # If the run is resumed with a longer budget, its progress is less than before.
        self.averaged_progress = min(state["averaged_progress"], self.progress)
        self.best_loss, self.worse, self.due = state["best_loss"], state["worse"], list(state.get("due", ()))
        self.log.restore(tensors["gathered"], state, self.step)
        self.log.row_spent = min(self.log.row_spent, self.progress)
        changes = self.objective.changes_since(state.get("loss_version", 1))
        if changes and self.settings.best_by == "test_loss":
            self.best_loss, self.worse = float("inf"), 0
        for line in changes:
            self.run.log(line)


def _due(every: float, before: float, after: float) -> bool:
    """Return True if a multiple of `every` epochs lies in (before, after]. Return False if `every` is 0."""
    return every > 0 and int(after / every + 1e-9) > int(before / every + 1e-9)
