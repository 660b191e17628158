"""The Inception network of the published FID, KID and IS, from torch-fidelity. The weights are a 91 MB download.

Loading the weights file cannot run code: its hash is checked, and only tensors are read from it.
"""

import hashlib
import pickle
import tempfile
import urllib.error
from pathlib import Path

import torch
from torch import Tensor

from models.errors import UserError
from models.evaluation.features import FeaturesAndLogits
from models.progress import progress
from models.spaces import ImageRows

SHA256 = "6726825d"  # First digits of the hash. The published file name contains them.
BATCH = 64  # Images per forward pass.


class Inception:
    """Inception v3 as a feature network. torch-fidelity resizes images to 299 x 299 as TensorFlow 1 did.

    Features (N, 2048) are those of the last pooling layer, as for FID; logits (N, 1008) have no bias, as for IS.
    """

    name = f"inception_{SHA256}"

    def __init__(self, weights: Path | None, device: torch.device):
        """Load the network. weights: torch-fidelity's file, None to download it. Raises UserError for a wrong file."""
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

        tensors = _read_weights(weights or _download())
        with tempfile.TemporaryDirectory() as folder:
            clean = Path(folder) / "weights.pth"
            torch.save(tensors, clean)
            try:
                network = FeatureExtractorInceptionV3("inception", ["2048", "logits_unbiased"], str(clean))
            except RuntimeError as error:
                reason = f"not the weights of Inception: {_first_line(error)}"
                raise UserError(f"`inception_weights` {weights}: {reason}") from None
        self.network, self.device = network.to(device), device

    @torch.no_grad()
    def extract(self, images: ImageRows) -> FeaturesAndLogits:
        """Return the features and logits of uint8 images (N, C, H, W) with one or three channels."""
        outputs = []
        with progress("features", len(images)) as advance:
            for batch in images.split(BATCH):
                coloured = batch.expand(-1, 3, -1, -1) if batch.shape[1] == 1 else batch
                outputs.append(self.network(coloured.to(self.device)))
                advance(len(batch))
        return FeaturesAndLogits(*(torch.cat(parts).cpu().double() for parts in zip(*outputs, strict=True)))


def _download() -> Path:
    from torch_fidelity.feature_extractor_inceptionv3 import URL_INCEPTION_V3

    path = Path(torch.hub.get_dir()) / "checkpoints" / URL_INCEPTION_V3.rsplit("/", 1)[1]
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            torch.hub.download_url_to_file(URL_INCEPTION_V3, str(path), SHA256)
        except (urllib.error.URLError, OSError, RuntimeError) as error:
            way_out = "download it elsewhere and name the file with `inception_weights`"
            raise UserError(f"cannot download {URL_INCEPTION_V3}: {error}", way_out) from None
    return path


def _read_weights(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise UserError(f"`inception_weights` {path}: no such file")
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    if not sha256.startswith(SHA256):
        hashes = f"SHA-256 {sha256[:8]}..., expected {SHA256}..."
        raise UserError(f"`inception_weights` {path}: not torch-fidelity's weights ({hashes})")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise UserError(f"`inception_weights` {path}: cannot be read as tensors: {_first_line(error)}") from None


def _first_line(error: Exception) -> str:
    """Return the first line of an error message, because some messages of torch are pages long."""
    return (str(error).splitlines() or [type(error).__name__])[0]
