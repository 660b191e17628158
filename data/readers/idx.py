"""Files of the idx format, and data sets of four idx files (the MNIST family).

Format: two zero bytes, a type byte (8 = uint8), the number of axes, each axis as a big-endian uint32, the values
(http://yann.lecun.com/exdb/mnist/).
"""

import math
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from data.images import Split, make_split
from data.readers import early, files
from data.readers.downloads import fetch_missing
from models.errors import UserError


def parse_idx(contents: bytes, source: str) -> np.ndarray:
    """Return the uint8 array in an idx file, a view of `contents`. Raises UserError naming `source`."""
    axes = contents[3] if len(contents) >= 4 else 0
    header = 4 + 4 * axes
    if contents[:3] != b"\x00\x00\x08" or not axes or len(contents) < header:
        raise UserError(f"{source} is not an idx file of uint8 values", "delete or replace it")
    shape = struct.unpack(f">{axes}I", contents[4:header])
    count, expected = len(contents) - header, math.prod(shape)
    if count != expected:
        message = f"{source} is cut short or altered ({count} values, its header says {expected})"
        raise UserError(message, "delete or replace it")
    return np.frombuffer(contents, np.uint8, offset=header).reshape(shape)


def begin_idx_set(folder: Path, md5: Mapping[str, str]) -> None:
    """Begin to read, in threads, those files that `load_idx_set` needs and that exist."""
    for file, expected in md5.items():
        if (path := files.locate_file(folder, file)) is not None:
            early.begin(files.read_file, path, expected)


def load_idx_set(
    name: str, folder: Path, mirrors: Sequence[str], md5: Mapping[str, str], classes: int
) -> tuple[Split, Split]:
    """Return the train and test split of four idx files in `folder`, named as MNIST's. Missing files are downloaded.

    md5: MD5 of each file's contents, by file name without .gz. Raises UserError for altered files and failed downloads.
    """
    if missing := [file for file in md5 if files.locate_file(folder, file) is None]:
        urls = {f"{file}.gz": [f"{mirror}{file}.gz" for mirror in mirrors] for file in missing}
        fetch_missing(name, folder, urls, lambda path, file: files.read_file(path, md5[file.removesuffix(".gz")]))

    def split(part: str) -> Split:
        images, labels = (_array(folder, f"{part}-{kind}", md5) for kind in ("images-idx3-ubyte", "labels-idx1-ubyte"))
        return make_split(images, labels, classes, f"{folder} ({part})")

    return split("train"), split("t10k")


def _array(folder: Path, file: str, md5: Mapping[str, str]) -> np.ndarray:
    path = files.locate_file(folder, file) or folder / file
    return parse_idx(early.result(files.read_file, path, md5[file]), str(path))
