"""The UNet: residual blocks over levels of halved resolution, with skips across, for images of any size.

`patch_size` folds pixels into channels before the first level: most of the cost of a small UNet is at full
resolution. Sizes that cannot be halved are rounded up, and the way back up follows the skips' sizes.
"""

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.networks import options
from models.networks.blocks import ResidualBlock, SelfAttention, fold, group_norm, unfold, zeroed
from models.networks.embeddings import Condition


class UNet(nn.Module):
    """Residual UNet after "Diffusion models beat GANs" (arXiv 2105.05233), lighter for CPUs; it begins by answering 0.

    A 1×1 convolution joins each skip, so that a block on the way up costs what one on the way down does. Attention
    stands once per chosen level and direction, after the last block; for the lowest level that is in the middle.
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

        Raises:
            UserError: an option out of its range, or levels that do not fit the image.
        """
        super().__init__()
        options.at_least(1, width=width, multipliers=multipliers, blocks=blocks, heads=heads, patch_size=patch_size)
        options.dropout_share(dropout)
        options.levels_fit(shape, patch_size, len(multipliers))
        options.levels_exist(attention_levels, len(multipliers))
        widths = [width * multiplier for multiplier in multipliers]
        for level in attention_levels:
            options.heads_divide(heads, widths[level], f"attention level {level}")
        condition_width, folded, lowest = 4 * width, shape[0] * patch_size**2, len(widths) - 1

        def residual(level: int) -> ResidualBlock:
            return ResidualBlock(widths[level], condition_width, dropout)

        def attention(level: int) -> nn.Module:
            return SelfAttention(widths[level], heads) if level in attention_levels else nn.Identity()

        def side_attention(level: int) -> nn.Module:
            return attention(level) if level < lowest else nn.Identity()

        self.patch_size = patch_size
        self.condition = Condition(classes, condition_width)
        self.stem = nn.Conv2d(folded, widths[0], 3, padding=1)
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        for level in range(len(widths)):
            entry = Halving(widths[level - 1], widths[level]) if level else nn.Identity()
            self.down.append(Down(entry, [residual(level) for _ in range(blocks)], side_attention(level)))
        self.middle_in, self.middle_attention, self.middle_out = residual(lowest), attention(lowest), residual(lowest)
        for level in reversed(range(len(widths))):
            entry = nn.Conv2d(widths[level + 1], widths[level], 1) if level < lowest else nn.Identity()
            self.up.append(Up(entry, widths[level], [residual(level) for _ in range(blocks)], side_attention(level)))
        self.norm = group_norm(widths[0])
        self.head = zeroed(nn.Conv2d(widths[0], folded, 3, padding=1))

    def forward(self, noisy: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        """noisy: (N, C, H, W); t: (N,) in [0, 1]; label: (N,) int64, or None for no class. Returns (N, C, H, W)."""
        condition = self.condition(t, label)  # (N, 4·width)
        folded = fold(noisy, self.patch_size)  # (N, C·p², H/p, W/p)
        if folded.is_cpu:  # all that follows keeps this memory format: training is 5 to 8 % faster there
            folded = folded.contiguous(memory_format=torch.channels_last)
        hidden = self.stem(folded)  # (N, channels of level 0, H/p, W/p)
        skips: list[list[Tensor]] = []
        for level in self.down:
            skips.append(level(hidden, condition))  # (N, channels, H/p/2^level, W/p/2^level) each, rounded up
            hidden = skips[-1][-1]
        hidden = self.middle_out(self.middle_attention(self.middle_in(hidden, condition)), condition)
        for level in self.up:
            hidden = level(hidden, skips.pop(), condition)  # (N, channels, H/p/2^level, W/p/2^level)
        return unfold(self.head(F.silu(self.norm(hidden))), self.patch_size, *noisy.shape[2:])  # (N, C, H, W)


class Halving(nn.Module):
    """The mean of 2×2 pixels, then a 1×1 convolution: a third of the time of a 3×3 one of stride 2."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, 1)

    def forward(self, hidden: Tensor) -> Tensor:
        """(N, inputs, H, W) -> (N, outputs, ceil(H/2), ceil(W/2))."""
        return self.conv(F.avg_pool2d(hidden, 2, ceil_mode=True))


class Down(nn.Module):
    """One level on the way down; every block's output is kept as a skip, the last one's with attention."""

    def __init__(self, entry: nn.Module, blocks: Iterable[ResidualBlock], attention: nn.Module) -> None:
        super().__init__()
        self.entry = entry
        self.blocks = nn.ModuleList(blocks)
        self.attention = attention

    def forward(self, hidden: Tensor, condition: Tensor) -> list[Tensor]:
        hidden = self.entry(hidden)
        skips = []
        for block in self.blocks:
            hidden = block(hidden, condition)
            skips.append(hidden)
        return [*skips[:-1], self.attention(hidden)]


class Up(nn.Module):
    """One level on the way up: at the size of its skips, which its blocks read from the last to the first."""

    def __init__(self, entry: nn.Module, channels: int, blocks: Iterable[ResidualBlock], attention: nn.Module) -> None:
        super().__init__()
        self.entry = entry
        self.blocks = nn.ModuleList(blocks)
        self.joins = nn.ModuleList(nn.Conv2d(2 * channels, channels, 1) for _ in self.blocks)
        self.attention = attention

    def forward(self, hidden: Tensor, skips: list[Tensor], condition: Tensor) -> Tensor:
        hidden = self.entry(hidden)  # (N, channels, h, w), still at the size of the level below
        if hidden.shape[2:] != skips[-1].shape[2:]:
            hidden = F.interpolate(hidden, size=skips[-1].shape[2:])  # (N, channels, up to 2·h, up to 2·w)
        for block, join, skip in zip(self.blocks, self.joins, reversed(skips), strict=True):
            hidden = block(join(torch.cat((hidden, skip), dim=1)), condition)
        return self.attention(hidden)
