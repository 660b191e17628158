"""Add rows to experiments/records.md: the results of a recipe after some minutes of training, over several seeds.

For each seed, `train_flow` trains and `evaluate` measures, each in its own process. The head of records.md states the
rules for a row, and how results of other programs can be added.
"""

if not __package__:
    __import__("cli")  # says what to type, and exits

import fcntl
import json
import math
import os
import shlex
import signal
import statistics
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import torch
from torch import nn

from data import ImageData
from models import devices
from models.errors import UserError
from models.evaluation.classifier import cached_path, pretrained_path
from models.evaluation.classifier_settings import ClassifierSettings
from models.evaluation.feature_networks import NETWORKS
from models.places import experiments_dir
from models.progress import progress
from models.ranges import NonNegative, NonNegativeInt, Positive, PositiveInt
from models.runs.environment import git_commit
from models.runs.files import write_text
from models.runs.yaml_files import read_yaml
from models.training.interrupts import Interrupted, Interrupts
from models.variants import DATA_SETS
from scripts.cli.arguments import parse_flags, read_ahead, split_at_dashes, to_arguments, to_config
from scripts.cli.command import run_command
from scripts.cli.flags import DatasetName, ModelFlags, SamplerFlags, SamplerName, TrainFlags
from scripts.cli.recipes import RECIPES
from scripts.cli.terminal import tell
from scripts.tasks.denoising import build_spec, fit_space, settings_to_measure
from scripts.tasks.evaluate_compare import REPORT
from scripts.tasks.extractors import CLASSIFIERS_CACHE
from scripts.tasks.run_data import identity_of
from scripts.tasks.sampling import make_folder, open_sampling
from scripts.tasks.training import load_data

DESCRIPTION = """Train a recipe and add its results to the records. Prints the file.

Flags after -- are for train_flow, as in: -- --network.width 48"""
MOST_IMAGES = 10_000
MOST_COPIES = 0.02  # Largest share of near copies of training images under the rules.
_COPIES = "near_copies_"
# Evaluation and sheets during training would count as training time, so both are done at the end.
AT_THE_END = ("--eval_every", "0", "--sample_every", "0", "--checkpoint_every", "0", "--no-tensorboard")
PATHS = {"data_root", "experiments_dir", "records"}  # Paths differ between machines, so the table's commands omit them.
COLUMNS = (
    *("date", "data", "minutes", "entry", "device", "images/s"),
    *(f"recognised, {name}" for name in NETWORKS),
    "accuracy score",
    *(f"distance / floor, {name}" for name in NETWORKS),
    *("sampler, NFE", "guidance", "images, seeds", "commit", "command"),
)
HEADER = f"| {' | '.join(COLUMNS)} |"
EMPTY_TABLE = f"{HEADER}\n|{'---|' * len(COLUMNS)}\n"


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
    """Sampler of the measured samples."""
    steps: PositiveInt | None = None
    """Sampling steps. Default: as for generate."""
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


class Trained(NamedTuple):
    """Results of one seed. figures: metrics of the training run. reports: of `evaluate`, one per guidance scale."""

    commit: str
    figures: dict[str, Any]
    reports: list[dict[str, Any]]


@dataclass(frozen=True)
class Plan:
    """Settings of a record. flags: with every default filled in. further: the arguments after --."""

    flags: RecordFlags
    recipe: str
    further: Sequence[str]

    def training(self, seed: int) -> list[str]:
        """Return the arguments for train_flow. Arguments required by the rules come last, because the last one wins."""
        flags = self.flags
        return [
            *("--recipe", self.recipe, *AT_THE_END, *self.further, "--dataset", flags.dataset, "--wall_clock"),
            *("--max_minutes", str(flags.minutes), "--seed", str(seed), *self._common()),
            *("--name", f"record-{flags.minutes:g}min-seed{seed}"),
            *(() if flags.data_root is None else ("--data_root", flags.data_root)),
        ]

    def evaluation(self, run: Path, seed: int, scale: float) -> list[str]:
        """Return the arguments for evaluate."""
        flags = self.flags
        return [
            *("--run", str(run), "--seed", str(seed), "--guidance_scale", str(scale), *self._common()),
            *("--sampler", flags.sampler, "--steps", str(flags.steps), "--num_images", str(flags.num_images)),
            *("--extractors", *NETWORKS, "--classification_accuracy"),
        ]

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
        raise UserError("a record counts all training, also that of an autoencoder", "set `space` pixels")
    dataset = load_data(settings, settings.run.experiments_dir)
    _check_extractors(flags, dataset)
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


def _check_extractors(flags: RecordFlags, dataset: ImageData) -> None:
    """Raise UserError if a feature network is missing. Comparable records need the same feature networks."""
    if not dataset.class_names:
        raise UserError(f"`dataset` {dataset.name}: it has no classes, and a record measures recognition")
    cache, data = Path(flags.experiments_dir) / CLASSIFIERS_CACHE, identity_of(dataset.train)
    for name in NETWORKS:
        cached = cached_path(cache, ClassifierSettings(name, flips=dataset.flips), data.key)
        if pretrained_path(name, data.sha256) is None and not cached.is_file():
            words = f"--dataset {dataset.name} --network {name}"
            raise UserError(f"there is no {name} of {dataset.name}: make train_classifier ARGS='{words}' trains one")


