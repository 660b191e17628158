"""Splits and classes that the names of image files describe: folders of splits, class folders, labels in file names.

The functions read no files. `folder.py` and `hf.py` call them.
"""

import hashlib
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path, PurePosixPath
from typing import NoReturn

from models.class_names import short_name, shorten_names
from models.errors import UserError

_WORDS = {
    "train": "train|training|trn|trainval|trainvalid",
    "val": "val|valid|validation|validate|dev|devel|development|eval|evaluation",
    "test": "test|testing|tst|holdout|heldout",
}
_FILLERS = "(?:data|dataset|set|subset|split|part|folder|files?|images?|imgs?|pics?|pictures?|photos?|samples?|x)*"
_MORE = {"train": "|imagestr", "val": "", "test": "|imagests"}  # imagesTr, imagesTs
# Names of a split without digits and separators: "train", "Testing", "validation_set", "images-train", "val2017".
_EXACT = {role: re.compile(f"{_FILLERS}(?:{words})s?{_FILLERS}{_MORE[role]}") for role, words in _WORDS.items()}
_LIKELY = {role: re.compile(f"(?:{words})s?") for role, words in _WORDS.items()}
_LAYOUTS = (
    "use one of the layouts CLASS/IMAGE, {train,test}/CLASS/IMAGE, CLASS/{train,test}/IMAGE, {train,test}/IMAGE "
    "(test may be called val, valid, validation or dev)"
)
_LONGEST_NAME = 255  # bytes of UTF-8, as on common file systems


# -- splits -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Splits:
    """Names of training and test images. level: number of folders in a name before the folder that names the split.

    notes: lines for the user about images that are not used.
    """

    train: list[str]
    test: list[str]
    level: int
    notes: list[str] = field(default_factory=list)

    def inside(self, name: str) -> str:
        """Return the name without the folder that names the split."""
        parts = name.split("/")
        return "/".join(parts[: self.level] + parts[self.level + 1 :])


def split_role(name: str) -> str | None:
    """Return "train", "val" or "test" for a name of that split, in any capitalisation; None for other names."""
    letters = re.sub(r"[\W\d_]+", "", unicodedata.normalize("NFKC", name)).lower()
    return next((role for role, pattern in _EXACT.items() if pattern.fullmatch(letters)), None)


def find_splits(path: Path, names: Sequence[str]) -> Splits | None:
    """Return the splits at the first level where all folders name splits; None if there is no such level.

    Raises UserError if folders look like splits, but it is not clear which images they hold. path: for messages.
    """
    folders = [name.split("/")[:-1] for name in names]
    first = common_folder(names).count("/")
    for level in range(first, max(map(len, folders))):
        counts = Counter(parts[level] if len(parts) > level else "" for parts in folders)
        roles = {name: split_role(name) or _likely_role(name) for name in counts}
        unknown = [name for name in counts if split_role(name) is None]
        if "train" in roles.values() and {"val", "test"} & set(roles.values()):
            if unknown:
                name = short_name(unknown[0])
                _refuse(path, counts, f"{name} is not the name of a split" if name else "images lie beside them")
            splits = _splits_at(path, names, level, counts)
            if find_splits(path, list(map(splits.inside, splits.train))):
                _refuse(path, counts, "there are splits inside the training split")
            return splits
        # A folder "train" of images beside other folders may be a class. A folder "test" is almost never a class.
        known = [name for name in counts if name not in unknown]
        deep = level == first and any(parts[level : level + 1] == known and len(parts) > level + 1 for parts in folders)
        if len(known) > 1 or (known and len(counts) > 1 and (deep or "train" not in roles.values())):
            other = "training" if split_role(known[0]) != "train" else "test"
            _refuse(path, counts, f"there is no {other} split beside {short_name(known[0])}")
    return None


def _splits_at(path: Path, names: Sequence[str], level: int, counts: Counter[str]) -> Splits:
    folders: dict[str, list[str]] = {role: [] for role in _WORDS}
    for folder in sorted(counts):
        folders[str(split_role(folder))].append(folder)
    test = folders["test"] or folders["val"]
    for same in (folders["train"], test):
        if len(same) > 1:
            _refuse(path, counts, f"{short_name(same[0])} and {short_name(same[1])} name the same split")
    members = {folder: [name for name in names if name.split("/")[level] == folder] for folder in counts}
    notes = [
        f"{path}: {folder} ({counts[folder]} images) is not used, since {test[0]} is the test split"
        for folder in folders["val"]
        if folder not in test
    ]
    return Splits(members[folders["train"][0]], members[test[0]], level, notes)


def _likely_role(name: str) -> str | None:
    """Return the split that the first or last word of a name suggests, as in trainA, cats_test, train-extra."""
    words = [word.lower() for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])", name)]
    ends = {*words[:1], *words[-1:]}
    return next((role for role, pattern in _LIKELY.items() if any(map(pattern.fullmatch, ends))), None)


def _refuse(path: Path, folders: Iterable[str], reason: str) -> NoReturn:
    raise UserError(
        f"{path}: the folders {shorten_names(sorted(name for name in folders if name))} look like splits, but {reason}",
        _LAYOUTS,
        "name the folders of both splits with `dataset.path` and `dataset.test_path`",
        "rename a folder that is a class",
    )


# -- held-out images --------------------------------------------------------------------------------------------------


def common_folder(names: Sequence[str]) -> str:
    """Return the folder that all images are in, with a closing slash. It is empty if there is none."""
    around = ""
    while True:
        tops = {name[len(around) :].partition("/")[:2] for name in names}
        top, slash = next(iter(tops))
        if len(tops) > 1 or not slash:
            return around
        around += f"{top}/"


