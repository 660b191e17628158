"""Features of images from a feature network. Features of real images are cached by network and image hash."""

import hashlib
from pathlib import Path
from typing import NamedTuple, Protocol

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor

from models.progress import progress
from models.runs.files import replacing
from models.spaces import ImageRows

VERSION = 1  # Version of the feature computation. Cached features of other versions are ignored.


class FeaturesAndLogits(NamedTuple):
    """Output of a feature network: features (N, D) and logits (N, classes), float64 on the CPU."""

    features: Tensor
    logits: Tensor

    @property
    def predictions(self) -> Tensor:
        """The most likely class of each image, (N,)."""
        return self.logits.argmax(1)


class Extractor(Protocol):
    """A feature network. Its name consists of the architecture and the hash of the weights."""

    @property
    def name(self) -> str: ...

    def extract(self, images: ImageRows) -> FeaturesAndLogits: ...


def cached_features(extractor: Extractor, images: ImageRows, images_sha256: str, cache: Path) -> FeaturesAndLogits:
    """Return `extractor.extract(images)`, read from the folder `cache` if it is stored there."""
    key = hashlib.sha256(f"{VERSION} {extractor.name} {images_sha256}".encode()).hexdigest()[:16]
    path = cache / f"{extractor.name}-{key}.safetensors"
    try:
        tensors = safetensors.torch.load_file(path)
        output = FeaturesAndLogits(tensors["features"], tensors["logits"])
        if len(output.features) == len(images):
            return output
    except (OSError, SafetensorError, KeyError):
        pass  # A missing or truncated file is written anew.
    with progress(f"real images in {extractor.name}, once, kept for the next time", None):
        output = extractor.extract(images)
    cache.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        tensors = {name: tensor.contiguous() for name, tensor in output._asdict().items()}
        temporary.write_bytes(safetensors.torch.save(tensors))
    return output
