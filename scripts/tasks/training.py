"""Code shared by the training tasks: build a `Trainer` from flags and run it, new or resumed.

Each task builds its objective. Run folder, resuming, checks and final state are the same for all tasks.
"""

import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import data
from data import ImageData, Split
from data.readers.memory import free_memory
from data.readers.streamed import Broken
from models import devices, distributed, processes
from models.class_names import shorten_names
from models.errors import UserError
from models.model import match_weights
from models.progress import duration, progress
from models.runs import checkpoints, yaml_files
from models.runs.environment import ENVIRONMENT, environment
from models.runs.lookup import NEEDED, find_run
from models.runs.run import Run
from models.runs.status import read_status
from models.training.boards import check_board
from models.training.budget import DEFAULT_EPOCHS, Budget
from models.training.interrupts import Interrupts
from models.training.loop import Trainer, TrainSettings
from models.training.memory import check_memory, explain_full_memory
from models.training.objectives import Objective
from models.training.stepper import BatchSource
from scripts.cli.arguments import spell
from scripts.cli.command import ending
from scripts.cli.flags import AutoencoderFlags, RunFlags, SourceFlags, TrainFlags
from scripts.cli.settings import AnyFlags, Request
from scripts.cli.student_flags import StudentFlags
from scripts.tasks import run_data

COMPILED_MINUTES = 10  # Compiling takes half a minute or more. A shorter training loses more than it gains.


@dataclass(frozen=True)
class Prepared:
    """All objects of a training run, built and checked before the run folder is created.

    config: every setting, resolved. facts: metadata of the checkpoints. report: lines for the log. broken: counter of
    streamed images that cannot be decoded. needs: checkpoint files that the model needs; they are copied into the run.
    files: rows of the list of image files, None for other data.
    """

    objective: Objective
    network: nn.Module
    batches: BatchSource
    settings: TrainSettings
    config: dict[str, Any]
    facts: dict[str, Any]
    report: list[str]
    device: torch.device
    broken: Broken | None = None
    needs: Sequence[Path] = ()
    files: run_data.Rows | None = None

    def trainer(self, run: Run) -> Trainer:
        """Return the trainer that writes into the run."""
        facts, broken = {**self.facts, "config": self.config}, self.broken

        def meet() -> None:
            if broken is None:
                distributed.barrier()
            else:
                broken.merge(distributed.gather_objects((broken.seen, broken.named)))

        return Trainer(self.objective, self.network, self.batches, self.settings, run, facts, self.device, meet)

    def check_memory(self) -> None:
        """Raise UserError if a batch does not fit in the memory of the GPU."""
        settings = self.settings.optimizer
        check_memory(self.objective, self.network, self.batches, settings, self.device, self.divisible)

    @property
    def divisible(self) -> bool:
        """Return whether `accumulate` may split a batch. Optimal coupling needs the whole batch."""
        return self.config.get("coupling") != "optimal"


