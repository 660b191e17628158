"""Find unknown names and missing runs, classes and files before torch is imported, which takes seconds.

The library makes the same checks again, with the same messages.
"""

from pathlib import Path
from typing import Any

import data
from models.class_names import find_labels
from models.errors import UserError, suggestion
from models.runs.lookup import DENOISING, find_run
from models.runs.yaml_files import read_yaml
from models.variants import DATA_SETS
from scripts.cli.flags import AutoencoderFlags, RunChoice, SamplerFlags, TrainFlags
from scripts.cli.help import listed_names


def check_name(option: str, value: Any, kind: Any) -> None:
    """Raise UserError if a flag takes one of several names and the value is not among them. kind: type of the flag.

    Networks and spaces are not checked here: they have been looked up already, because their options are flags.
    """
    names = listed_names(kind)
    if not isinstance(value, str) or len(names) < 2 or value in names or option in ("network", "space"):
        return
    if option == "dataset":
        DATA_SETS.source(value)
    else:
        raise UserError(f"`{option}` {value!r}: choose from {', '.join(names)}{suggestion(value, names)}")


def check_places(flags: Any) -> None:
    """Raise UserError if the flags of a task name a run, a checkpoint, a class or a file that does not exist."""
    samples = getattr(flags, "samples", None)
    if isinstance(samples, str):  # A path for evaluate, a number for other tasks.
        check_samples(Path(samples))
    elif isinstance(model := getattr(flags, "model", None), RunChoice):
        _check_model(model, getattr(flags, "labels", None))
    if isinstance(sampling := getattr(flags, "sampling", None), SamplerFlags) and sampling.autoguidance:
        _check_run(sampling.autoguidance, flags.model.experiments_dir, DENOISING, or_shipped=True)
    _check_data(flags)
    if isinstance(flags, (TrainFlags, AutoencoderFlags)):
        if flags.run.init_from is not None:
            tasks = DENOISING if isinstance(flags, TrainFlags) else ("train_vae",)
            find_run(flags.run.init_from, Path(flags.run.experiments_dir), tasks)
        autoencoder = getattr(getattr(flags, "space_options", None), "autoencoder", None)
        if autoencoder is not None:
            _check_run(autoencoder, flags.run.experiments_dir, "train_vae", flags.dataset)


def check_samples(path: Path) -> None:
    """Raise UserError if the file or folder of --samples does not exist."""
    if not path.exists():
        raise UserError(f"`samples` {path}: no such file or folder")


def check_writable(file: Path) -> None:
    """Raise UserError if the file of --out cannot be written. Its contents are not changed."""
    existed = file.exists()
    try:
        file.open("ab").close()
        if not existed:
            file.unlink()
    except OSError as error:
        raise UserError(f"`out` {file}: cannot be written ({error.strerror})") from None


def _check_run(
    name: str,
    experiments_dir: str,
    tasks: str | tuple[str, ...],
    dataset: str | None = None,
    or_shipped: bool = False,
) -> Path | None:
    """Return the run folder called `name`; None for a checkpoint file. or_shipped: see find_run. Raises UserError."""
    if name.endswith(".safetensors"):
        return None
    return find_run(name, Path(experiments_dir), tasks, None if dataset == "hf" else dataset, or_shipped)


def _check_model(model: RunChoice, labels: Any) -> None:
    if model.checkpoint in ("last", "best"):
        folder = find_run(model.run, Path(model.experiments_dir), DENOISING, or_shipped=True)
        facts = max((folder / "checkpoints").glob("step_*.yaml"), default=None)
    else:
        path = Path(model.checkpoint)
        if not path.is_file():
            raise UserError(f"no checkpoint {path}")
        facts = path.with_suffix(".yaml")
    if labels and facts is not None and facts.is_file():
        names = (read_yaml(facts).get("denoiser") or {}).get("class_names")
        if names:
            find_labels(labels, names)


def _check_data(flags: Any) -> None:
    options, source = getattr(flags, "dataset_options", None), getattr(flags, "data", None)
    if getattr(flags, "dataset", None) != "folder" or options is None:
        return
    from data.readers.trees import find_tree

    for option in ("path", "test_path"):
        if path := getattr(options, option):
            find_tree(f"dataset.{option}", path, data.data_root(None if source is None else source.data_root))
