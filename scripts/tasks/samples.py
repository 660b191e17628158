"""Images to be measured: from a trained run, a samples.npz, or a folder or zip of pictures.

All images are uint8. A card says how they were generated, as far as this is known.
"""

import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from data import ImageData
from models.errors import UserError
from models.evaluation.image_sets import Samples
from models.evaluation.measures import random_rows
from models.generation import Sampling, generate
from models.model import Model
from models.progress import duration
from models.randomness import IMAGE_NOISE
from models.runs.yaml_files import read_yaml
from scripts.cli.terminal import tell
from scripts.tasks.sample_files import read_sample_file
from scripts.tasks.sampling import describe_model, describe_sampling

QUANTISATION = "uint8, rounded half to even, clipped to 0..255"
# Settings of a config.txt that the card repeats.
CARD_SETTINGS = (
    *("sampler", "steps", "grid", "eta", "variance", "diffusion", "order", "guidance_scale"),
    *("guidance_interval", "guidance_rescale", "autoguidance", "clip", "seed", "noise", "weights", "checkpoint"),
    *("step", "checkpoint_sha256", "nfe"),
)
INTERVAL_UNIT = "guidance_interval_unit"  # Key of config.txt. If missing, guidance_interval is in the schedule's own t.


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
    """Generate `count` images with a trained model."""
    images, evaluations, started = [], 0.0, time.perf_counter()
    for batch in generate(model, sampling, count, labels, seed, batch_size, over_ranks=True):
        images.append(batch.images)
        evaluations += batch.nfe * len(batch.images)
    tell(f"{count} of {count} images, {duration(time.perf_counter() - started)}")
    nfe = evaluations / count
    card = {"made_by": "generate", "sampling": sampling.describe(), "nfe": nfe, "seed": seed, "noise": IMAGE_NOISE}
    card["quantisation"] = QUANTISATION
    if model.spec.student is not None:
        card["student"] = model.spec.student.describe()
    if sampling.weak is not None:
        card["autoguidance"] = sampling.weak.name
    title = f"{describe_model(model)}, {describe_sampling(sampling)}, NFE {nfe:g}"
    return Samples(torch.cat(images), None if labels is None else torch.tensor(labels), title, card)


def read_samples(path: Path, count: int, dataset: ImageData) -> Samples:
    """Read `count` images (0: all) of a file or folder. Raises UserError if their shape is not that of the data set.

    `generate` writes its classes in turn, so its first `count` images are taken. Other files may be sorted by class,
    so `count` of their images are drawn at random.
    """
    images, labels = read_sample_file(path, dataset)
    if count > len(images):
        raise UserError(f"`num_images` {count}: {path} holds only {len(images)}")
    count = count or len(images)
    settings = settings_beside(path) if path.suffix == ".npz" else {}
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
