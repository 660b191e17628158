"""Autoencoders: networks, found by their names, what a trained one is, and the loss."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor, nn


class Coded(NamedTuple):
    """What the network makes of a batch: the decoder's output (N, C, H, W) and the posterior, each (N, c, h, w).

    log_variance is None for a plain autoencoder."""

    output: Tensor
    mean: Tensor
    log_variance: Tensor | None


class AutoencoderNetwork(nn.Module):
    """Base class of the networks: built as `Class(shape, variational, **options)`.

    shape: (C, H, W) of the images. variational: whether the encoder gives a log-variance beside the mean.
    """

    latent_shape: tuple[int, int, int]

    def encode(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return the posterior's mean and log-variance (N, c, h, w) of images (N, C, H, W) in [-1, 1]."""
        raise NotImplementedError

    def decode(self, latents: Tensor) -> Tensor:
        """Return the decoder's output (N, C, H, W) for latents (N, c, h, w)."""
        raise NotImplementedError
