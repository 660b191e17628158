"""Learning-rate schedules, weight decay, and Muon."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from typing import Any, cast

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from models.learning_rate import LR_SCHEDULES, OptimizerSettings
from models.optim import AdamW, Muon, build_optimizer, orthogonalise

SHAPES = {
    "constant": [(0.0, 1.0), (0.5, 1.0), (1.0, 1.0)],
    "cosine": [(0.0, 1.0), (0.25, (1 + math.sqrt(0.5)) / 2), (0.5, 0.5), (1.0, 0.0)],
    "linear": [(0.0, 1.0), (0.25, 0.75), (1.0, 0.0)],
    "multistep": [(0.0, 1.0), (0.499, 1.0), (0.5, 0.2), (0.74, 0.2), (0.75, 0.04), (1.0, 0.04)],
    "one_cycle": [(0.0, 0.04), (0.15, 0.52), (0.3, 1.0), (0.65, 0.5), (1.0, 0.0)],
}


@pytest.mark.parametrize("name", LR_SCHEDULES)
def test_shapes(name: Any) -> None:
    schedule = OptimizerSettings(lr_schedule=name, lr=2.0, warmup_steps=0)
    for progress, expected in SHAPES[name]:
        assert schedule.learning_rate(1000, progress) == pytest.approx(2 * expected, abs=1e-12)


@given(
    name=st.sampled_from(list(LR_SCHEDULES)),
    step=st.integers(0, 10_000),
    progress=st.floats(0, 1.5),
    warmup=st.integers(0, 500),
)
def test_never_negative_and_never_above_the_largest(name: Any, step: int, progress: float, warmup: int) -> None:
    settings = OptimizerSettings(lr_schedule=name, lr=1e-3, warmup_steps=warmup)
    assert 0 <= settings.learning_rate(step, progress) <= 1e-3


def test_warm_up_is_a_line_that_begins_above_zero() -> None:
    schedule = OptimizerSettings(lr_schedule="constant", lr=1.0, warmup_steps=4)
    assert [schedule.learning_rate(step, 0.0) for step in range(6)] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0, 1.0])
    assert OptimizerSettings(lr_schedule="constant", lr=1.0, warmup_steps=0).learning_rate(0, 0.0) == 1.0


def test_milestones_and_gamma_act() -> None:
    schedule = OptimizerSettings(
        lr_schedule="multistep", lr=1.0, warmup_steps=0, lr_milestones=(0.1, 0.2, 0.3), lr_gamma=0.5
    )
    assert [schedule.learning_rate(0, p) for p in (0.0, 0.1, 0.2, 0.3)] == pytest.approx([1, 0.5, 0.25, 0.125])


def test_adamw_equals_torch() -> None:
    torch.manual_seed(0)
    ours, theirs = (nn.Linear(5, 3) for _ in range(2))
    theirs.load_state_dict(ours.state_dict())
    kwargs: dict[str, Any] = {"lr": 0.1, "betas": (0.8, 0.9), "weight_decay": 0.5, "fused": True}
    optimizers = (AdamW(ours.parameters(), **kwargs), torch.optim.AdamW(theirs.parameters(), **kwargs))
    for batch in torch.randn(5, 4, 5):
        for layer, optimizer in zip((ours, theirs), optimizers, strict=True):
            layer(batch).square().sum().backward()
            optimizer.step()
            optimizer.zero_grad()
        optimizers[0].load_state_dict(copy.deepcopy(optimizers[1].state_dict()))
    assert torch.equal(ours.weight, theirs.weight) and torch.equal(ours.bias, theirs.bias)


def test_only_matrices_and_filters_decay() -> None:
    network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.GroupNorm(1, 2), nn.Flatten(), nn.Linear(2, 2))
    optimizer = build_optimizer(network, OptimizerSettings(lr=0.1, weight_decay=0.5, betas=(0.8, 0.9)))
    decayed, others = optimizer.param_groups
    assert {id(p) for p in decayed["params"]} == {id(network[0].weight), id(network[3].weight)}
    assert len(others["params"]) == 4
    assert (decayed["weight_decay"], others["weight_decay"]) == (0.5, 0.0)
    assert decayed["betas"] == (0.8, 0.9)
    before = {name: parameter.clone() for name, parameter in network.named_parameters()}
    for parameter in network.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    for name, parameter in network.named_parameters():
        torch.testing.assert_close(parameter, before[name] * (0.95 if parameter.dim() >= 2 else 1.0))


def test_a_network_without_matrices_has_an_optimizer_too() -> None:
    network = nn.LayerNorm(3)
    assert build_optimizer(network, OptimizerSettings()).param_groups[1]["params"]


# -- Muon -------------------------------------------------------------------------------------------------------------


def test_singular_values_come_near_one() -> None:
    """Singular vectors stay and singular values come near 1, for wide, tall and square matrices."""
    for shape in ((4, 20, 7), (4, 7, 20), (4, 12, 12)):
        matrices = torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        result = orthogonalise(matrices, Muon.coefficients)
        values = torch.linalg.svdvals(result)
        assert result.shape == matrices.shape and values.min() > 0.3 and values.max() < 1.3
        u, _, v = torch.linalg.svd(matrices, full_matrices=False)
        core = u.mT @ result @ v.mT
        assert (core - torch.diag_embed(core.diagonal(dim1=1, dim2=2))).abs().max() < 1e-12


def test_steps_on_the_gram_matrix_equal_newton_schulz_steps() -> None:
    """Use matrices of nearly low rank, like gradients, since their Gram matrices lose the most precision."""
    generator = torch.Generator().manual_seed(0)
    a, b, c = Muon.coefficients
    for rows, columns in ((24, 100), (100, 24), (32, 32)):
        low = torch.randn(3, rows, 4, generator=generator) @ torch.randn(3, 4, columns, generator=generator)
        matrices = low + 1e-3 * torch.randn(3, rows, columns, generator=generator)
        expected = matrices.double() / matrices.double().norm(dim=(1, 2), keepdim=True)
        for _ in range(5):
            square = expected @ expected.mT
            expected = a * expected + (b * square + c * square @ square) @ expected
        assert torch.allclose(orthogonalise(matrices.double(), (a, b, c)), expected, atol=1e-6)
        assert torch.allclose(orthogonalise(matrices, (a, b, c)).double(), expected, atol=1e-3)


class TF32(TorchDispatchMode):
    """Emulates TF32 matrix products of a GPU: rounds the factors to ten bits if TF32 is allowed."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        products = (torch.ops.aten.mm.default, torch.ops.aten.bmm.default)
        if func in products and torch.backends.cuda.matmul.allow_tf32:
            args = [(arg.contiguous().view(torch.int32) + 0x1000 & ~0x1FFF).view(torch.float32) for arg in args]
        return func(*args, **(kwargs or {}))


