"""Objective of a student, which learns to generate the images of its teacher's sampler in fewer steps.

With one evaluation per image, the student's clean estimate is regressed on the teacher's image from the same noise and
label. With several evaluations, the target is the clean estimate whose DDIM step ends at the teacher's noisy image at
the next level (Salimans and Ho 2022, "Progressive Distillation", appendix G).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor, nn

from models.diffusion.denoiser import NetworkDenoiser
from models.diffusion.noise_schedules import NoiseLevel
from models.drawing import image_files, sheets
from models.drawing.lettering import class_titles
from models.generation import Sampling, choose_labels, choose_solver, generate
from models.model import DenoiserSpec, Model
from models.randomness import StepRandomness, derive_seed
from models.training.objectives import EVALUATION_BATCH, KeptModels, Losses, LossOf, Objective, TestLoss
from models.training.pairs import Teacher

# c of the Pseudo-Huber loss (Song and Dhariwal 2023, section 3.3), divided by sqrt(dimensions) because the error here
# is a root mean square, not a norm.
SMOOTH = 0.00054


def pseudo_huber(estimate: Tensor, target: Tensor) -> Tensor:
    """Return sqrt(mean square error + c^2) - c of each image, (N,): its root mean square error, smooth at 0."""
    return ((estimate - target).square().flatten(1).mean(1) + SMOOTH**2).sqrt() - SMOOTH


def clean_between(noisy: Tensor, reached: Tensor, here: NoiseLevel, there: NoiseLevel) -> Tensor:
    """Return the clean estimate whose DDIM step from `noisy` at the level `here` ends at `reached` at `there`.

    noisy, reached: (N, C, H, W). The levels have shape (N,).
    """
    (alpha, sigma), (next_alpha, next_sigma) = here.coefficients(noisy), there.coefficients(noisy)
    kept = next_sigma / sigma
    return (reached - kept * noisy) / (next_alpha - kept * alpha)


@dataclass
class StudentObjective(Objective):
    """Objective of the student of `spec`.

    train_seed: seed of the teacher's images for training. eval_images: number of the teacher's images for each of the
    two losses of an evaluation. num_samples: images on a sample sheet. columns: images in a row of the sheet. scale:
    enlargement of the images. picture_format: format in which pictures are written in addition to PNG.
    """

    spec: DenoiserSpec
    teacher: Teacher
    autocast: torch.dtype | None
    train_seed: int
    eval_images: int
    num_samples: int
    seed: int
    columns: int | None = None
    scale: int | None = None
    picture_format: str = "png"

    @property
    def parts(self) -> tuple[str, ...]:
        """One part for each class."""
        return tuple(f"class{label}" for label in range(self.spec.classes))

    @property
    def device(self) -> torch.device:
        return self.teacher.model.device

    @property
    def sampling(self) -> Sampling:
        return Sampling(*choose_solver(self.spec))

    @cached_property
    def model(self) -> KeptModels:
        return KeptModels(self.spec, self.device, self.autocast)

    @cached_property
    def _levels(self) -> NoiseLevel:
        """The student's levels from noise to image, on the device."""
        assert self.spec.student is not None
        times = torch.tensor(self.spec.student.times, dtype=torch.float64)
        levels = self.teacher.model.noise_schedule.level(times)
        return levels.like(torch.zeros((), device=self.device))

    def plan(self, randomness: StepRandomness) -> dict[str, Tensor]:
        """Return an empty plan, because the plan of the batch already chooses the images and their levels."""
        return {}

    def loss_of(self, network: nn.Module) -> LossOf:
        def loss(images: Tensor, labels: Tensor, plan: Mapping[str, Tensor], randomness: StepRandomness) -> Losses:
            losses = self._losses(network, images[:, 0], images[:, 1], labels, plan["level"])
            both = torch.stack([losses.detach(), torch.ones_like(losses)])
            sums = both.new_zeros(2, len(self.parts))
            return Losses(losses, sums.index_add_(1, labels, both) if self.parts else sums)

        return loss

    def _losses(self, network: nn.Module, noisy: Tensor, reached: Tensor, labels: Tensor, index: Tensor) -> Tensor:
        """Return the losses (N,) of noisy images at the levels with these indices."""
        here, there = self._levels[index], self._levels[index + 1]
        denoiser = NetworkDenoiser(network, self.teacher.model.denoiser.prediction, self.autocast)
        estimate = denoiser(noisy, here, labels if self.spec.classes else None)
        return pseudo_huber(estimate.clean, clean_between(noisy, reached, here, there))

    @torch.no_grad()
    def evaluate(self, network: nn.Module) -> TestLoss:
        """Measure the mean loss over all levels: the test loss on held-out noise, the train loss on training noise."""
        test, train = (self._measure(network, seed) for seed in (derive_seed(self.seed, "test noise"), self.train_seed))
        labels = torch.tensor(self.teacher.labels(range(self.eval_images)) or [0] * self.eval_images)
        parts = [test[labels == label].mean().item() for label in range(self.spec.classes)]
        return TestLoss(test.mean().item(), train.mean().item(), parts)

    def _measure(self, network: nn.Module, seed: int) -> Tensor:
        """Return the losses of the teacher's first images for a seed, averaged over the levels: (N,) on the CPU."""
        losses = []
        for first in range(0, self.eval_images, EVALUATION_BATCH):
            indices = range(first, min(first + EVALUATION_BATCH, self.eval_images))
            states, labels = self._states(indices, seed)
            of_levels = [
                self._losses(network, states[index], states[index + 1], labels, torch.full_like(labels, index))
                for index in range(len(states) - 1)
            ]
            losses.append(torch.stack(of_levels).mean(0).cpu())
        return torch.cat(losses)

    def _states(self, indices: range, seed: int) -> tuple[Tensor, Tensor]:
        """Return the teacher's noisy images (evaluations + 1, N, C, H, W) at the student's levels, and labels (N,)."""
        if (indices, seed) not in self._computed:
            labels = self.teacher.labels(indices) or [0] * len(indices)
            self._computed[indices, seed] = self.teacher.states(indices, seed), torch.tensor(labels, device=self.device)
        return self._computed[indices, seed]

    @cached_property
    def _computed(self) -> dict[tuple[range, int], tuple[Tensor, Tensor]]:
        return {}

    def draw_progress(self, network: nn.Module, path: Path, title: str) -> None:
        image_files.save_with(self._beside_teacher(self._sample(self.model(network)), title), path, self.picture_format)

    def draw_final(self, network: nn.Module, folder: Path, title: str, seconds: float) -> str:
        images = self._sample(self.model(network))
        labels, samples = choose_labels(self.teacher.model, None, len(images)), folder / "final_samples"
        image_files.replace_each(images, samples, labels, self.spec.class_names)
        sheet = self._sheet(images, f"{title}, {self.sampling.describe()}")
        for name, picture in (("grid", sheet), ("with_teacher", self._beside_teacher(images, title))):
            image_files.save_with(picture, samples / f"{name}.png", self.picture_format)
        return ""

    def _beside_teacher(self, images: Tensor, title: str) -> Image.Image:
        """Return two sheets side by side: the student's images, and the teacher's images from the same noise."""
        student = self._sheet(images, f"student: {self.sampling.describe()}")
        return sheets.side_by_side([student, self._teacher_sheet], title)

    @cached_property
    def _teacher_sheet(self) -> Image.Image:
        return self._sheet(self._sample(self.teacher.model), f"teacher: {self.teacher.sampling.describe()}")

    def _sheet(self, images: Tensor, title: str) -> Image.Image:
        turns = class_titles(self.spec.class_names, self.spec.trained)
        return sheets.sample_sheet(images, turns, title, self.columns, self.scale)

    def _sample(self, model: Model) -> Tensor:
        """Return the images of a sheet, from the same noise for student and teacher."""
        sampling = self.teacher.sampling if model is self.teacher.model else self.sampling
        labels, seed = choose_labels(model, None, self.num_samples), derive_seed(self.seed, "pictures")
        batches = generate(model, sampling, self.num_samples, labels, seed, EVALUATION_BATCH)
        return torch.cat([batch.images for batch in batches])
