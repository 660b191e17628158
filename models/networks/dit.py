"""DiT: a transformer with image patches as tokens. Time and label enter every block through adaLN-zero.

Positions enter by rotation of queries and keys (2-D axial RoPE) or by a learned table. The cost of attention grows with
the square of the number of tokens, which `patch_size` determines.
"""

from typing import Literal

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from models.errors import UserError
from models.networks import Network, options
from models.networks.blocks import fold, unfold, zeroed
from models.networks.conditioning import ConditioningName
from models.networks.embeddings import Condition, axial_angles, rotate
from models.ranges import PositiveInt, ShareBelowOne


class DiT(Network):
    """Diffusion transformer (arXiv 2212.09748) with normalised queries and keys. A new DiT outputs zero."""

    cosines: Tensor
    sines: Tensor

    def __init__(
        self,
        shape: tuple[int, int, int],
        classes: int,
        *,
        width: PositiveInt = 128,
        depth: PositiveInt = 6,
        heads: PositiveInt = 4,
        mlp_ratio: PositiveInt = 4,
        dropout: ShareBelowOne = 0.0,
        patch_size: PositiveInt = 4,
        position: Literal["rope", "learned"] = "rope",
        qk_norm: bool = True,
        conditioning: ConditioningName = "embedding",
    ) -> None:
        """Raises UserError for options that do not fit together or do not fit the image.

        Args:
            width: Channels of a token.
            depth: Number of transformer blocks.
            heads: Attention heads. They must divide width; with position rope, width / heads must be a multiple of 4.
            mlp_ratio: Width of the hidden layer of each block, in units of width.
            dropout: Share of each hidden layer dropped in training, in [0, 1).
            patch_size: Side in pixels of the patches. Each patch is one token.
            position: rope rotates queries and keys by row and column; learned adds a learned vector to each token.
            qk_norm: Apply RMS norm to queries and keys, which keeps attention logits from growing.
            conditioning: How the network receives the label. With cross_attention, every block attends to the
                label's tokens.
        """
        super().__init__()
        options.heads_divide(heads, width, "a token (`network.width`)")
        if position == "rope" and width // heads % 4:
            raise UserError(
                f"`network.heads` {heads}: leaves {width // heads} channels per head, but rope needs a multiple of 4",
                *("change `network.heads`", "change `network.width`", "use `network.position learned`"),
            )
        options.levels_fit(shape, patch_size, levels=1)
        rows, columns = (-(-size // patch_size) for size in shape[1:])
        folded = shape[0] * patch_size**2
        self.patch_size = patch_size
        self.condition = Condition(conditioning, classes, width, shape)
        label = self.condition.label
        self.patches = nn.Linear(folded + label.channels * patch_size**2, width)
        self.table = nn.Parameter(0.02 * torch.randn(rows * columns, width)) if position == "learned" else None
        if position == "rope":
            angles = axial_angles(rows, columns, width // heads)
            self.register_buffer("cosines", angles.cos(), persistent=False)
            self.register_buffer("sines", angles.sin(), persistent=False)
        self.blocks = nn.ModuleList(
            DiTBlock(width, heads, mlp_ratio, dropout, qk_norm, label.tokens > 0) for _ in range(depth)
        )
        self.modulation = zeroed(nn.Linear(width, 2 * width))
        self.head = zeroed(nn.Linear(width, folded))

    def forward(self, noisy: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        """noisy: (N, C, H, W); t: (N,) in [0, 1]; label: (N,) int64, or None for no class. Returns (N, C, H, W)."""
        condition, signals = self.condition(t, label)  # condition: (N, width)
        grid = fold(noisy, self.patch_size, signals.planes)  # (N, (C+K)·p², H/p, W/p)
        tokens = self.patches(rearrange(grid, "b c y x -> b (y x) c"))  # (N, H/p·W/p, width)
        tokens = tokens.to(noisy.dtype)  # The residual stream stays float32 under autocast.
        if self.table is not None:
            tokens = tokens + self.table
        rotation = (self.cosines, self.sines) if self.table is None else None
        for block in self.blocks:
            tokens = block(tokens, condition, rotation, signals.tokens)
        shift, scale = self.modulation(condition)[:, None].chunk(2, dim=2)  # (N, 1, width) each
        patches = self.head(_modulated_norm(tokens, shift, scale))  # (N, H/p·W/p, C·p²)
        grid = rearrange(patches, "b (y x) c -> b c y x", y=grid.shape[2])  # (N, C·p², H/p, W/p)
        return unfold(grid, self.patch_size, *noisy.shape[2:])  # (N, C, H, W)


class DiTBlock(nn.Module):
    """Attention and a two-layer MLP, each with shift, scale, gate from the condition. A new block is the identity."""

    def __init__(
        self, width: int, heads: int, mlp_ratio: int, dropout: float, qk_norm: bool, reads_tokens: bool = False
    ) -> None:
        super().__init__()
        self.modulation = zeroed(nn.Linear(width, 6 * width))
        self.attention = TokenSelfAttention(width, heads, qk_norm)
        self.reading = TokenCrossAttention(width, heads, qk_norm) if reads_tokens else None
        self.mlp_in = nn.Linear(width, mlp_ratio * width)
        self.dropout = nn.Dropout(dropout)
        self.mlp_out = nn.Linear(mlp_ratio * width, width)

    def forward(
        self,
        tokens: Tensor,
        condition: Tensor,
        rotation: tuple[Tensor, Tensor] | None,
        label_tokens: Tensor | None = None,
    ) -> Tensor:
        """tokens: (N, L, width); condition: (N, width); rotation: cosines and sines, each (L, width/heads/2).

        label_tokens: (N, M, width), for a block with cross-attention. Returns (N, L, width).
        """
        modulation = self.modulation(condition)[:, None]  # (N, 1, 6·width)
        shift1, scale1, gate1, shift2, scale2, gate2 = modulation.chunk(6, dim=2)  # (N, 1, width) each
        tokens = torch.addcmul(tokens, gate1, self.attention(_modulated_norm(tokens, shift1, scale1), rotation))
        if self.reading is not None:
            tokens = tokens + self.reading(tokens, label_tokens)
        inner = F.silu(self.mlp_in(_modulated_norm(tokens, shift2, scale2)))  # (N, L, mlp_ratio·width)
        return torch.addcmul(tokens, gate2, self.mlp_out(self.dropout(inner)))


class TokenSelfAttention(nn.Module):
    """Multi-head self-attention over tokens, with rotated queries and keys if a rotation is given."""

    def __init__(self, width: int, heads: int, qk_norm: bool) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.query_norm, self.key_norm = _head_norm(width // heads, qk_norm), _head_norm(width // heads, qk_norm)
        self.out = nn.Linear(width, width)

    def forward(self, tokens: Tensor, rotation: tuple[Tensor, Tensor] | None) -> Tensor:
        """(N, L, width) -> (N, L, width). Norms and rotations are computed in the dtype of the tokens."""
        qkv = self.qkv(tokens)  # (N, L, 3·width)
        queries, keys, values = rearrange(qkv, "b l (three h d) -> three b h l d", three=3, h=self.heads)
        queries, keys = self.query_norm(queries.to(tokens.dtype)), self.key_norm(keys.to(tokens.dtype))
        if rotation is not None:
            queries, keys = rotate(queries, *rotation), rotate(keys, *rotation)
        mixed = F.scaled_dot_product_attention(queries.to(values), keys.to(values), values)
        return self.out(rearrange(mixed, "b h l d -> b l (h d)"))


class TokenCrossAttention(nn.Module):
    """Multi-head attention of normed tokens to the label's tokens, without modulation (PixArt, arXiv 2310.00426)."""

    def __init__(self, width: int, heads: int, qk_norm: bool) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width, bias=False)
        self.key_value = nn.Linear(width, 2 * width, bias=False)
        self.query_norm, self.key_norm = _head_norm(width // heads, qk_norm), _head_norm(width // heads, qk_norm)
        self.out = zeroed(nn.Linear(width, width))

    def forward(self, tokens: Tensor, label_tokens: Tensor) -> Tensor:
        """tokens: (N, L, width); label_tokens: (N, M, width). Returns (N, L, width)."""
        queries = self.query(F.layer_norm(tokens, tokens.shape[-1:]))
        queries = rearrange(queries, "b l (h d) -> b h l d", h=self.heads)
        keys, values = rearrange(self.key_value(label_tokens), "b m (two h d) -> two b h m d", two=2, h=self.heads)
        queries, keys = self.query_norm(queries.to(tokens.dtype)), self.key_norm(keys.to(tokens.dtype))
        mixed = F.scaled_dot_product_attention(queries.to(values), keys.to(values), values)
        return self.out(rearrange(mixed, "b h l d -> b l (h d)"))


def _head_norm(head_width: int, qk_norm: bool) -> nn.Module:
    return nn.RMSNorm(head_width, eps=1e-6) if qk_norm else nn.Identity()


def _modulated_norm(tokens: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """Normalise each token of (N, L, width), times 1 + scale, plus shift. shift and scale: (N, 1, width)."""
    return torch.addcmul(shift, F.layer_norm(tokens, tokens.shape[-1:]), 1 + scale)
