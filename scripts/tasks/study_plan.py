"""Studies as data: a question, a grid of settings, seeds and a budget, with the trainings and measurements they need.

Imports no torch, so that a mistake in a study is reported at once.
"""

import hashlib
import itertools
import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import Any, get_origin

from models.errors import UserError, suggestion
from models.runs.lookup import TEACHERS
from models.runs.yaml_files import plain, read_yaml
from scripts.cli.arguments import fitted, parse_flags, to_arguments, to_config
from scripts.cli.evaluation_flags import SamplesFlags
from scripts.cli.recipes import find_recipe
from scripts.cli.settings import DEFAULTS, read_training
from scripts.cli.signatures import names_in

MOST_CELLS = 200  # Largest number of cells of a user's study without --yes.
# Sheets, evaluations and checkpoints during training would take longer than the training of a cell.
QUIET = {"eval_every": 0, "sample_every": 0, "checkpoint_every": 0, "logger": "none"}
SAMPLING, AUTOENCODER = "sampling.", "autoencoder."  # Prefixes of settings that are flags of evaluate and of train_vae.
# Flags of the training and of evaluate that the study itself gives.
OWN = ("seed", "epochs", "max_steps", "max_minutes", "name", "recipe", "config", "resume", "init_from")
OWN += ("run", "checkpoint", "samples", "task", "out", "num_images", "extractors")
OWN += ("device", "data_root", "experiments_dir")

Axis = Mapping[str, Mapping[str, Any]]  # Settings of each value of an axis, by the value's label.


@dataclass(frozen=True)
class Study:
    """A question, and the trainings and measurements that answer it.

    Each combination of one value per axis of the grid is a cell. The first cell is the reference. Each cell is trained
    once per seed. Settings are flags of the training. Settings that begin with `sampling.` are flags of evaluate, and
    settings that begin with `autoencoder.` are flags of the autoencoder's training. Cells that differ only in sampling
    share one training.

    recipe: name of the training's recipe. images: number of training images that a training sees, with repetitions.
    settings: settings of every cell, which override the recipe. num_images: number of samples to measure. extractors:
    feature networks. autoencoder: recipe of the autoencoder that is trained first. autoencoder_images: `images` for
    the training of the autoencoder.
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
        return find_recipe(self.recipe).task

    @property
    def dataset(self) -> str:
        return str(self.settings.get("dataset") or find_recipe(self.recipe).settings.get("dataset", "digits"))

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
            if any(not key.startswith(SAMPLING) for row in self.grid[axis].values() for key in row)
        ]
        return Training(self.recipe, cell.training, self.images, seed, ", ".join(labels), first)

    def trainings(self) -> dict["Training", list["Cell"]]:
        """Return all trainings, one seed after another, with the cells that each training serves."""
        trainings: dict[Training, list[Cell]] = {}
        for seed in self.seeds:
            for cell in self.cells:
                trainings.setdefault(self.training(cell, seed), []).append(cell)
        return trainings

    def check(self, data_root: str | None = None) -> None:
        """Raise UserError for settings that are not flags, and for values that a task would refuse.

        Every value of an axis is checked once, together with the first values of the other axes.
        """
        if not self.question:
            raise UserError("the study's question is empty")
        for name, values in (("seeds", self.seeds), ("extractors", self.extractors)):
            if not values or len(set(values)) < len(values):
                raise UserError(f"the study's {name} {list(values)}: name one or more, each once")
        if min(self.seeds) < 0:
            raise UserError(f"the study's seeds {list(self.seeds)}: must be 0 or larger")
        if self.images < 1 or (self.autoencoder and self.autoencoder_images < 1):
            raise UserError("the study's images and autoencoder_images must be at least 1")
        if self.num_images <= SamplesFlags.k:
            raise UserError(f"the study's num_images {self.num_images}: must be more than {SamplesFlags.k}")
        if self.task not in TEACHERS:
            raise UserError(
                f"the study's recipe {self.recipe} trains nothing to sample from",
                "name an autoencoder's recipe with the key autoencoder",
            )
        if self.autoencoder and find_recipe(self.autoencoder).task != "train_vae":
            raise UserError(f"the study's autoencoder {self.autoencoder} is no recipe of train_vae")
        known = (*names_in("models.evaluation.feature_networks", "NETWORKS"), "inception")
        for name in self.extractors:
            if name not in known and not name.endswith(".safetensors"):
                raise UserError(f"the study's extractors {name}: choose from {', '.join(known)}, or name a file")
        self._check_names()
        first = self.cells[0].labels
        for cell in self.cells:
            if "sampling.sampler" not in cell.settings:
                raise UserError(
                    f"cell {cell.name} names no sampler, and the default is not the same for all models",
                    "set sampling.sampler, e.g. to heun",
                )
            if sum(cell.labels[axis] != first[axis] for axis in first) > 1:
                continue
            try:
                self.training(cell, self.seeds[0]).steps(data_root)
                parse_flags(cell.sampling, SamplesFlags(), "evaluate", "")
            except UserError as error:
                raise UserError(f"cell {cell.name}: {error.message}", *error.ways_out) from None

    def _check_names(self) -> None:
        """Raise UserError for cells of the same name, and for settings that the study decides or that two axes set."""
        names = [cell.name for cell in self.cells]
        if len(set(names)) < len(names):
            raise UserError(f"two cells of the study have the same name: {max(names, key=names.count)}")
        given = {*self.settings, *(key for axis in self.grid.values() for row in axis.values() for key in row)}
        for key in given:
            if key.removeprefix(SAMPLING).removeprefix(AUTOENCODER) in OWN:
                raise UserError(f"{key} is decided by the study", "leave it out")
            if key.startswith(AUTOENCODER) and not self.autoencoder:
                raise UserError(f"{key} needs an autoencoder", "name its recipe with the key autoencoder")
        axes = [{key for row in axis.values() for key in row} for axis in self.grid.values()]
        for one, other in itertools.combinations(axes, 2):
            if both := one & other:
                raise UserError(f"two axes of the study set {min(both)}", "put the settings of both in one axis")


@dataclass(frozen=True)
class Tournament:
    """A comparison of samplers on trained runs, at given numbers of denoiser evaluations per image.

    runs: the trained models. evaluations: the numbers of evaluations; a sampler takes the nearest number that it can
    reach. samplers: names; empty for all samplers. scales: guidance scales. screen_images: number of images of each
    candidate, measured with the first extractor. num_images: number of images of each finalist.
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


