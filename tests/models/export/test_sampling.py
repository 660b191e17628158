"""The moves of a sampler, played with mixing and clipping alone, are the sampler: for every sampler and prediction."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count

import pytest
import torch
from torch import Tensor, nn

from models.diffusion.predictions import PREDICTIONS
from models.diffusion.samplers import SAMPLERS
from models.export.sampling import Moves, trace_sampler
from models.generation import Sampling, sampled_denoiser
from models.model import DenoiserSpec, Model
from models.spaces.pixels import Pixels

SHAPE = (2, 1, 3, 2)


class Waves(nn.Module):
    """A network with large outputs, so that clipping acts."""

    def forward(self, noisy: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        return torch.sin(3 * noisy) + noisy * torch.cos(2 * t).view(-1, 1, 1, 1)


def model_of(prediction: str, schedule: str, timesteps: int) -> Model:
    space = Pixels((SHAPE[1], SHAPE[2], SHAPE[3]), 0.5)
    spec = DenoiserSpec("unet", {}, space, 0, (), schedule, timesteps, False, prediction, 0.0)
    return spec.model(Waves(), torch.device("cpu"))


def draw(number: int) -> Tensor:
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(number), dtype=torch.float64)


def play(moves: Moves, network: nn.Module) -> Iterator[tuple[Tensor, Tensor, float]]:
    """Yield the noisy images, the clean estimate and the time of every step."""
    sources, draws = [draw(0)], count(1)

    def mix(coefficients: list[float]) -> Tensor:
        return sum((number * source for number, source in zip(coefficients, sources, strict=False)), torch.zeros(SHAPE))

    for move in moves:
        if "draw" in move:
            sources.append(draw(next(draws)))
        elif "evaluate" in move:
            now = move["evaluate"]
            noisy = mix(now["mix"])
            output = network(now["scale"] * noisy, torch.full(SHAPE[:1], now["t"], dtype=torch.float64))
            sources.append((now["clean"][0] * noisy + now["clean"][1] * output).clamp(-1, 1))
        else:
            step = move["step"]
            yield mix(step["mix"]), sources[step["estimate"]], step["t"]


CASES = [
    *((sampler, "v", "cosine", 40) for sampler in SAMPLERS),
    *(("heun", prediction, "flow", 0) for prediction in PREDICTIONS if prediction != "eps"),
    ("ddpm", "eps", "linear", 30),
]


@pytest.mark.parametrize(("sampler", "prediction", "schedule", "timesteps"), CASES)
@pytest.mark.parametrize("steps", [1, 7])
def test_the_moves_are_the_sampler(sampler: str, prediction: str, schedule: str, timesteps: int, steps: int) -> None:
    model, sampling = model_of(prediction, schedule, timesteps), Sampling(sampler, steps)
    denoiser, counters = sampled_denoiser(model, sampling)
    draws = count(1)
    walked = list(sampling.walk(denoiser, draw(0), sampling.levels(model), lambda shape: draw(next(draws))))
    moves = trace_sampler(model, sampling)
    played = list(play(moves, model.denoiser.network))
    assert sum("evaluate" in move for move in moves) == sum(counter.images for counter in counters) / len(draw(0))
    assert len(played) == len(walked) == steps
    for step, (noisy, clean, t) in zip(walked, played, strict=True):
        torch.testing.assert_close(noisy, step.noisy, rtol=0, atol=1e-6)
        torch.testing.assert_close(clean, step.estimate.clean, rtol=0, atol=1e-6)
        assert t == pytest.approx(float(step.level.t))
