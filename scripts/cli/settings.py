"""Gather the settings of a task from all its sources before torch is imported.

Sources of a training task: its defaults, a recipe, a --config file, the settings of a resumed run, the command line.
Later sources override earlier ones. Tasks on a trained autoencoder take the data set of the autoencoder's run.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from models.errors import UserError
from models.learning_rate import OptimizerSettings
from models.places import experiments_dir
from models.ranges import Resumable
from models.runs.lookup import NEEDED, TEACHERS, find_run, is_shipped, read_config, run_name
from models.runs.status import STATUS, read_status
from models.runs.yaml_files import read_yaml
from scripts.cli.arguments import (
    NOT_STORED,
    chosen_variants,
    leaves,
    merge,
    parse_flags,
    read_ahead,
    renamed,
    spell_out,
    to_config,
    with_settings,
)
from scripts.cli.early import check_places
from scripts.cli.flags import FLOW, LATENT, LATENT_OPTIONS, AutoencoderFlags, CodingFlags, TrainFlags
from scripts.cli.recipes import Recipe, described, find_recipe
from scripts.cli.student_flags import StudentFlags

# Default flags of each training task, and defaults for options of its default network.
DEFAULTS: Mapping[str, tuple[TrainFlags | AutoencoderFlags | StudentFlags, Mapping[str, Any]]] = {
    "train_ddpm": (TrainFlags(), {}),
    "train_flow": (FLOW, {}),
    "train_latent": (LATENT, LATENT_OPTIONS),
    "train_vae": (AutoencoderFlags(), {}),
    "distill": (StudentFlags(), {}),
}
AnyFlags = TypeVar("AnyFlags", TrainFlags, AutoencoderFlags, StudentFlags)
AnyCoding = TypeVar("AnyCoding", bound=CodingFlags)
Flags = TypeVar("Flags")


@dataclass(frozen=True)
class Request(Generic[AnyFlags]):
    """A requested training run.

    folder: the run to resume; None for a new run. notes: log lines about its settings. on_gpu: function that returns
    the request with the GPU settings of its recipe; it is None if the recipe has no such settings.
    """

    task: str
    flags: AnyFlags
    folder: Path | None = None
    notes: Sequence[str] = ()
    on_gpu: "Callable[[], Request[AnyFlags]] | None" = None

    def on(self, device: str) -> "Request[AnyFlags]":
        """Return the request for a type of device, such as cuda."""
        return self.on_gpu() if device == "cuda" and self.on_gpu is not None else self


def read_flags(argv: Sequence[str], default: Flags, task: str, description: str) -> Flags:
    """Return the flags of a task whose defaults do not depend on a run. Imports no torch. Raises UserError."""
    flags = parse_flags(argv, default, task, description)
    check_places(flags)
    return flags


def read_training(
    argv: Sequence[str], task: str, default: AnyFlags, description: str, options: Mapping[str, Any] | None = None
) -> Request[AnyFlags]:
    """Return the flags of a training task from all sources. Imports no torch. Raises UserError.

    options: defaults of the task for options of its default network, e.g. {"network.width": 64}.
    """
    argv, ahead = spell_out(argv), read_ahead(argv)
    given, recipe = [("", options or {})], None
    if "recipe" in ahead:
        recipe = find_recipe(ahead["recipe"], task)
        given.append((f"recipe {ahead['recipe']}", recipe.settings))
    config: dict[str, Any] = {}
    if "config" in ahead:
        stored = _config_for(Path(ahead["config"]), task)
        config = {key: value for key, value in stored.items() if not _inherited(key, default)}
        given.append((ahead["config"], config))
    chosen = ("", chosen_variants(default, argv))
    if "resume" in ahead:
        # The run need not have the network of the recipe, but it must have its data set.
        requested = {"dataset": recipe.settings.get("dataset") if recipe else None, **config, **chosen[1]}
        folder = _run_to_resume(ahead, task, requested["dataset"])
        return _resumed(folder, argv, task, default, description, requested)

    def request(layers: Sequence[tuple[str, Mapping[str, Any]]]) -> Request[AnyFlags]:
        settings, left_out = merge(default, *layers, chosen)
        flags = parse_flags(argv, default, task, _with_source(description, layers, recipe), settings)
        check_places(flags)
        if flags.run.changed_data:
            raise UserError("`changed_data` is only for a resumed run", "name the run with `resume`")
        belongs = "settings left out, since they belong to another network, space or data set: "
        return Request(task, flags, notes=[belongs + ", ".join(left_out)] if left_out else [])

    def on_gpu() -> Request[AnyFlags]:
        assert recipe is not None
        name = f"recipe {ahead['recipe']} on a GPU"
        changed = request([*given[:2], (name, recipe.gpu), *given[2:]])
        config = to_config(changed.flags)
        used = {key: value for key, value in recipe.gpu.items() if config.get(key) == value}
        note = [f"settings of {name}: {described(used)}"] if used else []
        return dataclasses.replace(changed, notes=[*note, *changed.notes])

    return dataclasses.replace(request(given), on_gpu=on_gpu if recipe is not None and recipe.gpu else None)


def read_coding(argv: Sequence[str], default: AnyCoding, task: str, description: str) -> AnyCoding:
    """Return the flags of a task on a trained autoencoder. The default data set is that of the autoencoder's run.

    --help works without a run. Imports no torch. Raises UserError.
    """
    settings: dict[str, Any] = {}
    if {"-h", "--help"}.isdisjoint(argv):
        settings = data_settings(_config_of(read_ahead(argv), "train_vae"))
        _, unknown = with_settings(default, settings)
        settings = {key: value for key, value in settings.items() if key not in unknown}
    flags = parse_flags(argv, default, task, description, settings)
    check_places(flags)
    return flags


def read_student(argv: Sequence[str], default: StudentFlags, description: str) -> Request[StudentFlags]:
    """Return the flags of `distill`, with the teacher's optimizer settings as defaults. Raises UserError.

    Imports no torch.
    """
    ahead, settings = read_ahead(argv), {}
    if {"-h", "--help"}.isdisjoint(argv) and "resume" not in ahead:
        stored = _config_for(Path(ahead["config"]), "distill") if "config" in ahead else {}
        named = {key: str(stored[key]) for key in ("run", "checkpoint", "experiments_dir") if key in stored}
        config = _config_of({**named, **ahead}, TEACHERS)
        names = {field.name for field in dataclasses.fields(OptimizerSettings)} - {"accumulate"}
        settings = {key: value for key, value in config.items() if key in names}
    return read_training(argv, "distill", default, description, settings)


def data_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of a run that name its data set."""
    return {key: config[key] for key in config if key in ("dataset", "data_root") or key.startswith("dataset.")}


