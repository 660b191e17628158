"""Samplers against diffusers' schedulers, step by step, on the same chain, network, start and fresh noise.

The schedulers keep alpha-bar in float32, where 1 - alpha-bar has few digits left at the clean end: they are given the
chain's own in float64, so that what is compared are the updates.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
from diffusers.schedulers.scheduling_dpmsolver_multistep import DPMSolverMultistepScheduler
from diffusers.schedulers.scheduling_unipc_multistep import UniPCMultistepScheduler
from torch import Tensor, nn

from models.diffusion.denoiser import NetworkDenoiser
from models.diffusion.noise_schedules import Chain, build_noise_schedule
from models.diffusion.predictions import build_prediction
from models.diffusion.samplers import SAMPLERS
from models.diffusion.times import build_grid
from tests.exact import betas_of

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

SHAPE = (2, 1, 3, 3)
NAMES = {"eps": "epsilon", "x0": "sample", "v": "v_prediction"}
TOLERANCE = 2e-5
CHAINS = [("linear", 1000, 10), ("linear", 1000, 25), ("cosine", 40, 8), ("sigmoid", 64, 64)]


class Wavy(nn.Module):
    """A network that is no denoiser at all: any nonlinear function shows a wrong coefficient."""

    def forward(self, noisy: Tensor, t: Tensor, label: Tensor | None) -> Tensor:
        return torch.sin(1.3 * noisy + 2 * t.reshape(-1, 1, 1, 1)) + 0.2 * noisy


def chain(name: str, length: int) -> Chain:
    schedule = build_noise_schedule(name, length)
    assert isinstance(schedule, Chain)
    return schedule


def settings(schedule: Chain, prediction: str, **more: Any) -> dict[str, Any]:
    return {
        "num_train_timesteps": schedule.steps,
        "trained_betas": betas_of(schedule).numpy(),
        "prediction_type": NAMES[prediction],
        "timestep_spacing": "trailing",
        **more,
    }


def noises(count: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(SHAPE, dtype=torch.float64, generator=generator) for _ in range(count)]


def compare(
    schedule: Chain,
    prediction: str,
    steps: int,
    sampler: str,
    options: dict[str, object],
    scheduler: Any,
    step: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor],
) -> None:
    """step(output, timestep, noisy, fresh) is the scheduler's own update."""
    network = Wavy().double()
    denoiser = NetworkDenoiser(network, build_prediction(prediction, 1.0))
    grid = build_grid("uniform", schedule, steps)
    scheduler.alphas_cumprod = schedule.table[1:] ** 2
    scheduler.set_timesteps(steps)
    length = schedule.steps
    assert scheduler.timesteps.tolist() == (grid.levels.t[:-1] * length - 1).round().long().tolist()

    first, *fresh = noises(steps + 1)
    drawn = iter(fresh)
    ours = SAMPLERS[sampler].walk(denoiser, first, grid, lambda shape: next(drawn), **options)
    theirs = first
    for index, (found, timestep) in enumerate(zip(ours, scheduler.timesteps, strict=True)):
        output = network(theirs, (timestep + 1) / length, None)
        theirs = step(output, timestep, theirs, fresh[index])
        scale = max(1.0, theirs.abs().max().item())
        # The last step to the clean image adds no noise; diffusers leaves it out only in a walk of the whole chain.
        if options.get("variance") == "beta" and index == steps - 1 and timestep > 0:
            break
        difference = (found.noisy - theirs).abs().max().item() / scale
        assert difference < TOLERANCE, f"step {index + 1} of {steps}"


@pytest.mark.parametrize("prediction", NAMES)
@pytest.mark.parametrize("variance", ["posterior", "beta"])
@pytest.mark.parametrize(("name", "length", "steps"), CHAINS)
def test_ddpm(name: str, length: int, steps: int, variance: str, prediction: str) -> None:
    schedule = chain(name, length)
    kind = {"posterior": "fixed_small", "beta": "fixed_large"}[variance]
    scheduler = DDPMScheduler(**settings(schedule, prediction, variance_type=kind), clip_sample=False)
    generator = torch.Generator().manual_seed(1)
    torch.randn(SHAPE, dtype=torch.float64, generator=generator)

    def step(output: Tensor, timestep: Tensor, noisy: Tensor, fresh: Tensor) -> Tensor:
        return scheduler.step(output, int(timestep), noisy, generator=generator, return_dict=False)[0]

    compare(schedule, prediction, steps, "ddpm", {"variance": variance}, scheduler, step)


@pytest.mark.parametrize("prediction", NAMES)
@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
@pytest.mark.parametrize(("name", "length", "steps"), CHAINS)
def test_ddim(name: str, length: int, steps: int, eta: float, prediction: str) -> None:
    schedule = chain(name, length)
    scheduler = DDIMScheduler(**settings(schedule, prediction), clip_sample=False, set_alpha_to_one=True)

    def step(output: Tensor, timestep: Tensor, noisy: Tensor, fresh: Tensor) -> Tensor:
        made = scheduler.step(output, int(timestep), noisy, eta=eta, variance_noise=fresh, return_dict=False)
        return made[0]

    compare(schedule, prediction, steps, "ddim", {"eta": eta}, scheduler, step)


@pytest.mark.parametrize("prediction", NAMES)
@pytest.mark.parametrize("stochastic", [False, True])
@pytest.mark.parametrize(("name", "length", "steps"), CHAINS)
def test_dpmpp_2m(name: str, length: int, steps: int, stochastic: bool, prediction: str) -> None:
    schedule = chain(name, length)
    scheduler = DPMSolverMultistepScheduler(
        **settings(schedule, prediction),
        algorithm_type="sde-dpmsolver++" if stochastic else "dpmsolver++",
        solver_order=2,
        final_sigmas_type="zero",
    )

    def step(output: Tensor, timestep: Tensor, noisy: Tensor, fresh: Tensor) -> Tensor:
        return scheduler.step(output, int(timestep), noisy, variance_noise=fresh, return_dict=False)[0]

    compare(schedule, prediction, steps, "dpmpp_2m_sde" if stochastic else "dpmpp_2m", {}, scheduler, step)


@pytest.mark.parametrize("prediction", NAMES)
@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize(("name", "length", "steps"), CHAINS)
def test_unipc(name: str, length: int, steps: int, order: int, prediction: str) -> None:
    schedule = chain(name, length)
    scheduler = UniPCMultistepScheduler(
        **settings(schedule, prediction), solver_order=order, solver_type="bh2", final_sigmas_type="zero"
    )

    def step(output: Tensor, timestep: Tensor, noisy: Tensor, fresh: Tensor) -> Tensor:
        return scheduler.step(output, int(timestep), noisy, return_dict=False)[0]

    compare(schedule, prediction, steps, "unipc", {"order": order}, scheduler, step)


def test_the_cosine_chain_is_diffusers() -> None:
    theirs = DDPMScheduler(num_train_timesteps=1000, beta_schedule="squaredcos_cap_v2")
    np.testing.assert_allclose(betas_of(chain("cosine", 1000)).numpy(), theirs.betas.numpy(), rtol=1e-4, atol=1e-7)
    assert math.isclose(theirs.betas.max().item(), 0.999, rel_tol=1e-6)
