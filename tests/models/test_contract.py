"""All combinations of schedule, prediction, loss, grid and sampler give finite numbers, with a trivial network."""

from __future__ import annotations

from itertools import cycle, product

import pytest
import torch
from torch import Tensor, nn

from models.diffusion.denoiser import NetworkDenoiser
from models.diffusion.losses import DISTANCES, WEIGHTINGS, DenoisingLoss
from models.diffusion.noise_schedules import NOISE_SCHEDULES, NoiseSchedule, build_noise_schedule
from models.diffusion.predictions import PREDICTIONS, Prediction, build_prediction
from models.diffusion.samplers import SAMPLERS
from models.diffusion.times import DENSITIES, GRIDS, TimeDensity, build_grid
from models.errors import UserError
from models.randomness import StepRandomness, image_draw

pytestmark = pytest.mark.slow

SHAPE, COUNT, LENGTHS = (1, 2, 2), 6, (None, 1, 1000)
FORMS = [
    form for form in product(NOISE_SCHEDULES, LENGTHS, (False, True)) if form[0] != "flow" or form[1:] == (None, False)
]  # the flow has no chain and no other end
FORM_NAMES = ["-".join(map(str, form)) for form in FORMS]


class Affine(nn.Module):
    """Minimal network: uses every input and returns values in [-1, 1]."""

    def __init__(self) -> None:
        super().__init__()
        self.scale, self.row = nn.Parameter(torch.tensor(0.5)), nn.Embedding(3, 1)

    def forward(self, noisy: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        row = self.row(torch.full(t.shape, 2) if label is None else label)
        return (self.scale * noisy + t[:, None, None, None] + row[:, :, None, None]).tanh()


def denoiser(schedule: NoiseSchedule, prediction: str) -> NetworkDenoiser | None:
    """Build a denoiser. Returns None for eps with a schedule that has no signal at t = 1, which is refused."""
    torch.manual_seed(0)
    built: Prediction = build_prediction(prediction, 0.5)
    try:
        built.check(schedule.alpha(torch.ones(())).item())
        return NetworkDenoiser(Affine(), built)
    except UserError:
        assert prediction == "eps" and schedule.alpha(torch.ones(())) < 1e-8
        return None


@pytest.mark.parametrize("form", FORMS, ids=FORM_NAMES)
def test_every_loss_and_its_gradient_are_finite(form: tuple[str, int | None, bool]) -> None:
    schedule = build_noise_schedule(*form)
    randomness = StepRandomness(0, 0, COUNT, 0, COUNT, torch.device("cpu"))
    clean, label = torch.linspace(-1, 1, COUNT * 4).reshape(COUNT, *SHAPE), torch.arange(COUNT) % 2
    distances = cycle(DISTANCES)  # taken in turn, to save time
    for prediction, density, weighting in product(PREDICTIONS, DENSITIES, WEIGHTINGS):
        ready = denoiser(schedule, prediction)
        if ready is None or (density == "discrete" and schedule.steps is None):
            continue
        distance = next(distances)
        loss = DenoisingLoss(distance, weighting, None, TimeDensity(density), 0.5, 2)
        losses = loss(ready, clean, label, loss.plan(schedule, ready.prediction, randomness), randomness)
        losses.mean().backward()
        what = (prediction, density, distance, weighting)
        assert losses.shape == (COUNT,) and losses.isfinite().all() and (losses >= 0).all(), what
        assert all(p.grad is not None and p.grad.isfinite().all() for p in ready.network.parameters()), what


@pytest.mark.parametrize("form", FORMS, ids=FORM_NAMES)
@torch.no_grad()
def test_every_sampler_walks_every_grid_and_prediction(form: tuple[str, int | None, bool]) -> None:
    schedule = build_noise_schedule(*form)
    for prediction, grid, name in product(PREDICTIONS, GRIDS, SAMPLERS):
        ready = denoiser(schedule, prediction)
        for steps in {1, min(3, schedule.steps or 3)} if ready is not None else ():
            levels = build_grid(grid, schedule, steps)
            draw = image_draw(0, range(2), torch.device("cpu"))
            walked = list(SAMPLERS[name].walk(ready, draw((2, *SHAPE)), levels, draw))
            assert len(walked) == steps and walked[-1].level.t == 0, (prediction, grid, name)
            for step in walked:
                assert step.noisy.isfinite().all() and step.estimate.clean.isfinite().all(), (prediction, grid, name)
                assert step.noisy.dtype == torch.float32 and step.noisy.shape == (2, *SHAPE)
