"""A student of Gaussian data fits the affine map of its teacher; its loss is a distance, smooth at zero."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from models.diffusion.denoiser import NetworkDenoiser
from models.diffusion.noise_schedules import build_noise_schedule
from models.diffusion.predictions import build_prediction
from models.generation import Sampling
from models.model import DenoiserSpec, Model, Student
from models.randomness import StepRandomness
from models.spaces.pixels import Pixels
from models.training.pairs import Teacher, TeacherBatches
from models.training.student_objective import SMOOTH, StudentObjective, pseudo_huber
from tests.exact import correlated_gaussian

SHAPE = (1, 2, 3)
CPU = torch.device("cpu")


def test_the_loss_is_the_root_mean_square_error() -> None:
    target = torch.zeros(3, *SHAPE)
    estimate = target + torch.tensor([0.0, 0.5, -2.0]).reshape(3, 1, 1, 1)
    assert pseudo_huber(estimate, target).tolist() == pytest.approx([0, 0.5, 2], abs=2 * SMOOTH)
    estimate = target.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(pseudo_huber(estimate, target).sum(), estimate)
    assert gradient.equal(target)


class Affine(nn.Module):
    """Affine map of all pixels, one for each of the levels, which it tells by t."""

    def __init__(self, levels: int) -> None:
        super().__init__()
        self.maps = nn.ModuleList(nn.Linear(6, 6, dtype=torch.float64) for _ in range(levels))

    def forward(self, noisy: Tensor, t: Tensor, label: Tensor | None) -> Tensor:
        outputs = torch.stack([layer(noisy.flatten(1)) for layer in self.maps])
        return outputs[((1 - t) * len(self.maps)).round().long(), torch.arange(len(noisy))].reshape(noisy.shape)


@pytest.mark.slow
@pytest.mark.parametrize("evaluations", [1, 2])
def test_a_student_fits_the_teachers_map_of_gaussian_data(evaluations: int) -> None:
    """To a thousandth of its deviation, by the objective's own loss and evaluation."""
    torch.set_default_dtype(torch.float64)
    schedule, prediction = build_noise_schedule("flow"), build_prediction("x0", 1.0)
    spec = DenoiserSpec("unet", {}, Pixels(SHAPE, 1.0), 0, (), "flow", 0, False, "x0", 0.0)
    exact: Any = correlated_gaussian(schedule, SHAPE)
    exact.prediction = prediction
    teacher = Teacher(Model(exact, schedule, spec, CPU), Sampling("heun", 4, clip=False), evaluations)
    student = Student(teacher.times, "teacher", "", "heun", 1.0)
    objective = StudentObjective(replace(spec, student=student), teacher, None, 3, 64, 8, 0)
    batches = TeacherBatches(teacher, 3, 64, 3, 16, 1000, (0, 64))
    torch.manual_seed(0)
    network = Affine(evaluations)
    loss = objective.loss_of(network)
    steps = 900
    optimizer = torch.optim.Adam(network.parameters(), lr=0.03)
    schedule_of_rate = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: (1 - step / steps) ** 2)
    for step in range(steps):
        plan = batches.plan(step)
        images, labels = batches.gather(plan)
        optimizer.zero_grad()
        loss(images, labels, plan, StepRandomness(0, step, 64, 0, 64, CPU)).of_images.mean().backward()
        optimizer.step()
        schedule_of_rate.step()
    deviation = teacher.states(range(256), 9)[-1].std().item()
    assert objective.evaluate(network).test < 1e-3 * deviation
    model = Model(NetworkDenoiser(network, prediction), schedule, objective.spec, CPU)
    own = Teacher(model, replace(objective.sampling, clip=False), evaluations)
    with torch.no_grad():
        error = (own.states(range(256), 9)[-1] - teacher.states(range(256), 9)[-1]).square().mean().sqrt().item()
    assert error < 1e-3 * deviation
