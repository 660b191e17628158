"""Data sets as uint8 tensors: one file per data set, found by the file's name.

Importing this package touches neither network nor disk, and imports neither torch nor scikit-learn; `load` does. A new
data set is one new file here. It defines a subclass of DataSet that has the file's name without underscores. Code that
several data sets share is in `readers`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_type_hints

from data.images import ImageData, Split
from models.ranges import check_ranges
from models.variants import DATA_SETS

__all__ = ["ImageData", "Split", "data_root", "load"]


def load(name: str, options: Mapping[str, Any], root: Path, memory_limit: float | None = None) -> ImageData:
    """Return the data set called `name`, read from the files in `root`.

    options: arguments of the data set's class. memory_limit: image files are streamed if both splits together take
    more than this many GiB. None stands for half of the free memory. Raises UserError.
    """
    data_set = DATA_SETS.find(name)
    check_ranges(options, get_type_hints(data_set.__init__, include_extras=True), "dataset.")
    return data_set(**options).load(root).within(memory_limit)


def data_root(chosen: str | os.PathLike[str] | None = None) -> Path:
    """Return the folder of the data files: `chosen`, else the variable DATA_ROOT, else data/store in the repository."""
    folder = chosen or os.environ.get("DATA_ROOT")
    return Path(folder).expanduser().absolute() if folder else Path(__file__).resolve().parent / "store"
