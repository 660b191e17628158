"""Classification with one Gaussian per class, against Bayes' rule in closed form."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from models.errors import UserError
from models.evaluation.gaussians import ClassGaussians

MEANS = torch.tensor([[0.0, 0.0, 0.0], [1.0, 0.5, 0.0], [-0.5, 1.0, 1.0]], dtype=torch.float64)
FACTORS = torch.tensor(
    [
        [[1.0, 0, 0], [0.5, 0.7, 0], [0.2, -0.3, 0.6]],
        [[0.4, 0, 0], [-0.6, 0.9, 0], [0.1, 0.5, 1.1]],
        [[0.8, 0, 0], [0.0, 0.5, 0], [0.7, 0.1, 0.4]],
    ],
    dtype=torch.float64,
)
SHARES = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)


def draw(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """(count, 1, 1, 3) latents and their labels."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.multinomial(SHARES, count, replacement=True, generator=generator)
    normal = torch.randn(count, 3, 1, dtype=torch.float64, generator=generator)
    return (MEANS[labels] + (FACTORS[labels] @ normal).squeeze(2)).reshape(count, 1, 1, 3), labels


def true_densities(latents: Tensor) -> Tensor:
    """(N, 3) log-densities in nats."""
    covariance = FACTORS @ FACTORS.transpose(1, 2)
    apart = latents.flatten(1) - MEANS[:, None]  # (3, N, 3)
    squares = torch.einsum("knd,kde,kne->nk", apart, torch.linalg.inv(covariance), apart)
    return -0.5 * (squares + torch.logdet(2 * math.pi * covariance))


def true_posterior(latents: Tensor) -> Tensor:
    return (true_densities(latents) + SHARES.log()).softmax(1)


def test_many_latents_give_the_true_posterior() -> None:
    fitted = ClassGaussians.fit(*draw(60_000, 0), classes=3, shrinkage=0.0)
    latents, _ = draw(500, 1)
    posterior = fitted.log_posterior(latents, SHARES.log()).exp()
    assert torch.allclose(posterior.sum(1), torch.ones(500, dtype=torch.float64))
    assert float((posterior - true_posterior(latents)).abs().max()) < 0.03


def test_a_single_dimension() -> None:
    """The posterior of two unit Gaussians at a distance of 1 is a logistic function of the latent."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(20_000) % 2
    latents = torch.randn(20_000, 1, generator=generator) + labels[:, None]
    fitted = ClassGaussians.fit(latents, labels, classes=2, shrinkage=1.0)
    points = torch.linspace(-1, 2, 7)[:, None]
    posterior = fitted.log_posterior(points, torch.tensor([0.5, 0.5]).log()).exp()[:, 1]
    assert torch.allclose(posterior, (points[:, 0].double() - 0.5).sigmoid(), atol=0.02)


def test_densities_are_in_nats() -> None:
    fitted = ClassGaussians(MEANS, FACTORS)
    latents, _ = draw(20, 1)
    assert torch.allclose(fitted.log_density(latents), true_densities(latents))


def test_full_shrinkage_gives_all_classes_one_covariance() -> None:
    latents, labels = draw(3000, 0)
    fitted = ClassGaussians.fit(latents, labels, classes=3, shrinkage=1.0)
    assert torch.equal(fitted.factor[0], fitted.factor[1])
    centred = (latents.flatten(1) - fitted.mean[labels]).T
    ridge = 1e-3 * centred.square().mean() * torch.eye(3, dtype=torch.float64)
    assert torch.allclose(fitted.factor[0] @ fitted.factor[0].T, centred @ centred.T / 3000 + ridge)


def test_diagonal() -> None:
    fitted = ClassGaussians.fit(*draw(3000, 0), classes=3, diagonal=True)
    assert torch.all(fitted.factor == fitted.factor.diagonal(dim1=1, dim2=2).diag_embed())


def test_constant_dimensions_and_few_latents_can_be_fitted() -> None:
    latents, labels = draw(40, 0)
    dead = torch.cat([latents.flatten(1), torch.zeros(40, 60, dtype=torch.float64)], dim=1)
    fitted = ClassGaussians.fit(dead, labels, classes=3)
    assert fitted.log_posterior(dead, SHARES.log()).isfinite().all()
    assert float((fitted.log_posterior(dead, SHARES.log()).argmax(1) == labels).double().mean()) > 0.6


def test_classes_without_latents_and_wrong_shrinkage_are_refused() -> None:
    latents, labels = draw(40, 0)
    with pytest.raises(UserError, match="class 3 has 0 training images"):
        ClassGaussians.fit(latents, labels, classes=4)
    with pytest.raises(UserError, match=r"shrinkage 1\.5: must be"):
        ClassGaussians.fit(latents, labels, classes=3, shrinkage=1.5)