def hold_out(
    path: Path, names: Sequence[str], share: float, labels: Mapping[str, int] | None = None
) -> tuple[list[str], list[str]]:
    """Return the names of training and test images, split by a hash of each name.

    labels: label of each name. With labels, each class keeps a training image, unless the test split would be empty.
    path: for messages. Raises UserError if there is only one image.
    """
    if len(names) < 2:
        raise UserError(f"{path} holds one image: at least two are needed, one to train and one to test")
    around = common_folder(names)
    fractions = {name: _fraction(name[len(around) :]) for name in names}
    by_hash = sorted(names, key=fractions.__getitem__)
    count = sum(fraction < share for fraction in fractions.values())
    count = min(max(count, 1), len(by_hash) - 1)
    test = by_hash[:count]
    if labels is not None:
        left = Counter(labels[name] for name in names)
        test = []
        for name in by_hash:  # by hash, so that added or removed images change few decisions
            if len(test) < count and left[labels[name]] > 1 and (fractions[name] < share or not test):
                test.append(name)
                left[labels[name]] -= 1
        test = test or by_hash[:1]
    held_out = set(test)
    return sorted(name for name in names if name not in held_out), sorted(test)


def _fraction(name: str) -> float:
    """Return a number in [0, 1) that depends on the name alone."""
    return int.from_bytes(hashlib.sha256(name.encode(errors="surrogateescape")).digest()[:6]) / 2**48


# -- classes ----------------------------------------------------------------------------------------------------------


class FolderClasses:
    """Classes by folder. names: class names in the order of the labels, empty if there are no class folders."""

    def __init__(self, path: Path, images: Sequence[str], known: Sequence[str] = ()) -> None:
        """Make a class of each folder directly below the images' common folder. path, known: as for `class_order`.

        Raises UserError for images beside class folders, and for unusable class names.
        """
        self._around = common_folder(images)
        inside = [name.removeprefix(self._around) for name in images]
        alone = [name for name in inside if "/" not in name]
        if alone and len(alone) < len(inside):
            raise UserError(
                f"{path} has images beside its class folders ({alone[0]})", "move them into a class folder or away"
            )
        self.names = () if alone else class_order({name.partition("/")[0] for name in inside}, path, known)
        self._labels = {name: label for label, name in enumerate(self.names)}

    def label(self, name: str) -> int | None:
        """Return the index in `names` of an image's class folder, 0 without classes, None outside class folders."""
        folders = name.removeprefix(self._around).split("/")[:-1]
        known = (self._labels[folder] for folder in folders if folder in self._labels)
        return next(known, None) if self.names else 0


class FileNameClasses:
    """Classes by file name, as in cat_1.png, dog (2).png, 00003_cat.png. names: class names in label order."""

    def __init__(self, path: Path, images: Sequence[str], known: Sequence[str] = ()) -> None:
        """Find the classes of the training images. path, known: as for `class_order`.

        Raises UserError if there is only one class, or if no two images share a class.
        """
        counts = Counter(map(class_in_name, images))
        if len(counts) < 2 or len(counts) == len(images):
            kinds = "one class" if len(counts) < 2 else "a different class each"
            raise UserError(f"`dataset.labels` names: the file names in {path} give {kinds} ({shorten_names(counts)})")
        self.names = class_order(counts, path, known)
        self._labels = {name: label for label, name in enumerate(self.names)}

    def label(self, name: str) -> int | None:
        """Return the index in `names` of the class of an image, None for an unknown class."""
        return self._labels.get(class_in_name(name))


def class_order(names: Iterable[str], path: Path, known: Sequence[str] = ()) -> tuple[str, ...]:
    """Return class names in label order. Numbers are sorted by value: 2 before 10, and class_2 before class_10.

    path: for messages. known: class names of a trained run, in label order. This order is kept if the names are the
    same. Raises UserError for unusable names.
    """
    names = sorted(names)
    for name in names:
        if len(name.encode(errors="surrogateescape")) > _LONGEST_NAME:
            raise UserError(f"{path}: a class name has {len(name)} characters ({short_name(name)})", "shorten it")
        if any(unicodedata.category(letter) in ("Cc", "Cs") for letter in name):
            raise UserError(
                f"{path}: the class name {name!r} has characters that cannot be printed", "rename the class"
            )
    if sorted(known) == names:
        return tuple(known)
    numeric = all(re.fullmatch(r"[+-]?\d+(\.\d+)?", name) for name in names)
    return tuple(sorted(names, key=Decimal if numeric else _by_numbers))


def _by_numbers(name: str) -> list[str | int]:
    """Return a sort key that orders names by the numbers in them: alternating texts and whole numbers."""
    return [int(part) if index % 2 else part for index, part in enumerate(re.split(r"(\d+)", name))]


def class_in_name(name: str) -> str:
    """Return the class in the name of an image file: the name without folders, suffix, and numbers at its ends."""
    stem = PurePosixPath(name).stem
    without = re.sub(r"[\s_.\-#(\[]+\d+[)\]]*$", "", stem) or stem
    without = re.sub(r"^\d+[\s_.\-]+(?=.*[^\W\d_])", "", without)
    return without if without != stem else re.sub(r"(?<=[^\W\d_])\d+$", "", stem)


def names_look_labelled(images: Sequence[str]) -> tuple[str, ...]:
    """Return the classes that file names seem to hold, an empty tuple if they seem to hold none."""
    counts = Counter(map(class_in_name, images))
    likely = 2 <= len(counts) <= len(images) / 2 and min(counts.values()) > 1
    return tuple(sorted(counts)) if likely else ()
