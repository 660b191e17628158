"""The diffusion transformer: patches as tokens, time and label through adaLN-zero in every block.

Positions enter by rotating queries and keys (2-D axial RoPE) or by a learned table. Its cost goes with the square of
the number of tokens in attention and linearly elsewhere, so `patch_size` decides it.
"""

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.errors import UserError
from models.networks import Network, options
from models.networks.blocks import fold, join_planes, unfold, zeroed
from models.networks.conditioning import ConditioningName
from models.networks.embeddings import Condition, axial_angles, rotate


class DiT(Network):
    """Diffusion transformer (arXiv 2212.09748) with normalised queries and keys; it begins by answering zero."""

    cosines: Tensor
    sines: Tensor

    def __init__(
        self,
        shape: tuple[int, int, int],
        classes: int,
        *,
        width: int = 128,
        depth: int = 6,
        heads: int = 4,
        mlp_ratio: int = 4,
        dropout: float = 0.0,
        patch_size: int = 4,
        position: Literal["rope", "learned"] = "rope",
        qk_norm: bool = True,
        conditioning: ConditioningName = "embedding",
    ) -> None:
        """shape: (C, H, W) of one encoded example; classes: 0 for unlabelled data.

        Args:
            width: numbers per token.
            depth: transformer blocks.
            heads: attention heads; must divide width, with position rope into multiples of 4.
            mlp_ratio: width of each block's hidden layer, in units of width.
            dropout: share of each block's hidden layer dropped while training, in [0, 1).
            patch_size: side in pixels of the square that becomes one token.
            position: rope rotates queries and keys by row and column; learned adds a table to the tokens.
            qk_norm: RMS norm on queries and keys, which keeps attention logits from growing.
            conditioning: how the label enters, a module of models/conditioning; tokens are read in every block.

        Raises:
            UserError: an option out of its range, or an image of less than two patches a side.
        """
        super().__init__()
        options.at_least(1, width=width, depth=depth, heads=heads, mlp_ratio=mlp_ratio, patch_size=patch_size)
        options.dropout_share(dropout)
        options.check_choice(("rope", "learned"), position=position)
        options.heads_divide(heads, width, "a token (width)")
        if position == "rope" and width // heads % 4:
            raise UserError(
                f"network option heads: {heads} leaves {width // heads} channels to a head, and position rope needs a "
                "multiple of 4: change heads or width, or use position learned"
            )
        options.levels_fit(shape, patch_size, 1)
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
        grid = fold(join_planes(noisy, signals.planes), self.patch_size)  # (N, (C+K)·p², H/p, W/p)
        tokens = self.patches(grid.flatten(2).transpose(1, 2))  # (N, H/p·W/p, width)
        tokens = tokens.to(noisy.dtype)  # under autocast the sum over blocks stays float32
        if self.table is not None:
            tokens = tokens + self.table
        rotation = (self.cosines, self.sines) if self.table is None else None
        for block in self.blocks:
            tokens = block(tokens, condition, rotation, signals.tokens)
        shift, scale = self.modulation(condition)[:, None].chunk(2, dim=2)  # (N, 1, width) each
        pixels = self.head(modulate(tokens, shift, scale))  # (N, H/p·W/p, C·p²)
        grid = pixels.transpose(1, 2).unflatten(2, grid.shape[2:])  # (N, C·p², H/p, W/p)
        return unfold(grid, self.patch_size, *noisy.shape[2:])  # (N, C, H, W)


