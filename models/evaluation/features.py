"""Features of images from a feature network, and the cache of what is computed from real images alone."""

import hashlib
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple, Protocol

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from models.evaluation.neighbours import nearest
from models.places import PRETRAINED
from models.progress import progress
from models.runs.files import replacing
from models.spaces import ImageRows

VERSION = 2  # Version of the feature computation. Cached features of other versions are ignored.
SHIPPED = PRETRAINED / "neighbours"  # Cached distances of published data sets.


class FeaturesAndLogits(NamedTuple):
    """Output of a feature network: features (N, D) and logits (N, classes), float32 or float64 on the CPU.

    `on` moves the features to another device. Measures run on that device.
    """

    features: Tensor
    logits: Tensor

    @property
    def predictions(self) -> Tensor:
        """The most likely class of each image, (N,)."""
        return self.logits.argmax(1)

    def on(self, device: torch.device) -> "FeaturesAndLogits":
        """Return a copy with the features on `device`. The logits are small and stay on the CPU."""
        return self._replace(features=self.features.to(device))


class Extractor(Protocol):
    """A feature network. Its name consists of the architecture and the hash of the weights."""

    @property
    def name(self) -> str: ...

    def extract(self, images: ImageRows) -> FeaturesAndLogits: ...


def cached_features(extractor: Extractor, images: ImageRows, images_key: str, cache: Path) -> FeaturesAndLogits:
    """Return `extractor.extract(images)`, read from the folder `cache` if it is stored there.

    images_key: hash of the contents of the images.
    """

    def compute() -> dict[str, Tensor]:
        with progress(f"features of real images by {extractor.name}, computed once and cached", None):
            return extractor.extract(images)._asdict()

    def fits(tensors: dict[str, Tensor]) -> bool:
        return len(tensors["features"]) == len(tensors["logits"]) == len(images)

    name = f"{extractor.name}-{hash_words(extractor.name, images_key)}"
    return FeaturesAndLogits(**cached_tensors(name, (cache,), compute, fits))


def cached_squares(space: str, test: Tensor, train: Tensor, keys: Sequence[str], cache: Path) -> Tensor:
    """Return the squared distance of each test point (M, D) to its nearest training point (N, D), (M,).

    The result is read from the folder `cache` or from SHIPPED if it is stored there. keys: hashes of the images from
    which the points were computed. space: name of the space of the points.
    """

    def compute() -> dict[str, Tensor]:
        with progress(f"distances of real images in {space}, computed once and cached", None):
            return {"squares": nearest(test, train).squares}

    name = f"neighbours-{space}-{hash_words(space, *keys)}"
    tensors = cached_tensors(name, (SHIPPED, cache), compute, lambda tensors: len(tensors["squares"]) == len(test))
    return tensors["squares"]


def hash_words(*words: str) -> str:
    """Return a short hash of words and of VERSION, for the name of a cache file."""
    return hashlib.sha256(f"{VERSION} {' '.join(words)}".encode()).hexdigest()[:16]


def cached_tensors(
    name: str,
    folders: Sequence[Path],
    compute: Callable[[], dict[str, Tensor]],
    fits: Callable[[dict[str, Tensor]], bool],
) -> dict[str, Tensor]:
    """Read tensors from a file in one of the folders. If none fits, compute them and write them to the last folder.

    name: file name without suffix. It must differ if the tensors differ. fits: returns whether read tensors are valid.
    """
    for folder in folders:
        try:
            tensors = safetensors.torch.load_file(folder / f"{name}.safetensors")
            if fits(tensors):
                return tensors
        except (OSError, SafetensorError, KeyError):
            pass  # A missing or truncated file is written anew.
    tensors = {key: tensor.contiguous() for key, tensor in compute().items()}
    with suppress(OSError):  # A folder that cannot be written must not end an evaluation.
        folders[-1].mkdir(parents=True, exist_ok=True)
        with replacing(folders[-1] / f"{name}.safetensors") as temporary:
            temporary.write_bytes(safetensors.torch.save(tensors))
    return tensors
