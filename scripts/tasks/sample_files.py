"""Files of images to be measured: arrays in .npz and .npy files, and folders or zips of pictures.

An array is laid out as (N, H, W, C), (N, C, H, W) or (N, H, W). The shape of the data set's images decides on the
layout. If (N, H, W, C) and (N, C, H, W) both fit, it is (N, H, W, C).
"""

import re
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch
from torch import Tensor

from data import ImageData
from models.errors import UserError
from scripts.cli.early import check_samples
from scripts.cli.terminal import tell

IMAGES, LABELS = "arr_0", "arr_1"  # Members of an archive as `generate` writes it.
SHEETS = ("grid", "with_teacher")  # Names of the sheets of all images that a run writes beside them, in any format.
# Names of pictures with a label: 00000_label3.png, and 00000_label0_T-shirt-top.png as `generate` writes them.
_LABELLED = re.compile(r"_label(\d{1,9})\.[^./]+$|(?:^|/)\d+_label(\d{1,9})_[^./]+\.[^./]+$", re.ASCII)
_NUMBERED = re.compile(r"\d{5,}(_label\d[^/]*)?\.[^./]+")
# Errors that numpy raises for files that hold no arrays, or are damaged.
_ARRAY_ERRORS = (OSError, ValueError, KeyError, EOFError, MemoryError, RuntimeError, zipfile.BadZipFile, zlib.error)


def read_sample_file(path: Path, dataset: ImageData) -> tuple[Tensor, Tensor | None]:
    """Return images uint8 (N, C, H, W) in the shape of the data set's images, and labels int64 (N,) or None.

    Raises UserError for images of another shape or type, and if the file cannot be read.
    """
    check_samples(path)
    if path.is_dir() or path.suffix.lower() not in (".npz", ".npy"):
        images, labels = _read_pictures(path, dataset)
    else:
        array, numbers = _read_npz(path) if path.suffix.lower() == ".npz" else (_read_npy(path), None)
        images, labels = _images_of(path, array, dataset), _labels_of(path, numbers)
    shape, wanted = tuple(images.shape[1:]), tuple(dataset.train.images.shape[1:])
    if shape != wanted:
        given, expected = ("x".join(map(str, part)) for part in (shape, wanted))
        raise UserError(f"`samples` {path}: images are {given} (CxHxW), but those of {dataset.name} are {expected}")
    classes = len(dataset.class_names)
    if classes == 0:
        return images, None
    if labels is not None and not (len(labels) == len(images) and labels.min() >= 0 and labels.max() < classes):
        raise UserError(f"`samples` {path}: needs one label per image, from 0 to {classes - 1}")
    return images, labels


def _read_npz(path: Path) -> tuple[np.ndarray, np.ndarray | None]:
    """Return images and labels of an archive: `arr_0` and `arr_1`, else the only image array, and `labels`."""
    try:
        # If the file is not an archive, np.load would leave it open and return something else.
        with path.open("rb") as file, np.lib.npyio.NpzFile(file, allow_pickle=False) as archive:
            name = IMAGES if IMAGES in archive.files else _only_images(path, {key: archive[key] for key in archive})
            images, labels = archive[name], archive.get(LABELS if name == IMAGES else "labels")
    except _ARRAY_ERRORS as error:
        raise UserError(f"`samples` {path}: is no samples.npz with an {IMAGES}: {_first_line(error)}") from None
    if not isinstance(images, np.ndarray) or not isinstance(labels, np.ndarray | None):
        raise UserError(f"`samples` {path}: its images or labels are not stored as an array")
    if name != IMAGES:
        tell(f"{path}: the images are in the array {name!r}")
    return images, labels


def _only_images(path: Path, members: Mapping[str, Any]) -> str:
    """Return the name of the only array of three or four dimensions. Raises UserError if there is not exactly one."""
    names = [name for name, array in members.items() if isinstance(array, np.ndarray) and array.ndim in (3, 4)]
    if len(names) != 1:
        listed = ", ".join(f"{name} {np.shape(array)}" for name, array in members.items()) or "none"
        message = f"`samples` {path}: is no samples.npz with an {IMAGES} or a single array of images (arrays: {listed})"
        raise UserError(message, f"save the images as {IMAGES} and the labels as {LABELS}")
    return names[0]


