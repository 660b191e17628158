"""Data sets from the Hugging Face hub or from local files, read by the optional package `datasets`.

This file finds the data set and its columns. Images are decoded, held out and streamed as in `folder`.
"""

import importlib
import logging
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

from data import warn
from data.images import Background, Channels, Crop, DataSet, Flips, HeldOutShare, ImageData, Sides, WhiteLevel
from data.readers.digests import State
from data.readers.downloads import ANSWER_SECONDS, answer_of
from data.readers.layouts import class_order, hold_out, split_role
from data.readers.trees import Tree, look_for, read_limited
from models.class_names import shorten_names
from models.errors import UserError
from models.ranges import RESUMABLE

_HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")
# Advice if the hub does not answer.
_OFFLINE = ("download its Parquet files elsewhere and name their folder with `dataset.path`",)
_FILES = {".parquet": "parquet", ".arrow": "arrow"}


class Hf(DataSet):
    """A data set of the package `datasets`, which `pip install -r requirements-hf.txt` installs.

    No code of the data set is executed. Data from the hub, and files such as Parquet, are converted to Arrow once. The
    result is kept in the package's own cache. The variable HF_HOME sets its folder.

    Args:
        path: Name on the hub, such as ylecun/mnist. Or a folder written by save_to_disk, a folder of Parquet files or
            images, or a .parquet or .arrow file, relative to the current folder or to the data root.
        subset: Name of the subset, if the name on the hub has several.
        train_split: Split to train on. Default: train, or the split with a similar name, such as Training.
        test_split: Split to test on. Default: test, validation, val, dev or similar, if there is one.
        image_column: Column of the images. Default: the first column of type Image.
        label_column: Column of the classes, integers or strings. Default: the first column of type ClassLabel, if any.
    """

    def __init__(
        self,
        *,
        path: Annotated[str, RESUMABLE] = "",
        subset: str = "",
        train_split: str = "train",
        test_split: str = "",
        image_column: str = "",
        label_column: str = "",
        size: Sides = (),
        crop: Crop = True,
        channels: Channels = 3,
        background: Background = "white",
        white_level: WhiteLevel = 0,
        test_share: HeldOutShare = 0.1,
        flips: Flips = False,
    ) -> None:
        from data.readers.pictures import Target

        self.path, self.subset = path, subset
        self.train_split, self.test_split = train_split, test_split
        self.image_column, self.label_column = image_column, label_column
        self.target = Target.from_options(size, channels, crop, background, white_level)
        self.test_share, self.flips = test_share, flips

    def load(self, root: Path) -> ImageData:
        """List the images, which stay in their files. Raises UserError for a missing data set, split or column."""
        from data.readers.streamed import Part, stream

        splits = self._open(root)
        chosen, notes = self._choose_splits(splits)
        features = splits[chosen[0]].features
        image = self._choose_column("image_column", features, "Image", ("binary", "large_binary"))
        if not image:
            way_out = f"choose `dataset.image_column` from {', '.join(features)}"
            raise UserError(f"{self.path} has no column of type Image", way_out)
        label = self._choose_column("label_column", features, "ClassLabel", ("int", "uint", "bool", "string"))
        for split in chosen[1:]:
            if missing := {image, *([label] if label else [])} - set(splits[split].features):
                message = f"{self.path}: its split {split} has no column {min(missing)}"
                raise UserError(message, "choose another split with `dataset.test_split`")
        tree = _Rows(Path(self.path), {name: splits[name] for name in chosen}, image)
        class_names, labels = _labels(self.path, tree.splits, label, self.known_classes)
        if len(chosen) == 2:
            train, test = ([name for name in tree.names if name.startswith(f"{split}/")] for split in chosen)
        else:
            train, test = hold_out(tree.path, tree.names, self.test_share, None if self.older else labels)
        train_part, test_part = (Part(tree, names, [labels[name] for name in names]) for names in (train, test))
        return stream("hf", train_part, test_part, self.target, class_names, self.flips, notes)

    def _open(self, root: Path) -> Mapping[str, Any]:
        if not self.path:
            raise UserError("the data set 'hf' needs `dataset.path`: a name on the hub, a folder or a file")
        package = _package()
        path = look_for(self.path, root)
        if path is None and (Path(self.path).suffix in _FILES or not _HUB_ID.fullmatch(self.path)):
            folders = f"neither in {Path.cwd()} nor in {root}"
            raise UserError(f"`dataset.path` {self.path}: {folders}, and not a name on the hub")
        local = None if path is None else path.absolute()
        try:
            if local is None:
                opened = _from_hub(package, self.path, self.subset or None)
            elif local.is_file():
                opened = package.load_dataset(_FILES.get(local.suffix, "parquet"), data_files=str(local))
            elif (local / "dataset_dict.json").is_file() or (local / "state.json").is_file():
                opened = package.load_from_disk(str(local))
            else:
                opened = package.load_dataset(str(local), self.subset or None)
        except (OSError, ValueError, RuntimeError, package.exceptions.DatasetsError) as error:
            reason = " ".join(str(error).split())
            raise UserError(f"`dataset.path` {self.path}: the package 'datasets' cannot read it: {reason}") from None
        return opened if isinstance(opened, Mapping) else {self.train_split: opened}

    def _choose_splits(self, splits: Mapping[str, Any]) -> tuple[list[str], list[str]]:
        """Return the training split and the test split, if there is one, and notes on splits that are not used."""
        roles = {role: [name for name in splits if split_role(name) == role] for role in ("train", "val", "test")}
        train = self.train_split
        if train == "train" and train not in splits and len(roles["train"]) == 1:
            train = roles["train"][0]
        usual = ("test", "validation", "val", *roles["test"], *roles["val"])
        test = self.test_split or next((name for name in usual if name in splits), "")
        chosen = [name for name in (train, test) if name]
        for option, name in zip(("train_split", "test_split"), chosen, strict=False):
            if name not in splits:
                raise UserError(f"`dataset.{option}` {name}: {self.path} has {', '.join(splits)}")
            if len(splits[name]) == 0:
                raise UserError(f"`dataset.{option}` {name}: the split is empty")
        if len(set(chosen)) < len(chosen):
            raise UserError(f"`dataset.test_split` {test}: this is also the training split")
        unused = [name for role in roles.values() for name in role if name not in chosen]
        counts = shorten_names(f"{name} ({len(splits[name])} images)" for name in unused)
        return chosen, [f"{self.path}: not used: {counts}"] if unused else []

    def _choose_column(self, option: str, features: Mapping[str, Any], kind: str, dtypes: tuple[str, ...]) -> str:
        """Return the column that an option names, else the first column of type `kind`, else an empty string."""
        of_kind = [name for name, feature in features.items() if type(feature).__name__ == kind]
        column = getattr(self, option) or next(iter(of_kind), "")
        choice = f"choose from {', '.join(features)}"
        if column and column not in features:
            raise UserError(f"`dataset.{option}` {column}: no such column", choice)
        if column and column not in of_kind and not str(getattr(features[column], "dtype", "")).startswith(dtypes):
            raise UserError(f"`dataset.{option}` {column}: not of type {kind} or {', '.join(dtypes)}", choice)
        return column


