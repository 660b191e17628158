"""Building blocks of the networks, compared with their definitions."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from models.networks.blocks import PixelSelfAttention, ResidualBlock, fold, group_norm, unfold
from models.networks.dit import TokenSelfAttention


def softmax_attention(queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """Return the attention of one head by its definition. All are (L, d)."""
    weights = torch.exp(queries @ keys.T / math.sqrt(queries.shape[1]))
    return weights @ values / weights.sum(dim=1, keepdim=True)


def test_image_attention_is_softmax_attention() -> None:
    torch.manual_seed(0)
    attention, hidden = PixelSelfAttention(8, heads=2), torch.randn(2, 8, 3, 5)
    torch.nn.init.normal_(attention.out.weight)
    qkv = attention.qkv(attention.norm(hidden))
    mixed = torch.zeros_like(hidden)
    for image in range(2):
        for head in range(2):
            queries, keys, values = (
                qkv[image, part * 8 + head * 4 : part * 8 + head * 4 + 4].flatten(1).T for part in range(3)
            )
            mixed[image, head * 4 : head * 4 + 4] = softmax_attention(queries, keys, values).T.unflatten(1, (3, 5))
    torch.testing.assert_close(attention(hidden), hidden + attention.out(mixed), atol=1e-5, rtol=1e-5)


def test_token_attention_is_softmax_attention() -> None:
    torch.manual_seed(0)
    attention, tokens = TokenSelfAttention(8, heads=2, qk_norm=False), torch.randn(1, 6, 8)
    qkv = attention.qkv(tokens)[0]
    heads = [softmax_attention(*(qkv[:, p * 8 + h * 4 : p * 8 + h * 4 + 4] for p in range(3))) for h in range(2)]
    torch.testing.assert_close(attention(tokens, None), attention.out(torch.cat(heads, dim=1))[None])


def test_a_residual_block_is_what_its_paper_says() -> None:
    torch.manual_seed(0)
    block, hidden, condition = ResidualBlock(16, 6, dropout=0.0), torch.randn(2, 16, 4, 4), torch.randn(2, 6)
    assert torch.equal(block(hidden, condition), hidden)
    torch.nn.init.normal_(block.conv2.weight)
    inner = F.group_norm(block.conv1(F.silu(block.norm1(hidden))), 2)
    scale, shift = block.modulation(condition).split(16, dim=1)
    inner = inner * (1 + scale[:, :, None, None]) + shift[:, :, None, None]
    torch.testing.assert_close(block(hidden, condition), hidden + block.conv2(F.silu(inner)))


@given(st.integers(1, 300))
def test_group_norm_takes_any_number_of_channels(channels: int) -> None:
    groups = group_norm(channels).num_groups
    assert channels % groups == 0
    assert groups <= 32
    assert groups == 1 or channels // groups >= 8


@pytest.mark.parametrize("patch_size", [1, 2, 3, 5])
@pytest.mark.parametrize("size", [(8, 8), (7, 7), (5, 9)])
def test_unfold_undoes_fold(size: tuple[int, int], patch_size: int) -> None:
    images = torch.randn(2, 3, *size)
    folded = fold(images, patch_size)
    assert folded.shape == (2, 3 * patch_size**2, -(-size[0] // patch_size), -(-size[1] // patch_size))
    assert torch.equal(unfold(folded, patch_size, *size), images)


def test_a_folded_patch_holds_neighbours() -> None:
    images = torch.arange(16.0).reshape(1, 1, 4, 4)
    assert fold(images, 2)[0, :, 0, 1].tolist() == [2, 3, 6, 7]
