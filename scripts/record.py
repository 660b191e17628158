"""Add rows to experiments/records.md: the results of a recipe after some minutes of training, over several seeds.

For each seed, `train_flow` trains and `evaluate` measures, each in its own process. The head of records.md states the
rules for a row, and how results of other programs can be added.
"""

if not __package__:
    __import__("cli")  # says what to type, and exits

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

import torch
from torch import nn

from data import ImageData
from models.errors import UserError
from models.evaluation.classifier import cached_path, pretrained_path
from models.evaluation.classifier_settings import ClassifierSettings
from models.evaluation.feature_networks import NETWORKS
from models.evaluation.measure_names import REPORT
from models.places import experiments_dir
from models.progress import progress
from models.ranges import NonNegative, NonNegativeInt, Positive, PositiveInt, ShareBelowOne
from models.runs.environment import git_commit
from models.training.interrupts import Interrupted, Interrupts
from models.variants import DATA_SETS
from scripts.cli.arguments import parse_flags, read_ahead, split_at_dashes, to_arguments, to_config
from scripts.cli.command import run_command
from scripts.cli.flags import DatasetName, ModelFlags, SamplerFlags, SamplerName, TrainFlags
from scripts.cli.recipes import RECIPES
from scripts.cli.settings import data_settings
from scripts.cli.student_flags import TeacherFlags
from scripts.cli.terminal import tell
from scripts.tasks.denoising import build_spec, fit_space
from scripts.tasks.distilling import open_teacher
from scripts.tasks.extractors import CLASSIFIERS_CACHE
from scripts.tasks.measuring import settings_to_measure
from scripts.tasks.record_table import EMPTY_TABLE, Spent, Trained, add_rows, refuse_copies, row, table_of
from scripts.tasks.run_data import identity_of
from scripts.tasks.sampling import make_folder, open_sampling
from scripts.tasks.training import load_data

DESCRIPTION = """Train a recipe and add its results to the records. Prints the file.

Flags after -- are for train_flow, as in: -- --network.width 48"""
MOST_IMAGES = 10_000
# Evaluation and sheets during training would count as training time, so both are done at the end.
AT_THE_END = ("--eval_every", "0", "--sample_every", "0", "--checkpoint_every", "0", "--no-tensorboard")
PATHS = {"data_root", "experiments_dir", "records"}  # Paths differ between machines, so the table's commands omit them.


@dataclass(frozen=True)
class RecordFlags:
    """Settings of `record`."""

    dataset: DatasetName = "mnist"
    """Data set. Its recipe of train_flow is trained."""
    minutes: Positive = 10.0
    """Minutes from the start of the training process to its last step, including imports and compilation."""
    seeds: tuple[NonNegativeInt, ...] = (0, 1, 2)
    """Seeds, one training run each. The seed also decides the noise of the run's samples."""
    scales: tuple[NonNegative, ...] = (1.0, 1.5)
    """Guidance scales, one row each."""
    sampler: SamplerName = "heun"
    """Sampler of the measured samples, or of the teacher with --student."""
    steps: PositiveInt | None = None
    """Sampling steps. Default: 12 for heun and midpoint, 50 for others; with --student, as for distill."""
    student: ShareBelowOne = 0.0
    """Share of the minutes for training a student, after the model has been trained; 0 for no student. The student is
    measured in place of the model."""
    evaluations: Literal[1, 2, 4] = 1
    """With --student: network evaluations of the student for an image."""
    num_images: int | None = None
    """Samples per seed. Default: the number of test images, at most 10,000."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1, mps."""
    data_root: str | None = None
    """Folder of the data sets, in torchvision's layout. Default: the variable DATA_ROOT, else data/store."""
    experiments_dir: str = field(default_factory=experiments_dir)
    """Folder in which the run folders are made. The variable EXPERIMENTS_DIR sets its default."""
    records: str = "experiments/records.md"
    """File with the table to which the rows are added."""


