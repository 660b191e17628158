"""Exponential moving average (EMA) of a network's weights, kept in a second network."""

import copy

import torch
from torch import Tensor, nn


class EMA:
    """Average whose half-life is a share of the run, so that it has the same effect in short and long runs.

    The decay is 0.5 ** (elapsed / half_life). elapsed: share of the run since the last update. At update n, the decay
    is at most (1 + n) / (10 + n), with n = 0 at first, so the initial weights soon lose their influence.
    """

    def __init__(self, network: nn.Module, half_life: float):
        self.network = copy.deepcopy(network).eval().requires_grad_(False)
        self.half_life = half_life
        self.updates = 0

    def decay(self, elapsed: float) -> float:
        """Return the weight of the old average in the next update."""
        steady = 0.5 ** (elapsed / self.half_life) if self.half_life > 0 else 0.0
        return min(steady, (1 + self.updates) / (10 + self.updates))

    def plan(self, elapsed: float) -> dict[str, Tensor]:
        """Return the weight of the network in the next update, and count the update."""
        weight = 1 - self.decay(elapsed)
        self.updates += 1
        return {"weight": torch.tensor(weight, dtype=torch.float64)}

    @torch.no_grad()
    def update(self, network: nn.Module, weight: Tensor) -> None:
        """Move the average towards the network's weights, and copy the network's buffers. weight: made by `plan`."""
        averages: list[Tensor] = list(self.network.parameters())
        weights: list[Tensor] = list(network.parameters())
        parts = [weight.to(averages[0].dtype)] * len(averages)
        torch._foreach_lerp_(averages, weights, parts)  # pyright: ignore[reportPrivateImportUsage]
        for copied, buffer in zip(self.network.buffers(), network.buffers(), strict=True):
            copied.copy_(buffer)
