"""Data of a run: the images that it was trained on, where they are now, and how they have changed.

Checkpoints hold the class names, the numbers of images and the hash of the training images. The run folder holds a list
of the image files.
"""

import csv
import gzip
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import data
from data import ImageData, Split
from data.readers.trees import FolderTree, look_for
from models.class_names import shorten_names
from models.errors import UserError
from models.evaluation.image_sets import sha256_of
from models.places import expanded
from models.runs.files import replacing
from models.spaces import Identity
from scripts.cli.flags import SourceFlags

CONTENTS_CACHE = ".contents"  # Folder in experiments_dir with the hashes of image files.
LISTING = "data_files.csv.gz"  # One row for each image file: split, class, name, size and stored checksum.
Rows = Callable[[], Iterator[tuple[str, str, str, str]]]


def identity_of(split: Split, read: bool = True) -> Identity:
    """Return the hashes of a split's images and labels. read: whether image files may be read to hash their contents.

    Without `read`, contents are known only if the images are in memory, or if no file changed since it was last read.
    """
    return Identity(split_hash(split), split.contents(read) or "")


def split_hash(split: Split) -> str:
    """Return the SHA-256 of a split's images and labels. For image files, names and sizes replace the pixels."""
    return split.sha256 or sha256_of(split.in_memory(), split.labels)


def data_facts(dataset: ImageData) -> dict[str, Any]:
    """Return the facts about the data of a run, which its checkpoints hold: hashes and counts."""
    return {"name": dataset.name, **identity_of(dataset.train, read=False).facts(), **counts_of(dataset)}


def same_data(then: Mapping[str, Any], now: Mapping[str, Any]) -> bool:
    """Return whether two `data_facts` belong to the same images and labels."""
    return then.get("name") == now["name"] and Identity.from_facts(then).matches(Identity.from_facts(now))


def notes_on_data(then: Mapping[str, Any], now: Mapping[str, Any], rows: Rows | None) -> list[str]:
    """Return a line for the log if two equal `data_facts` of image files were compared by names and sizes alone.

    rows: rows of LISTING for the data as they are now; None for data that are not image files.
    """
    if rows is None or Identity.from_facts(then).by_contents(Identity.from_facts(now)):
        return []
    reason = "the image files are streamed, and their contents have not been read yet"
    if not then.get("contents"):
        reason = "this run stored the names and sizes of its images, not their contents"
    return [f"{reason}: only names and sizes were compared"]


def counts_of(dataset: ImageData) -> dict[str, Any]:
    """Return the numbers of training and test images, and of the training images of each class."""
    counts = dataset.train.labels.bincount(minlength=len(dataset.class_names)).tolist()
    classes = dict(zip(dataset.class_names, counts, strict=False))
    return {"train": len(dataset.train), "test": len(dataset.test), "classes": classes}


def rows_of(dataset: ImageData) -> Rows | None:
    """Return a function that yields the rows of LISTING; None for data that are not image files."""
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


def load_data_again(
    name: str,
    options: Mapping[str, Any],
    root: Path,
    source: SourceFlags,
    stored: Mapping[str, Any],
    run: str,
    digests: Path | None = None,
    tell: Callable[[str], None] = data.warn,
) -> ImageData:
    """Load the data set of a run, wherever it is below `root`. stored: facts of the run. digests: as for `data.load`.

    Raises UserError. The data may differ from those of the run.
    """
    located = locate_moved(name, options, root, run)

    names = (stored.get("denoiser") or {}).get("class_names") or tuple((stored.get("data") or {}).get("classes") or ())

    def load(older: bool, names: Sequence[str]) -> ImageData:
        return data.load(name, located, root, source.memory_limit, digests, lambda note: None, older, names)

    def is_same(dataset: ImageData) -> bool:
        return same_data(stored["data"], data_facts(dataset))

    dataset = load(False, names)
    if dataset.train.listing is not None and not is_same(dataset):
        # Earlier versions of this project may have held out other images. Runs without stored class names have classes
        # sorted as text.
        older = load(True, names or sorted(dataset.class_names))
        if is_same(older):
            dataset = older
    for note in dataset.notes:
        tell(note)
    return dataset


def locate_moved(name: str, options: Mapping[str, Any], root: Path, run: str) -> dict[str, Any]:
    """Return the options of a run's data set. A path that does not exist is replaced by an existing one.

    The new path is below `root` and ends in the same parts as the old one, or it is `root` itself. The caller must
    check that the data are those of the run. name: the data set. run: name of the run, for messages. Raises UserError
    if no path is found.
    """
    located = dict(options)
    for option in ("path", "test_path"):
        path = str(options.get(option) or "")
        if not path or look_for(path, root) is not None or (name != "folder" and not Path(path).is_absolute()):
            continue
        parts = Path(expanded(path)).parts
        candidates = [root.joinpath(*parts[first:]) for first in range(1, len(parts))]
        moved = next((candidate for candidate in candidates if candidate.exists()), None)
        # The root itself may be the folder, unless the test images have a path of their own.
        alone = option == "path" and not options.get("test_path")
        if moved is None and alone and root.is_dir() and FolderTree(root).names:
            moved = root
        if moved is None:
            raise UserError(
                f"the images of {run} are not in {path}",
                f"name their new place with `dataset.{option}`",
                "name their new folder, or the folder around it, with `data_root`",
            )
        located[option] = str(moved)
    return located


def describe_change(folder: Path, then: Mapping[str, Any], now: Mapping[str, Any], rows: Rows | None) -> str:
    """Return a line that says how the data of a run have changed.

    folder: run folder. then, now: `counts_of` the data; `then` is empty if the run did not store them. rows: rows of
    LISTING for the data as they are now; None for data that are not image files.
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
    """Return a phrase about the first file, in order of name, that differs from the run's LISTING."""
    with gzip.open(folder / LISTING, "rt", **_TEXT) as file:
        then = {name: (split, kind, stamp) for split, kind, name, stamp in csv.reader(file)}
    now = {name: (split, kind, stamp) for split, kind, name, stamp in rows()}
    name = next((name for name in sorted(then.keys() | now.keys()) if then.get(name) != now.get(name)), None)
    if name is None:
        return "all files have the same names and sizes as then"
    if name not in then or name not in now:
        change = "is new" if name in now else "is gone"
    else:
        words = ("in the split", "in the class", "of the size")
        word, old, new = next(part for part in zip(words, then[name], now[name], strict=True) if part[1] != part[2])
        change = f"is {word} {shorten_names([new])} now, {shorten_names([old])} then"
    return f"the first file that differs is {shorten_names([name], longest=80)}, which {change}"


_TEXT: dict[str, Any] = {"newline": "", "encoding": "utf-8", "errors": "surrogateescape"}
