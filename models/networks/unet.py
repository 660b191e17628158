"""The UNet: residual blocks over levels of halved resolution, with skips across, for images of any size.

`patch_size` folds pixels into channels before the first level: most of the cost of a small UNet is at full
resolution.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.networks import Network, options
from models.networks.blocks import (
    ResidualBlock,
    SelfAttention,
    TokenAttention,
    fold,
    group_norm,
    join_planes,
    unfold,
    zeroed,
)
from models.networks.conditioning import ConditioningName
from models.networks.embeddings import Condition
from models.networks.layout import Attentions, Levels


class UNet(Network):
    """Residual UNet after "Diffusion models beat GANs" (arXiv 2105.05233), lighter for CPUs; it begins by answering 0.

    Attention stands once per chosen level and direction; for the lowest level that is in the middle.
    """

    def __init__(
        self,
        shape: tuple[int, int, int],
        classes: int,
        *,
        width: int = 32,
        multipliers: tuple[int, ...] = (1, 2),
        blocks: int = 1,
        attention_levels: tuple[int, ...] = (1,),
        heads: int = 2,
        dropout: float = 0.0,
        patch_size: int = 2,
        conditioning: ConditioningName = "embedding",
    ) -> None:
        """shape: (C, H, W) of one encoded example; classes: 0 for unlabelled data.

        Args:
            width: channels of a level whose multiplier is 1.
            multipliers: channels of each level in units of width; every entry after the first is one halving.
            blocks: residual blocks of each level on the way down, and as many on the way up.
            attention_levels: levels with self-attention; 0 is the first, of the highest resolution.
            heads: attention heads; must divide the channels of every level with attention.
            dropout: share of activations dropped inside each residual block while training, in [0, 1).
            patch_size: folds p x p pixels into channels before the first level; 1 folds nothing.
            conditioning: how the label enters, a module of models/conditioning; tokens are read beside self-attention.

        Raises:
            UserError: an option out of its range, levels that do not fit the image, or a conditioning by tokens with no
                attention to read them.
        """
        super().__init__()
        options.at_least(1, width=width, multipliers=multipliers, blocks=blocks, heads=heads, patch_size=patch_size)
        options.dropout_share(dropout)
        options.levels_fit(shape, patch_size, len(multipliers))
        options.levels_exist(attention_levels, len(multipliers))
        widths = [width * multiplier for multiplier in multipliers]
        for level in attention_levels:
            options.heads_divide(heads, widths[level], f"attention level {level}")
        self.patch_size = patch_size
        self.condition = Condition(conditioning, classes, 4 * width, shape)
        label = self.condition.label
        if not attention_levels:
            options.no_tokens(label, "a UNet without attention_levels", "give attention_levels one or more levels")
        folded = shape[0] * patch_size**2

        def block(channels: int) -> ResidualBlock:
            return ResidualBlock(channels, 4 * width, dropout)

        def attention(level: int) -> Attentions:
            if level not in attention_levels:
                return Attentions()
            itself = SelfAttention(widths[level], heads)
            return Attentions([itself, TokenAttention(widths[level], heads, 4 * width)] if label.tokens else [itself])

        self.stem = nn.Conv2d(folded + label.channels * patch_size**2, widths[0], 3, padding=1)
        self.levels = Levels(widths, blocks, block, attention)
        self.norm = group_norm(widths[0])
        self.head = zeroed(nn.Conv2d(widths[0], folded, 3, padding=1))

    def forward(self, noisy: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        """noisy: (N, C, H, W); t: (N,) in [0, 1]; label: (N,) int64, or None for no class. Returns (N, C, H, W)."""
        condition, signals = self.condition(t, label)  # condition: (N, 4·width)
        folded = fold(join_planes(noisy, signals.planes), self.patch_size)  # (N, (C+K)·p², H/p, W/p)
        if folded.is_cpu:  # all that follows keeps this memory format: training is 5 to 8 % faster there
            folded = folded.contiguous(memory_format=torch.channels_last)
        hidden = self.levels(self.stem(folded), condition, signals.tokens)  # (N, channels of level 0, H/p, W/p)
        return unfold(self.head(F.silu(self.norm(hidden))), self.patch_size, *noisy.shape[2:])  # (N, C, H, W)
