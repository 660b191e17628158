"""Autoencoders: images in [-1, 1] to a small latent image and back, with or without a Gaussian posterior.

`AutoencoderSpec` is all that one is besides its weights and stands in every checkpoint of it. What its training
minimises is in `losses.py`; how its latents become a space for denoisers is in `spaces/latents.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from models.autoencoders.conv import SMALLEST_LOG_VARIANCE, Conv
from models.errors import UserError
from models.runs import checkpoints
from models.variants import AUTOENCODERS

KINDS = ("vae", "autoencoder")


def _bernoulli(output: Tensor, images: Tensor) -> Tensor:
    return F.binary_cross_entropy_with_logits(output, (images + 1) / 2, reduction="none")


# -log p(images | output) up to a constant, pixel by pixel, and the image in [-1, 1] that an output stands for.
LIKELIHOODS: dict[str, tuple[Callable[[Tensor, Tensor], Tensor], Callable[[Tensor], Tensor]]] = {
    "l2": (lambda output, images: (output - images).square(), lambda output: output),
    "l1": (lambda output, images: (output - images).abs(), lambda output: output),
    "bernoulli": (_bernoulli, lambda output: 2 * output.sigmoid() - 1),
}


@dataclass(frozen=True)
class AutoencoderSpec:
    """kind: a row of KINDS; network: one of NETWORKS with its constructor's options; likelihood: of LIKELIHOODS."""

    kind: str
    network: str
    network_options: dict[str, Any]
    shape: tuple[int, int, int]
    class_names: tuple[str, ...]
    likelihood: str

    def __post_init__(self) -> None:
        for table, name, flag in ((KINDS, self.kind, "kind"), (LIKELIHOODS, self.likelihood, "reconstruction")):
            if name not in table:
                raise UserError(f"--{flag} {name}: choose from {', '.join(table)}")

    def build_network(self) -> Conv:
        """A fresh network; its initial weights come from torch's generator. Raises UserError for bad options."""
        return AUTOENCODERS.find(self.network)(self.shape, self.kind == "vae", **self.network_options)

    def images(self, output: Tensor) -> Tensor:
        """The decoder's output (N, C, H, W) -> images in about [-1, 1]."""
        return LIKELIHOODS[self.likelihood][1](output)

    def facts(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_facts(cls, facts: Mapping[str, Any]) -> AutoencoderSpec:
        """Raises UserError for facts that are not those of an autoencoder."""
        try:
            return cls(**{**facts, "shape": tuple(facts["shape"]), "class_names": tuple(facts["class_names"])})
        except (KeyError, TypeError) as error:
            raise UserError(f"the checkpoint describes no autoencoder ({error})") from None


@dataclass(frozen=True)
class Autoencoder:
    """A trained autoencoder: what it is, where it comes from and the hash that names it."""

    network: Conv
    spec: AutoencoderSpec
    path: Path
    sha256: str
    step: int

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        return self.network.latent_shape

    def encode(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """(N, C, H, W) in [-1, 1] -> posterior mean and log-variance (-30 where there is none), each (N, c, h, w)."""
        mean, log_variance = self.network.encode(images)
        return mean, torch.full_like(mean, SMALLEST_LOG_VARIANCE) if log_variance is None else log_variance

    def decode(self, latents: Tensor) -> Tensor:
        """(N, c, h, w) -> images in about [-1, 1]."""
        return self.spec.images(self.network.decode(latents))


def load_autoencoder(path: Path, weights: str = "ema") -> Autoencoder:
    """The autoencoder of a checkpoint, in eval mode on the CPU. Raises UserError, also for a denoiser's checkpoint."""
    tensors, facts = checkpoints.load_checkpoint(path)
    if "autoencoder" not in facts:
        raise UserError(f"{path} is no autoencoder's checkpoint: train one with train_vae")
    spec = AutoencoderSpec.from_facts(facts["autoencoder"])
    network = spec.build_network()
    checkpoints.fill_network(network, checkpoints.under("ema" if weights == "ema" else "network", tensors), path)
    return Autoencoder(network.eval().requires_grad_(False), spec, path, facts["sha256"], facts["step"])
