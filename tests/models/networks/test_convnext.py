"""ConvNeXt: the block by its definition, all options that fit, and the refusal of those that do not."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from models.errors import UserError
from models.networks.convnext import ConvNeXt, ConvNeXtBlock
from models.variants import NETWORKS


@settings(max_examples=20)
@given(
    shape=st.tuples(st.integers(1, 4), st.integers(4, 21), st.integers(4, 21)),
    classes=st.integers(0, 3),
    width=st.integers(1, 9),
    multipliers=st.lists(st.integers(1, 3), min_size=1, max_size=2).map(tuple),
    blocks=st.integers(1, 2),
    kernel_size=st.sampled_from([1, 3, 5, 7, 9]),
    expansion=st.integers(1, 4),
    patch_size=st.integers(1, 2),
)
def test_whatever_fits_works(shape: tuple[int, int, int], classes: int, patch_size: int, **options: Any) -> None:
    if min(shape[1:]) < 3 * patch_size:
        options["multipliers"] = options["multipliers"][:1]
    network = ConvNeXt(shape, classes, patch_size=patch_size, **options)
    noisy = torch.randn(2, *shape)
    answer = network(noisy, torch.rand(2), torch.zeros(2, dtype=torch.int64) if classes else None)
    assert torch.equal(answer, torch.zeros_like(noisy))
    answer.square().sum().backward()


def test_a_block_is_what_its_paper_says() -> None:
    torch.manual_seed(0)
    block, hidden, condition = ConvNeXtBlock(6, 5, 7, 4, dropout=0.0), torch.randn(2, 6, 9, 4), torch.randn(2, 5)
    assert torch.equal(block(hidden, condition), hidden)
    torch.nn.init.normal_(block.reduce.weight)
    alone = [F.conv2d(hidden[:, c : c + 1], block.depthwise.weight[c : c + 1], padding=3) for c in range(6)]
    inner = torch.cat(alone, dim=1) + block.depthwise.bias[:, None, None]  # pyright: ignore[reportOptionalSubscript]
    inner = (inner - inner.mean(1, keepdim=True)) / (inner.var(1, unbiased=False, keepdim=True) + 1e-5).sqrt()
    scale, shift = block.modulation(condition).split(6, dim=1)
    inner = inner * (1 + scale[:, :, None, None]) + shift[:, :, None, None]
    expected = hidden + block.reduce(F.gelu(block.expand(inner)))
    torch.testing.assert_close(block(hidden, condition), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kernel_size": 4}, "network.kernel_size 4: must be odd; use 3 or use 5"),
        ({"kernel_size": -1}, "network.kernel_size -1: must be at least 1"),
        ({"expansion": 0}, "network.expansion 0: must be at least 1"),
        ({"multipliers": ()}, "network.multipliers: must have at least one number"),
        (
            {"multipliers": (1, 1, 1, 1)},
            "network.patch_size 2: images of 8x8 are reduced to 1x1 at level 2",
        ),
    ],
)
def test_wrong_options_are_named_in_one_line(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as error:
        NETWORKS.build("convnext", (1, 8, 8), 10, **{"width": 8, **options})
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_the_default_is_as_small_as_the_unets() -> None:
    """It has about half a million parameters on 28x28 digits. In equal CPU time it then learns as much as the UNet."""
    count = sum(parameter.numel() for parameter in ConvNeXt((1, 28, 28), 10).parameters())
    assert 450_000 < count < 550_000
