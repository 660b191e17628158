"""Images whose random draws depend on the seed and their data set indices, not on batch size or other images."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from models.diffusion.noise import shape_noise
from models.randomness import derive_seed, image_draw


@dataclass(frozen=True)
class Images:
    """Clean images (N, C, H, W). numbers: data set indices. initial_noise: kind of noise in the model's training."""

    clean: Tensor
    numbers: Sequence[int]
    seed: int
    initial_noise: str = "gaussian"

    def __len__(self) -> int:
        return len(self.clean)

    def __getitem__(self, rows: Tensor) -> Images:
        numbers = [self.numbers[row] for row in rows.tolist()]
        return replace(self, clean=self.clean[rows.to(self.clean.device)], numbers=numbers)

    def noise(self, draw: int) -> Tensor:
        """Return the noise of draw number `draw`, in the shape of the images."""
        draw_noise = image_draw(derive_seed(self.seed, "noise", draw), self.numbers, self.clean.device)
        return shape_noise(self.initial_noise, draw_noise(self.clean.shape))

    def noises(self) -> Iterator[Tensor]:
        """Yield new noise without end. It is independent of the noise from `noise`, and faster to draw."""
        draw_noise = image_draw(derive_seed(self.seed, "noises"), self.numbers, self.clean.device)
        while True:
            yield shape_noise(self.initial_noise, draw_noise(self.clean.shape))

    def uniforms(self, stream: str, *shape: int) -> Tensor:
        """Return (N, *shape) float64 numbers in [0, 1) on the CPU. Streams with different names are independent."""
        drawn = [np.random.default_rng(derive_seed(self.seed, stream, number)).random(shape) for number in self.numbers]
        return torch.from_numpy(np.stack(drawn))
