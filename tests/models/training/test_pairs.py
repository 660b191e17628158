"""A student's batches are its teacher's images, each used as often as asked, whatever the step it begins at."""

from __future__ import annotations

from collections import Counter

import pytest
import torch

from models.diffusion.denoiser import Estimate
from models.diffusion.samplers import ddim
from models.diffusion.times import Grid
from models.generation import Sampling, generate
from models.training.pairs import Teacher, TeacherBatches
from models.training.student_objective import clean_between
from tests.models.test_generation import CHAIN, model_of

SEED = 5


def batches_of(teacher: Teacher, reuse: int = 3, buffer: int = 8, share: tuple[int, int] = (0, 6)) -> TeacherBatches:
    return TeacherBatches(teacher, SEED, 6, reuse, buffer, 1000, share)


@pytest.mark.parametrize("sampling", [Sampling("heun", 3), Sampling("ddim", 4, guidance_scale=2.0)])
def test_the_last_states_are_the_images_of_generate(sampling: Sampling) -> None:
    """The images of later batches too, bit for bit. The first states are the noise."""
    model = model_of()
    batches, labels = batches_of(Teacher(model, sampling, 1)), [index % 3 for index in range(12)]
    (generated,) = generate(model, sampling, 12, labels, SEED, 12)
    for number in (0, 1):
        plan = batches.plan(batches.reuse * number)
        pairs, learnt = batches.gather(plan)
        rows = slice(6 * number, 6 * number + 6)
        assert model.space.decode(pairs[:, 1]).equal(generated.images[rows])
        assert learnt.tolist() == labels[rows]
        assert pairs[:, 0].equal(Teacher(model, sampling, 1).states(range(rows.start, rows.stop), SEED)[0])


@pytest.mark.parametrize(("reuse", "buffer"), [(1, 1), (1, 5), (3, 8), (4, 4), (2, 64)])
def test_every_batch_is_used_equally_often_within_the_buffer(reuse: int, buffer: int) -> None:
    batches = batches_of(Teacher(model_of(), Sampling("euler", 2), 1), reuse, buffer)
    numbers = [batches.number(step) for step in range(reuse * 400)]
    assert all(step // reuse - buffer < number <= step // reuse for step, number in enumerate(numbers))
    uses = Counter(numbers)
    assert {uses[number] for number in range(buffer, 400 - buffer)} == {reuse}


@pytest.mark.parametrize(("evaluations", "reuse", "buffer"), [(2, 3, 64), (2, 2, 7), (4, 3, 64), (4, 6, 8)])
def test_an_image_is_used_at_another_level_each_time(evaluations: int, reuse: int, buffer: int) -> None:
    """Otherwise the same pairs would be learnt again, and other levels of the image never."""
    batches = batches_of(Teacher(model_of(), Sampling("euler", 4), evaluations), reuse, buffer)
    levels: dict[int, list[list[int]]] = {}
    for step in range(reuse * 200):
        levels.setdefault(batches.number(step), []).append(batches.plan(step)["level"].tolist())
    for number in range(buffer, 200 - buffer):
        of_images = zip(*levels[number], strict=True)
        assert all(len(set(of_image)) == min(evaluations, reuse) for of_image in of_images)


def test_a_batch_is_a_function_of_seed_and_step() -> None:
    """A buffer that begins in the middle of a run gives what one from the start gives."""
    teacher = Teacher(model_of(), Sampling("heun", 4), 2)
    whole, late = batches_of(teacher), batches_of(teacher)
    for step in range(40):
        images, labels = whole.gather(whole.plan(step))
        if step >= 25:
            again, others = late.gather(late.plan(step))
            assert again.equal(images) and others.equal(labels)


def no_draw(shape: object) -> torch.Tensor:
    raise AssertionError("a deterministic step draws nothing")


def test_two_ranks_share_a_batch() -> None:
    teacher = Teacher(model_of(), Sampling("heun", 2), 1)
    whole, *parts = (batches_of(teacher, share=share) for share in ((0, 6), (0, 4), (4, 6)))
    for step in range(12):
        images, labels = whole.gather(whole.plan(step))
        shares = [part.gather(part.plan(step)) for part in parts]
        assert torch.cat([share[0] for share in shares]).equal(images)
        assert torch.cat([share[1] for share in shares]).equal(labels)


@pytest.mark.parametrize("evaluations", [2, 4])
@pytest.mark.parametrize("sampling", [Sampling("heun", 4), Sampling("dpmpp_2m", 8, "log_snr")])
def test_a_step_to_the_target_reaches_the_teachers_next_state(sampling: Sampling, evaluations: int) -> None:
    """DDIM with the clean estimates that a student is to learn walks through the teacher's states."""
    for model in (model_of(), model_of(schedule=CHAIN)):
        teacher = Teacher(model, sampling, evaluations)
        states = teacher.states(range(5), SEED).double()
        levels = model.noise_schedule.level(torch.tensor(teacher.times, dtype=torch.float64))
        grid = Grid.of(model.noise_schedule, levels.t)
        assert len(states) == len(grid) == evaluations + 1
        for index in range(evaluations):
            target = clean_between(states[index], states[index + 1], levels[[index] * 5], levels[[index + 1] * 5])
            noise = (states[index] - levels.alpha[index] * target) / levels.sigma[index]
            estimate = Estimate(target, noise)
            (step,) = ddim(
                lambda noisy, level, label=None, e=estimate: e, states[index], grid[index : index + 2], no_draw
            )
            assert torch.allclose(step.noisy, states[index + 1], atol=1e-6)