def _sampling_steps(flags: RecordFlags, settings: TrainFlags, dataset: ImageData) -> int:
    """Return the number of sampling steps. Raises UserError if the model does not allow the sampler or a scale."""
    spec = build_spec(settings, dataset, fit_space(settings, dataset).space)
    if spec.classes == 0:
        raise UserError("a record needs a model with labels; leave out --no_conditional")
    model = spec.model(nn.Identity(), torch.device(settings.run.device))
    for scale in flags.scales:
        sampler = SamplerFlags(flags.sampler, flags.steps, guidance_scale=scale)
        sampling = open_sampling(sampler, ModelFlags(), model)
    return sampling.steps


# -- the tasks --------------------------------------------------------------------------------------------------------


def train_seed(plan: Plan, seed: int) -> Trained:
    """Train one seed and measure it at every scale."""
    tell(f"seed {seed} of {', '.join(map(str, plan.flags.seeds))}: training for {plan.flags.minutes:g} minutes")
    commit = git_commit()
    run = run_task("train_flow", plan.training(seed))
    folders = [run_task("evaluate", plan.evaluation(run, seed, scale)) for scale in plan.flags.scales]
    reports = [json.loads((folder / REPORT).read_text(encoding="utf-8")) for folder in folders]
    return Trained(commit, read_yaml(run / "performance_metrics.txt"), reports)


def run_task(task: str, words: Sequence[str]) -> Path:
    """Run a task in its own process and return the path that it prints. If the task fails, exit with its exit code."""
    with Interrupts(at_once=True), TemporaryDirectory() as compiled:
        # In its own process group it gets Ctrl-C only once, from this process. Two would end it without a checkpoint.
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


# -- the table --------------------------------------------------------------------------------------------------------


def row(plan: Plan, trained: Sequence[Trained], index: int) -> str:
    """Return one table row: mean and standard deviation over the seeds. index: position in the guidance scales."""
    flags, reports = plan.flags, [of_seed.reports[index] for of_seed in trained]
    speeds = [of_seed.figures["images_per_second"] for of_seed in trained]
    minutes = max(of_seed.figures["training_seconds"] for of_seed in trained) / 60
    device = torch.device(reports[0]["samples"]["device"])
    nfe = statistics.mean(report["samples"]["nfe"] for report in reports)
    cells = (
        f"{datetime.now(UTC):%Y-%m-%d}",
        flags.dataset,
        f"{minutes:.2f}",
        f"recipe {plan.recipe}, {trained[0].figures['parameters'] / 1e6:.2f} M",
        devices.describe_device(device),
        mean_and_deviation(speeds, 0),
        *(
            f"{mean_and_deviation([100 * _value(report, f'recognised_{name}') for report in reports], 2)} %"
            for name in NETWORKS
        ),
        f"{mean_and_deviation([100 * _value(report, 'cas') for report in reports], 2)} %",
        *(mean_and_deviation([_over_floor(report, f"fd_{name}") for report in reports], 2) for name in NETWORKS),
        f"{flags.sampler} {flags.steps}, {nfe:g}",
        f"{flags.scales[index]:g}",
        f"{flags.num_images}, seeds {' '.join(map(str, flags.seeds))}",
        ", ".join(sorted({of_seed.commit for of_seed in trained})),
        f"`{plan.command()}`",
    )
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |\n"


def refuse_copies(reports: Sequence[dict[str, Any]]) -> None:
    """Raise UserError if significantly more samples than the rules allow are near copies of training images."""
    for report in reports:
        shares = {name: result["found"] for name, result in report["results"].items() if name.startswith(_COPIES)}
        for name, share in shares.items():
            if share["low"] > MOST_COPIES:
                raise UserError(
                    f"{100 * share['value']:.1f} % of the images are near copies by {name.removeprefix(_COPIES)}, "
                    f"and the rules allow {100 * MOST_COPIES:.0f} %: no row was written"
                )


def _value(report: dict[str, Any], prefix: str, column: str = "found") -> float:
    (result,) = (result for name, result in report["results"].items() if name.startswith(prefix))
    return result[column]["value"]


def _over_floor(report: dict[str, Any], prefix: str) -> float:
    floor = _value(report, prefix, "floor")
    return _value(report, prefix) / floor if floor > 0 else math.inf


def mean_and_deviation(values: Sequence[float], digits: int) -> str:
    """Return the mean as text. With several values, the standard deviation follows it."""
    mean = f"{statistics.mean(values):.{digits}f}"
    return mean if len(values) == 1 else f"{mean} ± {statistics.stdev(values):.{digits}f}"


def table_of(path: Path) -> tuple[str, str]:
    """Return the text of the records up to the end of the table, and the rest. Without a file, the table is empty.

    Raises UserError if the file has no such table or several.
    """
    if not path.parent.is_dir():
        raise UserError(f"`records` {path}: there is no folder {path.parent}")
    try:
        text = path.read_text(encoding="utf-8") if path.exists() else EMPTY_TABLE
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"`records` {path} cannot be read: {error}") from None
    lines = text.splitlines(keepends=True)
    headers = [index for index, line in enumerate(lines) if line.strip() == HEADER]
    if len(headers) != 1:
        raise UserError(f"`records` {path}: must have one table with the columns {', '.join(COLUMNS)}")
    end = next((k for k in range(headers[0], len(lines)) if not lines[k].startswith("|")), len(lines))
    return "".join(lines[:end]).rstrip("\n") + "\n", "".join(lines[end:])


def add_rows(path: Path, rows: Sequence[str]) -> None:
    """Add rows to the end of the table. The rest of the file does not change."""
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)  # Another record may write at the same time.
        table, rest = table_of(path)
        write_text(path, table + "".join(rows) + rest)
    finally:
        os.close(folder)


if __name__ == "__main__":
    run_command(main)
