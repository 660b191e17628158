"""Studies as data: a question, a grid of settings, seeds and a budget; and the trainings and measurements these make.

Imports no torch, so that a mistake in a study is found at once.
"""

import difflib
import hashlib
import itertools
import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import Any

from models.errors import UserError
from models.runs.yaml_files import plain, read_yaml
from scripts.cli.arguments import fitted, parse_flags, to_arguments
from scripts.cli.evaluation_flags import SamplesFlags
from scripts.cli.recipes import RECIPES, Recipe
from scripts.cli.settings import DEFAULTS, read_training
from scripts.cli.signatures import names_in

MOST_CELLS = 200  # Largest number of cells of a user's study without --yes.
# Sheets, evaluations and checkpoints during training would take longer than the training of a cell.
QUIET = {"eval_every": 0, "sample_every": 0, "checkpoint_every": 0, "logger": "none"}
SAMPLING, AUTOENCODER = "sampling.", "autoencoder."  # Prefixes of settings that are not of the cell's training.
# Flags of the training and of evaluate that the study itself gives.
OWN = ("seed", "epochs", "max_steps", "max_minutes", "name", "recipe", "config", "resume", "init_from")
OWN += ("run", "checkpoint", "samples", "task", "out", "num_images", "extractors")
OWN += ("device", "data_root", "experiments_dir")

Axis = Mapping[str, Mapping[str, Any]]  # Settings of each value of an axis, by the value's label.


@dataclass(frozen=True)
class Study:
    """A question and how it is answered.

    Each combination of one value per axis of the grid is a cell, trained once per seed. The first one is the reference.
    Settings are flags of the training. Those that begin with `sampling.` are flags of evaluate, and those that begin
    with `autoencoder.` of the training of an autoencoder. Cells that differ in sampling only share their training.

    recipe: name of the training's recipe. images: training images that a training sees, with repetitions. settings: of
    every cell; they replace the recipe's. num_images: number of samples to measure. extractors: feature networks.
    autoencoder: recipe of the autoencoder that is trained first; autoencoder_images: its budget.
    """

    question: str
    recipe: str
    images: int
    settings: Mapping[str, Any] = field(default_factory=dict)
    grid: Mapping[str, Axis] = field(default_factory=dict)
    seeds: tuple[int, ...] = (0, 1, 2)
    num_images: int = 2000
    extractors: tuple[str, ...] = ("convnet", "resnet")
    autoencoder: str = ""
    autoencoder_images: int = 0

    @property
    def task(self) -> str:
        return recipe_of(self.recipe).task

    @property
    def dataset(self) -> str:
        return str(self.settings.get("dataset") or recipe_of(self.recipe).settings.get("dataset", "digits"))

    @cached_property
    def cells(self) -> list["Cell"]:
        """Every combination of one value per axis, in order."""
        common = {"sampling.num_images": self.num_images, "sampling.extractors": self.extractors, **self.settings}
        cells = []
        for values in itertools.product(*(axis.items() for axis in self.grid.values())):
            labels = {axis: label for axis, (label, _) in zip(self.grid, values, strict=True)}
            settings = {key: value for _, own in values for key, value in own.items()}
            cells.append(Cell(labels, {**common, **settings}))
        return cells

    def training(self, cell: "Cell", seed: int) -> "Training":
        """Return the training of a cell with a seed."""
        first, own = None, cell.of(AUTOENCODER)
        if self.autoencoder:
            first = Training(self.autoencoder, own, self.autoencoder_images, seed)
        labels = [
            f"{axis} {label}"
            for axis, label in cell.labels.items()
            if any(not key.startswith(SAMPLING) for key in self.grid[axis][label])
        ]
        return Training(self.recipe, cell.training, self.images, seed, ", ".join(labels), first)

    def trainings(self) -> dict["Training", list["Cell"]]:
        """Return all trainings with the cells that each serves. Those of one seed come after all of another."""
        by_key: dict[str, tuple[Training, list[Cell]]] = {}
        for seed in self.seeds:
            for cell in self.cells:
                training = self.training(cell, seed)
                by_key.setdefault(training.key, (training, []))[1].append(cell)
        return dict(by_key.values())

    def check(self, data_root: str | None = None) -> None:
        """Raise UserError for settings that no flag has, and for values that a task would refuse.

        Every value of an axis is checked once, beside the first values of the other axes.
        """
        if not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise UserError(f"the study's seeds {list(self.seeds)}: name one or more, each once")
        if self.images < 1 or (self.autoencoder and self.autoencoder_images < 1):
            raise UserError("the study's images, and autoencoder_images of an autoencoder, must be at least 1")
        if self.num_images <= SamplesFlags.k:
            raise UserError(f"the study's num_images {self.num_images}: must be more than {SamplesFlags.k}")
        known = (*names_in("models.evaluation.feature_networks", "NETWORKS"), "inception")
        for name in self.extractors:
            if name not in known and not name.endswith(".safetensors"):
                raise UserError(f"the study's extractors {name}: choose from {', '.join(known)}, or name a file")
        names = [cell.name for cell in self.cells]
        if len(set(names)) < len(names):
            raise UserError(f"two cells of the study have the same name: {max(names, key=names.count)}")
        given = {*self.settings, *(key for axis in self.grid.values() for row in axis.values() for key in row)}
        for key in given:
            if key.removeprefix(SAMPLING).removeprefix(AUTOENCODER) in OWN:
                raise UserError(f"{key} is decided by the study", "leave it out")
            if key.startswith(AUTOENCODER) and not self.autoencoder:
                raise UserError(f"{key} needs an autoencoder", "name its recipe with the key autoencoder")
        first = self.cells[0].labels
        for cell in self.cells:
            if sum(cell.labels[axis] != first[axis] for axis in first) > 1:
                continue
            try:
                self.training(cell, self.seeds[0]).steps(data_root)
                parse_flags(cell.sampling, SamplesFlags(), "evaluate", "")
            except UserError as error:
                raise UserError(f"cell {cell.name}: {error.message}", *error.ways_out) from None