def run_training(request: Request[AnyFlags], prepare: Callable[[AnyFlags, Mapping[str, Any]], Prepared]) -> None:
    """Train, and print the run folder. Mistakes in flags or data raise UserError before the run folder is written.

    prepare(flags, stored): builds all objects from resolved flags. stored: facts of the run to resume, else {}.
    """
    request = request.on(devices.pick_device(request.flags.run.device).type)
    folder = request.folder
    flags = resolve_flags(request.flags)
    check_batch(flags)
    recording_obstacle(flags)
    devices.prepare_device(torch.device(flags.run.device), flags.run.precision)
    devices.keep_freed_memory(torch.device(flags.run.device))
    tensors, stored = checkpoints.load_newest(folder) if folder is not None else ({}, {})
    with one_loads_first(), progress("preparing", None):
        prepared = prepare(flags, stored)
    changed = folder is not None and _compare(folder, stored, prepared, flags.run.changed_data)
    if folder is not None:
        _refuse_finished(folder, stored, prepared)
        if not changed:
            prepared.report.extend(run_data.notes_on_data(stored["data"], prepared.facts["data"], prepared.files))
    if prepared.device.type == "cuda" and processes.world_size() == 1:
        prepared.check_memory()
    run = _open_run(folder, request.task, flags, prepared)
    with Interrupts() as interrupts, ending(run):  # Signals must not interrupt the recording of a failure.
        run.write_config(prepared.config)
        trainer = prepared.trainer(run)
        for line in (*prepared.report, *request.notes):
            run.log(line)
        if prepared.device.type == "cuda" and (obstacle := prepared.settings.obstacle) is not None:
            run.log(f"steps are not recorded as a CUDA graph: {obstacle}")
        if prepared.broken is not None:
            prepared.broken.tell_to(run.log)
        if folder is not None:
            trainer.restore(tensors, stored)
            if changed:  # Losses on other images are not comparable.
                trainer.best_loss, trainer.worse = math.inf, 0
            run.log(f"resumed at step {trainer.step}, epoch {trainer.epoch:.2f}{_rise_of_rate(trainer, stored)}")
        try:
            with explain_full_memory(flags.optimizer, prepared.device, prepared.divisible):
                trainer.train(interrupts)
        finally:
            trainer.log.close_board()


def _open_run(
    folder: Path | None, task: str, flags: TrainFlags | AutoencoderFlags | StudentFlags, prepared: Prepared
) -> Run:
    """Return a new run, or the run to resume, in every process. Rank 0 prints its folder."""
    opened: list[Run] = []

    def open_folder() -> Path:
        if folder is None:
            run = Run.create(Path(flags.run.experiments_dir), task, prepared.config["dataset"], flags.run.name)
            for needed in prepared.needs:
                checkpoints.copy_checkpoint(needed, run.folder / NEEDED)
        else:
            run = Run.reopen(folder)
        with (run.folder / ENVIRONMENT).open("a", encoding="utf-8") as file:
            file.write(("" if folder is None else "\nresumed\n") + environment())
        if prepared.files is not None:
            run_data.write_listing(run.folder, prepared.files)
        opened.append(run)
        return run.folder

    path = distributed.run_on_rank_zero(open_folder)
    if not opened:
        return Run.attach(path)
    print(path, flush=True)
    return opened[0]


def _compare(folder: Path, stored: Mapping[str, Any], prepared: Prepared, accepted: bool) -> bool:
    """Return whether the data changed since the run was trained. Raises UserError if a change is not `accepted`.

    Also raises UserError if the classes or the space changed.
    """
    facts, then = prepared.facts, stored.get("data") or {}
    changed = not run_data.same_data(then, facts["data"])
    if changed:
        before, classes = ((part.get("denoiser") or {}).get("class_names") for part in (stored, facts))
        other = yaml_files.plain(classes) != before
        change = run_data.describe_change(folder, then, facts["data"], prepared.files)
        if other or not accepted:
            raise UserError(
                f"the data differ from those that {folder.name} was trained on: {change}",
                f"name the original with {'`dataset.path` or ' if prepared.files else ''}`data_root`",
                f"start a new run from its weights with `init_from` {folder.name}",
                *(() if other else ("go on with these data: `changed_data`",)),
            )
        prepared.report.append(f"the data changed: {change}")
    elif "test" in then and then["test"] != facts["data"]["test"]:
        prepared.report.append(f"the test images changed: {facts['data']['test']} now, {then['test']} then")
    now, before = (yaml_files.plain(described.get("denoiser") or {}).get("space") for described in (facts, stored))
    if not _nearly_equal(now, before):
        raise UserError(
            f"the space differs from the one that {folder.name} was trained in",
            "pass the original `autoencoder`",
        )
    return changed


