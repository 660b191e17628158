"""What every training task shares: from flags to a running `Trainer`, new or resumed.

A task says how its objective is built (`Prepare`); folders, resuming, checks and endings are the same for all.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

import data
from data import ImageData, Split
from data.batches import Batches
from data.readers.memory import free_memory
from data.readers.streamed import Broken
from models import devices, distributed, processes
from models.errors import UserError
from models.evaluation.image_sets import sha256_of
from models.model import NEEDED, match_weights
from models.optim import OPTIMIZERS, LRSchedule
from models.runs import checkpoints, yaml_files
from models.runs.environment import environment
from models.runs.lookup import find_run, read_config
from models.runs.run import Run
from models.runs.status import read_status
from models.training.budget import Budget
from models.training.interrupts import Interrupts
from models.training.loop import Trainer, TrainSettings
from models.training.objectives import Objective
from scripts.cli.arguments import gather, last_value, parse_flags, run_to_resume, to_arguments, to_config
from scripts.cli.command import ending
from scripts.cli.flags import (
    BEST_BY,
    VARIANTS,
    AutoencoderFlags,
    BudgetFlags,
    OptimizerFlags,
    ReportFlags,
    RunFlags,
    SourceFlags,
    TrainFlags,
)

AnyFlags = TypeVar("AnyFlags", TrainFlags, AutoencoderFlags)

DEFAULT_EPOCHS = 20.0
POSITIVE = {"batch_size", "accumulate", "lr", "epochs", "max_steps", "max_minutes", "num_samples", "eval_images"}
NOT_NEGATIVE = {
    *("seed", "workers", "warmup_steps", "weight_decay", "clip", "ema"),
    *("eval_every", "sample_every", "checkpoint_every", "keep_checkpoints", "patience"),
}
# What may differ when a run is resumed: budgets, logging, and where things lie.
HARMLESS = {
    *("epochs", "max_steps", "max_minutes", "wall_clock", "patience"),
    *("eval_every", "sample_every", "checkpoint_every", "keep_checkpoints", "tensorboard"),
    *("num_samples", "sampler", "steps", "guidance_scale"),
    *("data_root", "dataset.path", "dataset.test_path", "memory_limit", "workers"),
    *("experiments_dir", "name", "device", "init_from"),
    *("space.autoencoder", "space.encoded", "umap"),
}
OF_SAMPLES = {"sampler", "steps", "guidance_scale"}  # May not, where samples are measured over the run.


@dataclass(frozen=True)
class Prepared:
    """Everything that could be wrong has been built; only the run folder is missing.

    config: every setting, resolved. facts: what a checkpoint says besides its tensors. report: lines for the log.
    broken: what counts the pictures of streamed data that cannot be decoded. needs: checkpoints without which the run's
    own are worth nothing, hence copied into it.
    """

    objective: Objective
    network: nn.Module
    batches: Batches
    settings: TrainSettings
    config: dict[str, Any]
    facts: dict[str, Any]
    report: list[str]
    device: torch.device
    broken: Broken | None = None
    needs: Sequence[Path] = ()

    def trainer(self, run: Run) -> Trainer:
        size, facts, broken = len(self.batches), {**self.facts, "config": self.config}, self.broken

        def meet() -> None:
            if broken is None:
                distributed.barrier()
            else:
                broken.merge(distributed.gather_objects((broken.seen, broken.named)))

        return Trainer(
            self.objective, self.network, self.batches.at, size, self.settings, run, facts, self.device, meet
        )


def run_training(
    argv: Sequence[str],
    task: str,
    default: AnyFlags,
    description: str,
    prepare: Callable[[AnyFlags, bool], Prepared],
    options: Mapping[str, Any] | None = None,
) -> None:
    """Trains, and prints the run folder. Raises UserError before anything is written.

    prepare: builds all from resolved flags, and from whether the run is resumed. options: other defaults of the options
    of the default's own network.
    """
    folder = run_to_resume(argv, task)
    if folder is None:
        flags = parse_flags(gather(argv, task), default, task, description, options)
    else:
        flags = _resumed(folder, argv, default, task, description)
    flags = resolve_flags(flags)
    check(to_config(flags))
    devices.prepare_device(torch.device(flags.run.device), flags.run.precision)
    devices.keep_freed_memory(torch.device(flags.run.device))
    with one_loads_first():
        prepared = prepare(flags, folder is not None)
    tensors, stored = checkpoints.load_newest(folder) if folder is not None else ({}, {})
    if folder is not None:
        _compare(folder, stored, prepared.facts)
    run = _open_run(folder, task, flags, prepared)
    with Interrupts() as interrupts, ending(run):  # a signal does not come between a failure and the folder
        run.write_config(prepared.config)
        trainer = prepared.trainer(run)
        for line in prepared.report:
            run.log(line)
        if prepared.broken is not None:
            prepared.broken.tell_to(run.log)
        if folder is not None:
            trainer.restore(tensors, stored)
            run.log(f"resumed at step {trainer.step}, epoch {trainer.epoch:.2f}")
        trainer.train(interrupts)


def _open_run(folder: Path | None, task: str, flags: AnyFlags, prepared: Prepared) -> Run:
    """A new run folder, or the one to resume, in every process; the first prints it."""
    opened: list[Run] = []

    def open_folder() -> Path:
        if folder is None:
            run = Run.create(Path(flags.run.experiments_dir), task, flags.dataset, flags.run.name)
            for path in prepared.needs:
                checkpoints.copy_checkpoint(path, run.folder / NEEDED)
        else:
            run = Run.reopen(folder)
        with (run.folder / "environment.txt").open("a", encoding="utf-8") as file:
            file.write(("" if folder is None else "\nresumed\n") + environment())
        opened.append(run)
        return run.folder

    place = distributed.run_on_rank_zero(open_folder)
    if not opened:
        return Run.attach(place)
    print(place, flush=True)
    return opened[0]


def _compare(folder: Path, stored: Mapping[str, Any], facts: Mapping[str, Any]) -> None:
    """Raises UserError where the data or the autoencoder are not those that the run began with."""
    if stored.get("data") != facts["data"]:
        raise UserError(f"the data set is not the one that {folder.name} was trained on: --data_root")
    mine, other = (yaml_files.plain(each.get("denoiser") or {}).get("space") for each in (stored, facts))
    if not _alike(mine, other):
        raise UserError(f"the space is not the one that {folder.name} was trained in: another --autoencoder")


def _alike(one: Any, other: Any) -> bool:
    """Equal, but for the last digits of numbers: another machine measures the deviation of latents as good as alike."""
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(_alike(one[key], other[key]) for key in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_alike, one, other))
    if isinstance(one, float) and isinstance(other, float):
        return math.isclose(one, other, rel_tol=1e-3, abs_tol=1e-3)
    return one == other


def _resumed(folder: Path, argv: Sequence[str], default: AnyFlags, task: str, description: str) -> AnyFlags:
    """The settings of a run with the harmless changes that the command line asks for; others are refused."""
    stored = _with_own_copies(read_config(folder), folder)
    arguments = gather(argv, task)
    for word in VARIANTS:
        name = last_value(arguments, word)
        if name not in (None, stored.get(word)):
            raise UserError(f"{folder.name} cannot be resumed with --{word} {name} (was {stored.get(word)})")
    flags = parse_flags([*to_arguments(stored), *argv], default, task, description)
    asked, known = to_config(flags), {**to_config(default), **stored}  # a run from before a flag has its default
    harmless = HARMLESS - OF_SAMPLES if known.get("eval_samples") else HARMLESS
    changed = [key for key, value in asked.items() if key not in harmless and value not in (known.get(key), "auto")]
    if changed:
        details = ", ".join(f"--{key} {asked[key]} (was {known.get(key)})" for key in changed)
        raise UserError(f"{folder.name} cannot be resumed with other settings: {details}; leave them out or start anew")
    precision = flags.run.precision if flags.run.precision != "auto" else stored["precision"]
    return replace(flags, run=replace(flags.run, precision=precision))


def _with_own_copies(config: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The settings of a run, with checkpoints that have gone since replaced by its own copies of them."""
    copies = {path.name: str(path) for path in (folder / NEEDED).glob("*.safetensors")}
    gone = {
        key: copies[Path(value).name]
        for key, value in config.items()
        if isinstance(value, str) and Path(value).name in copies and not Path(value).is_file()
    }
    return {**config, **gone}


