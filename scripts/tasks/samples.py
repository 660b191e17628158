"""Images to be measured: from a trained run, a samples.npz, or a folder or zip of pictures.

All images are uint8. They come with a card of how they were generated, as far as it is known.
"""

import math
import re
import time
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from data import ImageData
from models.errors import UserError
from models.evaluation.image_sets import Samples
from models.evaluation.measures import random_rows
from models.generation import Sampling, generate
from models.model import Model
from models.progress import duration
from models.randomness import IMAGE_NOISE
from models.runs.yaml_files import read_yaml
from scripts.cli.terminal import tell_progress
from scripts.tasks.sampling import describe_model

QUANTISATION = "uint8, rounded half to even, clipped to 0..255"
# Settings of a config.txt that the card repeats.
CARD_SETTINGS = (
    *("sampler", "steps", "grid", "eta", "variance", "diffusion", "order", "guidance_scale"),
    *("guidance_interval", "guidance_rescale", "autoguidance", "clip", "seed", "noise", "weights", "checkpoint"),
    *("step", "checkpoint_sha256", "nfe"),
)
INTERVAL_UNIT = "guidance_interval_unit"  # Key of config.txt. If missing, the interval is in the schedule's own t.
_LABELLED = re.compile(r"_label(\d{1,9})\.[^.]+$")
# Errors that numpy raises for files that are not an archive of arrays, or are damaged.
_ARCHIVE_ERRORS = (OSError, ValueError, KeyError, EOFError, MemoryError, RuntimeError, zipfile.BadZipFile, zlib.error)


def labels_as_real(model: Model, dataset: ImageData, count: int) -> list[int] | None:
    """Return one label per image, with the class shares of the training images; None for a model without labels.

    Each label is the class that lags most behind its share, so the first labels do not depend on the count. Any
    other class shares would increase the measured distance from the training images.
    """
    if model.spec.classes == 0:
        return None
    shares = torch.bincount(dataset.train.labels, minlength=model.spec.classes).double() / len(dataset.train)
    lag, labels = torch.zeros_like(shares), []
    for _ in range(count):
        lag += shares
        labels.append(int(lag.argmax()))
        lag[labels[-1]] -= 1
    return labels


def draw_samples(
    model: Model, sampling: Sampling, count: int, labels: Sequence[int] | None, seed: int, batch_size: int
) -> Samples:
    """Generate `count` images with a trained model, and print the progress."""
    images, evaluations, done, started = [], 0.0, 0, time.perf_counter()
    for batch in generate(model, sampling, count, labels, seed, batch_size, over_ranks=True):
        images.append(batch.images)
        done += len(batch.images)
        evaluations += batch.nfe * len(batch.images)
        tell_progress(done, count, duration(time.perf_counter() - started))
    nfe = evaluations / count
    card = {"made_by": "generate", "sampling": sampling.describe(), "nfe": nfe, "seed": seed, "noise": IMAGE_NOISE}
    card["quantisation"] = QUANTISATION
    if sampling.weak is not None:
        card["autoguidance"] = sampling.weak.name
    title = f"{describe_model(model)}, {sampling.describe()}, NFE {nfe:g}"
    return Samples(torch.cat(images), None if labels is None else torch.tensor(labels), title, card)