def _refuse_finished(folder: Path, stored: Mapping[str, Any], prepared: Prepared) -> None:
    """Raise UserError if a run has finished and its budget is used up. The message names the budget to raise."""
    if read_status(folder).get("state") != "finished":
        return
    settings, state = prepared.settings, stored["training"]
    size, budget = len(prepared.batches), settings.budget
    used = budget.used_up(size, settings.optimizer.batch_size, stored["step"], state["seconds"])
    if 0 < budget.patience <= state["worse"]:
        used["patience"] = budget.patience
    if used:
        longer = " and ".join(f"`{name}` above {limit:g}" for name, limit in used.items())
        done = f"{stored['step']} steps in {duration(state['seconds'])}"
        raise UserError(f"{folder.name} has finished, after {done}", f"to train it further, add {longer}")


def _rise_of_rate(trainer: Trainer, stored: Mapping[str, Any]) -> str:
    """Return a note for the log if a longer budget raises the learning rate of the next step; else an empty string."""
    config, settings = stored.get("config", {}), trainer.settings.optimizer
    limits = {name: config.get(name) for name in ("epochs", "max_steps", "max_minutes")}
    budget = Budget(**limits)
    earlier = budget.spent(budget.steps(len(trainer.batches), settings.batch_size), trainer.step, trainer.seconds)
    before, now = (settings.learning_rate(trainer.step, progress) for progress in (earlier, trainer.progress))
    rises = any(limits.values()) and now > 1.001 * before
    return f"; the budget is longer, so the learning rate goes back up from {before:.3g} to {now:.3g}" if rises else ""


def _nearly_equal(one: Any, other: Any) -> bool:
    """Return whether facts are equal, with a tolerance for floats, which differ slightly between machines."""
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(_nearly_equal(one[key], other[key]) for key in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_nearly_equal, one, other))
    if isinstance(one, float) and isinstance(other, float):
        return math.isclose(one, other, rel_tol=1e-3, abs_tol=1e-3)
    return one == other


def resolve_flags(flags: AnyFlags) -> AnyFlags:
    """Return the flags with device, precision, compilation and budget resolved.

    Raises UserError, e.g. if the device is not available.
    """
    device = devices.pick_device(flags.run.device)
    precision = devices.pick_precision(flags.run.precision, device)
    budget = flags.budget
    if budget.epochs is None and budget.max_steps is None and budget.max_minutes is None:
        budget = replace(budget, epochs=DEFAULT_EPOCHS)
    check_board(flags.report.logger)
    compiled = flags.run.compile
    if compiled == "auto":
        compiled = "on" if device.type == "cuda" and (budget.max_minutes or 0) >= COMPILED_MINUTES else "off"
    run = replace(flags.run, device=str(device), precision=precision, compile=compiled)
    return replace(flags, run=run, budget=budget)


def check_batch(flags: TrainFlags | AutoencoderFlags | StudentFlags) -> None:
    """Raise UserError if batch_size is less than world size times `accumulate`."""
    size, parts = flags.optimizer.batch_size, processes.world_size() * flags.optimizer.accumulate
    if size < parts:
        raise UserError(
            f"`batch_size` {size}: must be at least {parts}, one image for each process and each part of "
            f"`accumulate` {flags.optimizer.accumulate}"
        )


@contextmanager
def one_loads_first() -> Iterator[None]:
    """Let one process of each machine load before the others.

    The free memory for image files is measured once and divided among the processes. If each process measured it, all
    together would use too much.
    """
    if processes.world_size() > 1:
        share = distributed.run_on_rank_zero(lambda: free_memory() / 2**31 / processes.local_world_size())
        os.environ.setdefault("MEMORY_LIMIT", f"{share:.3f}")
    with distributed.local_rank_zero_first():
        yield


def load_data(
    flags: Any,
    experiments_dir: str,
    tell: Callable[[str], None] = data.warn,
    stored: Mapping[str, Any] | None = None,
) -> ImageData:
    """Load the data set that a task's flags name. Raises UserError.

    experiments_dir: folder of the runs, which keeps hashes of image files. tell: receives notes about the data. stored:
    facts of the run that is resumed.
    """
    source: SourceFlags = flags.data
    kept = Path(experiments_dir) / run_data.CONTENTS_CACHE
    root, options = data.data_root(source.data_root), vars(flags.dataset_options)
    if stored:
        dataset = run_data.load_data_again(flags.dataset, options, root, source, stored, "the run", kept, tell)
    else:
        dataset = data.load(flags.dataset, options, root, source.memory_limit, kept, tell)
    if dataset.broken is not None and not processes.is_rank_zero():
        dataset.broken.tell_to(lambda line: None)
    return dataset


