"""Encoded data sets: the posterior of every image under one autoencoder, computed once and stored as safetensors.

The file holds the hashes of the images and of the autoencoder, so that outdated latents are detected.
"""

from dataclasses import dataclass, field
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from models.autoencoders.autoencoder import Autoencoder
from models.errors import UserError
from models.progress import progress
from models.runs.files import replacing
from models.spaces import Identity, ImageRows
from models.spaces.pixels import Pixels

BATCH = 500
FOLDER = "encoded"


@dataclass(frozen=True)
class Encoded:
    """Posteriors of a split: the content of an encoded data set.

    posterior: (N, 2c, h, w) float32, mean and log-variance. mirrored: the same for the mirrored images, None
    without flips. data: hashes of the images. autoencoder_sha256: hash of the autoencoder's checkpoint. words: all
    other metadata in the file of the data set.
    """

    posterior: Tensor
    mirrored: Tensor | None
    data: Identity = field(default_factory=Identity)
    autoencoder_sha256: str = ""
    words: dict[str, str] = field(default_factory=dict)

    def _halves(self) -> tuple[Tensor, Tensor]:
        parts = [self.posterior] if self.mirrored is None else [self.posterior, self.mirrored]
        mean, log_variance = (torch.cat(half) for half in zip(*(part.chunk(2, dim=1) for part in parts), strict=True))
        return mean, log_variance

    def statistics(self) -> tuple[Tensor, Tensor]:
        """Return mean and standard deviation of each channel, float64 (c,), for latents drawn from the posteriors."""
        mean, log_variance = self._halves()
        dims = (0, 2, 3)
        centre = mean.double().mean(dims)
        variance = mean.double().var(dims, correction=0) + log_variance.double().exp().mean(dims)
        return centre, variance.sqrt().clamp(min=1e-6)

    def reach(self, centre: Tensor, scale: Tensor) -> float:
        """Return the largest |mean| + 3 deviations of all standardised posteriors. centre, scale: from `statistics`."""
        mean, log_variance = self._halves()
        centre, scale = (values.float().view(-1, 1, 1) for values in (centre, scale))
        return (((mean - centre).abs() + 3 * (log_variance / 2).exp()) / scale).max().item()

    def mismatch(self, model: Autoencoder, data: Identity, flips: bool) -> str | None:
        """Return why these latents do not fit the autoencoder, the data or the flips; None if they fit."""
        if self.autoencoder_sha256 != model.sha256:
            return f"of another autoencoder ({self.autoencoder_sha256[:12]}, not {model.sha256[:12]})"
        if not self.data.matches(data):
            return "of other images"
        return "without the mirrored images" if flips and self.mirrored is None else None


@torch.no_grad()
def encode_images(
    model: Autoencoder, images: ImageRows, flips: bool, device: torch.device, batch_size: int = BATCH
) -> Encoded:
    """Encode images uint8 (N, C, H, W); with flips, also the mirrored images. The posteriors are on the CPU."""

    def encode(part: Tensor) -> Tensor:
        return torch.cat(model.encode(Pixels.scale(part.to(device))), dim=1).cpu()

    pairs = []
    with progress("encoding images", len(images)) as advance:
        for part in images.split(batch_size):
            pairs.append((encode(part), encode(part.flip(3)) if flips else None))
            advance(len(part))
    posterior, mirrored = zip(*pairs, strict=True)
    return Encoded(torch.cat(posterior), torch.cat(mirrored) if flips else None)


def write_encoded(path: Path, codes: Encoded, labels: Tensor) -> None:
    """Write the file of an encoded data set atomically. labels: (N,). Raises OSError."""
    tensors = {"labels": labels, **_named("", codes.posterior)}
    if codes.mirrored is not None:
        tensors |= _named("mirrored_", codes.mirrored)
    words = {**codes.words, **codes.data.facts("data_"), "autoencoder_sha256": codes.autoencoder_sha256}
    with replacing(path) as temporary:
        temporary.write_bytes(safetensors.torch.save(tensors, words))


def _named(prefix: str, posterior: Tensor) -> dict[str, Tensor]:
    mean, log_variance = posterior.chunk(2, dim=1)
    return {f"{prefix}mean": mean.contiguous(), f"{prefix}log_variance": log_variance.contiguous()}


def read_encoded(path: Path) -> Encoded:
    """Read the file of an encoded data set. Raises UserError if the file is damaged or is not an encoded data set."""
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            words = dict(file.metadata() or {})
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        posterior = torch.cat([tensors["mean"], tensors["log_variance"]], dim=1)
        mirrored = None
        if "mirrored_mean" in tensors:
            mirrored = torch.cat([tensors["mirrored_mean"], tensors["mirrored_log_variance"]], dim=1)
        data = Identity(words.pop("data_sha256"), words.pop("data_contents", ""))
        return Encoded(posterior, mirrored, data, words.pop("autoencoder_sha256"), words)
    except KeyError:
        raise UserError(f"{path} is no encoded data set", "make one with encode_dataset") from None
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path} is no encoded data set: {error}") from None


def file_name(dataset: str, split: str) -> str:
    """Return the name of a split's file in the folder FOLDER of the autoencoder's run."""
    return f"{dataset}-{split}.safetensors"
