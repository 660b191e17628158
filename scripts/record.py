"""Rows of experiments/records.md: what a recipe reaches in so many minutes, over several seeds.

Every seed is trained and measured by the tasks that anybody runs, each in a process of its own. By which rules a row
came about, and how other programs can enter, stands at the head of the file.
"""

from __future__ import annotations

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
from typing import Annotated, Any, NamedTuple

import torch
from torch import nn

from data import ImageData
from models import devices
from models.errors import UserError
from models.evaluation.classifier import ClassifierSettings, cached_path, pretrained_path
from models.evaluation.feature_networks import NETWORKS
from models.runs.environment import git_commit
from models.runs.files import write_text
from models.runs.yaml_files import read_yaml
from models.training.interrupts import Interrupted, Interrupts
from models.variants import DATA_SETS
from scripts.cli.arguments import parse_flags, read_ahead, split_at_dashes, to_arguments, to_config
from scripts.cli.command import run_command
from scripts.cli.flags import ModelFlags, SamplerFlags, SamplerName, TrainFlags, experiments_dir, one_of
from scripts.cli.recipes import RECIPES
from scripts.cli.terminal import tell
from scripts.tasks.denoising import build_spec, fit_space, settings_to_measure
from scripts.tasks.evaluate_compare import REPORT
from scripts.tasks.extractors import CLASSIFIERS_CACHE
from scripts.tasks.sampling import make_folder, open_sampling
from scripts.tasks.training import fingerprint, load_data

DESCRIPTION = """Train a recipe for minutes, add its figures to the records. Prints the file.

Flags after -- are for train_flow, as in: -- --network.width 48"""
MOST_IMAGES = 10_000
MOST_COPIES = 0.02
_COPIES = "near_copies_"
# Nothing is measured or drawn before the end: it would count, and serves nobody.
AT_THE_END = ("--eval_every", "0", "--sample_every", "0", "--checkpoint_every", "0", "--no-tensorboard")
PLACES = {"data_root", "experiments_dir", "records"}  # Not the same on the reader's machine.
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

    dataset: Annotated[str, one_of(DATA_SETS.names())] = "mnist"
    """Its recipe of train_flow is what is trained."""
    minutes: float = 10.0
    """From the start of the training's process, imports and compilation included, to its last step."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """One training for each; its images begin from noise of the same seed."""
    scales: tuple[float, ...] = (1.0, 1.5)
    """Guidance scales; each gives a row."""
    sampler: SamplerName = "heun"
    """Sampler of the images that are measured."""
    steps: int | None = None
    """Its steps. Default: as for generate."""
    num_images: int | None = None
    """How many images of each seed. Default: as many as there are test images, but no more than 10,000."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1, mps."""
    data_root: str | None = None
    """Folder of the data sets, in torchvision's layout. Default: the variable DATA_ROOT, else data/store."""
    experiments_dir: str = field(default_factory=experiments_dir)
    """Folder in which the run folders are made; the variable EXPERIMENTS_DIR sets its default."""
    records: str = "experiments/records.md"
    """The file whose table gets the rows."""


class Trained(NamedTuple):
    """One seed: the code's commit, the figures of its training, and a report of its images for each scale."""

    commit: str
    figures: dict[str, Any]
    reports: list[dict[str, Any]]


@dataclass(frozen=True)
class Plan:
    """All that a record asks for. flags: with nothing left open. recipe: its name. further: the words after --."""

    flags: RecordFlags
    recipe: str
    further: Sequence[str]

    def training(self, seed: int) -> list[str]:
        """The words for train_flow; the rules win over what was asked for."""
        flags = self.flags
        return [
            *("--recipe", self.recipe, *AT_THE_END, *self.further, "--dataset", flags.dataset, "--wall_clock"),
            *("--max_minutes", str(flags.minutes), "--seed", str(seed), *self._where()),
            *("--name", f"record-{flags.minutes:g}min-seed{seed}"),
            *(() if flags.data_root is None else ("--data_root", flags.data_root)),
        ]

    def evaluation(self, run: Path, seed: int, scale: float) -> list[str]:
        """The words for evaluate."""
        flags = self.flags
        return [
            *("--run", str(run), "--seed", str(seed), "--guidance_scale", str(scale), *self._where()),
            *("--sampler", flags.sampler, "--steps", str(flags.steps), "--num_images", str(flags.num_images)),
            *("--extractors", *NETWORKS, "--classification_accuracy"),
        ]

    def _where(self) -> tuple[str, ...]:
        return "--device", self.flags.device, "--experiments_dir", self.flags.experiments_dir

    def command(self) -> str:
        """What a reader types to have the rows again, but for where things lie."""
        flags, plain = self.flags, to_config(RecordFlags())
        named = {"dataset", "minutes", "seeds", *PLACES}
        other = {key: value for key, value in to_config(flags).items() if key not in named and value != plain[key]}
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
    own, further = split_at_dashes(argv)
    plan = make_plan(parse_flags(own, RecordFlags(), "record", DESCRIPTION), further)
    trained = [train_seed(plan, seed) for seed in plan.flags.seeds]
    rows = [row(plan, trained, index) for index in range(len(plan.flags.scales))]
    tell(f"{EMPTY_TABLE}{''.join(rows)}")
    refuse_copies([report for each in trained for report in each.reports])
    add_rows(Path(plan.flags.records), rows)
    print(plan.flags.records)