@dataclass(frozen=True)
class Cell:
    """Combination of one value per axis. labels: label of the value, by axis. settings: values by name with prefix."""

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
        """Arguments of evaluate, without run, seed, device and folders."""
        return to_arguments(self.of(SAMPLING))

    @property
    def evaluation(self) -> str:
        """Name of the folder of this cell's evaluation in the run."""
        return "-".join(filter(None, (_readable(" ".join(self.labels.values())), _digest(self.of(SAMPLING)))))

    def of(self, prefix: str) -> dict[str, Any]:
        """Return the settings whose names have a prefix, under their names without the prefix."""
        return {key.removeprefix(prefix): value for key, value in self.settings.items() if key.startswith(prefix)}


@dataclass(frozen=True, eq=False)
class Training:
    """A training of a study: recipe, settings, seed, and budget in images. first: training of its autoencoder."""

    recipe: str
    settings: Mapping[str, Any]
    images: int
    seed: int
    label: str = ""
    first: "Training | None" = None

    def __hash__(self) -> int:
        return hash(self.key)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Training) and self.key == other.key

    @property
    def task(self) -> str:
        return find_recipe(self.recipe).task

    @property
    def name(self) -> str:
        return f"{self.label}, seed {self.seed}" if self.label else f"seed {self.seed}"

    @cached_property
    def key(self) -> str:
        """End of the name of the run folder: the same for the same settings, budget and seed."""
        everything = {**self.settings, "recipe": self.recipe, "images": self.images}
        everything |= {} if self.first is None else {"first": self.first.key}
        return f"{_digest(everything)}-seed{self.seed}"

    @property
    def run_name(self) -> str:
        """Suffix of the name of the run folder, for --name."""
        return "-".join(filter(None, (_readable(self.label), self.key)))

    def words(self) -> list[str]:
        """Return the arguments of the task, without budget, device, folders and name.

        They name what the recipe would change on a GPU, so that a study is the same on every machine.
        """
        recipe, defaults = find_recipe(self.recipe), to_config(DEFAULTS[self.task][0])
        of_recipe = [key for key in recipe.gpu if "network" not in self.settings or not key.startswith("network.")]
        fixed = {key: recipe.settings.get(key, defaults.get(key)) for key in of_recipe}
        return ["--recipe", self.recipe, *to_arguments({**QUIET, **fixed, **self.settings, "seed": self.seed})]

    def steps(self, data_root: str | None = None) -> int:
        """Return the budget in training steps. Raises UserError if the training would refuse its flags."""
        if self.first is not None:
            self.first.steps(data_root)
        default, options = DEFAULTS[self.task]
        given = ["--data_root", data_root] if data_root else []
        given += ["--autoencoder", "first.safetensors"] if self.first is not None else []  # A placeholder.
        words = [*self.words(), *given]
        flags = read_training(words, self.task, default, "", options).flags  # pyright: ignore[reportArgumentType]
        return math.ceil(self.images / flags.optimizer.batch_size)