@pytest.fixture
def tf32() -> Iterator[None]:
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = True
    yield
    torch.backends.cuda.matmul.allow_tf32 = before


def test_products_of_gram_matrices_are_not_rounded_to_tf32(tf32: None) -> None:
    """With TF32, singular values that fall like i^-2 gave an update four times too long."""
    generator = torch.Generator().manual_seed(0)
    u, _, v = torch.linalg.svd(torch.randn(32, 288, generator=generator), full_matrices=False)
    matrices = (u * torch.arange(1, 33) ** -2.0 @ v)[None]
    square = matrices @ matrices.mT
    with TF32():
        assert not torch.equal(matrices @ matrices.mT, square)
        result = orthogonalise(matrices, Muon.coefficients)
    assert torch.linalg.svdvals(result).max() < 1.3
    assert torch.backends.cuda.matmul.allow_tf32


def test_hidden_layers_alone_are_matrices() -> None:
    network = nn.Sequential(
        nn.Conv2d(3, 32, 3), nn.Conv2d(32, 16, 3), nn.GroupNorm(1, 16), nn.Linear(16, 16), nn.Linear(16, 3)
    )
    network.append(nn.Embedding(20, 32))
    optimizer = build_optimizer(network, OptimizerSettings(optimizer="muon"))
    by_kind = {group["matrices"]: group["params"] for group in optimizer.param_groups}
    assert [id(p) for p in by_kind[True]] == [id(network[1].weight), id(network[3].weight)]
    optimized = [id(p) for group in optimizer.param_groups for p in group["params"]]
    assert sorted(optimized) == sorted(map(id, network.parameters()))