@dataclass(frozen=True)
class Plan:
    """Settings of a record. flags: with num_images and steps filled in. further: the arguments after --."""

    flags: RecordFlags
    recipe: str
    further: Sequence[str]

    def training(self, seed: int) -> list[str]:
        """Return the arguments for train_flow. Flags that the rules require come last, since the last value counts."""
        flags = self.flags
        return [
            *("--recipe", self.recipe, "--epochs", "None", "--max_steps", "None", *AT_THE_END, *self.further),
            *("--dataset", flags.dataset, "--wall_clock"),
            *("--max_minutes", str(flags.minutes * (1 - flags.student)), "--seed", str(seed), *self._common()),
            *("--name", f"record-{flags.minutes:g}min-seed{seed}"),
            *(() if flags.data_root is None else ("--data_root", flags.data_root)),
        ]

    def distillation(self, run: Path, seed: int, scale: float, minutes: float) -> list[str]:
        """Return the arguments for distill. minutes: the remaining budget."""
        flags = self.flags
        return [
            *("--run", str(run), *AT_THE_END, "--wall_clock", "--max_minutes", f"{minutes:.4f}"),
            *("--evaluations", str(flags.evaluations), *self._sampling(scale), "--seed", str(seed), *self._common()),
            *("--name", f"record-{flags.minutes:g}min-seed{seed}-scale{scale:g}"),
        ]

    def evaluation(self, run: Path, seed: int, scale: float) -> list[str]:
        """Return the arguments for evaluate. A student has its sampler and guidance built in."""
        sampling = () if self.flags.student else self._sampling(scale)
        return [
            *("--run", str(run), "--seed", str(seed), *sampling, *self._common()),
            *("--num_images", str(self.flags.num_images), "--extractors", *NETWORKS, "--classification_accuracy"),
        ]

    def _sampling(self, scale: float) -> tuple[str, ...]:
        flags = self.flags
        return "--sampler", flags.sampler, "--steps", str(flags.steps), "--guidance_scale", str(scale)

    def _common(self) -> tuple[str, ...]:
        return "--device", self.flags.device, "--experiments_dir", self.flags.experiments_dir

    def command(self) -> str:
        """Return the command that reproduces the rows, without paths."""
        flags, defaults = self.flags, to_config(RecordFlags())
        left_out = {"dataset", "minutes", "seeds", *PATHS}
        changed = {key: value for key, value in to_config(flags).items() if value != defaults[key]}
        other = {key: value for key, value in changed.items() if key not in left_out}
        words = [*to_arguments(other), *(("--", *self.further) if self.further else ())]
        threads = os.environ.get("OMP_NUM_THREADS")
        return " ".join(
            [
                *([f"OMP_NUM_THREADS={threads}"] if threads else []),
                f"make record DATASET={flags.dataset} MINUTES={flags.minutes:g}",
                f'SEEDS="{" ".join(map(str, flags.seeds))}"',
                *([f"ARGS={shlex.quote(shlex.join(words))}"] if words else []),
            ]
        )


def main(argv: list[str]) -> None:
    argv, further = split_at_dashes(argv)
    plan = make_plan(parse_flags(argv, RecordFlags(), "record", DESCRIPTION), further)
    trained = [train_seed(plan, seed) for seed in plan.flags.seeds]
    rows = [row(plan, trained, index) for index in range(len(plan.flags.scales))]
    tell(f"{EMPTY_TABLE}{''.join(rows)}")
    refuse_copies([report for of_seed in trained for report in of_seed.reports])
    add_rows(Path(plan.flags.records), rows)
    print(plan.flags.records)


# -- the plan ---------------------------------------------------------------------------------------------------------


def make_plan(flags: RecordFlags, further: Sequence[str]) -> Plan:
    """Return the plan of a record. Raises UserError now for mistakes that would otherwise show after the training."""
    for name, values in (("seeds", flags.seeds), ("scales", flags.scales)):
        if not values or len(set(values)) < len(values):
            raise UserError(f"`{name}` {' '.join(map(str, values))}: name one or more, each once")
    table_of(Path(flags.records))
    make_folder(Path(flags.records).parent, "--records")
    plan = Plan(flags, read_ahead(further).get("recipe") or _recipe_of(flags.dataset), further)
    settings = settings_to_measure(plan.training(flags.seeds[0]))
    if settings.space != "pixels":
        raise UserError("a record cannot count the training of an autoencoder", "set `space` pixels")
    dataset = load_data(settings, settings.run.experiments_dir)
    _check_extractors(flags, settings, dataset)
    most = min(len(dataset.test), MOST_IMAGES)
    count = most if flags.num_images is None else flags.num_images
    features = max(network.features for network in NETWORKS.values())
    if not features < count <= len(dataset.test):
        raise UserError(
            f"`num_images` {count}: must be more than {features}, the number of features, and at most "
            f"{len(dataset.test)}, the number of test images of {dataset.name}"
        )
    steps = _sampling_steps(flags, settings, dataset)
    return replace(plan, flags=replace(flags, num_images=count, steps=steps))


def _recipe_of(dataset: str) -> str:
    DATA_SETS.find(dataset)
    for name, recipe in RECIPES.items():
        if recipe.task == "train_flow" and recipe.settings["dataset"] == dataset:
            return name
    raise UserError(f"`dataset` {dataset}: there is no recipe of train_flow for it; name one with -- --recipe")


