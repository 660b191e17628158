"""Moving average of weights: closed form, warm-up, and unchanged raw weights."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from models.training.ema import EMA


def network(value: float) -> nn.Linear:
    linear = nn.Linear(2, 1)
    set_to(linear, value)
    return linear


def averaged(average: EMA) -> torch.Tensor:
    return next(average.network.parameters())


def set_to(target: nn.Module, value: float) -> None:
    with torch.no_grad():
        for parameter in target.parameters():
            parameter.fill_(value)


def update(average: EMA, raw: nn.Module, elapsed: float) -> None:
    average.update(raw, average.plan(elapsed)["weight"])


@pytest.mark.parametrize("steps", [50, 400])
def test_half_life_is_a_share_of_the_run(steps: int) -> None:
    """One half-life after a jump of the weights, the average has moved half the way, for any number of steps."""
    raw = network(0.0)
    average = EMA(raw, half_life=0.2)
    average.updates = 10_000
    set_to(raw, 1.0)
    for _ in range(steps // 5):
        update(average, raw, 1 / steps)
    assert averaged(average)[0, 0].item() == pytest.approx(0.5, abs=1e-4)


def test_closed_form_with_warm_up() -> None:
    """Compare with the recursion average = decay * average + (1 - decay) * weight."""
    raw = network(3.0)
    average = EMA(raw, half_life=0.1)
    expected, generator = 3.0, torch.Generator().manual_seed(0)
    for n in range(200):
        value = torch.randn((), generator=generator).item()
        set_to(raw, value)
        update(average, raw, 0.005)
        decay = min(0.5 ** (0.005 / 0.1), (1 + n) / (10 + n))
        expected = decay * expected + (1 - decay) * value
    assert averaged(average)[0, 0].item() == pytest.approx(expected, abs=1e-5)
    assert average.updates == 200


def test_warm_up_forgets_the_initial_weights() -> None:
    """After 100 steps of a constant decay of 0.9999, 99 % of the initial weights would remain."""
    raw = network(0.0)
    average = EMA(raw, half_life=10.0)
    set_to(raw, 1.0)
    for _ in range(100):
        update(average, raw, 0.0001)
    assert averaged(average).min().item() > 0.99
    assert average.decay(0.0001) == 101 / 110


def test_unequal_steps_count_by_their_share() -> None:
    """With a budget in minutes, steps are different shares of the run."""
    halves, whole = EMA(network(0.0), 0.1), EMA(network(0.0), 0.1)
    for average in (halves, whole):
        average.updates = 10_000
    for elapsed in (0.01, 0.03):
        update(halves, network(1.0), elapsed)
    update(whole, network(1.0), 0.04)
    torch.testing.assert_close(averaged(halves), averaged(whole))


def test_half_life_zero_is_no_averaging() -> None:
    raw = network(0.0)
    average = EMA(raw, half_life=0.0)
    for value in (0.3, -1.7):
        set_to(raw, value)
        update(average, raw, 0.01)
        assert averaged(average).equal(raw.weight)


def test_raw_weights_are_unchanged_and_buffers_are_copied() -> None:
    raw = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2), nn.Dropout(0.5))
    raw.train()
    before = {key: value.clone() for key, value in raw.state_dict().items()}
    average = EMA(raw, half_life=0.1)
    update(average, raw, 0.1)
    assert all(value.equal(before[key]) for key, value in raw.state_dict().items())
    assert raw.training
    assert not average.network.training
    assert not any(parameter.requires_grad for parameter in average.network.parameters())
    raw(torch.randn(8, 2))
    update(average, raw, 0.1)
    buffers = dict(raw.named_buffers())
    assert all(buffer.equal(buffers[name]) for name, buffer in average.network.named_buffers())
    assert list(average.network.state_dict()) == list(raw.state_dict())
