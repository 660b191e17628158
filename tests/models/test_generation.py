"""From a denoiser to uint8 images: the same whatever the batch size, counted, and refused early."""

from __future__ import annotations

import dataclasses
from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from models import generation
from models.diffusion.denoiser import NetworkDenoiser
from models.diffusion.noise_schedules import NoiseSchedule, build_noise_schedule
from models.diffusion.predictions import build_prediction
from models.diffusion.samplers import SAMPLERS
from models.diffusion.times import build_grid
from models.errors import UserError
from models.generation import Generated, Sampling, generate, spaced_steps
from models.model import DenoiserSpec, Model
from models.spaces import Space
from models.spaces.pixels import Pixels
from tests.exact import correlated_gaussian

SHAPE = (1, 2, 3)
CPU = torch.device("cpu")
FLOW = build_noise_schedule("flow")
CHAIN = build_noise_schedule("linear", 20)
PIXELS = Pixels(SHAPE, 0.5)
CLASSES = 3


class ByLabel(nn.Module):
    def forward(self, noisy: Tensor, t: Tensor, label: Tensor | None) -> Tensor:
        known = torch.zeros(len(noisy)) if label is None else label
        return torch.tanh(noisy + known.reshape(-1, 1, 1, 1) / 2 - t.reshape(-1, 1, 1, 1))


DENOISER = NetworkDenoiser(ByLabel(), build_prediction("flow", 1.0))


def model_of(denoiser: Any = DENOISER, schedule: NoiseSchedule = FLOW, space: Space = PIXELS) -> Model:
    spec = DenoiserSpec("unet", {}, space, CLASSES, ("a", "b", "c"), "flow", 0, False, "flow", 0.1)
    return Model(denoiser, schedule, spec, CPU)


def sample(
    sampling: Sampling,
    count: int = 7,
    batch_size: int = 7,
    model: Model | None = None,
    labels: list[int] | None = None,
    seed: int = 0,
    frames: int = 0,
) -> list[Generated]:
    return list(generate(model or model_of(), sampling, count, labels, seed, batch_size, frames))


