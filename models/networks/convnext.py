"""ConvNeXt: the levels of a UNet, with blocks of a depthwise convolution, a norm and a pointwise MLP.

It has no attention: its cost is linear in the number of pixels, and its receptive field grows with the levels.
"""

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from models.errors import UserError
from models.networks import Network, options
from models.networks.blocks import fold, unfold, zeroed
from models.networks.conditioning import ConditioningName
from models.networks.embeddings import Condition
from models.networks.layout import Attentions, Levels
from models.ranges import PositiveInt, ShareBelowOne


class ConvNeXt(Network):
    """UNet of ConvNeXt blocks (arXiv 2201.03545) with time and label in every norm. A new ConvNeXt outputs zero."""

    def __init__(
        self,
        shape: tuple[int, int, int],
        classes: int,
        *,
        width: PositiveInt = 48,
        multipliers: tuple[PositiveInt, ...] = (1, 2),
        blocks: PositiveInt = 1,
        kernel_size: PositiveInt = 3,
        expansion: PositiveInt = 2,
        dropout: ShareBelowOne = 0.0,
        patch_size: PositiveInt = 2,
        conditioning: ConditioningName = "embedding",
    ) -> None:
        """Raises UserError for options that do not fit together or do not fit the image.

        Args:
            width: Channels of a level with multiplier 1.
            multipliers: Channels of each level, in units of width. Each level after the first halves height and width.
            blocks: Blocks per level on the way down, and as many on the way up.
            kernel_size: Side in pixels of the depthwise convolutions, an odd number. The ConvNeXt paper uses 7, which
                takes 1.6 times as long as 3 on CPUs.
            expansion: Width of the hidden layer of each block, in units of its channels.
            dropout: Share of each hidden layer dropped in training, in [0, 1).
            patch_size: Side in pixels of the patches that are folded into channels; 1 folds nothing.
            conditioning: How the network receives the label. A ConvNeXt does not support cross_attention.
        """
        super().__init__()
        if kernel_size % 2 == 0:
            raise UserError(
                f"`network.kernel_size` {kernel_size}: must be odd", f"use {kernel_size - 1}", f"use {kernel_size + 1}"
            )
        options.levels_fit(shape, patch_size, len(multipliers))
        widths = [width * multiplier for multiplier in multipliers]
        self.patch_size = patch_size
        self.condition = Condition(conditioning, classes, 4 * width, shape)
        label = self.condition.label
        options.no_tokens(conditioning, label.tokens, "a ConvNeXt", "use another `network`")
        folded = shape[0] * patch_size**2

        def block(channels: int) -> ConvNeXtBlock:
            return ConvNeXtBlock(channels, 4 * width, kernel_size, expansion, dropout)

        self.stem = nn.Conv2d(folded + label.channels * patch_size**2, widths[0], 3, padding=1)
        self.levels = Levels(widths, blocks, block, lambda _level: Attentions())
        self.modulation = nn.Linear(4 * width, 2 * widths[0])
        self.head = zeroed(nn.Conv2d(widths[0], folded, 3, padding=1))

    def forward(self, noisy: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        """noisy: (N, C, H, W); t: (N,) in [0, 1]; label: (N,) int64, or None for no class. Returns (N, C, H, W)."""
        condition, signals = self.condition(t, label)  # condition: (N, 4·width)
        folded = fold(noisy, self.patch_size, signals.planes)  # (N, (C+K)·p², H/p, W/p)
        if folded.is_cpu:  # All later layers keep channels_last, in which a norm over channels reads adjacent memory.
            folded = folded.contiguous(memory_format=torch.channels_last)
        hidden = self.levels(self.stem(folded), condition, None)  # (N, channels of level 0, H/p, W/p)
        hidden = _modulated_norm(hidden, self.modulation(condition))
        return unfold(self.head(hidden), self.patch_size, *noisy.shape[2:])  # (N, C, H, W)


class ConvNeXtBlock(nn.Module):
    """Depthwise convolution, norm with time and label, and an MLP at every pixel, with a residual connection.

    The last convolution starts with zero weights. This replaces the paper's small learned scale per channel.
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
        inner = _modulated_norm(self.depthwise(hidden), self.modulation(condition))
        return hidden + self.reduce(self.dropout(F.gelu(self.expand(inner))))  # (N, expansion·C, H, W) inside


def _modulated_norm(hidden: Tensor, modulation: Tensor) -> Tensor:
    """Normalise (N, C, H, W) over the channels, times 1 + scale, plus shift. modulation: scale and shift, (N, 2·C)."""
    scale, shift = modulation[:, None, None].chunk(2, dim=3)  # (N, 1, 1, C) each
    pixels = rearrange(hidden, "b c y x -> b y x c")
    modulated = torch.addcmul(shift, F.layer_norm(pixels, pixels.shape[-1:]), 1 + scale)
    return rearrange(modulated, "b y x c -> b c y x")