def resolve_flags(flags: AnyFlags) -> AnyFlags:
    """Every "auto" and every missing budget replaced by what it stands for."""
    device = devices.pick_device(flags.run.device)
    precision = devices.pick_precision(flags.run.precision, device)
    budget = flags.budget
    if budget.epochs is None and budget.max_steps is None and budget.max_minutes is None:
        budget = replace(budget, epochs=DEFAULT_EPOCHS)
    return replace(flags, run=replace(flags.run, device=str(device), precision=precision), budget=budget)


def check(config: Mapping[str, Any]) -> None:
    """Refuses numbers that no run can have."""
    for key in sorted(POSITIVE & config.keys()):
        if config[key] is not None and config[key] <= 0:
            raise UserError(f"--{key} {config[key]}: takes more than 0")
    for key, value in config.items():
        values = value if isinstance(value, list) else [value]
        if any(isinstance(each, float) and not math.isfinite(each) for each in values):
            raise UserError(f"--{key} {value}: takes finite numbers")
    if not all(0 <= beta < 1 for beta in config["betas"]):
        raise UserError(f"--betas {config['betas']}: two numbers from 0 up to, not including, 1")
    if config["lr_gamma"] <= 0:
        raise UserError(f"--lr_gamma {config['lr_gamma']}: takes more than 0")
    for key in sorted(NOT_NEGATIVE):
        if config[key] < 0:
            raise UserError(f"--{key} {config[key]}: takes 0 or more")
    if config["batch_size"] < processes.world_size() * config["accumulate"]:
        raise UserError(
            f"--batch_size {config['batch_size']}: {processes.world_size()} processes of --accumulate "
            f"{config['accumulate']} parts each take an image a part"
        )
    if config["optimizer"] not in OPTIMIZERS:
        raise UserError(f"--optimizer {config['optimizer']}: choose from {', '.join(OPTIMIZERS)}")
    if config["precision"] not in devices.PRECISIONS:
        raise UserError(f"--precision {config['precision']}: choose from auto, {', '.join(devices.PRECISIONS)}")


