"""A network's denoiser whose calls on a GPU are recorded as CUDA graphs, one for each set of argument shapes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from models.diffusion.denoiser import Estimate, NetworkDenoiser
from models.diffusion.noise_schedules import NoiseLevel
from models.recording import Recorder

# Largest number of graphs. Each graph holds the GPU memory of one call. Calls with further shapes are not recorded.
MOST_SHAPES = 4


@dataclass(frozen=True)
class RecordedDenoiser(NetworkDenoiser):
    """NetworkDenoiser for a network whose weights have fixed addresses. Calls that need gradients are not recorded."""

    recordings: dict[Any, _Recording] = field(default_factory=dict, repr=False, compare=False)

    def __call__(self, noisy: Tensor, level: NoiseLevel, label: Tensor | None = None) -> Estimate:
        shapes = (noisy.shape, noisy.dtype, level.t.shape, label is None)
        if noisy.requires_grad or (shapes not in self.recordings and len(self.recordings) == MOST_SHAPES):
            return super().__call__(noisy, level, label)
        if shapes not in self.recordings:
            self.recordings[shapes] = _Recording(super().__call__, noisy, level.like(noisy), label)
        return self.recordings[shapes](noisy, level, label)


class _Recording:
    """Recorded call of a denoiser. Its arguments and results are tensors with fixed addresses."""

    def __init__(self, denoiser: Any, noisy: Tensor, level: NoiseLevel, label: Tensor | None) -> None:
        self.noisy, self.label = noisy.clone(), None if label is None else label.clone()
        self.level = NoiseLevel(level.t.clone(), level.alpha.clone(), level.sigma.clone())
        self.estimate: Estimate | None = None

        def compute() -> None:
            self.estimate = denoiser(self.noisy, self.level, self.label)

        self.recorder = Recorder(compute, {}, None, lambda line: None)

    def __call__(self, noisy: Tensor, level: NoiseLevel, label: Tensor | None) -> Estimate:
        self.noisy.copy_(noisy)
        for kept, value in zip(vars(self.level).values(), vars(level).values(), strict=True):
            kept.copy_(value, non_blocking=True)
        if self.label is not None and label is not None:
            self.label.copy_(label)
        self.recorder()
        assert self.estimate is not None
        return Estimate(*(part.clone() for part in self.estimate))  # the next replay overwrites self.estimate