@dataclass(frozen=True)
class Tournament:
    """A comparison of samplers on trained runs. For each wanted count, a sampler takes the nearest that it can reach.

    runs: the models. evaluations: counts of the denoiser per image. samplers: empty for all. scales: of guidance.
    screen_images: of every entry, in the first of the extractors. num_images: of the finalists.
    """

    question: str
    runs: tuple[str, ...]
    evaluations: tuple[int, ...] = (1, 2, 3, 5, 8, 12, 23, 50)
    samplers: tuple[str, ...] = ()
    grids: tuple[str, ...] = ("uniform", "flow_time", "karras", "log_snr")
    scales: tuple[float, ...] = (1.0, 1.5)
    screen_images: int = 500
    num_images: int = 10_000
    extractors: tuple[str, ...] = ("convnet", "resnet")


def recipe_of(name: str) -> Recipe:
    """Return a training's recipe. Raises UserError."""
    if name not in RECIPES:
        close = difflib.get_close_matches(name, RECIPES, 1)
        hint = f"did you mean {close[0]}" if close else f"choose from {', '.join(RECIPES)}"
        raise UserError(f"the study's recipe {name!r} does not exist", hint)
    return RECIPES[name]


@dataclass(frozen=True)
class Cell:
    """A combination of values. labels: the value of each axis. settings: with their prefixes."""

    labels: Mapping[str, str]
    settings: Mapping[str, Any]

    @property
    def name(self) -> str:
        named = (f"{axis.removeprefix(SAMPLING)} {label}" for axis, label in self.labels.items())
        return ", ".join(named) or "the only cell"

    @property
    def training(self) -> dict[str, Any]:
        return {key: value for key, value in self.settings.items() if not key.startswith((SAMPLING, AUTOENCODER))}

    @property
    def sampling(self) -> list[str]:
        """Arguments of evaluate, without run, seed and places."""
        return to_arguments(self.of(SAMPLING))

    @property
    def evaluation(self) -> str:
        """Name of the folder of this cell's evaluation in the run."""
        return _key(" ".join(self.labels.values()), self.of(SAMPLING))

    def of(self, prefix: str) -> dict[str, Any]:
        """Return the settings with a prefix, without it."""
        return {key.removeprefix(prefix): value for key, value in self.settings.items() if key.startswith(prefix)}