@contextmanager
def one_loads_first() -> Iterator[None]:
    """The first process of each machine loads before the others. All decide alike what is held in memory: each for
    itself would see more of it free than all together may take."""
    if processes.world_size() > 1:
        share = distributed.run_on_rank_zero(lambda: free_memory() / 2**31 / processes.local_world_size())
        os.environ.setdefault("MEMORY_LIMIT", f"{share:.3f}")
    with distributed.local_rank_zero_first():
        yield


def load_data(flags: Any) -> ImageData:
    """The data set of a task's flags."""
    source: SourceFlags = flags.data
    root = data.data_root(source.data_root)
    dataset = data.load(flags.dataset, vars(flags.dataset_options), root, source.memory_limit)
    if dataset.broken is not None and not processes.is_rank_zero():
        dataset.broken.tell_to(lambda line: None)
    return dataset


def few(split: Split, count: int, device: torch.device) -> Split:
    """Evenly spaced images of a split, so that sorted classes are all among them."""
    rows = spaced_rows(len(split), count)
    return Split(split.images[rows].to(device), split.labels[rows].to(device))


def spaced_rows(length: int, count: int) -> Tensor:
    """Up to `count` of the rows 0..length-1, evenly spaced, the first and the last among them."""
    return torch.linspace(0, length - 1, min(count, length)).long()


def build_settings(
    optimizer: OptimizerFlags, budget: BudgetFlags, run: RunFlags, report: ReportFlags, best_by: str = "loss"
) -> TrainSettings:
    """The loop's share of the flags."""
    return TrainSettings(
        batch_size=optimizer.batch_size,
        accumulate=optimizer.accumulate,
        optimizer=optimizer.optimizer,
        lr_schedule=LRSchedule(
            optimizer.lr_schedule,
            optimizer.lr,
            optimizer.warmup_steps,
            optimizer.lr_milestones,
            optimizer.lr_gamma,
        ),
        weight_decay=optimizer.weight_decay,
        betas=optimizer.betas,
        clip=optimizer.clip,
        ema_half_life=optimizer.ema,
        budget=Budget(budget.epochs, budget.max_steps, budget.max_minutes, budget.wall_clock),
        eval_every=report.eval_every,
        sample_every=report.sample_every,
        checkpoint_every=report.checkpoint_every,
        keep_checkpoints=report.keep_checkpoints,
        best_by=BEST_BY[best_by],
        patience=budget.patience,
        seed=run.seed,
        compile=run.compile,
        tensorboard=report.tensorboard,
    )


def describe_run_line(dataset: ImageData, word: str, network: nn.Module, run: RunFlags) -> str:
    """The first line of the log."""
    shape = "x".join(str(side) for side in dataset.train.images.shape[1:])
    parameters = sum(p.numel() for p in network.parameters())
    return (
        f"{dataset.name} {shape}: {len(dataset.train)} train, {len(dataset.test)} test images"
        f"{', streamed from their files' if dataset.broken else ''}, "
        f"{len(dataset.class_names)} classes; {word} of {parameters:,} parameters on {run.device}, {run.precision}"
        + (f", {processes.world_size()} processes" if processes.world_size() > 1 else "")
    )


def initialise(network: nn.Module, run: RunFlags, tasks: tuple[str, ...]) -> str:
    """Copies the EMA weights of another run, one of these tasks, where they fit. Raises UserError."""
    source = find_run(str(run.init_from), Path(run.experiments_dir), tasks)
    task = read_status(source).get("task")
    if task not in tasks:
        raise UserError(f"--init_from {source}: a run of {task}; take one of {' or '.join(tasks)}")
    tensors, _ = checkpoints.load_checkpoint(checkpoints.resolve_checkpoint(source))
    return f"{match_weights(network, checkpoints.under('ema', tensors))} (from {source})"


def fingerprint(dataset: ImageData) -> str:
    """What tells data sets apart: the hash of the training split."""
    return split_hash(dataset.train)


def split_hash(split: Split) -> str:
    """SHA-256 of a split's images and labels; of images in files, of what tells those apart without decoding them."""
    return split.sha256 or sha256_of(split.in_memory(), split.labels)
