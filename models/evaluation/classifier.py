"""A small classifier of a data set: whether a generated image shows the class it was asked for, and its features.

Those of digits, MNIST and Fashion-MNIST lie in models/pretrained; one for other data is trained when first needed and
kept beside the runs. Each is known by the hash of its weights and by that of the data it was trained on, and its own
accuracy on test images belongs beside every figure that it makes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.errors import UserError
from models.evaluation.feature_networks import NETWORKS
from models.optim import AdamW
from models.randomness import derive_seed
from models.runs import checkpoints
from models.runs.yaml_files import read_yaml
from models.spaces import ImageRows
from models.spaces.pixels import Pixels

VERSION = 2  # Of all here that shapes the weights: a kept classifier of another version is not read.
PRETRAINED = Path(__file__).resolve().parents[1] / "pretrained"
PASSES, MOST_PASSES, LEAST_STEPS = 12, 100, 600
SHIFT = 0.08  # The share of its side by which an image is moved at most.
READ_AT_ONCE = 250


@dataclass(frozen=True)
class Schooling:
    """How a classifier is trained. epochs: None for as many as data of that size want. flips: also mirrored images."""

    network: str = "convnet"
    width: int = 32
    epochs: float | None = None
    batch_size: int = 128
    lr: float = 4e-3
    weight_decay: float = 0.05
    flips: bool = False
    seed: int = 0

    def epochs_for(self, images: int) -> float:
        """Twelve passes, or more for a small set until there are six hundred steps."""
        fitting = max(PASSES, min(MOST_PASSES, LEAST_STEPS * self.batch_size / images))
        return fitting if self.epochs is None else self.epochs


class LabelledImages(NamedTuple):
    """uint8 images (N, C, H, W) and labels (N,)."""

    images: ImageRows
    labels: Tensor


class Read(NamedTuple):
    """What a classifier makes of images: features (N, D) and logits (N, classes), float64 on the CPU."""

    features: Tensor
    logits: Tensor

    @property
    def labels(self) -> Tensor:
        return self.logits.argmax(1)


@dataclass(frozen=True)
class Subject:
    """What a classifier is to learn. sha256: of the training split, labels and all."""

    name: str
    sha256: str
    train: LabelledImages
    test: LabelledImages
    classes: int


@dataclass(frozen=True)
class Classifier:
    """A trained network and what stands beside its weights. Computes in float64: at every batch size and number of
    threads the same to 1e-12, where float32 would differ in the sixth digit."""

    network: nn.Module
    facts: Mapping[str, Any]

    @property
    def name(self) -> str:
        """Its build and the hash of its weights, which names every figure taken in its features."""
        return f"{self.facts['network']}_{self.facts['sha256'][:8]}"

    @property
    def accuracy(self) -> float:
        """On the real test images."""
        return self.facts["accuracy"]

    @torch.no_grad()
    def read(self, images: ImageRows) -> Read:
        """Of uint8 (N, C, H, W) on any device."""
        place = next(self.network.parameters())
        parts = [
            self.network(Pixels.scale(part.to(place.device)).to(place.dtype)) for part in images.split(READ_AT_ONCE)
        ]
        return Read(*(torch.cat(each).cpu() for each in zip(*parts, strict=True)))

    def recognised(self, images: ImageRows, labels: Tensor) -> float:
        """The share of images that it takes for what they are."""
        return (self.read(images).labels == labels).double().mean().item()


def fit_classifier(schooling: Schooling, shown: LabelledImages, classes: int, device: torch.device) -> nn.Module:
    """A network that has learnt the labelled images; the same seed gives the same one on the same machine."""
    torch.manual_seed(derive_seed(schooling.seed, "classifier", VERSION))
    channels, height, width = shown.images.shape[1:]
    network = NETWORKS[schooling.network]((channels, height, width), classes, schooling.width).to(device).train()
    optimizer = AdamW(network.parameters(), lr=schooling.lr, weight_decay=schooling.weight_decay)
    count, size = len(shown.images), min(schooling.batch_size, len(shown.images))
    steps = max(2, round(schooling.epochs_for(count) * count / size))
    rates = torch.optim.lr_scheduler.OneCycleLR(optimizer, schooling.lr, total_steps=steps, pct_start=0.2)
    generator = torch.Generator().manual_seed(derive_seed(schooling.seed, "classifier", "batches"))
    order = torch.empty(0, dtype=torch.long)
    for _ in range(steps):
        if len(order) < size:
            order = torch.randperm(count, generator=generator)
        rows, order = order[:size], order[size:]
        batch = _moved(shown.images[rows], schooling.flips, generator).to(device)
        _, logits = network(Pixels.scale(batch))
        loss = F.cross_entropy(logits, shown.labels[rows].to(device), label_smoothing=0.1)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        rates.step()
    return network


def _moved(images: Tensor, flips: bool, generator: torch.Generator) -> Tensor:
    """Each image by a few pixels of its own, its edge going on as it ended; half of them mirrored where asked."""
    count, _, height, width = images.shape
    places = []
    for side in (height, width):
        reach = max(1, round(SHIFT * side))
        offsets = torch.randint(-reach, reach + 1, (count, 1), generator=generator)
        places.append((torch.arange(side) + offsets).clamp(0, side - 1))
    if flips:
        mirrored = torch.rand(count, 1, generator=generator) < 0.5
        places[1] = torch.where(mirrored, places[1].flip(1), places[1])
    down, right = places
    channels = torch.arange(images.shape[1]).view(1, -1, 1, 1)
    return images[torch.arange(count).view(-1, 1, 1, 1), channels, down[:, None, :, None], right[:, None, None, :]]


def frozen(network: nn.Module, device: torch.device) -> nn.Module:
    """Ready to read images: in eval mode, in float64, on the device or, where that has no float64, on the CPU."""
    place = torch.device("cpu") if device.type == "mps" else device
    return network.to(place, torch.float64).eval().requires_grad_(False)


def write_classifier(path: Path, network: nn.Module, facts: Mapping[str, Any]) -> None:
    """The weights, in half precision, and the facts beside them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    tensors = {key: value.half() if value.is_floating_point() else value for key, value in network.state_dict().items()}
    checkpoints.write_checkpoint(path, tensors, facts)