class _Rows(Tree):
    """The rows of one or two splits as a tree. The name of a row is its split and its number."""

    def __init__(self, path: Path, splits: Mapping[str, Any], column: str) -> None:
        super().__init__(path, [f"{split}/{row:09}" for split, rows in splits.items() for row in range(len(rows))])
        self.splits = splits
        self.key += f" {column} {[rows._fingerprint for rows in splits.values()]}"
        self._rows = {name: rows.select_columns([column]).with_format("arrow") for name, rows in splits.items()}
        self._stamps: dict[str, list[str]] = {}

    def read(self, name: str) -> bytes:
        stored, path = self._bytes_and_path(name)
        if stored is not None:
            return stored
        if path is None:
            raise ValueError("there is no image in this row")
        return read_limited(Path(path))

    def state(self, name: str) -> State:
        stored, path = self._bytes_and_path(name)
        tables = [file["filename"] for file in self.splits[name.partition("/")[0]].cache_files]
        files = [path] if stored is None and path is not None else tables
        if not files:  # a table in memory, whose changes cannot be noticed
            return State(0, 0, time.time_ns())
        sizes, modified, changed = zip(*map(State.of, files), strict=True)
        return State(sum(sizes), max(modified), max(changed))

    def _bytes_and_path(self, name: str) -> tuple[bytes | None, str | None]:
        split, _, row = name.partition("/")
        value = self._rows[split][int(row)].column(0)[0].as_py()
        return (value.get("bytes"), value.get("path")) if isinstance(value, dict) else (value, None)

    def stamp(self, name: str) -> str:
        split, _, row = name.partition("/")
        if split not in self._stamps:
            self._stamps[split] = [stamp for table in self._rows[split].iter(1000) for stamp in _sizes(table.column(0))]
        return self._stamps[split][int(row)]


