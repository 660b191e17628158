"""UNet: all options that fit give a working network, and those that do not fit are refused by name."""

from typing import Any

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from models.errors import UserError
from models.networks.unet import UNet
from models.variants import NETWORKS


@settings(max_examples=25)
@given(
    shape=st.tuples(st.integers(1, 4), st.integers(2, 21), st.integers(2, 21)),
    classes=st.integers(0, 3),
    width=st.integers(1, 5).map(lambda n: 2 * n),
    multipliers=st.lists(st.integers(1, 3), min_size=1, max_size=4).map(tuple),
    blocks=st.integers(1, 2),
    attention=st.booleans(),
    heads=st.integers(1, 2),
    patch_size=st.integers(1, 3),
)
def test_whatever_fits_works(
    shape: tuple[int, int, int],
    classes: int,
    width: int,
    multipliers: tuple[int, ...],
    blocks: int,
    attention: bool,
    heads: int,
    patch_size: int,
) -> None:
    smallest = min(shape[1:])
    folded = -(-smallest // patch_size)
    levels = len(multipliers)
    assume(all(-(-folded // 2**level) >= 2 for level in range(levels)))
    network = UNet(
        shape,
        classes,
        width=width,
        multipliers=multipliers,
        blocks=blocks,
        attention_levels=tuple(range(levels)) if attention else (),
        heads=heads,
        patch_size=patch_size,
    )
    noisy = torch.randn(2, *shape)
    answer = network(noisy, torch.rand(2), torch.zeros(2, dtype=torch.int64) if classes else None)
    assert answer.shape == noisy.shape
    answer.square().sum().backward()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"multipliers": ()}, "network.multipliers: must have at least one number"),
        ({"multipliers": (1, 0)}, "network.multipliers 1 0: must be at least 1"),
        ({"blocks": 0}, "network.blocks 0: must be at least 1"),
        ({"attention_levels": (2,)}, "network.attention_levels 2: must be below 2, the number of levels; use more"),
        ({"attention_levels": (-1,)}, "network.attention_levels -1: must be at least 0"),
        (
            {"multipliers": (1, 2, 4, 8)},
            "network.patch_size 1: images of 8x8 are reduced to 1x1 at level 3",
        ),
        (
            {"multipliers": (1, 3), "heads": 9},
            "heads 9: does not divide the 24 channels of attention level 1; use one of 1, 2,",
        ),
    ],
)
def test_levels_that_do_not_fit_are_named_in_one_line(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as error:
        NETWORKS.build("unet", (1, 8, 8), 10, **{"width": 8, "patch_size": 1, **options})
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_an_oblong_image_is_judged_by_its_shorter_side() -> None:
    UNet((1, 4, 64), 0, width=4, multipliers=(1, 1), patch_size=1)
    with pytest.raises(UserError, match="images of 4x64 are reduced to 1x16 at level 2"):
        UNet((1, 4, 64), 0, width=4, multipliers=(1, 1, 1), patch_size=1)


def test_attention_stands_on_the_chosen_levels_only() -> None:
    def attended(*levels: int) -> set[str]:
        network = UNet((1, 16, 16), 0, width=4, multipliers=(1, 1, 1), attention_levels=levels, patch_size=1)
        keys = [key for key in network.levels.state_dict() if key.endswith("qkv.weight")]
        return {key.removesuffix(".0.qkv.weight") for key in keys}

    assert attended() == set()
    assert attended(0) == {"down.0.attention", "up.2.attention"}
    assert attended(1) == {"down.1.attention", "up.1.attention"}
    assert attended(2) == {"middle_attention"}


def test_every_pixel_can_depend_on_every_other() -> None:
    """Attention on the lowest level connects the corners. The convolutions of so few blocks alone do not."""
    shape = (1, 64, 64)
    for levels, reaches in (((1,), True), ((), False)):
        network = UNet(shape, 0, width=4, attention_levels=levels, patch_size=1)
        for parameter in network.parameters():
            torch.nn.init.normal_(parameter, std=0.3)
        for norm in (module for module in network.modules() if isinstance(module, torch.nn.GroupNorm)):
            norm.register_forward_hook(lambda _module, args, _output: args[0])  # norms connect all pixels, too
        noisy = torch.randn(1, *shape, requires_grad=True)
        network(noisy, torch.rand(1))[..., 0, 0].sum().backward()
        assert noisy.grad is not None
        assert (noisy.grad[..., -1, -1].abs().item() > 0) is reaches


def test_parameter_names_stay() -> None:
    """Checkpoints use these names as keys."""
    network = UNet((1, 8, 8), 10, width=8)
    assert {key.split(".")[0] for key in network.state_dict()} == {"condition", "stem", "levels", "norm", "head"}
    parts = {key.split(".")[0] for key in network.levels.state_dict()}
    assert parts == {"down", "middle_in", "middle_attention", "middle_out", "up"}


def test_the_default_is_the_small_one() -> None:
    """It has about half a million parameters on 28x28 digits, which two CPU cores train in ten minutes."""
    count = sum(parameter.numel() for parameter in UNet((1, 28, 28), 10).parameters())
    assert 450_000 < count < 550_000
