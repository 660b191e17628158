"""The Inception network of the published FID, KID and IS, through torch-fidelity; its weights are a download of 91 MB.

Whatever the weights' file holds, loading it runs no code: its hash is checked, and it is read as tensors alone.
"""

from __future__ import annotations

import hashlib
import pickle
import tempfile
import urllib.error
from pathlib import Path

import torch
from torch import Tensor

from models.errors import UserError
from models.evaluation.classifier import Read
from models.spaces import ImageRows

SHA256 = "6726825d"  # Begins so, as its published name says.
READ_AT_ONCE = 64


class Inception:
    """Grey images are shown as three equal channels; torch-fidelity enlarges all to 299 x 299 as TensorFlow 1 did.
    Features (N, 2048) are the last pooling layer's, logits (N, 1008) those without bias, as FID and IS take them."""

    name = f"inception_{SHA256}"

    def __init__(self, weights: Path | None, device: torch.device):
        """weights: a file of torch-fidelity's weights, None for its own download. Raises UserError."""
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

        tensors = _read_weights(weights or _download())
        with tempfile.TemporaryDirectory() as folder:
            clean = Path(folder) / "weights.pth"
            torch.save(tensors, clean)
            try:
                network = FeatureExtractorInceptionV3("inception", ["2048", "logits_unbiased"], str(clean))
            except RuntimeError as error:
                raise UserError(f"--inception_weights {weights}: not those of Inception: {_brief(error)}") from None
        self.network, self.device = network.to(device), device

    @torch.no_grad()
    def read(self, images: ImageRows) -> Read:
        """Of uint8 (N, C, H, W) with one or three channels."""
        parts = []
        for part in images.split(READ_AT_ONCE):
            coloured = part.expand(-1, 3, -1, -1) if part.shape[1] == 1 else part
            parts.append(self.network(coloured.to(self.device)))
        return Read(*(torch.cat(each).double().cpu() for each in zip(*parts, strict=True)))


def _download() -> Path:
    from torch_fidelity.feature_extractor_inceptionv3 import URL_INCEPTION_V3

    path = Path(torch.hub.get_dir()) / "checkpoints" / URL_INCEPTION_V3.rsplit("/", 1)[1]
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            torch.hub.download_url_to_file(URL_INCEPTION_V3, str(path), SHA256)
        except (urllib.error.URLError, OSError, RuntimeError) as error:
            raise UserError(
                f"cannot download {URL_INCEPTION_V3} ({error}): fetch it elsewhere and name it with --inception_weights"
            ) from None
    return path


def _read_weights(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise UserError(f"--inception_weights {path}: no such file")
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if not found.startswith(SHA256):
        raise UserError(f"--inception_weights {path}: not torch-fidelity's (SHA-256 {found[:8]}..., not {SHA256}...)")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise UserError(f"--inception_weights {path}: cannot be read as tensors: {_brief(error)}") from None


def _brief(error: Exception) -> str:
    """The first line of a message of torch's, some of which are pages long."""
    return (str(error).splitlines() or [type(error).__name__])[0]
