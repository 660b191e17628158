"""Batches of a teacher's images, addressed by step, from which a student learns.

The teacher generates an image for each image number, as `generate` does. The noisy images that its sampler reaches at
the student's levels are kept in a bounded buffer on the device, and used several times. They depend only on the
seed and the image number, so a resumed run computes them again.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from models.generation import Sampling, choose_labels, sampled_denoiser, start_from_noise
from models.model import Model


@dataclass(frozen=True)
class Teacher:
    """Model with the settings of its sampling.

    evaluations: network evaluations of the student per image. Each replaces consecutive steps of the teacher's sampler.
    """

    model: Model
    sampling: Sampling
    evaluations: int

    @property
    def kept(self) -> list[int]:
        """Positions of the student's levels in the teacher's grid. The first is 0, the noise. The last is the image."""
        return [index * self.sampling.steps // self.evaluations for index in range(self.evaluations + 1)]

    @property
    def times(self) -> tuple[float, ...]:
        """The student's times, from 1 to 0."""
        return tuple(self.sampling.levels(self.model).levels.t[self.kept].tolist())

    def labels(self, indices: range) -> list[int] | None:
        """Return the labels of the images with these numbers: the trained classes in turn. None without classes."""
        return choose_labels(self.model, None, len(indices), indices.start)

    @torch.no_grad()
    def states(self, indices: range, seed: int) -> Tensor:
        """Return noisy images (evaluations + 1, N, C, H, W), in the teacher's space, at the student's levels.

        indices: image numbers. Entry 0 is the noise that `generate` draws for this seed. The last entry is the images
        that `generate` returns, before they are decoded.
        """
        denoiser, _ = sampled_denoiser(self.model, self.sampling)
        grid = self.sampling.levels(self.model)
        start = start_from_noise(self.model, self.sampling, grid, denoiser, indices, self.labels(indices), seed)
        states = [start.noisy, *(step.noisy for step in start.steps)]
        return torch.stack([states[position] for position in self.kept])


class TeacherBatches:
    """Batches of pairs: a noisy image at one of the student's levels, and the noisy image that the teacher
    computes from it at the next level.

    Each batch of the teacher is used in `reuse` steps. The first batches are used in more steps, the last in fewer. At
    most `buffer` batches are kept. size: length of an epoch in images. share: this process takes the rows [first, last)
    of every batch.
    """

    def __init__(
        self, teacher: Teacher, seed: int, batch_size: int, reuse: int, buffer: int, size: int, share: tuple[int, int]
    ) -> None:
        self.teacher, self.seed, self.batch_size, self.reuse, self.size = teacher, seed, batch_size, reuse, size
        self.share, device = share, teacher.model.device
        rows, shape = share[1] - share[0], teacher.model.space.shape
        self.states = torch.empty(buffer, teacher.evaluations + 1, rows, *shape, device=device)
        self.labels = torch.zeros(buffer, rows, dtype=torch.int64, device=device)
        self.held: list[int | None] = [None] * buffer

    def __len__(self) -> int:
        return self.size

    def number(self, step: int) -> int:
        """Return the number of the teacher's batch that a step uses: a new one at every `reuse`-th step.

        The other steps use older batches, spread over the buffer, so that successive steps have different images.
        """
        newest, use = divmod(step, self.reuse)
        delay = use * ((len(self.held) - 1) // max(self.reuse - 1, 1))
        return (newest - delay) % (newest + 1)

    def plan(self, step: int) -> dict[str, Tensor]:
        """Return the place of each row in the buffer, and the index of its level: (N,) int64 on the CPU.

        An image has a different level at every use, until all levels have been used. If the buffer does not hold the
        batch of the step, the teacher first computes it.
        """
        number, rows = self.number(step), torch.arange(self.share[1] - self.share[0])
        slot = number % len(self.held)
        if self.held[slot] != number:
            self._fill(slot, number)
        levels = (rows + self.share[0] + number + step % self.reuse) % self.teacher.evaluations
        return {"place": slot * len(rows) + rows, "level": levels}

    def _fill(self, slot: int, number: int) -> None:
        first, end = (number * self.batch_size + bound for bound in self.share)
        self.states[slot] = self.teacher.states(range(first, end), self.seed)
        labels = self.teacher.labels(range(first, end))
        if labels is not None:
            self.labels[slot] = torch.tensor(labels, device=self.labels.device)
        self.held[slot] = number

    def gather(self, plan: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Return noisy images (N, 2, C, H, W) at the plan's level and at the next level, and labels (N,)."""
        slots, rows = plan["place"] // self.labels.shape[1], plan["place"] % self.labels.shape[1]
        pairs = [self.states[slots, plan["level"] + after, rows] for after in (0, 1)]
        return torch.stack(pairs, dim=1), self.labels[slots, rows]
