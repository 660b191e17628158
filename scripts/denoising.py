"""What `train_ddpm` and `train_flow` share: from flags to a running `Trainer`, new or resumed."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

import data
from data import ImageData, Split
from data.batches import Batches
from models import build, checkpoint
from models.build import DenoiserSpec
from models.errors import UserError
from models.generation import Sampling
from models.interrupts import Interrupts
from models.losses import DenoisingLoss
from models.objectives import DenoisingObjective
from models.optim import LRSchedule
from models.randomness import derive_seed
from models.run import Run, environment, find_run, read_config, write_text
from models.spaces.pixels import Pixels
from models.times import TimeDensity
from models.training import Trainer, TrainSettings
from scripts.command import ending
from scripts.flags import (
    VARIANTS,
    TrainFlags,
    default_steps,
    gather,
    last_value,
    parse,
    run_to_resume,
    to_arguments,
    to_config,
)

DEFAULT_EPOCHS = 20.0
POSITIVE = {"batch_size", "accumulate", "lr", "epochs", "max_steps", "max_minutes", "num_samples", "eval_images"}
NOT_NEGATIVE = {
    *("seed", "warmup_steps", "weight_decay", "clip", "ema"),
    *("eval_every", "sample_every", "checkpoint_every", "keep_checkpoints", "patience"),
}
# What may differ when a run is resumed: budgets, logging, and where things lie.
HARMLESS = {
    *("epochs", "max_steps", "max_minutes", "patience"),
    *("eval_every", "sample_every", "checkpoint_every", "keep_checkpoints", "tensorboard"),
    *("num_samples", "sampler", "steps", "guidance_scale"),
    *("data_root", "dataset.path", "dataset.test_path", "experiments_dir", "name", "device", "init_from"),
}


def train_denoiser(argv: Sequence[str], task: str, default: TrainFlags, description: str) -> None:
    """Trains, and prints the run folder. Raises UserError before anything is written."""
    folder = run_to_resume(argv, task)
    if folder is None:
        flags = parse(gather(argv), default, task, description)
    else:
        flags = _resumed(folder, argv, default, task, description)
    flags = resolve(flags)
    _check(flags)
    prepared = _prepare(flags, resumed=folder is not None)
    if folder is None:
        run = Run.create(Path(flags.run.experiments_dir), task, flags.dataset, flags.run.name)
        write_text(run.folder / "environment.txt", environment())
        tensors, stored = {}, {}
    else:
        tensors, stored = checkpoint.load_newest(folder)
        if stored.get("data") != prepared.facts["data"]:
            raise UserError(f"the data set is not the one that {folder.name} was trained on: {flags.data.data_root}")
        run = Run.reopen(folder)
        with (folder / "environment.txt").open("a", encoding="utf-8") as file:
            file.write("\nresumed\n" + environment())
    print(run.folder, flush=True)
    with ending(run), Interrupts() as interrupts:
        run.write_config(to_config(flags))
        trainer = prepared.trainer(run)
        for line in prepared.report:
            run.log(line)
        if folder is not None:
            trainer.restore(tensors, stored)
            run.log(f"resumed at step {trainer.step}, epoch {trainer.epoch:.2f}")
        trainer.train(interrupts)


def _resumed(folder: Path, argv: Sequence[str], default: TrainFlags, task: str, description: str) -> TrainFlags:
    """The settings of a run with the harmless changes that the command line asks for; others are refused."""
    stored = read_config(folder)
    arguments = gather(argv)
    for word in VARIANTS:
        name = last_value(arguments, word)
        if name not in (None, stored.get(word)):
            raise UserError(f"{folder.name} cannot be resumed with --{word} {name} (was {stored.get(word)})")
    flags = parse([*to_arguments(stored), *argv], default, task, description)
    asked = to_config(flags)
    changed = [key for key, value in asked.items() if key not in HARMLESS and value not in (stored.get(key), "auto")]
    if changed:
        details = ", ".join(f"--{key} {asked[key]} (was {stored.get(key)})" for key in changed)
        raise UserError(f"{folder.name} cannot be resumed with other settings: {details}; leave them out or start anew")
    precision = flags.run.precision if flags.run.precision != "auto" else stored["precision"]
    return replace(flags, run=replace(flags.run, precision=precision))


def resolve(flags: TrainFlags) -> TrainFlags:
    """Every "auto" and every missing budget replaced by what it stands for."""
    device = build.pick_device(flags.run.device)
    precision = build.pick_precision(flags.run.precision, device)
    budget = flags.budget
    if budget.epochs is None and budget.max_steps is None and budget.max_minutes is None:
        budget = replace(budget, epochs=DEFAULT_EPOCHS)
    root = str(data.data_root(flags.data.data_root))
    report = flags.report
    if report.steps is None:
        report = replace(report, steps=default_steps(report.sampler, flags.process.timesteps))
    return replace(
        flags,
        report=report,
        run=replace(flags.run, device=str(device), precision=precision),
        budget=budget,
        data=replace(flags.data, data_root=root),
    )


def _check(flags: TrainFlags) -> None:
    """Refuses numbers that no run can have."""
    config = to_config(flags)
    for key in sorted(POSITIVE):
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
    if not 0 <= config["label_drop"] <= 1:
        raise UserError(f"--label_drop {config['label_drop']}: a share between 0 and 1")
    if config["accumulate"] > config["batch_size"]:
        raise UserError(f"--accumulate {config['accumulate']}: at most --batch_size {config['batch_size']}")
    if config["timesteps"] < 0:
        raise UserError(f"--timesteps {config['timesteps']}: 1 or more, or 0 for the continuous form")
    if config["precision"] not in ("float32", "bf16"):
        raise UserError(f"--precision {config['precision']}: choose from auto, float32, bf16")


@dataclass(frozen=True)
class _Prepared:
    """Everything that could be wrong has been built; only the run folder is missing."""

    objective: DenoisingObjective
    network: nn.Module
    batches: Batches
    settings: TrainSettings
    facts: dict[str, Any]
    report: list[str]
    device: torch.device

    def trainer(self, run: Run) -> Trainer:
        return Trainer(
            self.objective,
            self.network,
            self.batches.at,
            len(self.batches),
            self.settings,
            run,
            self.facts,
            self.device,
        )


def _prepare(flags: TrainFlags, resumed: bool) -> _Prepared:
    """Loads the data and builds every object. Raises UserError or DataError for what does not fit."""
    device = torch.device(flags.run.device)
    build.prepare_device(device)
    dataset = data.find(flags.dataset)(**asdict(flags.dataset_options)).load(Path(flags.data.data_root or ""))
    spec = build_spec(flags, dataset)
    torch.manual_seed(derive_seed(flags.run.seed, "weights"))
    network = spec.build_network().to(device)
    report = [_describe(flags, dataset, network)]
    if flags.run.precision == "bf16" and device.type == "cpu":
        ratio = build.bf16_ratio(network, spec.shape)
        report.append(f"warning: on this CPU bf16 takes {ratio:.2f} times as long as float32 for this network")
    if flags.run.init_from is not None and not resumed:
        report.append(_initialise(network, flags))
    objective = build_objective(flags, spec, dataset, device)
    objective.sampling.check(spec.denoiser(network).noise_schedule)
    facts = {
        "denoiser": spec.facts(),
        "data": {"name": dataset.name, "sha256": fingerprint(dataset)},
        "config": to_config(flags),
    }
    batches = Batches(dataset.train, flags.optimizer.batch_size, flags.run.seed, dataset.flips, device)
    return _Prepared(objective, network, batches, build_settings(flags), facts, report, device)


def build_spec(flags: TrainFlags, dataset: ImageData) -> DenoiserSpec:
    """What the denoiser is, from the flags and one look at the data."""
    space = Pixels.measure(dataset.train.images)
    labelled = flags.data.conditional and bool(dataset.class_names)
    process = flags.process
    return DenoiserSpec(
        network=flags.network,
        network_options=asdict(flags.network_options),
        shape=space.shape,
        deviation=space.deviation,
        classes=len(dataset.class_names) if labelled else 0,
        class_names=dataset.class_names if labelled else (),
        noise_schedule=process.noise_schedule,
        timesteps=process.timesteps,
        zero_terminal_snr=process.zero_terminal_snr,
        prediction=process.prediction,
        label_drop=process.label_drop if labelled else 0.0,
    )


def build_objective(
    flags: TrainFlags, spec: DenoiserSpec, dataset: ImageData, device: torch.device
) -> DenoisingObjective:
    """The loss, the frozen grid and the sheets. Raises UserError for what does not go together."""
    process, report = flags.process, flags.report
    density = TimeDensity(process.times, process.time_mean, process.time_deviation, process.stratified)
    # A first draw, so that a density the schedule cannot have is refused here.
    density.draw(torch.zeros(1), spec.denoiser(nn.Identity()).noise_schedule)
    assert report.steps is not None, "resolve the flags first"
    scale = report.guidance_scale if spec.classes else 1.0
    if scale != 1 and spec.label_drop == 0:
        raise UserError(f"--guidance_scale {scale:g} of the sample sheets needs --label_drop above 0, or set it to 1")
    train, test = (_few(split, report.eval_images, device) for split in (dataset.train, dataset.test))
    return DenoisingObjective(
        spec=spec,
        loss=DenoisingLoss(
            process.loss, process.weighting, process.weight_limit, density, spec.label_drop, spec.classes
        ),
        autocast=build.autocast_dtype(flags.run.precision),
        train_images=train.images,
        train_labels=train.labels,
        test_images=test.images,
        test_labels=test.labels,
        sampling=Sampling(report.sampler, report.steps, guidance_scale=scale),
        num_samples=report.num_samples,
        seed=flags.run.seed,
    )


def _few(split: Split, count: int, device: torch.device) -> Split:
    """Evenly spaced images of a split, so that sorted classes are all among them."""
    rows = torch.linspace(0, len(split) - 1, min(count, len(split))).long()
    return Split(split.images[rows].to(device), split.labels[rows].to(device))


def build_settings(flags: TrainFlags) -> TrainSettings:
    """The loop's share of the flags."""
    optimizer, budget, report = flags.optimizer, flags.budget, flags.report
    return TrainSettings(
        batch_size=optimizer.batch_size,
        accumulate=optimizer.accumulate,
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
        epochs=budget.epochs,
        max_steps=budget.max_steps,
        max_minutes=budget.max_minutes,
        eval_every=report.eval_every,
        sample_every=report.sample_every,
        checkpoint_every=report.checkpoint_every,
        keep_checkpoints=report.keep_checkpoints,
        patience=budget.patience,
        seed=flags.run.seed,
        compile=flags.run.compile,
        tensorboard=report.tensorboard,
    )


def _describe(flags: TrainFlags, dataset: ImageData, network: nn.Module) -> str:
    shape = "x".join(str(side) for side in dataset.train.images.shape[1:])
    parameters = sum(p.numel() for p in network.parameters())
    return (
        f"{dataset.name} {shape}: {len(dataset.train)} train, {len(dataset.test)} test images, "
        f"{len(dataset.class_names)} classes; {flags.network} of {parameters:,} parameters on {flags.run.device}, "
        f"{flags.run.precision}"
    )


def _initialise(network: nn.Module, flags: TrainFlags) -> str:
    """Copies the EMA weights of another run where they fit."""
    source = find_run(str(flags.run.init_from), Path(flags.run.experiments_dir))
    tensors, _ = checkpoint.load(checkpoint.resolve(source))
    return f"{build.match_weights(network, checkpoint.under('ema', tensors))} (from {source})"


def fingerprint(dataset: ImageData) -> str:
    """SHA-256 of the training split's images and labels."""
    digest = hashlib.sha256()
    for tensor in (dataset.train.images, dataset.train.labels):
        digest.update(tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()
