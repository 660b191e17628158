"""The optimizer and the learning rate over the run, as a function of progress in [0, 1] rather than of steps."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from models.errors import UserError


def _constant(progress: float, schedule: LRSchedule) -> float:
    return 1.0


def _cosine(progress: float, schedule: LRSchedule) -> float:
    return 0.5 * (1 + math.cos(math.pi * progress))


def _linear(progress: float, schedule: LRSchedule) -> float:
    return 1 - progress


def _multistep(progress: float, schedule: LRSchedule) -> float:
    return schedule.gamma ** sum(progress >= milestone for milestone in schedule.milestones)


def _one_cycle(progress: float, schedule: LRSchedule) -> float:
    """Up from 1/25 over the first 30 %, then down to nearly 0, both by cosine (Smith & Topin 2018)."""
    if progress < 0.3:
        return 1 / 25 + (1 - 1 / 25) * 0.5 * (1 - math.cos(math.pi * progress / 0.3))
    return 0.5 * (1 + math.cos(math.pi * (progress - 0.3) / 0.7))


@dataclass(frozen=True)
class LRSchedule:
    """Learning rate of a step: `lr` times a linear warm-up over `warmup_steps` times one row of LR_SCHEDULES.

    milestones: shares of the run after which `multistep` multiplies by gamma.
    """

    name: str
    lr: float
    warmup_steps: int = 0
    milestones: Sequence[float] = (0.5, 0.75)
    gamma: float = 0.2

    def __post_init__(self) -> None:
        if self.name not in LR_SCHEDULES:
            raise UserError(f"unknown learning-rate schedule {self.name!r}: choose from {', '.join(LR_SCHEDULES)}")

    def at(self, step: int, progress: float) -> float:
        """step counts from 0; progress is the share of the budget spent before it."""
        warmup = min(1.0, (step + 1) / (self.warmup_steps + 1))
        return self.lr * warmup * LR_SCHEDULES[self.name](min(progress, 1.0), self)


LR_SCHEDULES: dict[str, Callable[[float, LRSchedule], float]] = {
    "cosine": _cosine,
    "constant": _constant,
    "linear": _linear,
    "multistep": _multistep,
    "one_cycle": _one_cycle,
}


def build_optimizer(
    network: nn.Module, lr: float, weight_decay: float, betas: tuple[float, float]
) -> torch.optim.AdamW:
    """AdamW, fused: the loop relies on its found_inf and grad_scale. Weight decay on matrices and filters alone."""
    decayed = [p for p in network.parameters() if p.dim() >= 2]
    others = [p for p in network.parameters() if p.dim() < 2]
    groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=lr, betas=betas, fused=True)
