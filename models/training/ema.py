"""The exponential moving average of a network's weights, kept beside the raw ones and never swapped into them."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn


class EMA:
    """Average with a half-life given as a share of the run, so that short and long runs average alike.

    An update after a share `elapsed` of the run decays by 0.5 ** (elapsed / half_life), but by no more than
    (1 + n) / (10 + n) at the n-th update, so that the initial weights are soon forgotten.
    """

    def __init__(self, network: nn.Module, half_life: float):
        self.network = copy.deepcopy(network).eval().requires_grad_(False)
        self.half_life = half_life
        self.updates = 0

    def decay(self, elapsed: float) -> float:
        steady = 0.5 ** (elapsed / self.half_life) if self.half_life > 0 else 0.0
        return min(steady, (1 + self.updates) / (10 + self.updates))

    @torch.no_grad()
    def update(self, network: nn.Module, elapsed: float) -> None:
        """Moves the average towards the weights after `elapsed`, the share of the run since the last update."""
        weight = 1 - self.decay(elapsed)
        averages: list[Tensor] = list(self.network.parameters())
        weights: list[Tensor] = list(network.parameters())
        torch._foreach_lerp_(averages, weights, weight)  # pyright: ignore[reportPrivateImportUsage]
        for mine, theirs in zip(self.network.buffers(), network.buffers(), strict=True):
            mine.copy_(theirs)
        self.updates += 1
