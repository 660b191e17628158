"""What a feature network makes of a set of images, kept by the content of both so that real images are read once."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Protocol

import safetensors.torch
from safetensors import SafetensorError

from models.evaluation.classifier import Read
from models.runs.files import replacing
from models.spaces import ImageRows

VERSION = 1  # Of how images are read: what another version kept is not used.


class Extractor(Protocol):
    """A feature network; name: its build and the hash of its weights."""

    @property
    def name(self) -> str: ...

    def read(self, images: ImageRows) -> Read: ...


def read_kept(extractor: Extractor, images: ImageRows, images_sha256: str, kept: Path) -> Read:
    """`extractor.read(images)`, out of the folder `kept` where it was read before. images_sha256: of the images."""
    word = hashlib.sha256(f"{VERSION} {extractor.name} {images_sha256}".encode()).hexdigest()[:16]
    path = kept / f"{extractor.name}-{word}.safetensors"
    try:
        tensors = safetensors.torch.load_file(path)
        found = Read(tensors["features"], tensors["logits"])
        if len(found.features) == len(images):
            return found
    except (OSError, SafetensorError, KeyError):
        pass  # Not there, or cut short: it is made again.
    found = extractor.read(images)
    kept.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        temporary.write_bytes(
            safetensors.torch.save({key: value.contiguous() for key, value in found._asdict().items()})
        )
    return found