def _readable(words: str) -> str:
    """Return the words in a form that can be part of a file name."""
    return re.sub(r"[^A-Za-z0-9.]+", "-", words).strip("-.")[:40]


def _digest(settings: Mapping[str, Any]) -> str:
    """Return a short hash of settings."""
    return hashlib.sha256(repr(sorted(plain(settings).items())).encode()).hexdigest()[:8]


# -- studies in files -------------------------------------------------------------------------------------------------


def read_study(path: Path) -> Study:
    """Read a study from a YAML file. An axis is a list of values of one flag, or a mapping from label to settings.

    Raises UserError for a file that cannot be read, and for unknown or missing keys.
    """
    content = read_yaml(path)
    known = {row.name: row for row in fields(Study)}
    for name in content:
        if name not in known:
            choice = f"choose from {', '.join(known)}"
            raise UserError(f"{path}: unknown key {name}: {choice}{suggestion(str(name), known)}")
    missing = [name for name in ("question", "recipe", "images") if name not in content]
    if missing:
        raise UserError(f"{path}: the key {missing[0]} is missing")
    try:
        return Study(**{name: _read_value(name, value, known[name].type) for name, value in content.items()})
    except UserError as error:
        raise UserError(f"{path}: {error.message}", *error.ways_out) from None


def _read_value(name: str, value: Any, kind: Any) -> Any:
    if name not in ("grid", "settings"):
        if get_origin(kind) is tuple and not isinstance(value, list):
            raise UserError(f"{name} must be a list, not {value!r}")
        return fitted(name, value, kind)
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        raise UserError(f"{name} must be a mapping with strings as keys, not {value!r}")
    return {axis: as_axis(axis, values) for axis, values in value.items()} if name == "grid" else _settings(value)


def _settings(settings: dict[str, Any]) -> dict[str, Any]:
    """Return the settings. Raises UserError if a value is a mapping or a name is not a string."""
    for name, value in settings.items():
        if not isinstance(name, str) or isinstance(value, dict):
            raise UserError(f"setting {name}: {value!r}", "write settings as flags, such as network.width: 16")
    return settings


def as_axis(name: str, values: Any) -> dict[str, dict[str, Any]]:
    """Return an axis. values: a list of values of the setting `name`, or a mapping from label to settings."""
    if isinstance(values, list | tuple) and values:
        axis = {_label(value): _settings({name: value}) for value in values}
        if len(axis) < len(values):
            raise UserError(f"axis {name} has a value twice: {values}")
        return axis
    if isinstance(values, dict) and values and all(isinstance(row, dict) for row in values.values()):
        return {str(label): _settings(row) for label, row in values.items()}
    raise UserError(f"axis {name} must be a list of values, or a mapping from label to settings, not {values!r}")


def _label(value: Any) -> str:
    return " ".join(map(_label, value)) if isinstance(value, list | tuple) else str(value)


def as_yaml(study: Study) -> dict[str, Any]:
    """Return a study as plain data for a YAML file that `read_study` reads."""
    default = {row.name: row.default for row in fields(Study)}
    content = {name: value for name, value in asdict(study).items() if value != default[name] and value != {}}
    if study.grid:
        content["grid"] = {name: _short_axis(name, axis) for name, axis in study.grid.items()}
    return plain(content)


def _short_axis(name: str, axis: Axis) -> Any:
    """Return an axis as a list of values of the setting `name` if the values are their own labels; else the axis."""
    if any(list(row) != [name] for row in axis.values()):
        return axis
    values = [row[name] for row in axis.values()]
    return values if [_label(value) for value in values] == list(axis) else axis