def few(split: Split, count: int, device: torch.device) -> Split:
    """Return up to `count` evenly spaced images on the device. A split sorted by class gives images of all classes."""
    rows = spaced_rows(len(split), count)
    return Split(split.images[rows].to(device), split.labels[rows].to(device))


def spaced_rows(length: int, count: int) -> Tensor:
    """Return up to `count` evenly spaced rows of 0..length-1, including the first and the last."""
    return torch.linspace(0, length - 1, min(count, length)).long()


def train_settings(flags: TrainFlags | AutoencoderFlags | StudentFlags, best_by: str = "test_loss") -> TrainSettings:
    """Return the settings of the loop. best_by: the column of metrics.csv that decides on the best checkpoint."""
    run, obstacle = flags.run, recording_obstacle(flags)
    return TrainSettings(flags.optimizer, flags.budget, flags.report, run.seed, run.compile == "on", best_by, obstacle)


def recording_obstacle(flags: TrainFlags | AutoencoderFlags | StudentFlags) -> str | None:
    """Return why no CUDA graph is recorded; None if one is. Raises UserError if `graph` is on but impossible."""
    run, optimizer = flags.run, flags.optimizer
    first, end = processes.rank_share(optimizer.batch_size)
    obstacle = None
    if torch.device(run.device).type != "cuda":
        obstacle = f"the device is {run.device}, not a CUDA GPU"
    elif processes.world_size() > 1:
        obstacle = "there are several processes"
    elif isinstance(flags, TrainFlags) and flags.process.coupling == "optimal":
        obstacle = "coupling optimal assigns noise on the CPU"
    elif (end - first) % optimizer.accumulate:
        obstacle = f"accumulate {optimizer.accumulate} cuts the batch into unequal parts"
    if run.graph == "on" and obstacle is not None:
        raise UserError(f"`graph` on: a step cannot be recorded, since {obstacle}", "leave out `graph`")
    return "graph is off" if run.graph == "off" else obstacle


def describe_run_line(dataset: ImageData, word: str, network: nn.Module, run: RunFlags) -> str:
    """Return the first line of the log: data, model and device. word: the model in words."""
    shape = "x".join(str(side) for side in dataset.train.images.shape[1:])
    parameters = sum(p.numel() for p in network.parameters())
    return (
        f"{dataset.name} {shape}: {len(dataset.train)} train, {len(dataset.test)} test images"
        f"{', streamed from their files' if dataset.broken else ''}, "
        f"{_classes(dataset)}; {word} of {parameters:,} parameters on {run.device}, {run.precision}"
        + (f", {processes.world_size()} processes" if processes.world_size() > 1 else "")
    )


def _classes(dataset: ImageData) -> str:
    """Return the number of classes and their names, e.g. "2 classes (cat, dog)"."""
    names = dataset.class_names
    count = f"{len(names)} class{'' if len(names) == 1 else 'es'}"
    return f"{count} ({shorten_names(names)})" if names else count


def spelled(notes: Sequence[str]) -> list[str]:
    """Return notes about the data with options written as this task's flags."""
    return [UserError(note).text(spell) for note in notes]


def initialise(network: nn.Module, run: RunFlags, tasks: tuple[str, ...]) -> str:
    """Copy the EMA weights of the run --init_from where names and shapes match. Return a log line. Raises UserError."""
    source = find_run(str(run.init_from), Path(run.experiments_dir), tasks)
    task = read_status(source).get("task")
    if task not in tasks:
        raise UserError(f"`init_from` {source}: is a run of {task}", f"name a run of {' or '.join(tasks)}")
    tensors, _ = checkpoints.load_checkpoint(checkpoints.resolve_checkpoint(source))
    return f"{match_weights(network, checkpoints.under('ema', tensors))} (from {source})"
