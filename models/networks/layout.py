"""Levels of halved resolution with skip connections: the layout that UNets share, for any kind of block.

Odd sizes are rounded up when halved. On the way up, each level has the size of its skips.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Levels(nn.Module):
    """Equal numbers of blocks on the way down and up, and two in the middle. A 1×1 convolution joins each skip.

    Attention follows the last block of each level and direction. The lowest level has attention once, in the middle.
    """

    def __init__(
        self,
        widths: Sequence[int],
        blocks: int,
        block: Callable[[int], nn.Module],
        attention: Callable[[int], nn.Module],
    ) -> None:
        """widths: channels of each level. blocks: number of blocks per level and direction.

        block: returns a module for a number of channels. attention: returns a module such as `Attentions` for a level.
        """
        super().__init__()
        lowest = len(widths) - 1

        def level_blocks(level: int) -> list[nn.Module]:
            return [block(widths[level]) for _ in range(blocks)]

        def level_attention(level: int) -> nn.Module:
            return attention(level) if level < lowest else Attentions()

        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        for level in range(len(widths)):
            entry = Halving(widths[level - 1], widths[level]) if level else nn.Identity()
            self.down.append(Down(entry, level_blocks(level), level_attention(level)))
        self.middle_in, self.middle_attention = block(widths[lowest]), attention(lowest)
        self.middle_out = block(widths[lowest])
        for level in reversed(range(len(widths))):
            entry = nn.Conv2d(widths[level + 1], widths[level], 1) if level < lowest else nn.Identity()
            self.up.append(Up(entry, widths[level], level_blocks(level), level_attention(level)))

    def forward(self, hidden: Tensor, condition: Tensor, tokens: Tensor | None) -> Tensor:
        """hidden and result: (N, C, H, W); condition: (N, width); tokens: (N, L, width) or None."""
        skips: list[list[Tensor]] = []
        for level in self.down:
            skips.append(level(hidden, condition, tokens))  # (N, channels, H/2^level, W/2^level) each, rounded up
            hidden = skips[-1][-1]
        hidden = self.middle_attention(self.middle_in(hidden, condition), tokens)
        hidden = self.middle_out(hidden, condition)
        for level in self.up:
            hidden = level(hidden, skips.pop(), condition, tokens)  # (N, channels, H/2^level, W/2^level)
        return hidden


class Attentions(nn.ModuleList):
    """Self-attention and cross-attention, one after the other. An empty list is the identity."""

    def forward(self, hidden: Tensor, tokens: Tensor | None) -> Tensor:
        """hidden: (N, C, H, W); tokens: (N, L, width). Returns (N, C, H, W)."""
        for attention in self:
            hidden = attention(hidden, tokens)
        return hidden


class Halving(nn.Module):
    """Mean of 2×2 pixels, then a 1×1 convolution. It takes a third of the time of a 3×3 convolution of stride 2."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, 1)

    def forward(self, hidden: Tensor) -> Tensor:
        """(N, inputs, H, W) -> (N, outputs, ceil(H/2), ceil(W/2))."""
        return self.conv(F.avg_pool2d(hidden, 2, ceil_mode=True))


class Down(nn.Module):
    """One level on the way down. Returns the skips: every block's output, the last one after attention."""

    def __init__(self, entry: nn.Module, blocks: Sequence[nn.Module], attention: nn.Module) -> None:
        super().__init__()
        self.entry = entry
        self.blocks = nn.ModuleList(blocks)
        self.attention = attention

    def forward(self, hidden: Tensor, condition: Tensor, tokens: Tensor | None) -> list[Tensor]:
        hidden = self.entry(hidden)
        skips = []
        for block in self.blocks:
            hidden = block(hidden, condition)
            skips.append(hidden)
        return [*skips[:-1], self.attention(hidden, tokens)]


class Up(nn.Module):
    """One level on the way up, at the size of its skips. Its blocks read the skips from the last to the first."""

    def __init__(self, entry: nn.Module, channels: int, blocks: Sequence[nn.Module], attention: nn.Module) -> None:
        super().__init__()
        self.entry = entry
        self.blocks = nn.ModuleList(blocks)
        self.joins = nn.ModuleList(nn.Conv2d(2 * channels, channels, 1) for _ in self.blocks)
        self.attention = attention

    def forward(self, hidden: Tensor, skips: list[Tensor], condition: Tensor, tokens: Tensor | None) -> Tensor:
        hidden = self.entry(hidden)  # (N, channels, h, w), at the size of the level below
        if hidden.shape[2:] != skips[-1].shape[2:]:
            hidden = F.interpolate(hidden, size=skips[-1].shape[2:])  # (N, channels, up to 2·h, up to 2·w)
        for block, join, skip in zip(self.blocks, self.joins, reversed(skips), strict=True):
            hidden = block(join(torch.cat((hidden, skip), dim=1)), condition)
        return self.attention(hidden, tokens)