class DiTBlock(nn.Module):
    """Attention, then a two-layer perceptron, each with its own shift, scale and gate from the condition.

    All of these begin at zero, so that the block begins as the identity.
    """

    def __init__(
        self, width: int, heads: int, mlp_ratio: int, dropout: float, qk_norm: bool, reads_tokens: bool = False
    ) -> None:
        super().__init__()
        self.modulation = zeroed(nn.Linear(width, 6 * width))
        self.attention = Attention(width, heads, qk_norm)
        self.reading = Reading(width, heads, qk_norm) if reads_tokens else None
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

        label_tokens: (N, M, width), for a block that reads them.
        """
        modulation = self.modulation(condition)[:, None]  # (N, 1, 6·width)
        shift1, scale1, gate1, shift2, scale2, gate2 = modulation.chunk(6, dim=2)  # (N, 1, width) each
        tokens = torch.addcmul(tokens, gate1, self.attention(modulate(tokens, shift1, scale1), rotation))
        if self.reading is not None:
            tokens = tokens + self.reading(tokens, label_tokens)
        inner = F.silu(self.mlp_in(modulate(tokens, shift2, scale2)))  # (N, L, mlp_ratio·width)
        return torch.addcmul(tokens, gate2, self.mlp_out(self.dropout(inner)))


class Attention(nn.Module):
    """Multi-head self-attention over tokens, with rotated queries and keys where a rotation is given."""

    def __init__(self, width: int, heads: int, qk_norm: bool) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.query_norm = nn.RMSNorm(width // heads, eps=1e-6) if qk_norm else nn.Identity()
        self.key_norm = nn.RMSNorm(width // heads, eps=1e-6) if qk_norm else nn.Identity()
        self.out = nn.Linear(width, width)

    def forward(self, tokens: Tensor, rotation: tuple[Tensor, Tensor] | None) -> Tensor:
        """(N, L, width) -> (N, L, width). Norms and rotations are in the precision of the tokens."""
        qkv = self.qkv(tokens).unflatten(2, (3, self.heads, -1))  # (N, L, 3, heads, width/heads)
        queries, keys, values = qkv.permute(2, 0, 3, 1, 4)  # (N, heads, L, width/heads) each
        queries, keys = self.query_norm(queries.to(tokens.dtype)), self.key_norm(keys.to(tokens.dtype))
        if rotation is not None:
            queries, keys = rotate(queries, *rotation), rotate(keys, *rotation)
        mixed = F.scaled_dot_product_attention(queries.to(values), keys.to(values), values)
        return self.out(mixed.transpose(1, 2).flatten(2))  # (N, L, width)


class Reading(nn.Module):
    """Multi-head attention of the normed tokens to the label's; it begins by answering zero (PixArt, arXiv 2310.00426).

    The condition's shift and scale are the other branches' alone, as in that paper.
    """

    def __init__(self, width: int, heads: int, qk_norm: bool) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width, bias=False)
        self.key_value = nn.Linear(width, 2 * width, bias=False)
        self.query_norm = nn.RMSNorm(width // heads, eps=1e-6) if qk_norm else nn.Identity()
        self.key_norm = nn.RMSNorm(width // heads, eps=1e-6) if qk_norm else nn.Identity()
        self.out = zeroed(nn.Linear(width, width))

    def forward(self, tokens: Tensor, label_tokens: Tensor) -> Tensor:
        """tokens: (N, L, width); label_tokens: (N, M, width). Returns (N, L, width)."""
        queries = self.query(F.layer_norm(tokens, tokens.shape[-1:])).unflatten(2, (self.heads, -1)).transpose(1, 2)
        keys_values = self.key_value(label_tokens).unflatten(2, (2, self.heads, -1))  # (N, M, 2, heads, width/heads)
        keys, values = keys_values.permute(2, 0, 3, 1, 4)  # (N, heads, M, width/heads) each
        queries, keys = self.query_norm(queries.to(tokens.dtype)), self.key_norm(keys.to(tokens.dtype))
        mixed = F.scaled_dot_product_attention(queries.to(values), keys.to(values), values)
        return self.out(mixed.transpose(1, 2).flatten(2))  # (N, L, width)


def modulate(tokens: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """Layer norm of each token (N, L, width), then scale and shift, each (N, 1, width) with 0 meaning no change."""
    return torch.addcmul(shift, F.layer_norm(tokens, tokens.shape[-1:]), 1 + scale)
