"""Data sets as uint8 tensors: one file per data set family, found by its file's name.

Importing this package touches neither network nor disk, and imports neither torch nor scikit-learn; `load`
does. A new data set is one new file here. Its class has the file's name without underscores, keyword-only
options with defaults, and `load(root) -> ImageData`; what several of them share stands in `sources`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from data.images import ImageData, Split
from models.variants import DATA_SETS

__all__ = ["ImageData", "Split", "data_root", "load"]


def load(name: str, options: Mapping[str, Any], root: Path, memory_limit: float | None = None) -> ImageData:
    """The data set called `name` with these options of its class, from the files in `root`.

    Images in files of their own are read into memory, or streamed where both splits would take more than
    `memory_limit` GiB; None: half of what is free. Raises UserError.
    """
    return DATA_SETS.find(name)(**options).load(root).within(memory_limit)


def data_root(flag: str | os.PathLike[str] | None = None) -> Path:
    """Folder of the data files: `flag` if given, else the variable DATA_ROOT, else data/store in the
    repository.
    """
    chosen = flag or os.environ.get("DATA_ROOT")
    return Path(chosen).expanduser().absolute() if chosen else Path(__file__).resolve().parent / "store"