def _check_extractors(flags: RecordFlags, settings: TrainFlags, dataset: ImageData) -> None:
    """Raise UserError if a feature network is missing. Comparable records need the same feature networks."""
    if not dataset.class_names:
        raise UserError(f"`dataset` {dataset.name}: it has no classes, and a record measures recognition")
    cache, data = Path(flags.experiments_dir) / CLASSIFIERS_CACHE, identity_of(dataset.train)
    for name in NETWORKS:
        cached = cached_path(cache, ClassifierSettings(name, flips=dataset.flips), data.key)
        if pretrained_path(name, data.sha256) is None and not cached.is_file():
            given = {
                key: value for key, value in data_settings(to_config(settings)).items() if value not in (None, "", [])
            }
            words = shlex.quote(shlex.join([*to_arguments(given), "--network", name]))
            raise UserError(f"there is no {name} of {dataset.name}", f"train it: make train_classifier ARGS={words}")


def _sampling_steps(flags: RecordFlags, settings: TrainFlags, dataset: ImageData) -> int:
    """Return the number of sampling steps. Raises UserError if sampler, scales, or student do not fit the model."""
    spec = build_spec(settings, dataset, fit_space(settings, dataset).space)
    if spec.classes == 0:
        raise UserError("a record needs a model with labels; leave out --no_conditional")
    model = spec.model(nn.Identity(), torch.device(settings.run.device))
    for scale in flags.scales:
        if flags.student:
            steps = flags.steps or TeacherFlags.steps
            teacher = TeacherFlags(
                sampler=flags.sampler, steps=steps, guidance_scale=scale, evaluations=flags.evaluations
            )
            sampling = open_teacher(model, teacher).sampling
        else:
            sampling = open_sampling(
                SamplerFlags(flags.sampler, flags.steps, guidance_scale=scale), ModelFlags(), model
            )
    return sampling.steps


# -- the tasks --------------------------------------------------------------------------------------------------------


def train_seed(plan: Plan, seed: int) -> Trained:
    """Train a model and measure it at every scale. With --student, measure a student per scale in its place."""
    flags = plan.flags
    tell(f"seed {seed} of {', '.join(map(str, flags.seeds))}: training for {flags.minutes:g} minutes")
    commit, started = git_commit(), time.monotonic()
    run = run_process("train_flow", plan.training(seed))
    seconds, spent, reports = time.monotonic() - started, [], []
    for scale in flags.scales:
        measured, taken = run, Spent.of(run)
        if flags.student:  # The whole time of the teacher's process counts, also after its last step.
            left = flags.minutes - seconds / 60
            if left <= 0:
                reason = f"the teacher's process took {seconds / 60:.2f} of {flags.minutes:g} minutes"
                raise UserError(f"`student` {flags.student:g}: {reason}", "use more `minutes`")
            measured = run_process("distill", plan.distillation(run, seed, scale, left))
            own = Spent.of(measured)
            taken = Spent(seconds + own.seconds, taken.images + own.images, own.parameters)
        folder = run_process("evaluate", plan.evaluation(measured, seed, scale))
        spent.append(taken)
        reports.append(json.loads((folder / REPORT).read_text(encoding="utf-8")))
    return Trained(commit, spent, reports)


def run_process(task: str, words: Sequence[str]) -> Path:
    """Run a task in its own process and return the path that it prints. If the task fails, exit with its exit code."""
    with Interrupts(at_once=True), TemporaryDirectory() as compiled:
        # In its own process group, the child gets only the Ctrl-C that is sent below. Two would skip its checkpoint.
        child = subprocess.Popen(
            [sys.executable, "-m", f"scripts.{task}", *words],
            stdout=subprocess.PIPE,
            text=True,
            process_group=0,
            env={**os.environ, "TORCHINDUCTOR_CACHE_DIR": compiled},  # Every seed compiles again.
        )
        try:
            with progress("", None, bar=False, lines=False):
                printed, _ = child.communicate()
        except (Interrupted, KeyboardInterrupt) as error:
            _end(child, error.exit_code - 128 if isinstance(error, Interrupted) else signal.SIGINT)
            tell("interrupted: no row was written; a record cannot be resumed")
            raise
    if child.returncode != 0:
        tell(f"{task} has failed: no row was written; the runs are kept")
        sys.exit(child.returncode if child.returncode > 0 else 128 - child.returncode)
    return Path(printed.strip())


def _end(child: subprocess.Popen[str], number: int) -> None:
    """Send a signal to the child process and wait until it ends. Another Ctrl-C is sent to the child too."""
    child.send_signal(number)
    try:
        child.wait()
    except KeyboardInterrupt:
        _end(child, signal.SIGINT)


if __name__ == "__main__":
    run_command(main)