def _config_of(ahead: Mapping[str, str], task: str | tuple[str, ...]) -> dict[str, Any]:
    """Return the config of the run or the file that --run or --checkpoint names; {} if the file has no .yaml.

    task: task or tasks of the run, for find_run.
    """
    if ahead.get("checkpoint", "last") in ("last", "best"):
        folder = Path(ahead.get("experiments_dir") or experiments_dir())
        return read_config(find_run(ahead.get("run") or "latest", folder, task, or_shipped=True))
    facts = Path(ahead["checkpoint"]).with_suffix(".yaml")
    return read_yaml(facts).get("config", {}) if facts.is_file() else {}


def _config_for(path: Path, task: str) -> dict[str, Any]:
    """Read a --config file. Raises UserError if it lies in the folder of another task's run."""
    config = read_yaml(path)
    other = read_status(path.parent).get("task") if (path.parent / STATUS).is_file() else None
    if other not in (None, task):
        raise UserError(f"`config` {path}: belongs to a run of {other}, not of {task}", f"use it with {other}")
    return config


def _with_source(
    description: str, layers: Sequence[tuple[str, Mapping[str, Any]]], recipe: Recipe | None = None
) -> str:
    """Return the description of a task, with a sentence on where the defaults come from."""
    source = " and of ".join(name for name, _ in layers if name)
    text = f"{description} The defaults are the settings of {source}." if source else description
    return f"{text} On a GPU, the recipe has {described(recipe.gpu)}." if recipe is not None and recipe.gpu else text


def _run_to_resume(ahead: Mapping[str, str], task: str, dataset: str | None) -> Path:
    """Return the run that --resume names. latest is the newest run of this task (on `dataset`, if given)."""
    folder = find_run(ahead["resume"], Path(ahead.get("experiments_dir") or experiments_dir()), task, dataset)
    if is_shipped(folder):
        name = run_name(folder)
        raise UserError(f"--resume {name}: a shipped model has no optimizer state; start from it: --init_from {name}")
    other = read_status(folder).get("task")
    if other != task:
        raise UserError(f"{folder} is a run of {other}, not of {task}: resume it with {other}")
    return folder


def _resumed(
    folder: Path, argv: Sequence[str], task: str, default: AnyFlags, description: str, requested: Mapping[str, Any]
) -> Request[AnyFlags]:
    """Return a run's settings, changed by the command line. Raises UserError if a changed flag is not resumable."""
    stored = renamed(_with_own_copies(read_config(folder), folder))
    for word in default.variants:
        if requested.get(word) not in (None, stored.get(word)):
            raise UserError(f"{folder.name} cannot be resumed with --{word} {requested[word]} (was {stored.get(word)})")
    before, unknown = with_settings(default, stored)  # settings added since the run have their defaults
    unknown = [key for key in unknown if not _inherited(key, default)]
    known = to_config(before)
    stored = {key: value for key, value in stored.items() if key in known}
    flags = parse_flags(argv, default, task, _with_source(description, [(folder.name, {})]), stored)
    original, fixed = known, [name for name, _, kind in leaves(flags) if not _resumable(kind, stored)]
    config = to_config(flags)
    changed = [name for name in fixed if name not in NOT_STORED and config[name] not in (original.get(name), "auto")]
    if changed:
        details = ", ".join(f"--{name} {config[name]} (was {original.get(name)})" for name in changed)
        raise UserError(f"{folder.name} cannot be resumed with other settings: {details}; leave them out or start anew")
    precision = flags.run.precision if flags.run.precision != "auto" else before.run.precision
    flags = dataclasses.replace(flags, run=dataclasses.replace(flags.run, precision=precision))
    notes = [f"settings of the run that this version does not have: {', '.join(unknown)}"] if unknown else []
    return Request(task, flags, folder, notes)


def _inherited(key: str, default: object) -> bool:
    """Return whether a setting in config.txt is no flag of the task, but comes from a student's teacher."""
    return key.startswith(getattr(default, "inherited", ()))


def _resumable(kind: Any, stored: Mapping[str, Any]) -> bool:
    """Return whether a flag with type `kind` may change when a run with the settings `stored` is resumed."""
    marks = (mark for mark in getattr(kind, "__metadata__", ()) if isinstance(mark, Resumable))
    return any(mark.unless is None or not stored.get(mark.unless) for mark in marks)


def _with_own_copies(config: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Return the settings of a run. Paths of missing checkpoints are replaced by the copies in the run folder."""
    copies = {path.name: str(path) for path in (folder / NEEDED).glob("*.safetensors")}
    replaced = {
        key: copies[Path(value).name]
        for key, value in config.items()
        if isinstance(value, str) and Path(value).name in copies and not Path(value).is_file()
    }
    return {**config, **replaced}