@dataclass(frozen=True)
class Training:
    """A training of a study: recipe, settings, budget in images and seed. first: that of the autoencoder it needs."""

    recipe: str
    settings: Mapping[str, Any]
    images: int
    seed: int
    label: str = ""
    first: "Training | None" = None

    def __hash__(self) -> int:
        return hash(self.key)

    @property
    def task(self) -> str:
        return recipe_of(self.recipe).task

    @property
    def name(self) -> str:
        return f"{self.label}, seed {self.seed}" if self.label else f"seed {self.seed}"

    @cached_property
    def key(self) -> str:
        """Suffix of the name of the run folder: the same for the same settings, budget and seed."""
        everything = {**self.settings, "recipe": self.recipe, "images": self.images}
        everything |= {} if self.first is None else {"first": self.first.key}
        return f"{_key(self.label, everything)}-seed{self.seed}"

    def words(self) -> list[str]:
        """Return the arguments of the task, without budget and places."""
        return ["--recipe", self.recipe, *to_arguments({**QUIET, **self.settings, "seed": self.seed})]

    def steps(self, data_root: str | None = None) -> int:
        """Return the training steps that the budget makes. Raises UserError as the training would for its flags."""
        if self.first is not None:
            self.first.steps(data_root)
        default, options = DEFAULTS[self.task]
        given = ["--data_root", data_root] if data_root else []
        words = [*self.words(), *given]
        flags = read_training(words, self.task, default, "", options).flags  # pyright: ignore[reportArgumentType]
        return math.ceil(self.images / flags.optimizer.batch_size)


def _key(words: str, settings: Mapping[str, Any]) -> str:
    """Return a file name: readable words, and a hash of the settings that makes it unique."""
    readable = re.sub(r"[^A-Za-z0-9.]+", "-", words).strip("-.")[:40]
    digest = hashlib.sha256(repr(sorted(plain(settings).items())).encode()).hexdigest()[:8]
    return f"{readable}-{digest}" if readable else digest


# -- studies in files -------------------------------------------------------------------------------------------------


def read_study(path: Path) -> Study:
    """Read a study from a YAML file. An axis is a list of values of one flag, or a mapping from label to settings.

    Raises UserError for a file that cannot be read, and for unknown or missing keys.
    """
    content = read_yaml(path)
    known = {row.name: row for row in fields(Study)}
    for name in content:
        if name not in known:
            close = difflib.get_close_matches(str(name), known, 1)
            hint = f"did you mean {close[0]}" if close else f"choose from {', '.join(known)}"
            raise UserError(f"{path}: unknown key {name}", hint)
    missing = [name for name in ("question", "recipe", "images") if name not in content]
    if missing:
        raise UserError(f"{path}: the key {missing[0]} is missing")
    try:
        return Study(**{name: _read_value(name, value, known[name].type) for name, value in content.items()})
    except UserError as error:
        raise UserError(f"{path}: {error.message}", *error.ways_out) from None


def _read_value(name: str, value: Any, kind: Any) -> Any:
    if name not in ("grid", "settings"):
        return fitted(name, value, kind)
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        raise UserError(f"{name} must be a mapping from names, not {value!r}")
    return {axis: as_axis(axis, values) for axis, values in value.items()} if name == "grid" else value


def as_axis(name: str, values: Any) -> dict[str, dict[str, Any]]:
    """Return an axis. values: a list of values of the setting `name`, or a mapping from label to settings."""
    if isinstance(values, list | tuple) and values:
        return {_label(value): {name: value} for value in values}
    if isinstance(values, dict) and values and all(isinstance(row, dict) for row in values.values()):
        return {str(label): row for label, row in values.items()}
    raise UserError(f"axis {name} must be a list of values, or a mapping from label to settings, not {values!r}")


def _label(value: Any) -> str:
    return " ".join(map(_label, value)) if isinstance(value, list | tuple) else str(value)


def as_yaml(study: Study) -> dict[str, Any]:
    """Return a study as plain data for a YAML file that `read_study` reads."""
    content = {name: value for name, value in asdict(study).items() if value}
    if study.grid:
        content["grid"] = {name: _short_axis(name, axis) for name, axis in study.grid.items()}
    return plain(content)


def _short_axis(name: str, axis: Axis) -> Any:
    """Return an axis as a list if it has values of one setting, labelled by themselves."""
    values = [row.get(name) for row in axis.values()]
    return values if as_axis(name, values) == axis else axis