def read_samples(path: Path, count: int, dataset: ImageData) -> Samples:
    """Read `count` images (0: all) of a file or folder. Raises UserError if their shape is not that of the data set.

    `generate` writes its classes in turn, so its first `count` images are taken. Other files may be sorted by class,
    so `count` of their images are drawn at random.
    """
    if not path.exists():
        raise UserError(f"--samples {path}: no such file or folder")
    is_npz = path.is_file() and path.suffix == ".npz"
    images, labels = _read_npz(path) if is_npz else _read_pictures(path, dataset)
    if tuple(images.shape[1:]) != tuple(dataset.train.images.shape[1:]):
        given, expected = ("x".join(map(str, part.shape[1:])) for part in (images, dataset.train.images))
        raise UserError(f"--samples {path}: images are {given} (CxHxW), those of {dataset.name} {expected}")
    classes = len(dataset.class_names)
    if labels is not None and not (len(labels) == len(images) and labels.min() >= 0 and labels.max() < classes):
        raise UserError(f"--samples {path}: the labels are not one of {classes} classes per image")
    if count > len(images):
        raise UserError(f"--num_images {count}: {path} holds {len(images)}")
    count = count or len(images)
    settings = settings_beside(path) if is_npz else {}
    if "sampler" in settings:
        rows = torch.arange(count)
        stored = {name: settings[name] for name in CARD_SETTINGS if _is_plain(settings.get(name))}
        if "guidance_interval" in stored:
            stored[INTERVAL_UNIT] = settings.get(INTERVAL_UNIT, "in the schedule's own t")
        card: dict[str, Any] = {"made_by": "generate", "samples": str(path), "quantisation": QUANTISATION, **stored}
    else:
        rows = random_rows(len(images), count, 0, "samples").sort().values
        card = {"made_by": "others", "samples": str(path), "quantisation": "uint8, as given"}
    title = str(Path(*path.absolute().parts[-2:]))
    return Samples(images[rows], None if labels is None else labels[rows], title, card)


def settings_beside(path: Path) -> dict[str, Any]:
    """Return the settings in the config.txt beside a samples.npz; {} if the file is missing or unreadable."""
    config = path.parent / "config.txt"
    try:
        return read_yaml(config) if config.is_file() else {}
    except UserError:
        return {}


def _is_plain(value: Any) -> bool:
    """Return whether a value from a YAML file is a string, a finite number, or a list of these."""
    values = value if isinstance(value, list) else [value]
    return all(isinstance(item, (str, int)) or (isinstance(item, float) and math.isfinite(item)) for item in values)


def _read_npz(path: Path) -> tuple[Tensor, Tensor | None]:
    """Read an archive as `generate` writes it: arr_0 uint8 (N, H, W, C), arr_1 labels."""
    try:
        # Given a path that is no archive, numpy would leave the file open and return something else.
        with path.open("rb") as file, np.lib.npyio.NpzFile(file, allow_pickle=False) as archive:
            images = archive["arr_0"]
            labels = archive.get("arr_1")
    except _ARCHIVE_ERRORS as error:
        words = str(error).splitlines() or [type(error).__name__]
        raise UserError(f"--samples {path}: no samples.npz with an arr_0: {words[0]}") from None
    if not isinstance(images, np.ndarray) or not isinstance(labels, np.ndarray | None):
        raise UserError(f"--samples {path}: no samples.npz with an arr_0: its members are no arrays")
    if images.dtype != np.uint8:
        raise UserError(f"--samples {path}: images are {images.dtype}; they must be uint8, rounded from 0..255")
    if images.ndim != 4 or 0 in images.shape:
        raise UserError(f"--samples {path}: arr_0 has shape {images.shape}; it must be (N, H, W, C)")
    if labels is not None and (labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer)):
        raise UserError(f"--samples {path}: arr_1 must hold one whole number per image")
    tensor = torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))
    return tensor, None if labels is None else torch.from_numpy(labels.astype(np.int64))


def _read_pictures(path: Path, dataset: ImageData) -> tuple[Tensor, Tensor | None]:
    """Read pictures sorted by name. Labels come from the names or the folders; None unless every picture has one."""
    from data.readers.pictures import Target, decode_all
    from data.readers.trees import open_tree

    tree = open_tree(path)
    names = sorted(tree.names)
    images = torch.from_numpy(decode_all(tree, names, Target(None, dataset.train.images.shape[1], False)))
    numbered = [_LABELLED.search(name) for name in names]  # as in 00000_label3.png
    if all(numbered):
        return images, torch.tensor([int(match[1]) for match in numbered if match])
    class_names = list(dataset.class_names)
    folders = [next((part for part in name.split("/")[:-1] if part in class_names), None) for name in names]
    if class_names and all(folders):
        return images, torch.tensor([class_names.index(str(folder)) for folder in folders])
    return images, None
