"""Autoencoders: networks (found by name), specification and loss.

A module with a subclass of AutoencoderNetwork is a network (conv.py -> Conv).
"""

from typing import NamedTuple

from torch import Tensor, nn

SMALLEST_LOG_VARIANCE, LARGEST_LOG_VARIANCE = -30.0, 20.0  # bounds within which float32 can hold the variance


class Coded(NamedTuple):
    """Decoder's output (N, C, H, W), and the posterior's mean and log-variance (N, c, h, w).

    log_variance: None for a plain autoencoder.
    """

    output: Tensor
    mean: Tensor
    log_variance: Tensor | None


class AutoencoderNetwork(nn.Module):
    """Base class of the autoencoders' networks: built as `Class(shape, variational, **options)`.

    shape: (C, H, W) of the images. variational: whether the encoder also returns a log-variance.
    """

    latent_shape: tuple[int, int, int]

    def encode(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return the posterior's mean and log-variance (N, c, h, w) of images (N, C, H, W) in [-1, 1]."""
        raise NotImplementedError

    def decode(self, latents: Tensor) -> Tensor:
        """Return the decoder's output (N, C, H, W) for latents (N, c, h, w)."""
        raise NotImplementedError

    def forward(self, images: Tensor, noise: Tensor | None = None) -> Coded:
        """Encode and decode images (N, C, H, W) in [-1, 1].

        noise: standard Gaussian (N, c, h, w) for a sample of the posterior; None decodes the posterior's mean.
        """
        mean, log_variance = self.encode(images)
        latents = mean
        if noise is not None and log_variance is not None:
            latents = mean + (log_variance / 2).exp() * noise
        return Coded(self.decode(latents), mean, log_variance)
