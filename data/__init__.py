"""Data sets as uint8 tensors: one Python module per data set, found by the module's name.

Importing this package imports no torch and reads no files. `load` imports torch and reads the files. A new data set is
one new module with a subclass of DataSet. The class has the module's name without underscores, in any capitalisation:
FashionMNIST in fashion_mnist.py. Code that several data sets share is in `readers`.
"""

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from data.images import ImageData, Split
from models.errors import UserError
from models.places import expanded
from models.processes import is_rank_zero
from models.variants import DATA_SETS

__all__ = ["ImageData", "Split", "data_root", "load"]


def warn(note: str) -> None:
    """Print a note on standard error, on rank 0 only."""
    if is_rank_zero():
        print(UserError(note), file=sys.stderr, flush=True)


def load(
    name: str,
    options: Mapping[str, Any],
    root: Path,
    memory_limit: float | None = None,
    digests: Path | None = None,
    tell: Callable[[str], None] = warn,
    older: bool = False,
    class_names: Sequence[str] = (),
) -> ImageData:
    """Return the data set called `name`, read from the files in `root`.

    options: arguments of the data set's class. memory_limit: image files are streamed if both splits together take
    more than this many GiB. Default: the variable MEMORY_LIMIT, else half of the free memory. digests: folder that
    keeps the hashes of streamed files, so that unchanged files are not hashed again. tell: receives each line of
    `ImageData.notes`. older: hold images out as earlier versions of this project did. class_names: class names of a
    trained run, in label order. This order is kept if the data have the same classes. Raises UserError.
    """
    data_set = DATA_SETS.build(name, **options)
    data_set.older, data_set.known_classes = older, class_names
    loaded = data_set.load(root)
    for note in loaded.notes:
        tell(note)
    dataset = loaded.within(memory_limit)
    for note in dataset.notes[len(loaded.notes) :]:
        tell(note)
    if digests is not None:
        dataset.keep_digests(digests)
    return dataset


def data_root(chosen: str | os.PathLike[str] | None = None) -> Path:
    """Return the folder of the data files: `chosen`, else the variable DATA_ROOT, else data/store in the repository."""
    folder = chosen or os.environ.get("DATA_ROOT")
    return Path(expanded(str(folder))).absolute() if folder else Path(__file__).resolve().parent / "store"
