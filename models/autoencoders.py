"""Autoencoders: images in [-1, 1] to a small latent image and back, with or without a Gaussian posterior.

`AutoencoderSpec` is all that one is besides its weights and stands in every checkpoint of it. What its training
minimises is in `losses.py`; how its latents become a space for denoisers is in `spaces/latents.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models import checkpoint
from models.errors import UserError
from models.networks import options
from models.networks.blocks import fold, group_norm, unfold, zeroed

KINDS = ("vae", "autoencoder")
SMALLEST_LOG_VARIANCE, LARGEST_LOG_VARIANCE = -30.0, 20.0


class Coded(NamedTuple):
    """What the network makes of a batch: the decoder's output (N, C, H, W) and the posterior, each (N, c, h, w).

    log_variance is None for a plain autoencoder."""

    output: Tensor
    mean: Tensor
    log_variance: Tensor | None


class Block(nn.Module):
    """Two 3×3 convolutions added to their input; the second begins at zero."""

    def __init__(self, channels: int, dropout: float) -> None:
        super().__init__()
        self.norm1, self.norm2 = group_norm(channels), group_norm(channels)
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = zeroed(nn.Conv2d(channels, channels, 3, padding=1))

    def forward(self, hidden: Tensor) -> Tensor:
        inner = self.conv1(F.silu(self.norm1(hidden)))
        return hidden + self.conv2(self.dropout(F.silu(self.norm2(inner))))


class Conv(nn.Module):
    """Residual convolutional autoencoder: levels of halved resolution down to the latent's, and the same way back."""

    def __init__(
        self,
        shape: tuple[int, int, int],
        variational: bool,
        *,
        latent_shape: tuple[int, int, int] | None = None,
        width: int = 32,
        blocks: int = 1,
        dropout: float = 0.0,
        patch_size: int = 2,
    ) -> None:
        """shape: (C, H, W) of the images; variational: the encoder gives a mean and a log-variance.

        Args:
            latent_shape: channels, height and width of the latent. Default: 4 channels at a quarter of the image's
                height and width, or at half where that would be less than 4. Height and width must be the image's
                halved some times, rounded up.
            width: channels of the first level; each halving doubles them, up to four times.
            blocks: residual blocks of each level, on either way.
            dropout: share of activations dropped inside each block while training, in [0, 1).
            patch_size: folds p x p pixels into channels before the first level; 1 folds nothing.

        Raises:
            UserError: an option out of its range, or a latent shape that halving does not lead to.
        """
        super().__init__()
        options.at_least(1, width=width, blocks=blocks, patch_size=patch_size)
        options.dropout_share(dropout)
        sizes, channels = _levels(shape, latent_shape, patch_size)
        widths = [width * min(2**level, 4) for level in range(len(sizes))]
        folded = shape[0] * patch_size**2
        self.shape, self.sizes, self.patch_size, self.variational = shape, sizes, patch_size, variational
        self.latent_shape = (channels, *sizes[-1])
        self.stem = nn.Conv2d(folded, widths[0], 3, padding=1)
        self.down = nn.ModuleList(_blocks(each, blocks, dropout) for each in widths)
        self.halving = nn.ModuleList(nn.Conv2d(a, b, 1) for a, b in pairwise(widths))
        self.posterior_norm = group_norm(widths[-1])
        self.posterior = nn.Conv2d(widths[-1], channels * (2 if variational else 1), 3, padding=1)
        self.entry = nn.Conv2d(channels, widths[-1], 3, padding=1)
        self.up = nn.ModuleList(_blocks(each, blocks, dropout) for each in reversed(widths))
        self.doubling = nn.ModuleList(nn.Conv2d(b, a, 1) for a, b in pairwise(widths))
        self.norm = group_norm(widths[0])
        self.head = nn.Conv2d(widths[0], folded, 3, padding=1)

    def encode(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        """(N, C, H, W) in [-1, 1] -> posterior mean and log-variance, each (N, c, h, w)."""
        folded = fold(images, self.patch_size)
        if folded.is_cpu:
            folded = folded.contiguous(memory_format=torch.channels_last)
        hidden = self.down[0](self.stem(folded))
        for halving, blocks in zip(self.halving, self.down[1:], strict=True):
            hidden = blocks(halving(F.avg_pool2d(hidden, 2, ceil_mode=True)))
        posterior = self.posterior(F.silu(self.posterior_norm(hidden))).to(images.dtype)
        if not self.variational:
            return posterior, None
        mean, log_variance = posterior.chunk(2, dim=1)
        return mean, log_variance.clamp(SMALLEST_LOG_VARIANCE, LARGEST_LOG_VARIANCE)

    def decode(self, latents: Tensor) -> Tensor:
        """(N, c, h, w) -> (N, C, H, W), in the terms of the likelihood."""
        hidden = self.up[0](self.entry(latents))
        for doubling, blocks, size in zip(reversed(self.doubling), self.up[1:], self.sizes[-2::-1], strict=True):
            hidden = blocks(doubling(F.interpolate(hidden, size=size)))
        return unfold(self.head(F.silu(self.norm(hidden))), self.patch_size, *self.shape[1:]).to(latents.dtype)

    def forward(self, images: Tensor, noise: Tensor | None = None) -> Coded:
        """noise: (N, c, h, w), Gaussian, for a draw from the posterior; None takes its mean."""
        mean, log_variance = self.encode(images)
        latents = mean
        if noise is not None and log_variance is not None:
            latents = mean + (log_variance / 2).exp() * noise
        return Coded(self.decode(latents), mean, log_variance)


def _blocks(channels: int, count: int, dropout: float) -> nn.Sequential:
    return nn.Sequential(*(Block(channels, dropout) for _ in range(count)))


def _levels(
    shape: tuple[int, int, int], latent_shape: tuple[int, int, int] | None, patch_size: int
) -> tuple[list[tuple[int, int]], int]:
    """Height and width of every level, first to last, and the latent's channels."""
    size = (-(-shape[1] // patch_size), -(-shape[2] // patch_size))
    reachable = [size]
    while max(reachable[-1]) > 1:
        reachable.append((-(-reachable[-1][0] // 2), -(-reachable[-1][1] // 2)))
    if latent_shape is None:
        part = 4 if min(shape[1:]) >= 13 else 2
        wanted = (-(-shape[1] // part), -(-shape[2] // part))
        latent_shape = (4, *(wanted if wanted in reachable else reachable[0]))
    channels, wanted = latent_shape[0], (latent_shape[1], latent_shape[2])
    if channels < 1:
        raise UserError(f"network option latent_shape: {channels} channels, and it takes 1 or more")
    if wanted not in reachable:
        known = ", ".join(f"{height} {width}" for height, width in reachable)
        raise UserError(
            f"network option latent_shape: halving a {shape[1]}x{shape[2]} image at patch_size {patch_size} does not "
            f"lead to {wanted[0]}x{wanted[1]}: its heights and widths are {known}"
        )
    return reachable[: reachable.index(wanted) + 1], channels


NETWORKS: dict[str, type[Conv]] = {"conv": Conv}


def find_network(name: str) -> type[Conv]:
    """A row of NETWORKS. Raises UserError for any other name."""
    if name not in NETWORKS:
        raise UserError(f"no autoencoder network is called {name!r}: choose from {', '.join(NETWORKS)}")
    return NETWORKS[name]


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
        return find_network(self.network)(self.shape, self.kind == "vae", **self.network_options)

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
    tensors, facts = checkpoint.load(path)
    if "autoencoder" not in facts:
        raise UserError(f"{path} is no autoencoder's checkpoint: train one with train_vae")
    spec = AutoencoderSpec.from_facts(facts["autoencoder"])
    network = spec.build_network()
    checkpoint.fill(network, checkpoint.under("ema" if weights == "ema" else "network", tensors), path)
    return Autoencoder(network.eval().requires_grad_(False), spec, path, facts["sha256"], facts["step"])
