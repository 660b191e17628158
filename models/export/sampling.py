"""Samplers as lists of numeric moves, for programs that can only call the network, mix tensors and clip them.

Every sampler is linear in the noise it draws and in the clean estimates it receives. So `trace_sampler` runs a
sampler once on vectors of coefficients instead of images, and no sampler needs a second implementation.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from models.diffusion.denoiser import Estimate, estimate_from_clean
from models.diffusion.noise_schedules import NoiseLevel
from models.diffusion.samplers import find_sampler
from models.generation import Sampling
from models.model import Model

Moves = list[dict[str, Any]]


def trace_sampler(model: Model, sampling: Sampling) -> Moves:
    """Return the moves of a sampler, from pure noise to images.

    The program that executes the moves keeps a list of tensors, the sources. The first source is the initial noise.
    Each move has one key:

    - draw: append standard normal noise.
    - evaluate: mix the sources into noisy images and call the network with `scale * noisy` and t. If `guided` is true,
      apply guidance to the output. Append the clean estimate `clean[0] * noisy + clean[1] * output`, clipped.
    - step: mix the sources into the noisy images after a step, at t. `estimate` is the number of the source that holds
      the step's clean estimate.
    """
    sampler = find_sampler(sampling.sampler)
    size = 1 + sampler.nfe(sampling.steps) + 2 * sampling.steps  # sources: at most two draws a step
    units, prediction = torch.eye(size, dtype=torch.float64), model.denoiser.prediction
    moves: Moves = []
    low, high = sampling.guidance_interval
    sources = iter(range(1, size))

    def denoiser(noisy: Tensor, level: NoiseLevel, label: Tensor | None = None) -> Estimate:
        alpha, sigma = level.alpha, level.sigma
        clean, _ = prediction.solve(units[1, :2], units[0, :2], alpha, sigma)
        scale = float(prediction.input_scale(alpha, sigma))
        inside = low <= float(level.flow_time) <= high
        evaluation = {"t": float(level.t), "scale": scale, "clean": clean.tolist(), "mix": _shortened(noisy)}
        moves.append({"evaluate": {**evaluation, "guided": inside}})
        return estimate_from_clean(noisy, level, units[next(sources)])

    def draw(shape: Sequence[int]) -> Tensor:
        moves.append({"draw": 1})
        return units[next(sources)]

    for step in sampler.walk(denoiser, units[0], sampling.levels(model), draw, **sampling.options):
        estimate = int(step.estimate.clean.argmax())
        moves.append({"step": {"t": float(step.level.t), "mix": _shortened(step.noisy), "estimate": estimate}})
    return moves


def _shortened(mix: Tensor) -> list[float]:
    """Return the coefficients without the zeros at the end, rounded to ten significant digits."""
    last = int(mix.nonzero().max()) if mix.any() else -1
    return [float(f"{value:.10g}") for value in mix[: last + 1].tolist()]
