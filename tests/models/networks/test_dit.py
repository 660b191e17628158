"""DiT: both kinds of positions matter, and wrong options are refused by name."""

from typing import Any, Literal

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.errors import UserError
from models.networks.dit import DiT, DiTBlock, TokenSelfAttention
from models.variants import NETWORKS

POSITIONS: tuple[Literal["rope", "learned"], ...] = ("rope", "learned")


@settings(max_examples=20)
@given(
    shape=st.tuples(st.integers(1, 4), st.integers(4, 15), st.integers(4, 15)),
    classes=st.integers(0, 3),
    head_width=st.integers(1, 3).map(lambda n: 4 * n),
    heads=st.integers(1, 3),
    depth=st.integers(1, 2),
    mlp_ratio=st.integers(1, 3),
    patch_size=st.integers(1, 3),
    position=st.sampled_from(POSITIONS),
    qk_norm=st.booleans(),
)
def test_whatever_fits_works(
    shape: tuple[int, int, int],
    classes: int,
    head_width: int,
    heads: int,
    position: Literal["rope", "learned"],
    **options: Any,
) -> None:
    network = DiT(shape, classes, width=head_width * heads, heads=heads, position=position, **options)
    noisy = torch.randn(2, *shape)
    answer = network(noisy, torch.rand(2), torch.zeros(2, dtype=torch.int64) if classes else None)
    assert torch.equal(answer, torch.zeros_like(noisy))
    answer.square().sum().backward()


@pytest.mark.parametrize("position", POSITIONS)
def test_positions_matter(position: Literal["rope", "learned"]) -> None:
    """Without positions, swapping two patches of the image would swap the same two patches of the output."""
    torch.manual_seed(0)
    network = DiT((1, 8, 8), 0, width=16, depth=2, heads=2, patch_size=4, position=position)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    noisy, t = torch.randn(1, 1, 8, 8), torch.rand(1)
    swapped = network(noisy.roll(4, dims=3), t).roll(4, dims=3)
    assert (swapped - network(noisy, t)).abs().max() > 1e-3


def test_a_block_begins_as_the_identity() -> None:
    tokens = torch.randn(2, 5, 16)
    block = DiTBlock(16, heads=2, mlp_ratio=4, dropout=0.0, qk_norm=True)
    assert torch.equal(block(tokens, torch.randn(2, 16), None), tokens)


def test_normed_queries_bound_the_logits() -> None:
    """Scaling the projection of queries and keys changes the output only without qk_norm."""

    def change(qk_norm: bool) -> float:
        torch.manual_seed(0)
        attention, tokens = TokenSelfAttention(16, heads=2, qk_norm=qk_norm), torch.randn(2, 5, 16)
        before = attention(tokens, None)
        with torch.no_grad():
            attention.qkv.weight[:32] *= 10
        return (attention(tokens, None) - before).abs().max().item()

    assert change(qk_norm=True) < 1e-4
    assert change(qk_norm=False) > 1e-2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"depth": 0}, "network.depth 0: must be at least 1"),
        ({"mlp_ratio": 0}, "network.mlp_ratio 0: must be at least 1"),
        ({"position": "sine"}, "network.position sine: must be one of rope, learned"),
        ({"heads": 8}, "network.heads 8: leaves 2 channels per head, but rope needs a multiple of 4"),
    ],
)
def test_wrong_options_are_named_in_one_line(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as error:
        NETWORKS.build("dit", (1, 8, 8), 10, **{"width": 16, "heads": 2, **options})
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_learned_positions_take_any_head_width() -> None:
    DiT((1, 8, 8), 10, width=16, heads=8, position="learned")


def test_rotations_are_not_in_the_checkpoint() -> None:
    parts = {key.split(".")[0] for key in DiT((1, 8, 8), 10, width=16, heads=2).state_dict()}
    assert parts == {"condition", "patches", "blocks", "modulation", "head"}
