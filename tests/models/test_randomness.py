"""Random numbers depend on the seed, the step and the image only."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from models.randomness import StepRandomness, derive_seed, image_draw

CPU = torch.device("cpu")
PARTS = st.lists(st.one_of(st.integers(-(2**70), 2**70), st.text(max_size=5)), max_size=4).map(tuple)


def step_randomness(seed: int = 1, step: int = 2, start: int = 0, stop: int = 12) -> StepRandomness:
    return StepRandomness(seed, step, 12, start, stop, CPU)


@given(first=PARTS, second=PARTS)
def test_different_parts_give_different_seeds(first: tuple[int | str, ...], second: tuple[int | str, ...]) -> None:
    assert 0 <= derive_seed(*first) < 2**63
    assert (derive_seed(*first) == derive_seed(*second)) == (first == second)


def test_similar_parts_give_different_seeds() -> None:
    similar = [(5,), (5, 0), (0, 5), (2**32 + 5, 7), (5, 1, 7), ("5",), (-5,)]
    assert len({derive_seed(*parts) for parts in similar}) == len(similar)


def test_seeds_are_the_same_in_every_process() -> None:
    """If this number changes, no earlier run can be repeated."""
    assert derive_seed(0, 7, "noise") == 3_517_190_806_397_771_315


@pytest.mark.parametrize("bounds", [(0, 12), (0, 5), (5, 12), (11, 12)])
def test_parts_of_a_batch_are_slices_of_the_global_batch(bounds: tuple[int, int]) -> None:
    """Gradient accumulation and the world size change nothing."""
    whole, part = step_randomness(), step_randomness(start=bounds[0], stop=bounds[1])
    assert part.uniform("times").equal(whole.uniform("times"))
    assert part.part(part.uniform("labels")).equal(whole.uniform("labels")[slice(*bounds)])
    assert part.noise((1, 3, 4)).equal(whole.noise((1, 3, 4))[slice(*bounds)])


def test_steps_seeds_and_streams_differ() -> None:
    base = step_randomness()
    assert base.uniform("times").equal(step_randomness().uniform("times"))
    noise = base.noise((2,))
    for other in (step_randomness(seed=2), step_randomness(step=3)):
        assert not other.uniform("times").equal(base.uniform("times"))
        assert not other.noise((2,)).equal(noise)
    assert not base.uniform("times").equal(base.uniform("labels"))


def test_a_step_does_not_depend_on_the_steps_before() -> None:
    """The generators are kept and seeded again. `rows` are those of the plan."""
    moved = step_randomness(step=1)
    moved.noise((3,)), moved.noise((3,), "posterior")
    moved.move_to(2, 4, 8)
    moved.rows = torch.arange(4, 8)
    new = step_randomness(start=4, stop=8)
    for stream in ("noise", "posterior", "another"):
        assert moved.noise((3,), stream).equal(new.noise((3,), stream))
    assert moved.uniform("times").equal(new.uniform("times"))


def test_no_global_state_is_read_or_changed() -> None:
    torch.manual_seed(0)
    before = torch.random.get_rng_state()
    first = step_randomness().noise((3,))
    drawn = image_draw(0, [0, 1], CPU)((2, 3))
    assert torch.random.get_rng_state().equal(before)
    torch.manual_seed(99)
    assert step_randomness().noise((3,)).equal(first)
    assert image_draw(0, [0, 1], CPU)((2, 3)).equal(drawn)


def test_dropout_is_a_function_of_step_and_part() -> None:
    def mask(randomness: StepRandomness) -> torch.Tensor:
        randomness.seed_dropout()
        return torch.nn.functional.dropout(torch.ones(64), 0.5)

    state = torch.random.get_rng_state()
    assert mask(step_randomness()).equal(mask(step_randomness()))
    assert not mask(step_randomness()).equal(mask(step_randomness(step=3)))
    assert not mask(step_randomness()).equal(mask(step_randomness(start=6)))
    torch.random.set_rng_state(state)


@given(sizes=st.lists(st.integers(1, 5), min_size=1, max_size=5), calls=st.integers(1, 3))
def test_the_batch_size_does_not_change_the_noise_of_an_image(sizes: list[int], calls: int) -> None:
    count = sum(sizes)
    draw = image_draw(7, range(count), CPU)
    together = [draw((count, 1, 2, 3)) for _ in range(calls)]
    start = 0
    for size in sizes:
        part = image_draw(7, range(start, start + size), CPU)
        for whole in together:
            assert part((size, 1, 2, 3)).equal(whole[start : start + size])
        start += size


def test_image_noise_is_standard_normal() -> None:
    noise = image_draw(0, range(64), CPU)((64, 3, 16, 16))
    assert noise.dtype == torch.float32
    assert noise.mean().item() == pytest.approx(0, abs=0.02)
    assert noise.var().item() == pytest.approx(1, abs=0.02)
    correlation = torch.corrcoef(noise.flatten(1)) - torch.eye(64)
    assert correlation.abs().max() < 0.2


def test_seeds_that_agree_in_32_bits_give_different_noise() -> None:
    """torch's CPU generator uses 32 bits of its seed; the generators of images must use all 63."""
    first, second = torch.Generator().manual_seed(5), torch.Generator().manual_seed(5 + 2**32)
    assert torch.randn(4, generator=first).equal(torch.randn(4, generator=second))
    low_bits: dict[int, int] = {}
    for index in range(300_000):
        seed = derive_seed(0, "image", index) & 0xFFFFFFFF
        if seed in low_bits:
            other = low_bits[seed]
            noise = image_draw(0, [other, index], CPU)((2, 8))
            assert not noise[0].equal(noise[1])
            return
        low_bits[seed] = index
    raise AssertionError("no two of 300,000 seeds agree in 32 bits, which is very unlikely")
