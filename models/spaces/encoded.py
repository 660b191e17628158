"""Encoded data sets: the posterior of every image under one autoencoder, computed once and kept in safetensors.

The file carries the hashes of the images and of the autoencoder it belongs to, so that no one trains on stale latents.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from models.autoencoders.autoencoder import Autoencoder
from models.errors import UserError
from models.runs.files import replacing
from models.spaces import ImageRows
from models.spaces.pixels import Pixels

BATCH = 500
FOLDER = "encoded"


@dataclass(frozen=True)
class Encoded:
    """posterior: (N, 2c, h, w) float32, mean and log-variance; mirrored: the same of the mirrored images, where they
    are trained on too. data_sha256, autoencoder_sha256: what it was made of."""

    posterior: Tensor
    mirrored: Tensor | None
    data_sha256: str = ""
    autoencoder_sha256: str = ""
    words: dict[str, str] = field(default_factory=dict)

    def _halves(self) -> tuple[Tensor, Tensor]:
        """Means and log-variances of all images, mirrored ones included."""
        parts = [self.posterior] if self.mirrored is None else [self.posterior, self.mirrored]
        mean, log_variance = (torch.cat(half) for half in zip(*(part.chunk(2, dim=1) for part in parts), strict=True))
        return mean, log_variance

    def statistics(self) -> tuple[Tensor, Tensor]:
        """Mean and deviation of each channel of draws from the posterior, float64 (c,)."""
        mean, log_variance = self._halves()
        dims = (0, 2, 3)
        centre = mean.double().mean(dims)
        variance = mean.double().var(dims, correction=0) + log_variance.double().exp().mean(dims)
        return centre, variance.sqrt().clamp(min=1e-6)

    def reach(self, centre: Tensor, scale: Tensor) -> float:
        """The largest latent, three deviations of its posterior included, standardised by these `statistics`."""
        mean, log_variance = self._halves()
        centre, scale = (each.float().view(-1, 1, 1) for each in (centre, scale))
        return (((mean - centre).abs() + 3 * (log_variance / 2).exp()) / scale).max().item()

    def trouble(self, model: Autoencoder, data_sha256: str, flips: bool) -> str | None:
        """What keeps it from standing for these images under this autoencoder; None if nothing does."""
        if self.autoencoder_sha256 != model.sha256:
            return f"of another autoencoder ({self.autoencoder_sha256[:12]}, not {model.sha256[:12]})"
        if self.data_sha256 != data_sha256:
            return "of other images"
        return "without the mirrored images" if flips and self.mirrored is None else None


@torch.no_grad()
def encode_images(
    model: Autoencoder, images: ImageRows, flips: bool, device: torch.device, batch_size: int = BATCH
) -> Encoded:
    """uint8 (N, C, H, W) -> their codes, on the CPU."""

    def encode(part: Tensor) -> Tensor:
        return torch.cat(model.encode(Pixels.scale(part.to(device))), dim=1).cpu()

    pairs = [(encode(part), encode(part.flip(3)) if flips else None) for part in images.split(batch_size)]
    posterior, mirrored = zip(*pairs, strict=True)
    return Encoded(torch.cat(posterior), torch.cat(mirrored) if flips else None)


def write_encoded(path: Path, codes: Encoded, labels: Tensor) -> None:
    """Writes one file whole. Raises OSError as the file system does."""
    tensors = {"labels": labels, **_named("", codes.posterior)}
    if codes.mirrored is not None:
        tensors |= _named("mirrored_", codes.mirrored)
    words = {**codes.words, "data_sha256": codes.data_sha256, "autoencoder_sha256": codes.autoencoder_sha256}
    with replacing(path) as temporary:
        temporary.write_bytes(safetensors.torch.save(tensors, words))


def _named(prefix: str, posterior: Tensor) -> dict[str, Tensor]:
    mean, log_variance = posterior.chunk(2, dim=1)
    return {f"{prefix}mean": mean.contiguous(), f"{prefix}log_variance": log_variance.contiguous()}


def read_encoded(path: Path) -> Encoded:
    """Raises UserError for a file that is none, or damaged."""
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            words = dict(file.metadata() or {})
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        posterior = torch.cat([tensors["mean"], tensors["log_variance"]], dim=1)
        mirrored = None
        if "mirrored_mean" in tensors:
            mirrored = torch.cat([tensors["mirrored_mean"], tensors["mirrored_log_variance"]], dim=1)
        return Encoded(posterior, mirrored, words.pop("data_sha256"), words.pop("autoencoder_sha256"), words)
    except KeyError:
        raise UserError(f"{path} is no encoded data set: make one with encode_dataset") from None
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path} is no encoded data set: {error}") from None


def file_name(dataset: str, split: str) -> str:
    """What the file of a split is called in the folder FOLDER of its autoencoder's run."""
    return f"{dataset}-{split}.safetensors"
