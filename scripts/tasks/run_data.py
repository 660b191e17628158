"""Data of a run: the images that it was trained on, where they are now, and how the data of today differ.

Checkpoints hold the hash of the training images, counts and classes. The run folder holds a list of the image files.
"""

import csv
import gzip
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from data import ImageData
from data.readers.layouts import shorten_names
from data.readers.trees import look_for
from models.errors import UserError
from models.runs.files import replacing

LISTING = "data_files.csv.gz"  # One row for each image file: split, class, name, size and stored checksum.
Rows = Callable[[], Iterator[tuple[str, str, str, str]]]


def counts_of(dataset: ImageData) -> dict[str, Any]:
    """Return the numbers of training and test images, and of the training images of each class."""
    counts = dataset.train.labels.bincount(minlength=len(dataset.class_names)).tolist()
    classes = dict(zip(dataset.class_names, counts, strict=False))
    return {"train": len(dataset.train), "test": len(dataset.test), "classes": classes}


def rows_of(dataset: ImageData) -> Rows | None:
    """Return a function that yields the rows of LISTING, None for data that are not image files."""
    splits, names = {"train": dataset.train.listing, "test": dataset.test.listing}, dataset.class_names
    if any(listing is None for listing in splits.values()):
        return None

    def rows() -> Iterator[tuple[str, str, str, str]]:
        for split, listing in splits.items():
            for name, stamp, label in listing() if listing is not None else ():
                yield split, names[label] if names else "", name, stamp

    return rows


def write_listing(folder: Path, rows: Rows) -> None:
    """Write LISTING in a run folder."""
    with replacing(folder / LISTING) as temporary, gzip.open(temporary, "wt", **_TEXT) as file:
        csv.writer(file).writerows(rows())


def load_of_run(
    load: Callable[[bool], ImageData], same: Callable[[ImageData], bool], class_names: Sequence[str]
) -> ImageData:
    """Load the data of a run, whose class order and hold-out may be those of an earlier version.

    load: loads the data set, given whether as an earlier version did. same: whether data are those of the run.
    class_names: of the run.
    """
    dataset = load(False)
    if dataset.train.listing is None or same(dataset):
        return dataset
    older = load(True)
    return older if same(older) or dataset.class_names != tuple(class_names) == older.class_names else dataset


def locate_moved(name: str, options: Mapping[str, Any], root: Path, run: str) -> dict[str, Any]:
    """Return the options of a run's data set, with paths that do not exist replaced by such paths in `root`.

    name: the data set. run: for messages. Whoever calls this compares the data with those of the run. Raises UserError.
    """
    located = dict(options)
    for option in ("path", "test_path"):
        path = str(options.get(option) or "")
        if not path or look_for(path, root) is not None or (name != "folder" and not Path(path).is_absolute()):
            continue
        parts = Path(path).expanduser().parts
        candidates = [root.joinpath(*parts[first:]) for first in range(1, len(parts))]
        # The root itself may be the folder, if the test images are not elsewhere.
        candidates += [root] if option == "path" and not options.get("test_path") and root.is_dir() else []
        moved = next((candidate for candidate in candidates if candidate.exists()), None)
        if moved is None:
            raise UserError(
                f"the images of {run} are not in {path}",
                f"name their new place with `dataset.{option}`",
                "name their new folder, or the folder around it, with `data_root`",
            )
        located[option] = str(moved)
    return located


def describe_change(folder: Path, then: Mapping[str, Any], now: Mapping[str, Any], rows: Rows | None) -> str:
    """Return how the data of a run have changed, in one line.

    folder: of the run. then, now: `counts_of` the data, empty if a run of an earlier version does not know them.
    rows: of the data of today.
    """
    parts = [f"{_images(now)} now" + (f", {_images(then)} then" if then.get("train") else "")]
    classes, before = now["classes"], then.get("classes")
    if before is not None and list(classes) != list(before):
        parts.append(f"classes {shorten_names(classes) or 'none'} now, {shorten_names(before) or 'none'} then")
    elif before is not None and classes != before:
        name = next(name for name in classes if classes[name] != before[name])
        parts.append(f"{shorten_names([name])} has {classes[name]} training images now, {before[name]} then")
    if rows is not None and (folder / LISTING).is_file():
        parts.append(_first_difference(folder, rows))
    return "; ".join(parts)


def _images(counts: Mapping[str, Any]) -> str:
    return f"{counts['train']} training and {counts['test']} test images"


def _first_difference(folder: Path, rows: Rows) -> str:
    """Return the first file, by name, that is not as LISTING says."""
    with gzip.open(folder / LISTING, "rt", **_TEXT) as file:
        then = {name: (split, kind, stamp) for split, kind, name, stamp in csv.reader(file)}
    now = {name: (split, kind, stamp) for split, kind, name, stamp in rows()}
    name = next((name for name in sorted(then.keys() | now.keys()) if then.get(name) != now.get(name)), None)
    if name is None:
        return "all files have the names and sizes of then"
    if name not in then or name not in now:
        change = "is new" if name in now else "is gone"
    else:
        words = ("in the split", "in the class", "of the size")
        word, old, new = next(part for part in zip(words, then[name], now[name], strict=True) if part[1] != part[2])
        change = f"is {word} {shorten_names([new])} now, {shorten_names([old])} then"
    return f"the first file that differs is {shorten_names([name], longest=80)}, which {change}"


_TEXT: dict[str, Any] = {"newline": "", "encoding": "utf-8", "errors": "surrogateescape"}
