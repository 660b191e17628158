"""The parts that networks are put together from: residual blocks, attention, pixels folded into channels.

Everything here keeps height and width, takes any number of channels and leaves the layout of levels to the network.
Norms and softmax work in float32 under autocast too, either by autocast's own rules or inside their kernels.
"""

import math
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

AnyModule = TypeVar("AnyModule", bound=nn.Module)


def zeroed(module: AnyModule) -> AnyModule:
    """The same module with all its parameters at zero, so that a residual branch begins as the identity."""
    for parameter in module.parameters():
        nn.init.zeros_(parameter)
    return module


def group_norm(channels: int, affine: bool = True) -> nn.GroupNorm:
    """Group norm with eight channels to a group or more where there are so many, and at most 32 groups.

    With four to a group, the channels-last kernel for CPUs takes nearly twice as long.
    """
    return nn.GroupNorm(math.gcd(32, max(1, channels // 8), channels), channels, affine=affine)


def join_planes(images: Tensor, planes: Tensor | None) -> Tensor:
    """(N, C, H, W), (N, K, H, W) or None -> (N, C + K, H, W)."""
    return images if planes is None else torch.cat((images, planes), dim=1)


def fold(images: Tensor, patch_size: int) -> Tensor:
    """(N, C, H, W) -> (N, C·p², ceil(H/p), ceil(W/p)): p×p pixels into channels, zeros filling up the last patches."""
    height, width = images.shape[-2:]
    if height % patch_size or width % patch_size:
        images = F.pad(images, (0, -width % patch_size, 0, -height % patch_size))
    return F.pixel_unshuffle(images, patch_size)


def unfold(hidden: Tensor, patch_size: int, height: int, width: int) -> Tensor:
    """The inverse of `fold` for images of that height and width: what was filled up is cut off."""
    return F.pixel_shuffle(hidden, patch_size)[..., :height, :width]


class ResidualBlock(nn.Module):
    """Two 3×3 convolutions added to their input; time and label scale and shift what the second norm gives.

    Adaptive group norm of "Diffusion models beat GANs" (arXiv 2105.05233, section 3). The second convolution begins at
    zero. Dropout stands before it.
    """

    def __init__(self, channels: int, condition_width: int, dropout: float) -> None:
        super().__init__()
        self.norm1 = group_norm(channels)
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.norm2 = group_norm(channels, affine=False)
        self.modulation = nn.Linear(condition_width, 2 * channels)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = zeroed(nn.Conv2d(channels, channels, 3, padding=1))

    def forward(self, hidden: Tensor, condition: Tensor) -> Tensor:
        """hidden: (N, C, H, W); condition: (N, condition_width). Returns (N, C, H, W)."""
        inner = self.conv1(F.silu(self.norm1(hidden)))
        scale, shift = self.modulation(condition)[:, :, None, None].chunk(2, dim=1)  # (N, C, 1, 1) each
        inner = torch.addcmul(shift, self.norm2(inner), 1 + scale)
        return hidden + self.conv2(self.dropout(F.silu(inner)))


class SelfAttention(nn.Module):
    """Multi-head self-attention over all pixels, added to its input; the output projection begins at zero.

    The projections are 1×1 convolutions: on CPUs these run up to twice as fast as the same product by nn.Linear. What
    they give is brought into the order of tokens, in which channels_last has it already: the quick kernels of GPUs take
    no other.
    """

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = group_norm(channels)
        # A bias would be lost on the keys: softmax does not see what is added to a whole row of logits.
        self.qkv = nn.Conv2d(channels, 3 * channels, 1, bias=False)
        self.out = zeroed(nn.Conv2d(channels, channels, 1))

    def forward(self, hidden: Tensor, _tokens: Tensor | None = None) -> Tensor:
        """(N, C, H, W) -> (N, C, H, W). Called as attention to tokens is, it leaves them alone."""
        qkv = self.qkv(self.norm(hidden)).flatten(2).transpose(1, 2).contiguous()  # (N, H·W, 3·C)
        queries, keys, values = qkv.unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)  # (N, heads, H·W, C/heads)
        mixed = F.scaled_dot_product_attention(queries, keys, values)
        mixed = mixed.transpose(1, 2).flatten(2).transpose(1, 2).unflatten(2, hidden.shape[2:])  # (N, C, H, W)
        return hidden + self.out(mixed)


class TokenAttention(nn.Module):
    """Multi-head attention of all pixels to a sequence of tokens, otherwise as self-attention; it begins at zero."""

    def __init__(self, channels: int, heads: int, token_width: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = group_norm(channels)
        self.query = nn.Conv2d(channels, channels, 1, bias=False)
        self.key_value = nn.Linear(token_width, 2 * channels, bias=False)
        self.out = zeroed(nn.Conv2d(channels, channels, 1))

    def forward(self, hidden: Tensor, tokens: Tensor) -> Tensor:
        """hidden: (N, C, H, W); tokens: (N, L, token_width). Returns (N, C, H, W)."""
        queries = self.query(self.norm(hidden)).flatten(2).transpose(1, 2).contiguous()  # (N, H·W, C)
        queries = queries.unflatten(2, (self.heads, -1)).transpose(1, 2)  # (N, heads, H·W, C/heads)
        keys_values = self.key_value(tokens).unflatten(2, (2, self.heads, -1))  # (N, L, 2, heads, C/heads)
        keys, values = keys_values.permute(2, 0, 3, 1, 4)  # (N, heads, L, C/heads) each
        mixed = F.scaled_dot_product_attention(queries, keys, values)
        mixed = mixed.transpose(1, 2).flatten(2).transpose(1, 2).unflatten(2, hidden.shape[2:])  # (N, C, H, W)
        return hidden + self.out(mixed)
