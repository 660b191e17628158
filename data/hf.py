"""Data sets of Hugging Face's `datasets`, an optional package: from the hub, or files of theirs on this machine.

What names a data set and its columns stands here. Its images are decoded as those of `folder` are, held out as they
are, and held in memory or streamed as they are.
"""

from __future__ import annotations

import importlib
import logging
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from data.images import DataSet, ImageData
from data.readers.trees import MAX_FILE_BYTES, Tree, check_share, hold_out, look_for
from models.errors import UserError
from models.ranges import RESUMABLE

_TEST_NAMES = ("test", "validation", "val")
_HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")
_FILES = {".parquet": "parquet", ".arrow": "arrow"}


class Hf(DataSet):
    """A data set of the package `datasets`, which `pip install -r requirements-hf.txt` installs.

    Nothing of it is executed. What is not in the form of the package, such as Parquet, is turned into it once, in the
    package's own cache (the variable HF_HOME).

    Args:
        path: Name on the hub, as in ylecun/mnist; or, looked for here and in the data root, a folder written by
            save_to_disk, a folder of Parquet files or images, or one .parquet or .arrow file.
        subset: Which of several data sets under one name on the hub.
        train_split: Split to train on.
        test_split: Split to test on. Default: test, validation or val, if there is one.
        image_column: Column of the images. Default: the first that is said to be one.
        label_column: Column of the classes, numbers or words. Default: the first that is said to be one, if any.
        size: Height and width, or one number for both, of every image. Default: the images' own, which must
            then be the same for all.
        crop: Cut the centre of that shape before scaling; otherwise the whole image is squeezed into it.
        channels: 3 for colour, 1 for grayscale.
        test_share: Share held out for testing where there is no test split.
        flips: Mirror images at random in training: only if a mirrored image is as likely as the image.
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
        size: tuple[int, ...] = (),
        crop: bool = True,
        channels: int = 3,
        test_share: float = 0.1,
        flips: bool = False,
    ) -> None:
        from data.readers.pictures import Target

        self.path, self.subset, self.flips = path, subset, flips
        self.train_split, self.test_split = train_split, test_split
        self.image_column, self.label_column = image_column, label_column
        self.target = Target.of_flags(size, channels, crop)
        self.test_share = check_share(test_share)

    def load(self, root: Path) -> ImageData:
        """Find all images, and leave them where they are.

        Raises UserError if the package or the data set is absent, or has no such split or column.
        """
        from data.readers.streamed import Part, stream

        splits = self._open(root)
        chosen = self._splits(splits)
        features = splits[self.train_split].features
        image, label = self._image_column(features), self._label_column(features)
        tree = _Rows(Path(self.path), {name: splits[name] for name in chosen}, image)
        if len(chosen) == 2:
            train, test = ([name for name in tree.names if name.startswith(f"{split}/")] for split in chosen)
        else:
            train, test = hold_out(tree, self.test_share)
        class_names, labels = _labels(self.path, tree.splits, label)
        train_part, test_part = (Part(tree, names, [labels[name] for name in names]) for names in (train, test))
        return stream("hf", train_part, test_part, self.target, class_names, self.flips)

    def _open(self, root: Path) -> Mapping[str, Any]:
        """The splits by name."""
        if not self.path:
            raise UserError("the data set hf needs --dataset.path: a name on the hub, or a folder or file")
        package = _package()
        found = look_for(self.path, root)
        place = None if found is None else found.absolute()
        if place is None and (Path(self.path).suffix in _FILES or not _HUB_ID.fullmatch(self.path)):
            raise UserError(f"{self.path} is neither in {Path.cwd()} nor in {root}, and no name on the hub")
        try:
            if place is None:
                found = package.load_dataset(self.path, self.subset or None)
            elif place.is_file():
                found = package.load_dataset(_FILES.get(place.suffix, "parquet"), data_files=str(place))
            elif (place / "dataset_dict.json").is_file() or (place / "state.json").is_file():
                found = package.load_from_disk(str(place))
            else:
                found = package.load_dataset(str(place), self.subset or None)
        except (OSError, ValueError, RuntimeError, package.exceptions.DatasetsError) as error:
            reason = " ".join(str(error).split())
            raise UserError(
                f"--dataset.path {self.path} cannot be read as a data set of `datasets`: {reason}"
            ) from None
        return found if isinstance(found, Mapping) else {self.train_split: found}

    def _splits(self, splits: Mapping[str, Any]) -> list[str]:
        """The names of the training split and, if there is one, the test split."""
        test = self.test_split or next((name for name in _TEST_NAMES if name in splits), "")
        chosen = [name for name in (self.train_split, test) if name]
        for flag, name in zip(("train_split", "test_split"), chosen, strict=False):
            if name not in splits:
                raise UserError(f"--dataset.{flag} {name}: {self.path} has {', '.join(splits)}")
            if len(splits[name]) == 0:
                raise UserError(f"--dataset.{flag} {name}: it is empty")
        if len(set(chosen)) < len(chosen):
            raise UserError(f"--dataset.test_split {test}: it is the training split, too")
        return chosen

    def _image_column(self, features: Mapping[str, Any]) -> str:
        images = [name for name, feature in features.items() if type(feature).__name__ == "Image"]
        wanted = self.image_column or next(iter(images), "")
        if not wanted:
            raise UserError(f"{self.path} has no column of images: name one with --dataset.image_column{_of(features)}")
        if wanted not in features:
            raise UserError(f"--dataset.image_column {wanted}: there is none{_of(features)}")
        if wanted not in images and getattr(features[wanted], "dtype", "") not in ("binary", "large_binary"):
            raise UserError(f"--dataset.image_column {wanted}: holds no images{_of(features)}")
        return wanted

    def _label_column(self, features: Mapping[str, Any]) -> str:
        labels = (name for name, feature in features.items() if type(feature).__name__ == "ClassLabel")
        wanted = self.label_column or next(labels, "")
        if wanted and wanted not in features:
            raise UserError(f"--dataset.label_column {wanted}: there is none{_of(features)}")
        if wanted and not str(getattr(features[wanted], "dtype", "")).startswith(("int", "uint", "bool", "string")):
            raise UserError(f"--dataset.label_column {wanted}: holds no classes{_of(features)}")
        return wanted


class _Rows(Tree):
    """The rows of one or two splits as a tree: each is called by its split and its number."""

    def __init__(self, path: Path, splits: Mapping[str, Any], column: str) -> None:
        super().__init__(path, [f"{split}/{row:09}" for split, rows in splits.items() for row in range(len(rows))])
        self.splits = splits
        self._rows = {name: rows.select_columns([column]).with_format("arrow") for name, rows in splits.items()}
        self._stamps: dict[str, list[str]] = {}

    def _stored(self, name: str) -> tuple[bytes | None, str | None]:
        """The bytes of an image, or where they lie."""
        split, _, row = name.partition("/")
        value = self._rows[split][int(row)].column(0)[0].as_py()
        return (value.get("bytes"), value.get("path")) if isinstance(value, dict) else (value, None)

    def read(self, name: str) -> bytes:
        stored, path = self._stored(name)
        if stored is None:
            if path is None:
                raise ValueError("there is no image in this row")
            if Path(path).stat().st_size > MAX_FILE_BYTES:
                raise ValueError(f"larger than {MAX_FILE_BYTES >> 20} MiB")
            return Path(path).read_bytes()
        return stored

    def stamp(self, name: str) -> str:
        split, _, row = name.partition("/")
        if split not in self._stamps:
            self._stamps[split] = [stamp for table in self._rows[split].iter(1000) for stamp in _sizes(table.column(0))]
        return self._stamps[split][int(row)]


def _sizes(column: Any) -> Sequence[str]:
    """The size of each image of an Arrow column, without reading those that are in it."""
    compute = importlib.import_module("pyarrow.compute")
    types = importlib.import_module("pyarrow.types")
    nested = types.is_struct(column.type)
    sizes = compute.binary_length(compute.struct_field(column, "bytes") if nested else column).to_pylist()
    paths = compute.struct_field(column, "path").to_pylist() if nested else [None] * len(sizes)
    return [
        str(size) if size is not None else "" if path is None else str(Path(path).stat().st_size)
        for size, path in zip(sizes, paths, strict=True)
    ]


def _labels(path: str, splits: Mapping[str, Any], column: str) -> tuple[tuple[str, ...], Mapping[str, int]]:
    """The names of the classes, and the label of every row; 0 where there are no classes."""
    values = {
        f"{split}/{row:09}": value
        for split, rows in splits.items()
        for row, value in enumerate(rows.select_columns([column])[:][column] if column else [0] * len(rows))
    }
    if not column:
        return (), values
    stored = getattr(next(iter(splits.values())).features[column], "names", None)
    classes = range(len(stored)) if stored else sorted({value for value in values.values() if value is not None})
    numbers = {value: number for number, value in enumerate(classes)}
    for name, value in values.items():
        if value not in numbers:
            raise UserError(
                f"{path}: {name} has no class ({column} {value}): name other splits, or another label column"
            )
    return tuple(map(str, stored or classes)), {name: numbers[value] for name, value in values.items()}


def _package() -> Any:
    """The package, made to say nothing by itself. Raises UserError where it is not installed."""
    try:
        package = importlib.import_module("datasets")
    except ImportError:
        raise UserError(
            "the data set hf needs the package datasets: .venv/bin/python -m pip install -r requirements-hf.txt"
        ) from None
    package.utils.logging.disable_progress_bar()
    for speaker in (package, importlib.import_module("huggingface_hub")):
        speaker.utils.logging.set_verbosity(logging.CRITICAL)
    return package


def _of(features: Mapping[str, Any]) -> str:
    return f" (of {', '.join(features)})"