def _read_npy(path: Path) -> np.ndarray:
    try:
        with path.open("rb") as file:
            return np.lib.format.read_array(file, allow_pickle=False)
    except _ARRAY_ERRORS as error:
        raise UserError(f"`samples` {path}: holds no array of images: {_first_line(error)}") from None


def _images_of(path: Path, array: np.ndarray, dataset: ImageData) -> Tensor:
    """Return an array's images as uint8 (N, C, H, W). The array is (N, H, W, C), (N, C, H, W) or (N, H, W)."""
    if array.dtype != np.uint8:
        array = _as_uint8(path, array)
    if array.ndim not in (3, 4) or 0 in array.shape:
        layouts = "(N, H, W, C), (N, C, H, W) or, for grey images, (N, H, W)"
        raise UserError(f"`samples` {path}: the images have shape {array.shape}; it must be {layouts}")
    wanted = tuple(dataset.train.images.shape[1:])
    if array.ndim == 3:
        images = array[:, None]
    elif (array.shape[3], *array.shape[1:3]) != wanted and array.shape[1:] == wanted:
        images = array
        tell(f"{path}: the images are laid out as (N, C, H, W)")
    else:  # the layout that `generate` writes
        images = array.transpose(0, 3, 1, 2)
    return torch.from_numpy(np.ascontiguousarray(images))


def _as_uint8(path: Path, array: np.ndarray) -> np.ndarray:
    """Return whole numbers from 0 to 255 as uint8. Raises UserError for other values."""
    numbers = np.issubdtype(array.dtype, np.number) and not np.issubdtype(array.dtype, np.complexfloating)
    span = f" from {array.min():g} to {array.max():g}" if numbers and array.size else ""
    if np.issubdtype(array.dtype, np.integer) and array.size and array.min() >= 0 and array.max() <= 255:
        return array.astype(np.uint8)
    message = f"`samples` {path}: images are {array.dtype}{span}; they must be uint8, whole numbers from 0 to 255"
    raise UserError(message, "save them as numpy.uint8")


def _labels_of(path: Path, labels: np.ndarray | None) -> Tensor | None:
    if labels is None:
        return None
    if labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer):
        raise UserError(f"`samples` {path}: {LABELS} must hold one whole number per image")
    return torch.from_numpy(labels.astype(np.int64))


def _read_pictures(path: Path, dataset: ImageData) -> tuple[Tensor, Tensor | None]:
    """Read pictures in order of name. Labels come from file or folder names; None if any picture has no label."""
    from data.readers.pictures import Target, decode_all
    from data.readers.trees import open_tree

    tree = open_tree(path)
    names = _without_sheets(path, sorted(tree.names))
    channels, height, width = dataset.train.images.shape[1:]
    try:
        images = torch.from_numpy(decode_all(tree, names, Target(None, channels, False)))
    except UserError as error:  # Its own suggestions are about data sets.
        ways_out = f"give all images {height} rows and {width} columns, as in {dataset.name}", "remove the named images"
        raise UserError(f"`samples` {error.message}", *ways_out) from None
    numbered = [_LABELLED.search(name) for name in names]
    if all(numbered):
        return images, torch.tensor([int(match[1] or match[2]) for match in numbered if match])
    class_names = list(dataset.class_names)
    folders = [next((part for part in name.split("/")[:-1] if part in class_names), None) for name in names]
    if class_names and all(folders):
        return images, torch.tensor([class_names.index(str(folder)) for folder in folders])
    return images, None


def _without_sheets(path: Path, names: list[str]) -> list[str]:
    """Return the names without the sheets that a run writes beside its numbered images."""
    images = [name for name in names if PurePosixPath(name).stem not in SHEETS]
    if len(images) == len(names) or not images:
        return names
    if not all(_NUMBERED.fullmatch(PurePosixPath(name).name) for name in images):
        return names
    for sheet in sorted({*names} - {*images}):
        tell(f"{path}: {sheet} is a sheet of the other images and is left out")
    return images


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)
