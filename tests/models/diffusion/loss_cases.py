"""Cases of the tests of losses: schedules, a density, and losses with one option set."""

from __future__ import annotations

from models.diffusion.losses import DenoisingLoss
from models.diffusion.noise_schedules import build_noise_schedule
from models.diffusion.times import TimeDensity

LINEAR = build_noise_schedule("linear", 1000)
COSINE = build_noise_schedule("cosine")
FLOW = build_noise_schedule("flow")
UNIFORM = TimeDensity("uniform")
NULL = 10


def loss_of(
    weighting: str = "uniform",
    limit: float | None = None,
    distance: str = "l2",
    label_drop: float = 0.0,
    density: TimeDensity = UNIFORM,
) -> DenoisingLoss:
    return DenoisingLoss(distance, weighting, limit, density, label_drop, NULL)
