"""Other initial noises have the moments of a Gaussian, and couplings only deal them out anew."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from models.diffusion.denoiser import NetworkDenoiser
from models.diffusion.losses import DenoisingLoss
from models.diffusion.noise import COUPLINGS, INITIAL_NOISES, shape_noise
from models.diffusion.noise_schedules import build_noise_schedule
from models.diffusion.predictions import build_prediction
from models.diffusion.samplers import SAMPLERS
from models.diffusion.times import TimeDensity
from models.errors import UserError
from models.generation import Sampling, generate
from models.model import DenoiserSpec, Model
from models.randomness import StepRandomness
from models.spaces.pixels import Pixels

FLOW = build_noise_schedule("flow")
OTHERS = [name for name in INITIAL_NOISES if name != "gaussian"]
# Samplers, with their options, that add fresh noise on their way.
FRESH = [("ddpm", {}), ("sde", {}), ("dpmpp_2m_sde", {}), ("ddim", {"eta": 1.0}), ("dpmpp_2m", {"eta": 0.5})]


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("name", INITIAL_NOISES)
def test_mean_zero_and_variance_one(name: str) -> None:
    noise = shape_noise(name, normal(200_000))
    assert noise.dtype == torch.float32
    assert abs(noise.mean()) < 0.01 and abs(noise.var() - 1) < 0.01


def test_what_they_are() -> None:
    gaussian = normal(10_000)
    assert shape_noise("gaussian", gaussian).equal(gaussian)
    assert shape_noise("bernoulli", gaussian).unique().tolist() == [-1, 1]
    uniform = shape_noise("uniform", gaussian)
    assert uniform.abs().max() <= math.sqrt(3)
    quantiles = uniform.quantile(torch.tensor([0.25, 0.5, 0.75])) / math.sqrt(3)
    assert quantiles.tolist() == pytest.approx([-0.5, 0, 0.5], abs=0.03)
    assert uniform[gaussian.argsort()].diff().min() >= 0  # the order is kept


def test_an_unknown_one() -> None:
    with pytest.raises(UserError, match="initial_noise 'cauchy': choose from gaussian"):
        shape_noise("cauchy", normal(2))
    for field, word in (("initial_noise", "initial_noise"), ("coupling", "coupling")):
        with pytest.raises(UserError, match=f"{word} 'best'"):
            DenoisingLoss("l2", "uniform", None, TimeDensity("uniform"), 0.0, 0, **{field: "best"})


# -- couplings --------------------------------------------------------------------------------------------------------


def total(clean: Tensor, noise: Tensor) -> float:
    return (clean - noise).double().square().sum().item()


@given(
    labels=st.lists(st.integers(0, 2), min_size=1, max_size=12),
    labelled=st.booleans(),
    seed=st.integers(0, 1000),
    size=st.integers(1, 3),
)
def test_optimal_is_a_permutation_within_each_class_that_costs_no_more(labels, labelled, seed, size) -> None:
    clean, noise = normal(len(labels), 2, size, size, seed=seed), normal(len(labels), 2, size, size, seed=seed + 1)
    label = torch.tensor(labels) if labelled else None
    before = noise.clone()
    coupled = COUPLINGS["optimal"](clean, noise, label)
    assert noise.equal(before) and COUPLINGS["independent"](clean, noise, label).equal(noise)
    assert total(clean, coupled) <= total(clean, noise) * (1 + 1e-6)
    groups = (
        [torch.tensor(labels) == k for k in set(labels)] if labelled else [torch.ones(len(labels), dtype=torch.bool)]
    )
    for members in groups:
        assert sorted(coupled[members].flatten(1).tolist()) == sorted(noise[members].flatten(1).tolist())


@pytest.mark.parametrize("count", [1, 2, 3, 5, 6])
def test_optimal_equals_the_best_of_all_permutations(count: int) -> None:
    for seed in range(5):
        clean, noise = normal(count, 1, 2, 2, seed=seed), normal(count, 1, 2, 2, seed=100 + seed)
        best = min(total(clean, noise[list(order)]) for order in itertools.permutations(range(count)))
        assert total(clean, COUPLINGS["optimal"](clean, noise, None)) == pytest.approx(best, rel=1e-6)


def test_in_one_dimension_optimal_keeps_the_order() -> None:
    clean, noise = normal(50, 1, 1, 1), normal(50, 1, 1, 1, seed=1)
    coupled = COUPLINGS["optimal"](clean, noise, None)
    assert coupled.flatten()[clean.flatten().argsort()].diff().min() >= 0


# -- through the loss and the samplers --------------------------------------------------------------------------------


class Recorder(nn.Module):
    """A network that answers zero and keeps what it saw."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Tensor] = []

    def forward(self, noisy: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        self.seen.append(noisy)
        return torch.zeros_like(noisy)


def one_loss(**options: str) -> tuple[Tensor, Tensor]:
    """Losses of a flow whose network answers zero, |noise - clean|^2, and what the network saw."""
    loss = DenoisingLoss("l2", "uniform", None, TimeDensity("uniform"), 0.0, 3, **options)
    network = Recorder()
    clean, label = 0.5 * normal(64, 1, 2, 2, seed=9), torch.arange(64) % 3
    randomness = StepRandomness(0, 0, 64, 0, 64, torch.device("cpu"))
    denoiser = NetworkDenoiser(network, build_prediction("flow", 1.0))
    plan = loss.plan(FLOW, denoiser.prediction, randomness)
    return loss(denoiser, clean, label, plan, randomness), network.seen[0]


def test_the_loss_trains_on_the_chosen_noise() -> None:
    gaussian, noisy = one_loss()
    for name in OTHERS:
        losses, other = one_loss(initial_noise=name)
        assert losses.isfinite().all() and not other.equal(noisy)
    assert one_loss(coupling="optimal")[0].mean() < gaussian.mean()
    assert one_loss(coupling="independent")[0].equal(gaussian)


def model_of(initial_noise: str, denoiser: NetworkDenoiser | None = None) -> Model:
    spec = DenoiserSpec("unet", {}, Pixels((1, 2, 2), 1.0), 0, (), "flow", 0, False, "flow", 0.0, initial_noise)
    denoiser = denoiser or NetworkDenoiser(Recorder(), build_prediction("flow", 1.0))
    return Model(denoiser, FLOW, spec, torch.device("cpu"))


@pytest.mark.parametrize("name", OTHERS)
def test_samplers_start_from_the_noise_of_training(name: str) -> None:
    denoiser = NetworkDenoiser(Recorder(), build_prediction("flow", 1.0))
    (made,) = generate(model_of(name, denoiser), Sampling("euler", steps=2), 3, None, 0, 3)
    network = denoiser.network
    assert isinstance(network, Recorder) and made.images.shape == (3, 1, 2, 2)
    assert network.seen[0].abs().max() <= math.sqrt(3)
    assert (network.seen[0].abs() == 1).all() == (name == "bernoulli")


@pytest.mark.parametrize("name", OTHERS)
@pytest.mark.parametrize(("sampler", "options"), FRESH, ids=lambda value: str(value))
def test_samplers_with_fresh_noise_refuse_other_initial_noise(sampler: str, options: dict, name: str) -> None:
    sampling = Sampling(sampler, 4, options=options)
    sampling.check(model_of("gaussian"))
    with pytest.raises(UserError, match=f"sampler {sampler}: it adds Gaussian noise, .* {name} noise"):
        sampling.check(model_of(name))


@pytest.mark.parametrize("sampler", [name for name in SAMPLERS if (name, {}) not in FRESH])
def test_deterministic_samplers_take_any(sampler: str) -> None:
    for name in INITIAL_NOISES:
        Sampling(sampler, 4).check(model_of(name))
