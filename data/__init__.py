"""Data sets as uint8 tensors: one file per data set family, found by its file's name.

Importing this package touches neither network nor disk, and imports neither torch nor scikit-learn; `load`
does. A new data set is one new file here. Its class has the file's name without underscores, keyword-only
options with defaults, and `load(root) -> ImageData`; what several of them share stands in `sources`.
"""

from __future__ import annotations

import difflib
import importlib
import os
import pkgutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from data.errors import DataError
from data.images import ImageData, Split

__all__ = ["DataError", "ImageData", "Split", "data_root", "find", "load", "names"]

_NOT_DATA_SETS = {"batches", "errors", "images"}


def names() -> list[str]:
    """Names of all data sets, sorted: what `--dataset` takes."""
    modules = pkgutil.iter_modules(__path__)
    return sorted(m.name for m in modules if not m.ispkg and m.name not in _NOT_DATA_SETS)


def find(name: str) -> type[Any]:
    """The class of the data set called `name`: its constructor's keyword arguments are the options.

    Raises DataError, with the nearest name as a suggestion, when there is no such data set.
    """
    known = names()
    if name not in known:
        nearest = difflib.get_close_matches(name.lower().replace("-", "_"), known, n=1)
        hint = f"did you mean {nearest[0]!r}? " if nearest else ""
        raise DataError(f"unknown data set {name!r}: {hint}choose one of {', '.join(known)}")
    module = importlib.import_module(f"{__name__}.{name}")
    wanted = name.replace("_", "")
    return next(value for key, value in vars(module).items() if key.lower() == wanted and isinstance(value, type))


def load(name: str, options: Mapping[str, Any], root: Path, memory_limit: float | None = None) -> ImageData:
    """The data set called `name` with these options of its class, from the files in `root`.

    Images in files of their own are read into memory, or streamed where both splits would take more than
    `memory_limit` GiB; None: half of what is free. Raises DataError.
    """
    return find(name)(**options).load(root).within(memory_limit)


def data_root(flag: str | os.PathLike[str] | None = None) -> Path:
    """Folder of the data files: `flag` if given, else the variable DATA_ROOT, else data/store in the
    repository.
    """
    chosen = flag or os.environ.get("DATA_ROOT")
    return Path(chosen).expanduser().absolute() if chosen else Path(__file__).resolve().parent / "store"