def images(batches: list[Generated]) -> Tensor:
    return torch.cat([batch.images for batch in batches])


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_the_batch_size_changes_nothing(sampler: str) -> None:
    labels = [0, 1, 2, 0, 1, 2, 0]
    sampling = Sampling(sampler, steps=4, guidance_scale=2.0)
    whole = sample(sampling, labels=labels)
    for batch_size in (1, 3, 100):
        parts = sample(sampling, batch_size=batch_size, labels=labels)
        assert len(parts) == -(-7 // batch_size)
        assert images(parts).equal(images(whole))
        kept = [batch.labels for batch in parts if batch.labels is not None]
        assert torch.cat(kept).tolist() == labels


def test_images_are_bytes_of_the_right_shape_and_differ() -> None:
    found = images(sample(Sampling("euler", steps=3)))
    assert found.dtype == torch.uint8
    assert found.shape == (7, *SHAPE)
    assert len({each.numpy().tobytes() for each in found}) == 7


def test_seed_label_and_guidance_act() -> None:
    sampling = Sampling("euler", steps=3)
    plain = images(sample(sampling, labels=[0] * 7))
    assert images(sample(sampling, labels=[0] * 7)).equal(plain)
    assert not images(sample(sampling, labels=[0] * 7, seed=1)).equal(plain)
    assert not images(sample(sampling, labels=[2] * 7)).equal(plain)
    guided = dataclasses.replace(sampling, guidance_scale=4.0)
    assert not images(sample(guided, labels=[0] * 7)).equal(plain)
    rescaled = dataclasses.replace(guided, guidance_rescale=0.7)
    assert not images(sample(rescaled, labels=[0] * 7)).equal(images(sample(guided, labels=[0] * 7)))
    outside = dataclasses.replace(guided, guidance_interval=(0.01, 0.02))
    assert images(sample(outside, labels=[0] * 7)).equal(plain)


def test_samples_of_gaussian_data_have_its_moments() -> None:
    """Through the whole path: noise, sampler, clip and bytes."""
    exact = correlated_gaussian(FLOW, SHAPE)
    exact.mean, exact.variances = exact.mean / 8, exact.variances / 50
    sampling = Sampling("heun", steps=20, clip=False)
    found = PIXELS.encode(images(sample(sampling, 3000, 1000, model_of(exact)))).double().flatten(1)
    torch.testing.assert_close(found.mean(0), exact.mean.flatten(), rtol=0, atol=0.015)
    covariance = exact.basis @ exact.variances.diag() @ exact.basis.T
    torch.testing.assert_close(torch.cov(found.T), covariance, rtol=0, atol=0.004)


@pytest.mark.parametrize(
    ("clip", "bounds", "clipped"), [(True, (-1, 1), True), (False, (-1, 1), False), (True, None, False)]
)
def test_only_the_clean_estimate_is_clipped_and_only_where_the_space_ends(
    clip: bool, bounds: tuple[float, float] | None, clipped: bool
) -> None:
    @dataclasses.dataclass(frozen=True)
    class Seen(Pixels):
        """A space that shows what it was given."""

        bounds: tuple[float, float] | None

        def decode(self, clean: Tensor) -> Tensor:
            return clean

    exact = correlated_gaussian(FLOW, SHAPE)
    exact.mean = exact.mean * 0 + 3
    sampling = Sampling("ddim", steps=4, clip=clip)
    model = model_of(exact, space=Seen(SHAPE, 1.0, bounds))
    (batch,) = generate(model, sampling, 50, None, 0, 50, frames=4)
    assert all((estimate.max() <= 1) == clipped for estimate in batch.estimates)
    assert (batch.images.max() <= 1 + 1e-6) == clipped
    assert batch.frames[1].max() > 1.5


# sampler, guidance, network evaluations per image of 5 steps
COSTS = [
    ("ddim", 1.0, 5.0),
    ("ddim", 2.0, 10.0),
    ("ddim", 0.0, 5.0),
    ("unipc", 1.0, 5.0),
    ("heun", 1.0, 9.0),
    ("heun", 2.0, 18.0),
    ("midpoint", 1.0, 10.0),
]


@pytest.mark.parametrize(("sampler", "scale", "cost"), COSTS)
def test_network_evaluations_are_counted(sampler: str, scale: float, cost: float) -> None:
    batches = sample(Sampling(sampler, steps=5, guidance_scale=scale), batch_size=4, labels=[0] * 7)
    assert [batch.nfe for batch in batches] == [cost, cost]


def test_the_weaker_network_is_counted_too() -> None:
    weak = model_of(NetworkDenoiser(ByLabel(), build_prediction("flow", 1.0)))
    (batch,) = sample(Sampling("ddim", steps=5, guidance_scale=2.0, weak=weak), labels=[0] * 7)
    assert batch.nfe == 10
    with pytest.raises(UserError, match="autoguidance: it does nothing at guidance_scale 1"):
        sample(Sampling("ddim", steps=5, weak=weak), labels=[0] * 7)


@given(steps=st.integers(1, 60), frames=st.integers(0, 80))
def test_frames_are_moments_from_noise_to_the_image(steps: int, frames: int) -> None:
    (batch,) = sample(Sampling("euler", steps=steps), 1, 1, frames=frames)
    wanted = min(frames, steps)
    if frames == 0:
        assert (batch.frame_times, batch.frames, batch.estimates) == ([], [], [])
        return
    assert len(batch.estimates) == wanted
    assert len(batch.frames) == len(batch.frame_times) == wanted + 1
    assert batch.frame_times[0] == 1
    assert batch.frame_times[-1] == 0
    assert batch.frame_times == sorted(set(batch.frame_times), reverse=True)
    assert batch.frames[-1].equal(batch.images)
    gaps = [round((a - b) * steps) for a, b in zip(batch.frame_times, batch.frame_times[1:], strict=False)]
    assert max(gaps) - min(gaps) <= 1


def test_no_gradients_are_kept() -> None:
    class Learning(ByLabel):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(()))

        def forward(self, noisy: Tensor, t: Tensor, label: Tensor | None) -> Tensor:
            assert not torch.is_grad_enabled()
            return self.scale * super().forward(noisy, t, label)

    sample(Sampling("euler", steps=2), model=model_of(NetworkDenoiser(Learning(), build_prediction("flow", 1.0))))