def load_classifier(path: Path, device: torch.device) -> Classifier:
    """Raises UserError for a file that is no whole classifier."""
    tensors, facts = checkpoints.load_checkpoint(path)
    missing = {"network", "width", "shape", "classes", "accuracy", "data_sha256"} - facts.keys()
    if missing or facts["network"] not in NETWORKS:
        raise UserError(f"{path} is no feature network: make one with train_classifier")
    try:
        network = NETWORKS[facts["network"]](tuple(facts["shape"]), facts["classes"], facts["width"])
    except (TypeError, ValueError, RuntimeError) as error:
        raise UserError(f"{path} describes no network that can be built: {error}") from None
    checkpoints.fill_network(network, tensors, path)
    return Classifier(frozen(network, device), facts)


def pretrained(network: str, data_sha256: str) -> Path | None:
    """The file of models/pretrained with a network of that build for that training split."""
    for path in sorted(PRETRAINED.glob(f"*_{network}.yaml")):
        if read_yaml(path).get("data_sha256") == data_sha256:
            return path.with_suffix(".safetensors")
    return None


def kept_path(kept: Path, schooling: Schooling, data_sha256: str) -> Path:
    """Where a classifier lies that was trained so on that training split, or will lie."""
    word = hashlib.sha256(f"{VERSION} {schooling} {data_sha256}".encode()).hexdigest()[:16]
    return kept / f"{word}.safetensors"


def school(schooling: Schooling, subject: Subject, device: torch.device, path: Path) -> Classifier:
    """Trains a classifier, measures it on the test images and writes it."""
    shown, test = subject.train, subject.test
    network = frozen(
        fit_classifier(schooling, shown, subject.classes, device).half(), device
    )  # as it will be read back
    facts = {
        "dataset": subject.name,
        "network": schooling.network,
        "width": schooling.width,
        "shape": list(shown.images.shape[1:]),
        "classes": subject.classes,
        "data_sha256": subject.sha256,
        "accuracy": Classifier(network, {}).recognised(*test),
        "test_images": len(test.images),
        "settings": {**asdict(schooling), "epochs": schooling.epochs_for(len(shown.images))},
        "version": VERSION,
        "torch": str(torch.__version__),
        "licence": "MIT",
    }
    write_classifier(path, network, facts)
    return load_classifier(path, device)


def classifier_for(
    kept: Path, schooling: Schooling, subject: Subject, device: torch.device, tell: Callable[[str], None]
) -> Classifier:
    """The classifier of a data set: from models/pretrained, else from the folder `kept`, else trained and kept there.

    tell: hears when training begins. Raises UserError for a damaged pretrained one.
    """
    path = pretrained(schooling.network, subject.sha256)
    if path is not None:
        return load_classifier(path, device)
    path = kept_path(kept, schooling, subject.sha256)
    try:
        return load_classifier(path, device)
    except UserError:
        name = subject.name
        tell(f"training a {schooling.network} to recognise {name}, for minutes at most; it is kept for the next time")
        return school(schooling, subject, device, path)
