"""Random numbers as pure functions of (seed, step) or (seed, index of the image). No global state is kept.

Training draws the numbers of the whole global batch and slices its own part, so that one process and four give
the same run. Sampling gives each image a generator of its own, so that the batch size changes nothing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

Draw = Callable[[Sequence[int]], Tensor]


def derive_seed(*parts: int | str) -> int:
    """One 63-bit seed from numbers and words; different parts give independent streams."""
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


@dataclass(frozen=True)
class StepRandomness:
    """The random numbers of one training step, for images `start:stop` of a global batch of `batch_size`."""

    seed: int
    step: int
    batch_size: int
    start: int
    stop: int
    device: torch.device

    def _generator(self, stream: str, device: torch.device | str) -> torch.Generator:
        return torch.Generator(device).manual_seed(derive_seed(self.seed, self.step, stream))

    def uniform(self, stream: str) -> Tensor:
        """One number in [0, 1) per image of the *global* batch, float64 on the CPU; `part` slices it."""
        return torch.rand(self.batch_size, dtype=torch.float64, generator=self._generator(stream, "cpu"))

    def part(self, values: Tensor) -> Tensor:
        return values[self.start : self.stop]

    def noise(self, shape: Sequence[int], stream: str = "noise") -> Tensor:
        """Gaussian noise for this part: (stop - start, *shape), float32, drawn on the training device."""
        generator = self._generator(stream, self.device)
        whole = torch.randn(self.batch_size, *shape, generator=generator, device=self.device)
        return self.part(whole)

    def seed_dropout(self) -> None:
        """Points torch's own generators, which dropout reads, at this step and part."""
        seed = derive_seed(self.seed, self.step, self.start, "dropout")
        # torch.manual_seed asks for every kind of device, 0.3 ms a step.
        if self.device.type == "cpu":
            torch.default_generator.manual_seed(seed)
        elif self.device.type == "cuda":
            torch.cuda.default_generators[self.device.index or 0].manual_seed(seed)
        else:
            torch.manual_seed(seed)


def image_draw(seed: int, indices: Sequence[int], device: torch.device) -> Draw:
    """draw(shape) for the images with these indices: each reads its own stream, on every device the same.

    The stream goes on from call to call, so the k-th draw of an image depends on (seed, index, k) alone.
    """
    # NumPy's, because torch's CPU generator tells only 2^32 seeds apart: among 50,000 images two would likely agree.
    generators = [np.random.default_rng(derive_seed(seed, "image", index)) for index in indices]

    def draw(shape: Sequence[int]) -> Tensor:
        assert shape[0] == len(generators)
        drawn = [torch.from_numpy(each.standard_normal(shape[1:], dtype=np.float32)) for each in generators]
        return torch.stack(drawn).to(device, torch.get_default_dtype())

    return draw
