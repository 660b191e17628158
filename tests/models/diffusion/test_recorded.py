"""A recorded denoiser gives the estimates of the plain one. Here a stand-in for the GPU's graph repeats the call."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from models.diffusion import recorded
from models.diffusion.denoiser import Estimate, NetworkDenoiser, clipped, with_labels
from models.diffusion.guidance import guided
from models.diffusion.noise_schedules import NoiseLevel, build_noise_schedule
from models.diffusion.predictions import build_prediction
from models.diffusion.recorded import MOST_SHAPES, RecordedDenoiser
from models.diffusion.samplers import SAMPLERS
from models.diffusion.times import build_grid
from models.randomness import image_draw

FLOW = build_noise_schedule("flow")


class Graph:
    """Stand-in for `Recorder`: after its first call it writes each result over the one before, as a graph does."""

    made = 0

    def __init__(self, computation: Callable[[], None], *_: object) -> None:
        self.computation, self.first = computation, True
        Graph.made += 1

    def __call__(self) -> None:
        call = self.computation.__closure__
        assert call is not None
        (recording,) = (cell.cell_contents for cell in call if isinstance(cell.cell_contents, recorded._Recording))
        before = recording.estimate
        self.computation()
        if before is not None and recording.estimate is not None:
            for kept, new in zip(before, recording.estimate, strict=True):
                kept.copy_(new)
            recording.estimate = before


class Wavy(nn.Module):
    def forward(self, noisy: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        shift = 0 if label is None else label.view(-1, 1, 1, 1)
        return (3 * noisy).sin() + t.view(-1, 1, 1, 1) + shift


@pytest.fixture
def pair(monkeypatch: pytest.MonkeyPatch) -> tuple[NetworkDenoiser, RecordedDenoiser]:
    monkeypatch.setattr(recorded, "Recorder", Graph)
    monkeypatch.setattr(Graph, "made", 0)
    prediction = build_prediction("v", 0.5)
    return NetworkDenoiser(Wavy(), prediction), RecordedDenoiser(Wavy(), prediction)


@pytest.mark.parametrize("sampler", sorted(SAMPLERS))
@pytest.mark.parametrize("scale", [1.0, 2.0])
def test_samples_are_the_same(sampler: str, scale: float, pair: tuple[NetworkDenoiser, RecordedDenoiser]) -> None:
    """Multistep samplers keep estimates of earlier steps, which a later call must not overwrite."""
    images = []
    for denoiser in pair:
        draw = image_draw(0, range(5), torch.device("cpu"))
        noise, labels = draw((5, 1, 4, 4)), torch.arange(5)
        walked = with_labels(clipped(guided(denoiser, scale, 5), -1, 1), labels)
        steps = list(SAMPLERS[sampler].walk(walked, noise, build_grid("uniform", FLOW, 6), draw))
        images.append(torch.stack([step.noisy for step in steps]))
    assert images[0].equal(images[1])
    assert Graph.made == 1 if scale == 1 else Graph.made <= 2


def test_each_shape_has_its_own_graph_and_later_shapes_none(pair: tuple[NetworkDenoiser, RecordedDenoiser]) -> None:
    plain, denoiser = pair
    level = FLOW.level(torch.tensor(0.5))
    for count in (*range(1, MOST_SHAPES + 3), 1, 2):
        noisy = torch.randn(count, 1, 4, 4)
        for one, other in zip(plain(noisy, level), denoiser(noisy, level), strict=True):
            assert one.equal(other)
    assert Graph.made == MOST_SHAPES


def test_levels_of_a_batch_and_labels(pair: tuple[NetworkDenoiser, RecordedDenoiser]) -> None:
    plain, denoiser = pair
    for seed in range(3):
        generator = torch.Generator().manual_seed(seed)
        noisy = torch.randn(4, 1, 4, 4, generator=generator)
        level: NoiseLevel = FLOW.level(torch.rand(4, generator=generator) * 0.9 + 0.05)
        for label in (None, torch.arange(4) + seed):
            estimates: tuple[Estimate, Estimate] = (plain(noisy, level, label), denoiser(noisy, level, label))
            assert all(one.equal(other) for one, other in zip(*estimates, strict=True))


def test_gradients_are_not_recorded(pair: tuple[NetworkDenoiser, RecordedDenoiser]) -> None:
    noisy = torch.randn(2, 1, 4, 4, requires_grad=True)
    pair[1](noisy, FLOW.level(torch.tensor(0.5))).clean.sum().backward()
    assert noisy.grad is not None and Graph.made == 0
