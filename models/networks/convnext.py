"""The ConvNeXt: a UNet's levels with blocks of one depthwise convolution, a norm and a pointwise perceptron.

Without attention, its cost goes with the number of pixels, and what a pixel sees with the number of levels.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.networks import Network, options
from models.networks.blocks import fold, join_planes, unfold, zeroed
from models.networks.conditioning import ConditioningName
from models.networks.embeddings import Condition
from models.networks.layout import Attentions, Levels


class ConvNeXt(Network):
    """UNet of ConvNeXt blocks (arXiv 2201.03545), with time and label in every norm; it begins by answering zero."""

    def __init__(
        self,
        shape: tuple[int, int, int],
        classes: int,
        *,
        width: int = 48,
        multipliers: tuple[int, ...] = (1, 2),
        blocks: int = 1,
        kernel_size: int = 3,
        expansion: int = 2,
        dropout: float = 0.0,
        patch_size: int = 2,
        conditioning: ConditioningName = "embedding",
    ) -> None:
        """shape: (C, H, W) of one encoded example; classes: 0 for unlabelled data.

        Args:
            width: channels of a level whose multiplier is 1.
            multipliers: channels of each level in units of width; every entry after the first is one halving.
            blocks: blocks of each level on the way down, and as many on the way up.
            kernel_size: side of the depthwise convolutions, an odd number; the paper's 7 takes CPUs 1.6 times as long.
            expansion: width of each block's hidden layer, in units of its channels.
            dropout: share of each block's hidden layer dropped while training, in [0, 1).
            patch_size: folds p x p pixels into channels before the first level; 1 folds nothing.
            conditioning: how the label enters, a module of models/conditioning that gives no tokens.

        Raises:
            UserError: an option out of its range, levels that do not fit the image, or a conditioning by tokens.
        """
        super().__init__()
        options.at_least(1, width=width, multipliers=multipliers, blocks=blocks, patch_size=patch_size)
        options.at_least(1, kernel_size=kernel_size, expansion=expansion)
        options.odd(kernel_size=kernel_size)
        options.dropout_share(dropout)
        options.levels_fit(shape, patch_size, len(multipliers))
        widths = [width * multiplier for multiplier in multipliers]
        self.patch_size = patch_size
        self.condition = Condition(conditioning, classes, 4 * width, shape)
        options.no_tokens(self.condition.label, "a ConvNeXt", "use another network")
        folded = shape[0] * patch_size**2

        def block(channels: int) -> ConvNeXtBlock:
            return ConvNeXtBlock(channels, 4 * width, kernel_size, expansion, dropout)

        planes = self.condition.label.channels
        self.stem = nn.Conv2d(folded + planes * patch_size**2, widths[0], 3, padding=1)
        self.levels = Levels(widths, blocks, block, lambda _level: Attentions())
        self.modulation = nn.Linear(4 * width, 2 * widths[0])
        self.head = zeroed(nn.Conv2d(widths[0], folded, 3, padding=1))

    def forward(self, noisy: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        """noisy: (N, C, H, W); t: (N,) in [0, 1]; label: (N,) int64, or None for no class. Returns (N, C, H, W)."""
        condition, signals = self.condition(t, label)  # condition: (N, 4·width)
        folded = fold(join_planes(noisy, signals.planes), self.patch_size)  # (N, (C+K)·p², H/p, W/p)
        if folded.is_cpu:  # all that follows keeps this memory format, in which norms over channels read neighbours
            folded = folded.contiguous(memory_format=torch.channels_last)
        hidden = self.levels(self.stem(folded), condition, None)  # (N, channels of level 0, H/p, W/p)
        hidden = normed(hidden, self.modulation(condition))
        return unfold(self.head(hidden), self.patch_size, *noisy.shape[2:])  # (N, C, H, W)


class ConvNeXtBlock(nn.Module):
    """A depthwise convolution, a norm with time and label, and a perceptron at every pixel, added to their input.

    The last convolution begins at zero, instead of the paper's small scale on each channel.
    """

    def __init__(self, channels: int, condition_width: int, kernel_size: int, expansion: int, dropout: float) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(channels, channels, kernel_size, padding=kernel_size // 2, groups=channels)
        self.modulation = nn.Linear(condition_width, 2 * channels)
        self.expand = nn.Conv2d(channels, expansion * channels, 1)
        self.dropout = nn.Dropout(dropout)
        self.reduce = zeroed(nn.Conv2d(expansion * channels, channels, 1))

    def forward(self, hidden: Tensor, condition: Tensor) -> Tensor:
        """hidden: (N, C, H, W); condition: (N, condition_width). Returns (N, C, H, W)."""
        inner = normed(self.depthwise(hidden), self.modulation(condition))
        return hidden + self.reduce(self.dropout(F.gelu(self.expand(inner))))  # (N, expansion·C, H, W) inside


def normed(hidden: Tensor, modulation: Tensor) -> Tensor:
    """Layer norm of every pixel's channels, then 1 + scale and shift from modulation (N, 2·C): (N, C, H, W) again."""
    scale, shift = modulation[:, None, None].chunk(2, dim=3)  # (N, 1, 1, C) each
    pixels = hidden.permute(0, 2, 3, 1)  # (N, H, W, C)
    return torch.addcmul(shift, F.layer_norm(pixels, pixels.shape[-1:]), 1 + scale).permute(0, 3, 1, 2)
