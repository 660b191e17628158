"""Images to be measured, wherever they come from: a trained run, a samples.npz, or a folder or zip of pictures.

All come as uint8, with what is known of how they were made for the protocol card.
"""

from __future__ import annotations

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
from models.runs.yaml_files import read_yaml
from scripts.cli.terminal import tell_progress
from scripts.tasks.sampling import describe_model

LABELLED = re.compile(r"_label(\d{1,9})\.[^.]+$")
QUANTISATION = "uint8, rounded half to even, clipped to 0..255"
# What numpy is known to raise for files that are no archive of arrays, or a damaged one.
BROKEN = (OSError, ValueError, KeyError, EOFError, MemoryError, RuntimeError, zipfile.BadZipFile, zlib.error)
CONFIG_WORDS = ("sampler", "steps", "grid", "eta", "variance", "diffusion", "order", "guidance_scale")
CONFIG_WORDS += ("guidance_interval", "guidance_rescale", "autoguidance", "clip", "seed", "weights", "checkpoint")
CONFIG_WORDS += ("step", "checkpoint_sha256", "nfe")

INTERVAL_UNIT = "guidance_interval_unit"  # Key of config.txt; samples from before it have the schedule's own t.


def labels_as_real(model: Model, dataset: ImageData, count: int) -> list[int] | None:
    """One label per image, for a model that takes any: each is the class that lags most behind its share of the
    training images. So the classes come as often as there, to an image or so, and fewer labels are the first of more.
    Against the training images other shares, chance ones too, would be a distance by themselves."""
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
    """Generate `count` images of a trained model, with a line of progress."""
    images, evaluations, done, started = [], 0.0, 0, time.perf_counter()
    for batch in generate(model, sampling, count, labels, seed, batch_size, over_ranks=True):
        images.append(batch.images)
        done += len(batch.images)
        evaluations += batch.nfe * len(batch.images)
        tell_progress(done, count, duration(time.perf_counter() - started))
    nfe = evaluations / count
    card = {"made_by": "generate", "sampling": sampling.describe(), "nfe": nfe, "seed": seed}
    card["quantisation"] = QUANTISATION
    if sampling.weak is not None:
        card["autoguidance"] = sampling.weak.name
    title = f"{describe_model(model)}, {sampling.describe()}, NFE {nfe:g}"
    return Samples(torch.cat(images), None if labels is None else torch.tensor(labels), title, card)


def read_samples(path: Path, count: int, dataset: ImageData) -> Samples:
    """`count` images of a file or folder, all for 0, of the shape of a data set: the first of those that `generate`
    made, class after class in turn, and of others, which may be sorted, such as are drawn. Raises UserError."""
    if not path.exists():
        raise UserError(f"--samples {path}: no such file or folder")
    of_npz = path.is_file() and path.suffix == ".npz"
    images, labels = _read_npz(path) if of_npz else _read_pictures(path, dataset)
    if tuple(images.shape[1:]) != tuple(dataset.train.images.shape[1:]):
        mine, theirs = ("x".join(map(str, each.shape[1:])) for each in (images, dataset.train.images))
        raise UserError(f"--samples {path}: images are {mine} (CxHxW), those of {dataset.name} {theirs}")
    if labels is not None and (len(labels) != len(images) or not _known(labels, len(dataset.class_names))):
        raise UserError(f"--samples {path}: the labels are not one of {len(dataset.class_names)} classes per image")
    if count > len(images):
        raise UserError(f"--num_images {count}: {path} holds {len(images)}")
    count = count or len(images)
    card: dict[str, Any] = {"made_by": "others", "samples": str(path), "quantisation": "uint8, as given"}
    settings = settings_beside(path) if of_npz else {}
    if "sampler" in settings:
        told = {word: settings[word] for word in CONFIG_WORDS if _is_plain(settings.get(word))}
        if "guidance_interval" in told:
            told["guidance_interval_unit"] = settings.get(INTERVAL_UNIT, "in the schedule's own t")
        card = {"made_by": "generate", "samples": str(path), "quantisation": QUANTISATION, **told}
    rows = torch.arange(count)
    if card["made_by"] != "generate":
        rows = random_rows(len(images), count, 0, "samples").sort().values
    title = str(Path(*path.absolute().parts[-2:]))
    return Samples(images[rows], None if labels is None else labels[rows], title, card)


def settings_beside(path: Path) -> dict[str, Any]:
    """What the config.txt beside a samples.npz says, if it is one of ours."""
    config = path.parent / "config.txt"
    try:
        return read_yaml(config) if config.is_file() else {}
    except UserError:
        return {}


def _is_plain(value: Any) -> bool:
    """What a setting may be; someone's YAML may hold dates and worse."""
    values = value if isinstance(value, list) else [value]
    return all(isinstance(each, (str, int)) or (isinstance(each, float) and math.isfinite(each)) for each in values)


def _known(labels: Tensor, classes: int) -> bool:
    return len(labels) > 0 and int(labels.min()) >= 0 and int(labels.max()) < classes


def _read_npz(path: Path) -> tuple[Tensor, Tensor | None]:
    """As `generate` writes it: arr_0 uint8 (N, H, W, C), arr_1 labels."""
    try:
        # By the file: of a path that is no archive, numpy would leave it open and return something else.
        with path.open("rb") as file, np.lib.npyio.NpzFile(file, allow_pickle=False) as archive:
            images = archive["arr_0"]
            labels = archive.get("arr_1")
    except BROKEN as error:
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
    found = torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))
    return found, None if labels is None else torch.from_numpy(labels.astype(np.int64))


def _read_pictures(path: Path, dataset: ImageData) -> tuple[Tensor, Tensor | None]:
    """In the order of their names. Labels: from names like 00000_label3.png, or from folders named as the classes."""
    from data.readers.pictures import Target, decode_all
    from data.readers.trees import open_tree

    tree = open_tree(path)
    names = sorted(tree.names)
    images = decode_all(tree, names, Target(None, dataset.train.images.shape[1], False))
    return torch.from_numpy(images), _labels_of(names, dataset.class_names)


def _labels_of(names: Sequence[str], class_names: Sequence[str]) -> Tensor | None:
    numbered = [LABELLED.search(name) for name in names]
    if all(numbered):
        return torch.tensor([int(match[1]) for match in numbered if match])
    folders = [next((part for part in name.split("/")[:-1] if part in class_names), None) for name in names]
    if class_names and all(folders):
        return torch.tensor([list(class_names).index(str(folder)) for folder in folders])
    return None
