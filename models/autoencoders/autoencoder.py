"""Specification of an autoencoder, and a trained autoencoder as loaded from a checkpoint.

An autoencoder maps images in [-1, 1] to small latent images and back, with or without a Gaussian posterior.
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor
from torch.nn import functional as F

from models.autoencoders import SMALLEST_LOG_VARIANCE, AutoencoderNetwork
from models.errors import UserError
from models.runs import checkpoints
from models.variants import AUTOENCODERS

KINDS = ("vae", "autoencoder")


class PixelLikelihood(NamedTuple):
    """Distribution of an image given the decoder's output. image(output): the image, in about [-1, 1].

    distance(output, images): -log p(images | output) of every pixel, up to a constant.
    """

    distance: Callable[[Tensor, Tensor], Tensor]
    image: Callable[[Tensor], Tensor] = lambda output: output


LIKELIHOODS = {
    "l2": PixelLikelihood(lambda output, images: (output - images).square()),
    "l1": PixelLikelihood(lambda output, images: (output - images).abs()),
    "bernoulli": PixelLikelihood(
        lambda output, images: F.binary_cross_entropy_with_logits(output, (images + 1) / 2, reduction="none"),
        lambda output: 2 * output.sigmoid() - 1,
    ),
}


@dataclass(frozen=True)
class AutoencoderSpec:
    """Specification of an autoencoder. shape: (C, H, W) of the images. likelihood: a key of LIKELIHOODS.

    kind: one of KINDS. network: a name of AUTOENCODERS. network_options: options of its constructor.
    """

    kind: str
    network: str
    network_options: dict[str, Any]
    shape: tuple[int, int, int]
    class_names: tuple[str, ...]
    likelihood: str

    def __post_init__(self) -> None:
        for option, name, names in (("kind", self.kind, KINDS), ("reconstruction", self.likelihood, LIKELIHOODS)):
            if name not in names:
                raise UserError(f"`{option}` {name}: must be one of {', '.join(names)}")

    def build_network(self) -> AutoencoderNetwork:
        """Return a new network, with initial weights from torch's generator. Raises UserError for wrong options."""
        return AUTOENCODERS.build(self.network, self.shape, self.kind == "vae", **self.network_options)

    def images(self, output: Tensor) -> Tensor:
        """Return the images in about [-1, 1] that the decoder's output (N, C, H, W) represents."""
        return LIKELIHOODS[self.likelihood].image(output)

    def facts(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_facts(cls, facts: Mapping[str, Any]) -> Self:
        """Invert `facts`. Raises UserError if they do not describe an autoencoder."""
        try:
            return cls(**{**facts, "shape": tuple(facts["shape"]), "class_names": tuple(facts["class_names"])})
        except (KeyError, TypeError) as error:
            raise UserError(f"the checkpoint does not describe an autoencoder ({error})") from None


@dataclass(frozen=True)
class Autoencoder:
    """A trained autoencoder, with the path, the SHA-256 and the training step of its checkpoint."""

    network: AutoencoderNetwork
    spec: AutoencoderSpec
    path: Path
    sha256: str
    step: int

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        return self.network.latent_shape

    def encode(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return the posterior's mean and log-variance (N, c, h, w). A plain autoencoder has the log-variance -30."""
        mean, log_variance = self.network.encode(images)
        return mean, torch.full_like(mean, SMALLEST_LOG_VARIANCE) if log_variance is None else log_variance

    def decode(self, latents: Tensor) -> Tensor:
        """Return images (N, C, H, W) in about [-1, 1] for latents (N, c, h, w)."""
        return self.spec.images(self.network.decode(latents))


def load_autoencoder(path: Path, weights: str = "ema") -> Autoencoder:
    """Load an autoencoder, in eval mode on the CPU. weights: "ema" or "raw". Raises UserError."""
    tensors, facts = checkpoints.load_checkpoint(path)
    if "autoencoder" not in facts:
        raise UserError(f"{path} is not an autoencoder checkpoint", "train an autoencoder with train_vae")
    spec = AutoencoderSpec.from_facts(facts["autoencoder"])
    network = spec.build_network()
    checkpoints.fill_network(network, checkpoints.under("ema" if weights == "ema" else "network", tensors), path)
    return Autoencoder(network.eval().requires_grad_(False), spec, path, facts["sha256"], facts["step"])