def test_a_step_of_muon() -> None:
    """Compare with the written-out formula: momentum, Nesterov, orthogonalisation, weight decay."""
    layer = nn.Linear(16, 24, bias=False).double()
    optimizer = build_optimizer(layer, OptimizerSettings(optimizer="muon", lr=0.1, weight_decay=0.5))
    generator, momentum = torch.Generator().manual_seed(0), torch.zeros(24, 16, dtype=torch.float64)
    for scale in (None, torch.tensor(4.0)):
        before = layer.weight.detach().clone()
        gradient = torch.randn(24, 16, dtype=torch.float64, generator=generator)
        layer.weight.grad = gradient.clone()
        cast(Any, optimizer).grad_scale = scale
        optimizer.step()
        scaled = gradient / (1.0 if scale is None else scale)
        momentum = 0.95 * momentum + 0.05 * scaled
        direction = 0.05 * scaled + 0.95 * momentum
        expected = orthogonalise(direction[None], Muon.coefficients)[0] * 0.2 * math.sqrt(24)
        assert torch.allclose(layer.weight, before * (1 - 0.1 * 0.5) - 0.1 * expected, atol=1e-12)


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_a_gradient_that_is_not_finite_moves_nothing(name: Any) -> None:
    """Neither the weights nor what the optimizer remembers, after a step that was good."""
    network = nn.Sequential(nn.Conv2d(16, 16, 3), nn.Conv2d(16, 1, 1))
    optimizer = build_optimizer(network, OptimizerSettings(optimizer=name, lr=0.1, weight_decay=0.1))
    network(torch.randn(2, 16, 5, 5)).square().sum().backward()
    optimizer.step()
    before = [p.detach().clone() for p in network.parameters()]
    states = copy.deepcopy([optimizer.state[p] for p in network.parameters()])
    for p in network.parameters():
        p.grad = torch.full_like(p, math.nan)
    cast(Any, optimizer).found_inf = torch.ones(())
    optimizer.step()
    assert all(torch.equal(p, was) for p, was in zip(network.parameters(), before, strict=True))
    for p, state in zip(network.parameters(), states, strict=True):
        assert all(torch.equal(optimizer.state[p][key], state[key]) for key in state)


def test_matrices_are_frozen_without_synchronizing_the_device() -> None:
    """found_inf stays a tensor, as on GPUs: 0 acts like None, 1 changes nothing."""
    layers = [nn.Linear(16, 24) for _ in range(2)]
    layers[1].load_state_dict(layers[0].state_dict())
    first, second = (
        cast(Muon, build_optimizer(layer, OptimizerSettings(optimizer="muon", lr=0.1, weight_decay=0.5)))
        for layer in layers
    )

    def step(layer: nn.Linear, optimizer: Muon, gradient: Tensor, found_inf: Tensor | None) -> tuple[Tensor, Tensor]:
        layer.weight.grad = gradient.clone()
        optimizer.found_inf = found_inf
        optimizer.step_matrices(optimizer.param_groups[-1])
        return layer.weight.detach().clone(), optimizer.state[layer.weight]["momentum"].clone()

    gradient = torch.randn(24, 16, generator=torch.Generator().manual_seed(0))
    plain, finite = step(layers[0], first, gradient, None), step(layers[1], second, gradient, torch.zeros(()))
    assert all(torch.equal(one, other) for one, other in zip(plain, finite, strict=True))
    frozen = step(layers[1], second, gradient * math.nan, torch.ones(()))
    assert all(torch.equal(one, other) for one, other in zip(frozen, finite, strict=True))


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_state_comes_back(name: Any) -> None:
    """Two steps, or one, its state stored and loaded, and another."""

    def step(network: nn.Module, optimizer: torch.optim.Optimizer, seed: int) -> None:
        network(torch.randn(2, 16, 5, 5, generator=torch.Generator().manual_seed(seed))).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()

    torch.manual_seed(0)
    whole = nn.Sequential(nn.Conv2d(16, 16, 3), nn.Conv2d(16, 1, 1))
    optimizer = build_optimizer(whole, OptimizerSettings(optimizer=name, lr=0.1, weight_decay=0.1))
    step(whole, optimizer, 0)
    resumed = nn.Sequential(nn.Conv2d(16, 16, 3), nn.Conv2d(16, 1, 1))
    resumed.load_state_dict(whole.state_dict())
    again = build_optimizer(resumed, OptimizerSettings(optimizer=name, lr=0.1, weight_decay=0.1))
    again.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    step(whole, optimizer, 1)
    step(resumed, again, 1)
    assert all(torch.equal(one, other) for one, other in zip(whole.parameters(), resumed.parameters(), strict=True))