# -- before anything is run -------------------------------------------------------------------------------------------


def make_plan(flags: RecordFlags, further: Sequence[str]) -> Plan:
    """Raises UserError for all that would only come to light after the training."""
    _check_numbers(flags)
    table_of(Path(flags.records))
    make_folder(Path(flags.records).parent, "--records")
    plan = Plan(flags, read_ahead(further).get("recipe") or _recipe_of(flags.dataset), further)
    settings = settings_to_measure(plan.training(flags.seeds[0]))
    if settings.space != "pixels":
        raise UserError("a record counts all training: --space latents brings that of an autoencoder")
    dataset = load_data(settings)
    _check_extractors(flags, dataset)
    most = min(len(dataset.test), MOST_IMAGES)
    count = most if flags.num_images is None else flags.num_images
    fewest = max(network.features for network in NETWORKS.values())
    if not fewest < count <= len(dataset.test):
        raise UserError(
            f"--num_images {count}: takes more than {fewest}, the features, and at most the {len(dataset.test)} test "
            f"images of {dataset.name}, of which the floor is made"
        )
    steps = _sampling_steps(flags, settings, dataset)
    return replace(plan, flags=replace(flags, num_images=count, steps=steps))


def _check_numbers(flags: RecordFlags) -> None:
    if not 0 < flags.minutes < math.inf:
        raise UserError(f"--minutes {flags.minutes}: takes more than 0")
    for name, values in (("seeds", flags.seeds), ("scales", flags.scales)):
        if not values or len(set(values)) < len(values) or min(values) < 0:
            raise UserError(f"--{name} {' '.join(map(str, values))}: one or more from 0 up, each once")


def _recipe_of(dataset: str) -> str:
    DATA_SETS.find(dataset)
    fitting = (name for name, each in RECIPES.items() if each.task == "train_flow")
    found = next((name for name in fitting if RECIPES[name].settings["dataset"] == dataset), None)
    if found is None:
        raise UserError(f"--dataset {dataset}: there is no recipe of train_flow for it; name one with -- --recipe")
    return found


def _check_extractors(flags: RecordFlags, dataset: ImageData) -> None:
    """Both feature networks must be there: one that is trained for the occasion is no measure for others."""
    if not dataset.class_names:
        raise UserError(f"--dataset {dataset.name}: it has no classes, and a record asks whether images show theirs")
    kept, sha256 = Path(flags.experiments_dir) / CLASSIFIERS_CACHE, fingerprint(dataset)
    for name in NETWORKS:
        mine = cached_path(kept, ClassifierSettings(name, flips=dataset.flips), sha256)
        if pretrained_path(name, sha256) is None and not mine.is_file():
            words = f"--dataset {dataset.name} --network {name}"
            raise UserError(f"no {name} knows {dataset.name}: make train_classifier ARGS='{words}' trains one")


def _sampling_steps(flags: RecordFlags, settings: TrainFlags, dataset: ImageData) -> int:
    """Raises UserError for a sampler or a scale that the model will not have."""
    spec = build_spec(settings, dataset, fit_space(settings, dataset, fingerprint(dataset)).space)
    if spec.classes == 0:
        raise UserError("--no-conditional: a record asks for images of a class each")
    model = spec.model(nn.Identity(), torch.device(settings.run.device))
    for scale in flags.scales:
        sampler = SamplerFlags(flags.sampler, flags.steps, guidance_scale=scale)
        sampling = open_sampling(sampler, ModelFlags(), model)
    return sampling.steps


# -- the tasks --------------------------------------------------------------------------------------------------------


def train_seed(plan: Plan, seed: int) -> Trained:
    """Trains one seed and measures it at every scale."""
    tell(f"seed {seed} of {', '.join(map(str, plan.flags.seeds))}: training for {plan.flags.minutes:g} minutes")
    code = git_commit()
    run = run_task("train_flow", plan.training(seed))
    folders = [run_task("evaluate", plan.evaluation(run, seed, scale)) for scale in plan.flags.scales]
    reports = [json.loads((folder / REPORT).read_text(encoding="utf-8")) for folder in folders]
    return Trained(code, read_yaml(run / "performance_metrics.txt"), reports)


