"""Convolutional autoencoder."""

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.autoencoders import LARGEST_LOG_VARIANCE, SMALLEST_LOG_VARIANCE, AutoencoderNetwork
from models.errors import UserError
from models.networks.blocks import fold, group_norm, unfold, zeroed
from models.ranges import PositiveInt, ShareBelowOne


class ConvBlock(nn.Module):
    """Two 3×3 convolutions with a residual connection. The second starts with zero weights."""

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
    """Residual convolutional autoencoder: levels of halved resolution down to the latent's size, and back up."""

    def __init__(
        self,
        shape: tuple[int, int, int],
        variational: bool,
        *,
        latent_shape: tuple[PositiveInt, PositiveInt, PositiveInt] | None = None,
        width: PositiveInt = 32,
        blocks: PositiveInt = 1,
        dropout: ShareBelowOne = 0.0,
        patch_size: PositiveInt = 2,
    ) -> None:
        """Raises UserError for a latent shape that halving the image cannot reach.

        Args:
            latent_shape: Channels, height and width of the latent. Height and width must be those of the image
                divided by patch_size and halved any number of times, rounded up. Default: 4 channels, and a quarter of
                the image's height and width, or half if the shorter side is below 13 pixels. If halving cannot reach
                this size, the default is the image's size divided by patch_size.
            width: Channels of the first level. Each halving doubles them, up to four times the width.
            blocks: Residual blocks per level, in the encoder and in the decoder.
            dropout: Share of activations dropped in each block in training, in [0, 1).
            patch_size: Side in pixels of the patches that are folded into channels; 1 folds nothing.
        """
        super().__init__()
        channels, sizes = _levels(shape, latent_shape, patch_size)
        widths = [width * min(2**level, 4) for level in range(len(sizes))]
        folded = shape[0] * patch_size**2
        self.shape, self.sizes, self.patch_size, self.variational = shape, sizes, patch_size, variational
        self.latent_shape = (channels, *sizes[-1])
        self.stem = nn.Conv2d(folded, widths[0], 3, padding=1)
        self.down = nn.ModuleList(_blocks(level_width, blocks, dropout) for level_width in widths)
        self.halving = nn.ModuleList(nn.Conv2d(upper, lower, 1) for upper, lower in pairwise(widths))
        self.posterior_norm = group_norm(widths[-1])
        self.posterior = nn.Conv2d(widths[-1], channels * (2 if variational else 1), 3, padding=1)
        self.entry = nn.Conv2d(channels, widths[-1], 3, padding=1)
        self.up = nn.ModuleList(_blocks(level_width, blocks, dropout) for level_width in reversed(widths))
        self.doubling = nn.ModuleList(nn.Conv2d(lower, upper, 1) for upper, lower in pairwise(widths))
        self.norm = group_norm(widths[0])
        self.head = nn.Conv2d(widths[0], folded, 3, padding=1)

    def encode(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        folded = fold(images, self.patch_size)  # (N, C·p², H/p, W/p)
        if folded.is_cpu:
            folded = folded.contiguous(memory_format=torch.channels_last)
        hidden = self.down[0](self.stem(folded))
        for halving, blocks in zip(self.halving, self.down[1:], strict=True):
            hidden = blocks(halving(F.avg_pool2d(hidden, 2, ceil_mode=True)))
        posterior = self.posterior(F.silu(self.posterior_norm(hidden))).to(images.dtype)  # (N, c or 2·c, h, w)
        if not self.variational:
            return posterior, None
        mean, log_variance = posterior.chunk(2, dim=1)
        return mean, log_variance.clamp(SMALLEST_LOG_VARIANCE, LARGEST_LOG_VARIANCE)

    def decode(self, latents: Tensor) -> Tensor:
        hidden = self.up[0](self.entry(latents))
        for doubling, blocks, size in zip(reversed(self.doubling), self.up[1:], self.sizes[-2::-1], strict=True):
            hidden = blocks(doubling(F.interpolate(hidden, size=size)))
        return unfold(self.head(F.silu(self.norm(hidden))), self.patch_size, *self.shape[1:]).to(latents.dtype)


def _blocks(channels: int, count: int, dropout: float) -> nn.Sequential:
    return nn.Sequential(*(ConvBlock(channels, dropout) for _ in range(count)))


def _levels(
    shape: tuple[int, int, int], latent_shape: tuple[int, int, int] | None, patch_size: int
) -> tuple[int, list[tuple[int, int]]]:
    """Return the latent's channels, and (height, width) of every level. The last level has the latent's size."""
    sizes = [(-(-shape[1] // patch_size), -(-shape[2] // patch_size))]
    while max(sizes[-1]) > 1:
        sizes.append((-(-sizes[-1][0] // 2), -(-sizes[-1][1] // 2)))
    if latent_shape is None:
        divisor = 4 if min(shape[1:]) >= 13 else 2
        size = (-(-shape[1] // divisor), -(-shape[2] // divisor))
        latent_shape = (4, *(size if size in sizes else sizes[0]))
    channels, size = latent_shape[0], (latent_shape[1], latent_shape[2])
    if size not in sizes:
        raise UserError(
            f"`network.latent_shape` {channels} {size[0]} {size[1]}: cannot be reached by halving a "
            f"{shape[1]}x{shape[2]} image at patch_size {patch_size}",
            f"use one of these heights and widths: {', '.join(f'{height} {width}' for height, width in sizes)}",
            "change `network.patch_size`",
        )
    return channels, sizes[: sizes.index(size) + 1]
