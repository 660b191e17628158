"""Autoencoders: all shapes and latent shapes that halving reaches, and losses against torch's distributions."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.distributions import Bernoulli, Normal, kl_divergence

from models.autoencoders import LARGEST_LOG_VARIANCE, SMALLEST_LOG_VARIANCE, AutoencoderNetwork, Coded
from models.autoencoders.autoencoder import KINDS, LIKELIHOODS, AutoencoderSpec
from models.autoencoders.conv import Conv
from models.autoencoders.loss import AutoencoderLoss, unit_kl
from models.errors import UserError
from models.training.autoencoder_objective import AutoencoderObjective
from models.variants import AUTOENCODERS

DIGIT = (1, 8, 8)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def stirred(network: AutoencoderNetwork) -> AutoencoderNetwork:
    """Add noise to all weights, so that none is zero."""
    for index, parameter in enumerate(network.parameters()):
        parameter.data += 0.1 * normal(*parameter.shape, seed=index)
    return network


def spec(kind: str = "vae", likelihood: str = "l2", **options: Any) -> AutoencoderSpec:
    options = {"width": 8, "latent_shape": (2, 4, 4), **options}
    return AutoencoderSpec(kind, "conv", options, DIGIT, ("a", "b"), likelihood)


# -- shapes -----------------------------------------------------------------------------------------------------------


@st.composite
def shapes(draw: st.DrawFn) -> tuple[tuple[int, int, int], int, tuple[int, int, int]]:
    """Draw an image's shape, a patch size, and a latent shape that halving reaches."""
    sides = draw(st.integers(1, 21)), draw(st.integers(1, 21))
    patch_size = draw(st.integers(1, 3))
    height, width = (math.ceil(side / patch_size) for side in sides)
    for _ in range(draw(st.integers(0, 5))):
        height, width = math.ceil(height / 2), math.ceil(width / 2)
    return (draw(st.sampled_from([1, 3])), *sides), patch_size, (draw(st.integers(1, 5)), height, width)


@settings(max_examples=25)
@given(shapes=shapes(), variational=st.booleans(), count=st.integers(1, 3))
def test_any_shape_to_any_latent_shape_and_back(shapes, variational: bool, count: int) -> None:
    shape, patch_size, latent_shape = shapes
    network = Conv(shape, variational, latent_shape=latent_shape, width=8, patch_size=patch_size).eval()
    coded = network(normal(count, *shape), normal(count, *latent_shape))
    assert coded.output.shape == (count, *shape) and coded.mean.shape == (count, *latent_shape)
    assert network.latent_shape == latent_shape
    assert (coded.log_variance is not None) == variational
    assert all(part.dtype == torch.float32 and part.isfinite().all() for part in coded if part is not None)


@pytest.mark.parametrize(
    ("shape", "latent_shape"),
    [((1, 28, 28), (2, 4, 4)), ((1, 28, 28), (1, 7, 7)), ((1, 28, 28), (4, 7, 7)), ((3, 32, 32), (4, 8, 8))],
)
def test_the_shapes_that_people_ask_for(shape, latent_shape) -> None:
    assert Conv(shape, True, latent_shape=latent_shape, width=8).latent_shape == latent_shape


@pytest.mark.parametrize(
    ("shape", "expected"),
    [((1, 28, 28), (4, 7, 7)), ((3, 32, 32), (4, 8, 8)), ((1, 8, 8), (4, 4, 4)), ((3, 20, 36), (4, 5, 9))],
)
def test_the_default_latent_is_small_and_not_too_small(shape, expected) -> None:
    assert Conv(shape, True, width=8).latent_shape == expected


def test_latent_shapes_that_cannot_be_reached() -> None:
    with pytest.raises(
        UserError, match=r"^network\.latent_shape 4 5 5: cannot be .* a 28x28 image .*heights and widths: 14 14, 7 7,"
    ):
        Conv((1, 28, 28), True, latent_shape=(4, 5, 5))
    with pytest.raises(UserError, match=r"^network\.latent_shape 0 7 7: must be at least 1$"):
        AUTOENCODERS.build("conv", (1, 28, 28), True, latent_shape=(0, 7, 7))


# -- the network ------------------------------------------------------------------------------------------------------


