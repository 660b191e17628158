"""THE training loop: anything with a loss trains here. It reads in one sitting.

Every random number is a function of (seed, step), so a run taken up from a checkpoint repeats what it would have
done. The device is asked for nothing per step: losses gather there and are read every few steps, and a gradient
that is not finite freezes the weights there before it is noticed here. Several processes share every batch and take
every decision alike; the first of them writes.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from models import distributed, processes
from models.devices import peak_memory
from models.learning_rate import OptimizerSettings
from models.optim import build_optimizer
from models.processes import process_age
from models.randomness import StepRandomness
from models.runs import checkpoints
from models.runs.run import Run
from models.training.budget import Budget
from models.training.display import ProgressBar
from models.training.ema import EMA
from models.training.interrupts import Interrupted, Interrupts
from models.training.log import TrainingLog
from models.training.objectives import Objective
from models.training.reporting import ReportSettings

READ_EVERY = 20
# Weights move little in four steps, and touching all of them costs 2 % of a step of a small network.
AVERAGE_EVERY = 4

BatchAt = Callable[[int], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class TrainSettings:
    """Settings of the loop.

    seed: of every random number. compile: the network, with torch.compile. best_by: column of metrics.csv whose least
    value marks the best checkpoint.
    """

    optimizer: OptimizerSettings
    budget: Budget
    report: ReportSettings
    seed: int
    compile: bool
    best_by: str = "test_loss"


class Trainer:
    """The state of one run and the steps that move it."""

    def __init__(
        self,
        objective: Objective,
        network: nn.Module,
        batch_at: BatchAt,
        dataset_size: int,
        settings: TrainSettings,
        run: Run,
        facts: dict[str, Any],
        device: torch.device,
        meet: Callable[[], None] = distributed.meet,
    ):
        """batch_at(step): this process's share of the batch, uint8 images and labels on the device. facts: what a
        checkpoint says besides its tensors. meet: called by all processes at the same steps, every few."""
        self.objective, self.settings, self.run, self.facts, self.device = (
            objective,
            settings,
            run,
            facts,
            device,
        )
        self.batch_at, self.dataset_size, self.meet = batch_at, dataset_size, meet
        self.network = network.to(device).train()
        self.ema = EMA(self.network, settings.optimizer.ema)
        self.optimizer = build_optimizer(self.network, settings.optimizer)
        self.parameters = list(self.network.parameters())
        self.parallel = distributed.parallel(self.network)
        fast = cast(nn.Module, torch.compile(self.parallel)) if settings.compile else self.parallel
        self.loss = objective.loss_of(fast)
        self.log = TrainingLog(run, objective, settings.optimizer.batch_size, device)
        self.total_steps = settings.budget.steps(dataset_size, settings.optimizer.batch_size)
        self.step, self.seconds = 0, 0.0
        self.averaged_progress = 0.0
        self.best_loss = float("inf")
        self.worse = 0
        # Whether a gradient was not finite, and the norm of the last one.
        self.broken, self.norm = (torch.zeros((), dtype=torch.float32, device=device) for _ in range(2))
        self.saved: tuple[int, Path | None] | None = None

    # -- budget ---------------------------------------------------------------------------------------------------

    @property
    def epoch(self) -> float:
        return self.step * self.settings.optimizer.batch_size / self.dataset_size

    @property
    def progress(self) -> float:
        """The share of the budget that is spent, 0..1."""
        return self.settings.budget.spent(self.total_steps, self.step, self.seconds)

    # -- one step -------------------------------------------------------------------------------------------------

    def train_step(self) -> None:
        """One optimizer step on the global batch, this process's share of it in `accumulate` parts."""
        settings, seed, progress = self.settings.optimizer, self.settings.seed, self.progress
        images, labels = self.batch_at(self.step)
        for group in self.optimizer.param_groups:
            group["lr"] = settings.learning_rate(self.step, progress)
        first, end = processes.rank_share(settings.batch_size)
        bounds = [first + round(part * (end - first) / settings.accumulate) for part in range(settings.accumulate + 1)]
        for start, stop in pairwise(bounds):
            randomness = StepRandomness(seed, self.step, settings.batch_size, start, stop, self.device)
            randomness.seed_dropout()
            with nullcontext() if stop == end else distributed.without_sync(self.parallel):
                rows = slice(start - first, stop - first)
                losses = self.loss(images[rows], labels[rows], randomness)
                total = losses.of_images.sum()
                (total * (processes.world_size() / settings.batch_size)).backward()
            self.log.gather(total.detach(), stop - start, losses.parts)
        self.norm = nn.utils.get_total_norm([p.grad for p in self.parameters if p.grad is not None])
        # The fused update skips itself where found_inf is set, and divides by grad_scale on its way: clipping costs no
        # pass of its own, and once a gradient is not finite nothing moves on.
        self.broken = torch.maximum(self.broken, (~self.norm.isfinite()).float())
        optimizer = cast(Any, self.optimizer)
        optimizer.found_inf = self.broken
        optimizer.grad_scale = (self.norm / settings.clip).clamp(min=1).float() if settings.clip > 0 else None
        optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.step += 1
        if self.step % AVERAGE_EVERY == 0 or settings.ema == 0:
            self.average()

    def timed_step(self) -> None:
        """A step and its time as the loop takes them, for those who measure it."""
        started = time.perf_counter()
        self.train_step()
        if self.step % READ_EVERY == 0:
            self.check()
        self.seconds += time.perf_counter() - started

    def average(self) -> None:
        """Moves the EMA by the share of the run since its last move; between moves it is up to three steps behind."""
        if self.progress > self.averaged_progress:
            self.ema.update(self.network, self.progress - self.averaged_progress)
            self.averaged_progress = self.progress

    def check(self) -> None:
        """Waits for the device. Raises FloatingPointError if a gradient was not finite; the weights are as before.

        Raises OSError where the run folder can no longer be written, and RuntimeError where a process is gone: its
        partners' GPUs would wait for it for hours.
        """
        self.meet()
        self.run.check()
        if float(self.broken) > 0:
            raise FloatingPointError(
                f"the gradient was not finite at or shortly before step {self.step}; checkpoints from before "
                "are good: begin anew, perhaps from them (--init_from), with a lower --lr or --clip or in float32"
            )

    # -- the loop -------------------------------------------------------------------------------------------------

    def train(self, interrupts: Interrupts) -> None:
        """Runs to the end of the budget. Raises Interrupted, after a step and a checkpoint, once a signal has come."""
        budget, report = self.settings.budget, self.settings.report
        if report.tensorboard and processes.is_first():
            self.log.open_board(self.step)
        ended = time.perf_counter() - (process_age() if budget.wall_clock else 0)
        with ProgressBar(self.run) as bar:
            while self.progress < 1:
                # By the wall clock a step also takes what came before it: start-up, evaluation, pictures, checkpoints.
                started, epoch = ended if budget.wall_clock else time.perf_counter(), self.epoch
                self.train_step()
                due = [_due(every, epoch, self.epoch) for every in (report.eval_every, report.sample_every)]
                if self.step % READ_EVERY == 0 or any(due):
                    self.check()  # what the device still has queued is training time
                    self.run.note(**self._place())
                    bar.show(self.progress, self.log.describe(self.step, self.seconds))
                ended = time.perf_counter()
                signal, self.seconds = distributed.largest(interrupts.signal or 0, self.seconds + ended - started)
                if signal > 0:
                    self.save()
                    raise Interrupted(int(signal))
                if self.progress < 1:
                    if due[0] and self.record():
                        break
                    if due[1]:
                        self.draw()
                    if _due(report.checkpoint_every, epoch, self.epoch):
                        self.save()
            ended = time.perf_counter()
            self.check()  # what is queued on a GPU is training, too
            (self.seconds,) = distributed.largest(self.seconds + time.perf_counter() - ended)
            self.finish()

    def _place(self) -> dict[str, Any]:
        """Where the run stands, as status.json says it."""
        return {
            "step": self.step,
            "total_steps": self.total_steps,
            "progress": round(self.progress, 4),
        }

    def record(self) -> bool:
        """One row of losses, on the frozen grid too, in every log; saves the best so far. True for an early stop."""
        self.check()
        with self.log.timed("evaluation"):
            tested = distributed.once(lambda: self.objective.evaluate(self.ema.network))
        facts = {
            "epoch": round(self.epoch, 3),
            "lr": self.optimizer.param_groups[0]["lr"],
            "grad_norm": float(self.norm),
        }
        row = self.log.row(self.step, self.seconds, tested, facts)
        self.run.update(**self._place(), loss=row["train_loss"], test_loss=row["test_loss"])
        judged = row[self.settings.best_by]
        if judged < self.best_loss:
            self.best_loss, self.worse = judged, 0
            if (path := self.save()) is not None:
                checkpoints.mark_best(self.run.folder / "checkpoints", path)
            return False
        self.worse += 1
        if 0 < self.settings.budget.patience <= self.worse:
            self.run.log(f"early stop: no better {self.settings.best_by.replace('_', ' ')} in {self.worse} evaluations")
            return True
        return False

    def draw(self) -> None:
        """A sample sheet of this moment, from the EMA weights."""
        if not processes.is_first():
            return
        folder = self.run.folder / "epoch_samples"
        folder.mkdir(exist_ok=True)
        title = f"{self.run.folder.name}, epoch {self.epoch:.1f}, step {self.step}, ema weights"
        with self.log.timed("pictures"):
            self.objective.draw_progress(self.ema.network, folder / f"step_{self.step:08d}.png", title)
            self.log.draw()

    def finish(self) -> None:
        """The last row, checkpoint and pictures, and the summary."""
        self.average()
        if distributed.once(lambda: self.log.row_step != self.step or not self.log.metrics.rows):
            self.record()
        self.save()
        if not processes.is_first():
            return
        title = f"{self.run.folder.name}, step {self.step}, ema weights"
        with self.log.timed("pictures"):
            self.objective.draw_final(self.ema.network, self.run.folder, title)
            self.log.draw()
        facts = {
            f"best_{self.settings.best_by}": f"{self.best_loss:.6g}",
            "peak_memory_mb": f"{peak_memory(self.device) / 2**20:.0f}",
            "parameters": sum(p.numel() for p in self.parameters),
        }
        self.log.summarise(self.step, self.seconds, self.epoch, facts)

    # -- checkpoints ----------------------------------------------------------------------------------------------

    def save(self) -> Path | None:
        """Writes all that resuming needs, in the first process; nothing if this step is saved already."""
        folder = self.run.folder / "checkpoints"
        self.check()
        if self.saved is not None and self.saved[0] == self.step:
            return self.saved[1]
        with self.log.timed("checkpoints"):
            tensors = {
                **checkpoints.prefixed("network", self.network.state_dict()),
                **checkpoints.prefixed("ema", self.ema.network.state_dict()),
                **checkpoints.prefixed("optimizer", self._optimizer_tensors()),
                "gathered": distributed.total(self.log.gathered),
            }
            facts = {
                **self.facts,
                "training": {
                    "seconds": self.seconds,
                    **self.log.state(),
                    "ema_updates": self.ema.updates,
                    "averaged_progress": self.averaged_progress,
                    "best_loss": self.best_loss,
                    "worse": self.worse,
                },
            }
            path = None
            keep = self.settings.report.keep_checkpoints
            if processes.is_first():
                path = checkpoints.save_checkpoint(folder, self.step, tensors, facts, keep)
            self.run.update(**self._place())
            self.saved = self.step, path
        return path

    def _optimizer_tensors(self) -> dict[str, Tensor]:
        state = self.optimizer.state_dict()["state"]
        return {f"{index}.{key}": value for index, values in state.items() for key, value in values.items()}

    def restore(self, tensors: dict[str, Tensor], facts: dict[str, Any]) -> None:
        """Goes back to a checkpoint of this run, at its exact step."""
        self.network.load_state_dict(checkpoints.under("network", tensors))
        self.ema.network.load_state_dict(checkpoints.under("ema", tensors))
        optimizer_state: dict[int, dict[str, Tensor]] = {}
        for key, value in checkpoints.under("optimizer", tensors).items():
            index, name = key.split(".", 1)
            optimizer_state.setdefault(int(index), {})[name] = value
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": optimizer_state, "param_groups": groups})
        kept = facts["training"]
        self.step, self.seconds = facts["step"], kept["seconds"]
        self.ema.updates = kept["ema_updates"]
        self.averaged_progress = min(kept["averaged_progress"], self.progress)  # a longer budget sets progress back
        self.best_loss, self.worse = kept["best_loss"], kept["worse"]
        self.log.restore(tensors["gathered"], kept, self.step)


def _due(every: float, before: float, after: float) -> bool:
    """Whether a multiple of `every` epochs lies in (before, after]; never for 0."""
    return every > 0 and int(after / every + 1e-9) > int(before / every + 1e-9)
