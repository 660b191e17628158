"""UNet: residual blocks over levels of halved resolution, with skip connections, for images of any size.

Most of the cost of a small UNet is at full resolution. A larger `patch_size` lowers this resolution.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.networks import Network, options
from models.networks.blocks import (
    PixelCrossAttention,
    PixelSelfAttention,
    ResidualBlock,
    fold,
    group_norm,
    unfold,
    zeroed,
)
from models.networks.conditioning import ConditioningName
from models.networks.embeddings import Condition
from models.networks.layout import Attentions, Levels
from models.ranges import NonNegativeInt, PositiveInt, ShareBelowOne


class UNet(Network):
    """Residual UNet modelled on "Diffusion models beat GANs" (arXiv 2105.05233). A new UNet outputs zero."""

    def __init__(
        self,
        shape: tuple[int, int, int],
        classes: int,
        *,
        width: PositiveInt = 32,
        multipliers: tuple[PositiveInt, ...] = (1, 2),
        blocks: PositiveInt = 1,
        attention_levels: tuple[NonNegativeInt, ...] = (1,),
        heads: PositiveInt = 2,
        dropout: ShareBelowOne = 0.0,
        patch_size: PositiveInt = 2,
        conditioning: ConditioningName = "embedding",
    ) -> None:
        """Raises UserError for options that do not fit together or do not fit the image.

        Args:
            width: Channels of a level with multiplier 1.
            multipliers: Channels of each level, in units of width. Each level after the first halves height and width.
            blocks: Residual blocks per level on the way down, and as many on the way up.
            attention_levels: Levels with attention. Level 0 is the first and has the highest resolution.
            heads: Attention heads. They must divide the channels of every level with attention.
            dropout: Share of activations dropped in each residual block in training, in [0, 1).
            patch_size: Side in pixels of the patches that are folded into channels; 1 folds nothing.
            conditioning: How the network receives the label. cross_attention needs attention_levels.
        """
        super().__init__()
        options.levels_fit(shape, patch_size, len(multipliers))
        options.levels_exist(attention_levels, len(multipliers))
        widths = [width * multiplier for multiplier in multipliers]
        for level in attention_levels:
            options.heads_divide(heads, widths[level], f"attention level {level}")
        self.patch_size = patch_size
        self.condition = Condition(conditioning, classes, 4 * width, shape)
        label = self.condition.label
        if not attention_levels:
            network = "a UNet without attention_levels"
            options.no_tokens(conditioning, label.tokens, network, "choose one or more `network.attention_levels`")
        folded = shape[0] * patch_size**2

        def block(channels: int) -> ResidualBlock:
            return ResidualBlock(channels, 4 * width, dropout)

        def attention(level: int) -> Attentions:
            if level not in attention_levels:
                return Attentions()
            layers: list[nn.Module] = [PixelSelfAttention(widths[level], heads)]
            if label.tokens:
                layers.append(PixelCrossAttention(widths[level], heads, 4 * width))
            return Attentions(layers)

        self.stem = nn.Conv2d(folded + label.channels * patch_size**2, widths[0], 3, padding=1)
        self.levels = Levels(widths, blocks, block, attention)
        self.norm = group_norm(widths[0])
        self.head = zeroed(nn.Conv2d(widths[0], folded, 3, padding=1))

    def forward(self, noisy: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        """noisy: (N, C, H, W); t: (N,) in [0, 1]; label: (N,) int64, or None for no class. Returns (N, C, H, W)."""
        condition, signals = self.condition(t, label)  # condition: (N, 4·width)
        folded = fold(noisy, self.patch_size, signals.planes)  # (N, (C+K)·p², H/p, W/p)
        if folded.is_cpu:  # All later layers keep channels_last, which makes training 5 to 8 % faster on CPUs.
            folded = folded.contiguous(memory_format=torch.channels_last)
        hidden = self.levels(self.stem(folded), condition, signals.tokens)  # (N, channels of level 0, H/p, W/p)
        return unfold(self.head(F.silu(self.norm(hidden))), self.patch_size, *noisy.shape[2:])  # (N, C, H, W)