def test_the_latent_is_a_draw_from_the_posterior() -> None:
    network = stirred(Conv(DIGIT, True, latent_shape=(2, 4, 4), width=8)).eval()
    images, noise = normal(5, *DIGIT), normal(5, 2, 4, 4, seed=1)
    coded = network(images, noise)
    assert coded.log_variance is not None and coded.log_variance.std() > 0
    drawn = coded.mean + (0.5 * coded.log_variance).exp() * noise
    torch.testing.assert_close(network.decode(drawn), coded.output)
    torch.testing.assert_close(network.decode(coded.mean), network(images).output)


def test_log_variances_stay_within_what_float32_can_take() -> None:
    network = Conv(DIGIT, True, latent_shape=(2, 4, 4), width=8)
    for value, expected in ((1e6, LARGEST_LOG_VARIANCE), (-1e6, SMALLEST_LOG_VARIANCE)):
        assert network.posterior.bias is not None
        nn.init.constant_(network.posterior.bias, value)
        _, log_variance = network.encode(normal(1, *DIGIT))
        assert log_variance is not None and (log_variance == expected).all()


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
@pytest.mark.parametrize("kind", KINDS)
def test_gradients_reach_every_parameter(kind: str, likelihood: str) -> None:
    network = stirred(spec(kind, likelihood, blocks=2).build_network())
    images = torch.tanh(normal(4, *DIGIT))
    coded = network(images, normal(4, 2, 4, 4, seed=1) if kind == "vae" else None)
    AutoencoderLoss(likelihood, 1.0, 0, 0.0)(coded, images)[0].mean().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().max() > 0, name


def test_a_spec_comes_back_from_its_facts() -> None:
    one = spec("autoencoder", "bernoulli")
    assert AutoencoderSpec.from_facts(one.facts()) == one
    with pytest.raises(UserError, match="does not describe an autoencoder"):
        AutoencoderSpec.from_facts({"shape": [1, 8, 8]})
    with pytest.raises(UserError, match=r"^kind gan: must be one of vae, autoencoder"):
        spec("gan")
    with pytest.raises(UserError, match=r"^reconstruction l3: must be one of l2, l1, bernoulli"):
        spec(likelihood="l3")


# -- the loss ---------------------------------------------------------------------------------------------------------


def coded(seed: int = 0, count: int = 6) -> Coded:
    return Coded(
        normal(count, *DIGIT, seed=seed), normal(count, 2, 2, 2, seed=seed + 1), normal(count, 2, 2, 2, seed=seed + 2)
    )


def images_like(result: Coded) -> Tensor:
    return torch.tanh(normal(*result.output.shape, seed=7))


def test_kl_is_that_of_torch() -> None:
    result = coded()
    assert result.log_variance is not None
    expected = kl_divergence(Normal(result.mean, (result.log_variance / 2).exp()), Normal(0.0, 1.0))
    torch.testing.assert_close(unit_kl(result.mean, result.log_variance), expected)
    assert (unit_kl(result.mean, None) == 0).all()


def test_the_weighted_sum_per_pixel() -> None:
    result, images = coded(), images_like(coded())
    loss, reconstruction, kl = AutoencoderLoss("l2", 3.0, 0, 0.0)(result, images)
    torch.testing.assert_close(reconstruction, (result.output - images).square().flatten(1).mean(1))
    torch.testing.assert_close(kl, unit_kl(result.mean, result.log_variance).flatten(1).sum(1))
    torch.testing.assert_close(loss, reconstruction + 3.0 * kl / 64)


def test_reconstructions_are_log_likelihoods_up_to_a_constant() -> None:
    """l2 is a Gaussian with variance 1/2, l1 a Laplacian with scale 1, bernoulli a Bernoulli's cross-entropy."""
    result = coded()
    images = images_like(result)
    output = result.output
    gaussian = -Normal(output, math.sqrt(0.5)).log_prob(images) - 0.5 * math.log(math.pi)
    laplacian = -torch.distributions.Laplace(output, 1.0).log_prob(images) - math.log(2)
    bernoulli = -Bernoulli(logits=output, validate_args=False).log_prob((images + 1) / 2)
    for name, expected in (("l2", gaussian), ("l1", laplacian), ("bernoulli", bernoulli)):
        _, reconstruction, _ = AutoencoderLoss(name, 0.0, 0, 0.0)(result, images)
        torch.testing.assert_close(reconstruction, expected.flatten(1).mean(1))