def test_titles() -> None:
    assert Sampling("ddim", 50).describe() == "ddim, 50 steps"
    busy = Sampling("ddim", 10, "karras", {"eta": 0.5}, guidance_scale=2.5)
    assert busy.describe() == "ddim, eta 0.5, 10 steps, karras grid, guidance 2.5"
    narrow = Sampling("heun", 9, guidance_scale=3, guidance_interval=(0.1, 0.8), guidance_rescale=0.7, clip=False)
    assert narrow.describe() == "heun, 9 steps, guidance 3 in 0.1 <= flow time <= 0.8, rescaled 0.7, not clipped"


WRONG: list[tuple[Sampling, str]] = [
    (Sampling("dimm"), "sampler 'dimm': choose from"),
    (
        Sampling("euler", steps=5, options={"eta": 0.5}),
        "eta: sampler euler does not have it; use sampler ddim",
    ),
    (Sampling("ddim", steps=5, options={"nonsense": 1}), "nonsense: sampler ddim does not have it"),
    (Sampling("ddim", steps=5, options={"eta": 2.0}), r"eta 2\.0"),
    (Sampling("unipc", steps=5, options={"order": 9}), "order 9: must be at least 1 and at most 3"),
    (Sampling("ddpm", steps=5, options={"variance": "none"}), "variance none: must be one of posterior, beta"),
    (Sampling("sde", steps=5, options={"diffusion": -0.1}), r"diffusion -0\.1"),
    (Sampling("ddim", steps=0), "steps 0: must be at least 1"),
    (Sampling("ddim", steps=21), "steps 21: must be at most 20, the length of the chain"),
    (Sampling("ddim", steps=5, grid="even"), "grid 'even': choose from"),
    (Sampling("ddim", steps=5, guidance_interval=(0.6, 0.2)), r"guidance_interval 0\.6 0\.2"),
    (Sampling("ddim", steps=5, guidance_interval=(-0.1, 0.2)), "guidance_interval"),
    (Sampling("ddim", steps=5, guidance_rescale=1.2), r"guidance_rescale 1\.2"),
]


@pytest.mark.parametrize(("sampling", "message"), WRONG)
def test_what_cannot_be_sampled_is_refused_before_the_first_step(sampling: Sampling, message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        sampling.check(model_of(schedule=CHAIN))
    assert "\n" not in str(error.value)
    with pytest.raises(UserError, match=message):
        sample(sampling, model=model_of(NetworkDenoiser(ByLabel(), build_prediction("v", 1.0)), CHAIN))


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_what_can_be_sampled_is_not_refused(sampler: str) -> None:
    for schedule in (CHAIN, FLOW, build_noise_schedule("cosine", 1, zero_terminal_snr=True)):
        Sampling(sampler, steps=1).check(model_of(schedule=schedule))


@pytest.mark.parametrize("grid", ["uniform", "flow_time", "karras", "log_snr"])
@pytest.mark.parametrize("schedule", [FLOW, build_noise_schedule("cosine", 100), build_noise_schedule("linear", 100)])
@pytest.mark.parametrize("count", [1, 5, 10])
def test_kept_frames_are_apart_in_flow_time(grid: str, schedule: NoiseSchedule, count: int) -> None:
    levels = build_grid(grid, schedule, 30)
    kept = sorted(spaced_steps(levels, count))
    times = [levels[index + 1].flow_time.item() for index in kept]
    assert len(kept) <= count and kept[-1] == 29 and times[-1] == 0
    assert all(one - other > 0.4 / count for one, other in pairwise([1.0, *times]))


def test_all_steps_are_kept_if_there_are_few() -> None:
    assert spaced_steps(build_grid("uniform", FLOW, 4), 40) == {0, 1, 2, 3}
    assert spaced_steps(build_grid("uniform", FLOW, 4), 0) == set()


def test_options_of_a_sampler_are_given_by_name_or_together() -> None:
    by_name = generation.sample(model_of(), 2, sampler="ddim", steps=3, eta=0.5)
    assert by_name.equal(generation.sample(model_of(), 2, sampler="ddim", steps=3, options={"eta": 0.5}))
    assert not by_name.equal(generation.sample(model_of(), 2, sampler="ddim", steps=3))