def run_task(task: str, words: Sequence[str]) -> Path:
    """A task in a process of its own, and the path that it prints. Where it fails, this process exits as it did."""
    with Interrupts(at_once=True), TemporaryDirectory() as compiled:
        # In a group of its own a Ctrl-C reaches it through us alone: a second one would cost its checkpoint.
        child = subprocess.Popen(
            [sys.executable, "-m", f"scripts.{task}", *words],
            stdout=subprocess.PIPE,
            text=True,
            process_group=0,
            env={**os.environ, "TORCHINDUCTOR_CACHE_DIR": compiled},  # each seed compiles for itself
        )
        try:
            printed, _ = child.communicate()
        except (Interrupted, KeyboardInterrupt) as error:
            _end(child, error.exit_code - 128 if isinstance(error, Interrupted) else signal.SIGINT)
            tell("interrupted: no row was written, and a record begins anew")
            raise
    if child.returncode != 0:
        tell(f"{task} has failed: no row was written, and the runs are kept")
        sys.exit(child.returncode if child.returncode > 0 else 128 - child.returncode)
    return Path(printed.strip())


def _end(child: subprocess.Popen[str], number: int) -> None:
    """Passes a signal on and waits for the end of the child, which a second Ctrl-C hastens."""
    child.send_signal(number)
    try:
        child.wait()
    except KeyboardInterrupt:
        _end(child, signal.SIGINT)


# -- the table --------------------------------------------------------------------------------------------------------


def row(plan: Plan, trained: Sequence[Trained], index: int) -> str:
    """One line of the table: mean and deviation over the seeds, at the scale of that index."""
    flags, reports = plan.flags, [each.reports[index] for each in trained]
    speeds = [each.figures["images_per_second"] for each in trained]
    minutes = max(each.figures["training_seconds"] for each in trained) / 60
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
            f"{mean_and_deviation([100 * _value(each, f'recognised_{name}') for each in reports], 2)} %"
            for name in NETWORKS
        ),
        f"{mean_and_deviation([100 * _value(each, 'cas') for each in reports], 2)} %",
        *(mean_and_deviation([_over_floor(each, f"fd_{name}") for each in reports], 2) for name in NETWORKS),
        f"{flags.sampler} {flags.steps}, {nfe:g}",
        f"{flags.scales[index]:g}",
        f"{flags.num_images}, seeds {' '.join(map(str, flags.seeds))}",
        ", ".join(sorted({each.commit for each in trained})),
        f"`{plan.command()}`",
    )
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |\n"


def refuse_copies(reports: Sequence[dict[str, Any]]) -> None:
    """Raises UserError where more images than the rules allow, beyond chance, are near copies of training images."""
    for report in reports:
        copies = {name: row["found"] for name, row in report["results"].items() if name.startswith(_COPIES)}
        for name, found in copies.items():
            if found["low"] > MOST_COPIES:
                raise UserError(
                    f"{100 * found['value']:.1f} % of the images are near copies by {name.removeprefix(_COPIES)}, "
                    f"and the rules allow {100 * MOST_COPIES:.0f} %: no row was written"
                )


def _value(report: dict[str, Any], begins: str, of: str = "found") -> float:
    (name,) = (each for each in report["results"] if each.startswith(begins))
    return report["results"][name][of]["value"]


def _over_floor(report: dict[str, Any], begins: str) -> float:
    floor = _value(report, begins, "floor")
    return _value(report, begins) / floor if floor > 0 else math.inf


def mean_and_deviation(values: Sequence[float], digits: int) -> str:
    """The mean and, of several, the deviation from seed to seed."""
    mean = f"{statistics.mean(values):.{digits}f}"
    return mean if len(values) == 1 else f"{mean} ± {statistics.stdev(values):.{digits}f}"


def table_of(path: Path) -> tuple[str, str]:
    """The text of the records up to the end of the table, and what follows; an empty table where there is no file.

    Raises UserError for a file without the table.
    """
    if not path.parent.is_dir():
        raise UserError(f"--records {path}: there is no folder {path.parent}")
    try:
        text = path.read_text(encoding="utf-8") if path.exists() else EMPTY_TABLE
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--records {path} cannot be read: {error}") from None
    lines = text.splitlines(keepends=True)
    places = [index for index, line in enumerate(lines) if line.strip() == HEADER]
    if len(places) != 1:
        raise UserError(f"--records {path}: it lacks the one table with the columns {', '.join(COLUMNS)}")
    end = next((k for k in range(places[0], len(lines)) if not lines[k].startswith("|")), len(lines))
    return "".join(lines[:end]).rstrip("\n") + "\n", "".join(lines[end:])


def add_rows(path: Path, rows: Sequence[str]) -> None:
    """Puts rows at the end of the table and leaves all else as it is."""
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)  # Two records that end at once both keep their rows.
        table, rest = table_of(path)
        write_text(path, table + "".join(rows) + rest)
    finally:
        os.close(folder)


if __name__ == "__main__":
    run_command(main)
