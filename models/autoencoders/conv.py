"""The convolutional autoencoder."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.autoencoders import AutoencoderNetwork, Coded
from models.errors import UserError
from models.networks import options
from models.networks.blocks import fold, group_norm, unfold, zeroed

SMALLEST_LOG_VARIANCE, LARGEST_LOG_VARIANCE = -30.0, 20.0


class ConvBlock(nn.Module):
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


class Conv(AutoencoderNetwork):
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
    return nn.Sequential(*(ConvBlock(channels, dropout) for _ in range(count)))


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
