"""Cases of the tests of samplers: schedules, samplers with options, and a walk on exact Gaussians."""

from collections.abc import Mapping

import torch
from torch import Tensor

from models.diffusion.noise_schedules import NoiseLevel, NoiseSchedule, build_noise_schedule
from models.diffusion.samplers import SAMPLERS, Step
from models.diffusion.times import Grid
from tests.exact import ExactGaussian

Options = Mapping[str, object]

SCHEDULES: dict[str, NoiseSchedule] = {
    "flow": build_noise_schedule("flow"),
    "cosine": build_noise_schedule("cosine"),
    "linear": build_noise_schedule("linear"),
    "cosine-chain": build_noise_schedule("cosine", 1000),
    "linear-chain": build_noise_schedule("linear", 1000),
    "zero-terminal-snr": build_noise_schedule("linear", 1000, zero_terminal_snr=True),
}
DETERMINISTIC: list[tuple[str, Options]] = [
    ("ddim", {}),
    ("euler", {}),
    ("midpoint", {}),
    ("heun", {}),
    ("dpmpp_2m", {}),
    ("unipc", {"order": 1}),
    ("unipc", {"order": 2}),
    ("unipc", {"order": 3}),
    ("sde", {"diffusion": 0.0}),
]
STOCHASTIC: list[tuple[str, Options]] = [
    ("ddpm", {"variance": "posterior"}),
    ("ddpm", {"variance": "beta"}),
    ("ddim", {"eta": 0.5}),
    ("ddim", {"eta": 1.0}),
    ("dpmpp_2m", {"eta": 0.5}),
    ("dpmpp_2m_sde", {}),
    ("sde", {"diffusion": 0.5}),
    ("sde", {"diffusion": 1.0}),
]
EVERY = DETERMINISTIC + STOCHASTIC
# Means and deviations of the four pixels of the data.
DEVIATIONS = [0.25, 0.5, 1.0, 1.3]
MEANS = [0.3, -1.0, 0.0, 0.7]


def label(sampler: tuple[str, Options]) -> str:
    return "-".join([sampler[0], *(str(value) for value in sampler[1].values())])


def walk(sampler: tuple[str, Options], denoiser: object, noisy: Tensor, grid: Grid, seed: int = 0) -> list[Step]:
    generator = torch.Generator().manual_seed(seed)

    def draw(shape: tuple[int, ...]) -> Tensor:
        return torch.randn(shape, dtype=noisy.dtype, generator=generator)

    name, options = sampler
    return list(SAMPLERS[name].walk(denoiser, noisy, grid, draw, **options))


def start(exact: ExactGaussian, level: NoiseLevel, count: int = 4) -> Tensor:
    return exact.draw_noisy(level, count, torch.Generator().manual_seed(0))
