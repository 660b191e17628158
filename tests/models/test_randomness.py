"""Random numbers depend on the seed, the step and the image only."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from models.randomness import MASK, StepRandomness, counted_normals, derive_seed, image_draw, philox

CPU = torch.device("cpu")
# Three numbers of each of two images.
NOISE_OF_SEED_0 = [
    *(0.991137683391571, -0.9246625900268555, -0.6176089644432068),
    *(1.0675901174545288, -0.4253441393375397, -2.3679730892181396),
]
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
    moved.noise((3,))
    moved.noise((3,), "posterior")
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


@pytest.mark.parametrize(
    ("counter", "key", "words"),
    [
        ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        ((MASK,) * 4, (MASK, MASK), (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ],
)
def test_philox_against_published_vectors(
    counter: tuple[int, ...], key: tuple[int, int], words: tuple[int, ...]
) -> None:
    """The vectors are those of Random123 (Salmon et al. 2011), kat_vectors, philox4x32 of 10 rounds."""
    assert tuple(int(word) for word in philox([torch.tensor(word) for word in counter], key)) == words


def test_normals_by_box_muller() -> None:
    """Compare the noise of one image with the formula, number by number, from the words of its counters."""
    seed, index, draw = 0x0123456789ABCDEF, 2**33 + 5, 3
    noise = counted_normals(seed, torch.tensor([index]), draw, 6)[0].tolist()
    expected: list[float] = []
    for block in range(2):
        counter = [torch.tensor(word) for word in (block, draw, index & MASK, index >> 32)]
        words = [int(word) for word in philox(counter, (seed & MASK, seed >> 32))]
        for radius, angle in (words[:2], words[2:]):
            length, turn = math.sqrt(-2 * math.log((radius + 1) / 2**32)), 2 * math.pi * angle / 2**32
            expected += [length * math.cos(turn), length * math.sin(turn)]
    assert noise == pytest.approx(expected[:6], abs=1e-14)


def test_the_noise_of_a_seed_never_changes() -> None:
    """If these numbers change, no earlier image can be generated again."""
    noise = image_draw(0, [0, 1], CPU)((2, 3)).flatten().tolist()
    assert noise == pytest.approx(NOISE_OF_SEED_0, abs=1e-7)


def test_images_draws_and_seeds_differ() -> None:
    """All 64 bits of the seed and of the index count."""
    noises = [
        counted_normals(seed, torch.tensor([index]), draw, 8)
        for seed, index, draw in ((5, 1, 0), (5 + 2**32, 1, 0), (5, 1 + 2**32, 0), (5, 1, 1), (6, 1, 0), (5, 2, 0))
    ]
    assert len({tuple(noise[0].tolist()) for noise in noises}) == len(noises)