@pytest.mark.parametrize(("likelihood", "output"), [("l1", 0.25), ("l2", 0.25), ("bernoulli", math.log(0.625 / 0.375))])
def test_the_best_output_stands_for_the_image(likelihood: str, output: float) -> None:
    """For an image of 0.25, each likelihood is largest at an output that represents an image of 0.25."""
    distance, image = LIKELIHOODS[likelihood]
    candidates = torch.linspace(-2, 2, 4001)
    best = candidates[distance(candidates, torch.full_like(candidates, 0.25)).argmin()]
    assert best.item() == pytest.approx(output, abs=2e-3) and image(best).item() == pytest.approx(0.25, abs=1e-3)


def test_the_weight_warms_up() -> None:
    result, images = coded(), images_like(coded())
    warming, full = AutoencoderLoss("l2", 2.0, 10, 0.0), AutoencoderLoss("l2", 2.0, 0, 0.0)
    _, reconstruction, kl = full(result, images)
    for step, share in ((0, 0.0), (5, 0.5), (10, 1.0), (99, 1.0)):
        losses, _, _ = warming(result, images, warming.kl_weight_at(step))
        torch.testing.assert_close(losses, reconstruction + share * 2.0 * kl / 64)
    assert full.kl_weight_at(0) == full.kl_weight == 2.0
    torch.testing.assert_close(warming(result, images)[0], full(result, images)[0])


def test_free_bits_do_not_push_units_below_them() -> None:
    mean = torch.tensor([0.1, 3.0]).reshape(1, 2, 1, 1).requires_grad_()
    result = Coded(torch.zeros(1, *DIGIT), mean, torch.zeros(1, 2, 1, 1))
    loss, reconstruction, kl = AutoencoderLoss("l2", 64.0, 0, 0.5)(result, torch.zeros(1, *DIGIT))
    assert kl.item() == pytest.approx(0.005 + 4.5)  # the logged KL is the true one
    assert (loss - reconstruction).item() == pytest.approx(0.5 + 4.5)
    loss.sum().backward()
    assert mean.grad is not None and mean.grad.flatten().tolist() == [0.0, 3.0]


def test_weights_that_cannot_be() -> None:
    for options in ((-1.0, 0, 0.0), (0.0, -1, 0.0), (0.0, 0, -1.0)):
        with pytest.raises(UserError, match=r"^(kl_weight|kl_warmup_steps|free_bits) -1.*: must be at least 0"):
            AutoencoderLoss("l2", *options)


# -- the objective ----------------------------------------------------------------------------------------------------


class SomeActive(nn.Module):
    """Network that returns black images. `active` of its latent units depend on the image."""

    def __init__(self, active: int):
        super().__init__()
        self.active = active

    def forward(self, images: Tensor, noise: Tensor | None = None) -> Coded:
        mean = torch.zeros(len(images), 8)
        mean[:, : self.active] = images.mean((1, 2, 3))[:, None]
        mean = mean.reshape(-1, 2, 2, 2)
        return Coded(torch.full_like(images, -1.0), mean, torch.zeros_like(mean))


def objective(kind: str = "vae") -> AutoencoderObjective:
    images = torch.arange(40, dtype=torch.uint8).mul(6).reshape(-1, 1, 1, 1).expand(-1, *DIGIT).contiguous()
    loss = AutoencoderLoss("l2", 1.0, 100, 0.0)
    labels = torch.zeros(40, dtype=torch.long)
    return AutoencoderObjective(spec(kind), loss, (2, 2, 2), None, images, images[:30], labels[:30], 0)


@pytest.mark.parametrize(("active", "warned"), [(0, True), (3, True), (4, False), (8, False)])
def test_active_units_are_counted_and_collapse_is_said(active: int, warned: bool) -> None:
    result = objective().evaluate(SomeActive(active))
    assert f"active units {active} of 8" in result.note and ("posterior collapse" in result.note) == warned
    assert "collapse" not in objective("autoencoder").evaluate(SomeActive(0)).note


def test_the_test_loss_is_frozen_and_has_the_full_weight() -> None:
    vae = objective()
    first, again = vae.evaluate(SomeActive(8)), vae.evaluate(SomeActive(8))
    assert first == again and first.test != first.train
    reconstruction, kl, rate = first.parts
    assert first.test == pytest.approx(reconstruction + kl / 64) and rate == pytest.approx(kl / 64 / math.log(2))
    clean = vae.test_images.double() / 127.5 - 1
    assert reconstruction == pytest.approx((clean + 1).square().mean().item(), rel=1e-5)
    assert kl == pytest.approx(8 * 0.5 * clean.mean((1, 2, 3)).square().mean().item(), rel=1e-5)
