"""Building blocks of the networks: residual blocks, attention over pixels, and patches folded into channels.

Norms and softmax are computed in float32 even under autocast: autocast casts their inputs, or the kernels use float32.
"""

import math
from typing import TypeVar

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

AnyModule = TypeVar("AnyModule", bound=nn.Module)


def zeroed(module: AnyModule) -> AnyModule:
    """Set all parameters of a module to zero and return it. A residual branch that ends with it is zero at first."""
    for parameter in module.parameters():
        nn.init.zeros_(parameter)
    return module


def group_norm(channels: int, affine: bool = True) -> nn.GroupNorm:
    """Return a group norm with at most 32 groups. Each group has at least 8 channels if `channels` >= 8."""
    # The channels-last kernel for CPUs takes nearly twice as long with four channels per group.
    return nn.GroupNorm(math.gcd(32, max(1, channels // 8), channels), channels, affine=affine)


# F.pixel_unshuffle and F.pixel_shuffle preserve channels_last on CPUs. The same fold written with einops does not.
def fold(images: Tensor, patch_size: int, planes: Tensor | None = None) -> Tensor:
    """Fold patches of p×p pixels into channels: (N, C, H, W) -> (N, (C + K)·p², ceil(H/p), ceil(W/p)).

    planes: (N, K, H, W), additional channels of the images. Patches that exceed the image are padded with zeros.
    """
    images = images if planes is None else torch.cat((images, planes), dim=1)
    height, width = images.shape[-2:]
    if height % patch_size or width % patch_size:
        images = F.pad(images, (0, -width % patch_size, 0, -height % patch_size))
    return F.pixel_unshuffle(images, patch_size)


def unfold(hidden: Tensor, patch_size: int, height: int, width: int) -> Tensor:
    """Invert `fold`: return images of the given height and width, without the padding."""
    return F.pixel_shuffle(hidden, patch_size)[..., :height, :width]


class ResidualBlock(nn.Module):
    """Two 3×3 convolutions with a residual connection. Time and label give the second norm its scale and shift.

    The norm is the adaptive group norm of "Diffusion models beat GANs" (arXiv 2105.05233, section 3).
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


class PixelSelfAttention(nn.Module):
    """Multi-head self-attention over all pixels with a residual connection; the output projection begins at zero.

    The projections are 1×1 convolutions: on CPUs they run up to twice as fast as the same product by nn.Linear.
    """

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = group_norm(channels)
        # A bias on the keys would have no effect: it adds a constant to each row of logits, which softmax ignores.
        self.qkv = nn.Conv2d(channels, 3 * channels, 1, bias=False)
        self.out = zeroed(nn.Conv2d(channels, channels, 1))

    def forward(self, hidden: Tensor, _tokens: Tensor | None = None) -> Tensor:
        """(N, C, H, W) -> (N, C, H, W). The second argument, the tokens of cross-attention, is ignored."""
        qkv = _as_tokens(self.qkv(self.norm(hidden)))  # (N, H·W, 3·C)
        queries, keys, values = rearrange(qkv, "b l (three h d) -> three b h l d", three=3, h=self.heads)
        return hidden + self.out(_attend(queries, keys, values, hidden.shape[2]))


class PixelCrossAttention(nn.Module):
    """Multi-head attention of all pixels to a sequence of tokens, otherwise like PixelSelfAttention."""

    def __init__(self, channels: int, heads: int, token_width: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = group_norm(channels)
        self.query = nn.Conv2d(channels, channels, 1, bias=False)
        self.key_value = nn.Linear(token_width, 2 * channels, bias=False)
        self.out = zeroed(nn.Conv2d(channels, channels, 1))

    def forward(self, hidden: Tensor, tokens: Tensor) -> Tensor:
        """hidden: (N, C, H, W); tokens: (N, L, token_width). Returns (N, C, H, W)."""
        queries = rearrange(_as_tokens(self.query(self.norm(hidden))), "b l (h d) -> b h l d", h=self.heads)
        keys, values = rearrange(self.key_value(tokens), "b l (two h d) -> two b h l d", two=2, h=self.heads)
        return hidden + self.out(_attend(queries, keys, values, hidden.shape[2]))


def _as_tokens(hidden: Tensor) -> Tensor:
    """(N, C, H, W) -> (N, H·W, C), contiguous: the fast attention kernels of GPUs require it."""
    return rearrange(hidden, "b c y x -> b (y x) c").contiguous()


def _attend(queries: Tensor, keys: Tensor, values: Tensor, height: int) -> Tensor:
    """Softmax attention. queries: (N, heads, H·W, d); keys, values: (N, heads, L, d). Returns (N, heads·d, H, W)."""
    mixed = rearrange(F.scaled_dot_product_attention(queries, keys, values), "b h l d -> b l (h d)")
    return rearrange(mixed, "b (y x) c -> b c y x", y=height)  # a view in channels_last; a single rearrange would copy
