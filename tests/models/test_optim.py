"""The learning rate over the run, and which weights decay."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from models.errors import UserError
from models.optim import LR_SCHEDULES, LRSchedule, build_optimizer

SHAPES = {
    "constant": [(0.0, 1.0), (0.5, 1.0), (1.0, 1.0)],
    "cosine": [(0.0, 1.0), (0.25, (1 + math.sqrt(0.5)) / 2), (0.5, 0.5), (1.0, 0.0)],
    "linear": [(0.0, 1.0), (0.25, 0.75), (1.0, 0.0)],
    "multistep": [(0.0, 1.0), (0.499, 1.0), (0.5, 0.2), (0.74, 0.2), (0.75, 0.04), (1.0, 0.04)],
    "one_cycle": [(0.0, 0.04), (0.15, 0.52), (0.3, 1.0), (0.65, 0.5), (1.0, 0.0)],
}


@pytest.mark.parametrize("name", LR_SCHEDULES)
def test_shapes(name: str) -> None:
    schedule = LRSchedule(name, lr=2.0)
    for progress, expected in SHAPES[name]:
        assert schedule.at(1000, progress) == pytest.approx(2 * expected, abs=1e-12)


@given(
    name=st.sampled_from(list(LR_SCHEDULES)),
    step=st.integers(0, 10_000),
    progress=st.floats(0, 1.5),
    warmup=st.integers(0, 500),
)
def test_never_negative_and_never_above_the_largest(name: str, step: int, progress: float, warmup: int) -> None:
    assert 0 <= LRSchedule(name, 1e-3, warmup).at(step, progress) <= 1e-3


def test_warm_up_is_a_line_that_begins_above_zero() -> None:
    schedule = LRSchedule("constant", 1.0, warmup_steps=4)
    assert [schedule.at(step, 0.0) for step in range(6)] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0, 1.0])
    assert LRSchedule("constant", 1.0).at(0, 0.0) == 1.0


def test_milestones_and_gamma_act() -> None:
    schedule = LRSchedule("multistep", 1.0, milestones=(0.1, 0.2, 0.3), gamma=0.5)
    assert [schedule.at(0, p) for p in (0.0, 0.1, 0.2, 0.3)] == pytest.approx([1, 0.5, 0.25, 0.125])


def test_unknown_schedule() -> None:
    with pytest.raises(UserError, match=r"unknown learning-rate schedule 'cos'.*choose from cosine"):
        LRSchedule("cos", 1.0)


def test_only_matrices_and_filters_decay() -> None:
    network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.GroupNorm(1, 2), nn.Flatten(), nn.Linear(2, 2))
    optimizer = build_optimizer(network, lr=0.1, weight_decay=0.5, betas=(0.8, 0.9))
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
    assert build_optimizer(network, 1e-3, 0.1, (0.9, 0.99)).param_groups[1]["params"]