def _sizes(column: Any) -> Sequence[str]:
    """Return the size in bytes of each image of an Arrow column as text, "" if unknown. No image is read."""
    compute = importlib.import_module("pyarrow.compute")
    types = importlib.import_module("pyarrow.types")
    nested = types.is_struct(column.type)
    sizes = compute.binary_length(compute.struct_field(column, "bytes") if nested else column).to_pylist()
    paths = compute.struct_field(column, "path").to_pylist() if nested else [None] * len(sizes)
    return [
        str(size) if size is not None else "" if path is None else str(Path(path).stat().st_size)
        for size, path in zip(sizes, paths, strict=True)
    ]


def _labels(
    path: str, splits: Mapping[str, Any], column: str, known: Sequence[str]
) -> tuple[tuple[str, ...], Mapping[str, int]]:
    """Return the names of the classes, and the label of every row, 0 if there are no classes."""
    values = {
        f"{split}/{row:09}": value
        for split, rows in splits.items()
        for row, value in enumerate(rows.select_columns([column])[:][column] if column else [0] * len(rows))
    }
    if not column:
        return (), values
    stored = getattr(next(iter(splits.values())).features[column], "names", None)
    present: set[Any] = {value for value in values.values() if value is not None}
    classes: Sequence[Any] = range(len(stored)) if stored else sorted(present)
    if any(isinstance(value, str) for value in present):
        classes = class_order(present, Path(path), known)
    numbers = {value: number for number, value in enumerate(classes)}
    for name, value in values.items():
        if value not in numbers:
            ways_out = "choose other splits", "choose another `dataset.label_column`"
            raise UserError(f"{path}: {name} has no class ({column} is {value})", *ways_out)
    return tuple(map(str, stored or classes)), {name: numbers[value] for name, value in values.items()}


def _from_hub(package: Any, name: str, subset: str | None) -> Any:
    """Return a data set from the hub, or from the package's cache if the hub does not answer. Raises UserError."""
    hub = importlib.import_module("huggingface_hub")
    if hub.constants.HF_HUB_OFFLINE:
        return package.load_dataset(name, subset)
    try:  # Without this request, the package would retry for minutes.
        answer_of(lambda: hub.HfApi().dataset_info(name, timeout=ANSWER_SECONDS))
    except hub.errors.RepositoryNotFoundError:
        message = f"`dataset.path` {name}: the hub has no data set of this name that you may read"
        raise UserError(message, *_OFFLINE, "log in with .venv/bin/hf auth login if it is private") from None
    except Exception as error:  # The error's class depends on the version of the hub's client.
        reason = " ".join(str(error).split()) or type(error).__name__
        place = package.config.HF_DATASETS_CACHE
        try:
            with _offline(package, hub):
                found = package.load_dataset(name, subset)
            warn(f"the hub does not answer ({reason}): the copy in {place} is read")
            return found
        except (OSError, ValueError, RuntimeError, package.exceptions.DatasetsError):
            message = f"`dataset.path` {name}: the hub does not answer ({reason}), and {place} has no copy"
            raise UserError(message, *_OFFLINE, "set HF_HOME to a folder that has a copy") from None
    return package.load_dataset(name, subset)


@contextmanager
def _offline(package: Any, hub: Any) -> Iterator[None]:
    """Make both packages read only their caches while the block runs."""
    before = hub.constants.HF_HUB_OFFLINE, package.config.HF_HUB_OFFLINE
    hub.constants.HF_HUB_OFFLINE = package.config.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        hub.constants.HF_HUB_OFFLINE, package.config.HF_HUB_OFFLINE = before


def _package() -> Any:
    """Import the package `datasets` and silence it. Raises UserError if it is not installed."""
    try:
        package = importlib.import_module("datasets")
    except ImportError:
        way_out = "install it with .venv/bin/python -m pip install -r requirements-hf.txt"
        raise UserError("the data set 'hf' needs the package 'datasets'", way_out) from None
    package.utils.logging.disable_progress_bar()
    for library in (package, importlib.import_module("huggingface_hub")):
        library.utils.logging.set_verbosity(logging.CRITICAL)
    return package
