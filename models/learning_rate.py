"""Settings of the optimizer, and the learning rate over a run as a function of progress in [0, 1].

Progress is the share of the training budget that is spent, so a schedule spans the run whether its length is given in
epochs, steps or minutes. This module does not import torch, so that the command line can quickly read its flags from
OptimizerSettings.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Literal

from models.ranges import RESUMABLE, NonNegative, NonNegativeInt, Positive, PositiveInt, Share, ShareBelowOne


@dataclass(frozen=True)
class OptimizerSettings:
    """Settings of the optimizer and of the moving average of the weights."""

    batch_size: PositiveInt = 128
    """Images per optimizer step, over all processes."""
    accumulate: Annotated[PositiveInt, RESUMABLE] = 1
    """Parts into which a batch is split to save memory. The result is the same up to rounding, except for dropout."""
    optimizer: Literal["adamw", "muon"] = "adamw"
    """muon orthogonalises the updates of hidden matrices and filters; AdamW trains the other weights."""
    lr: Positive = 1e-3
    """Largest learning rate."""
    lr_schedule: Literal["cosine", "constant", "linear", "multistep", "one_cycle"] = "cosine"
    """Learning rate over the training budget."""
    warmup_steps: NonNegativeInt = 100
    """Steps of linear warm-up."""
    lr_milestones: tuple[Share, ...] = (0.5, 0.75)
    """Shares of the run after which multistep multiplies the learning rate by lr_gamma."""
    lr_gamma: Positive = 0.2
    """Factor by which multistep multiplies the learning rate."""
    weight_decay: NonNegative = 0.01
    """Decoupled weight decay of matrices and filters."""
    betas: tuple[ShareBelowOne, ShareBelowOne] = (0.9, 0.99)
    """Decay rates of AdamW's two moments."""
    clip: NonNegative = 1.0
    """Largest norm of the gradient; 0 for no clipping."""
    ema: NonNegative = 0.1
    """Half-life of the moving average of the weights, as a share of the run; 0 for no average."""

    def learning_rate(self, step: int, progress: float) -> float:
        """Return the learning rate of a step. step: counted from 0. progress: at the start of the step."""
        warmup = min(1.0, (step + 1) / (self.warmup_steps + 1))
        return self.lr * warmup * LR_SCHEDULES[self.lr_schedule](min(progress, 1.0), self)


def _multistep(progress: float, settings: OptimizerSettings) -> float:
    return settings.lr_gamma ** sum(progress >= milestone for milestone in settings.lr_milestones)


def _one_cycle(progress: float) -> float:
    """Rise from 1/25 to 1 over the first 30 %, then fall to 0, both as a cosine (Smith & Topin 2018)."""
    if progress < 0.3:
        return 1 / 25 + (1 - 1 / 25) * 0.5 * (1 - math.cos(math.pi * progress / 0.3))
    return 0.5 * (1 + math.cos(math.pi * (progress - 0.3) / 0.7))


LR_SCHEDULES: dict[str, Callable[[float, OptimizerSettings], float]] = {
    "cosine": lambda progress, settings: 0.5 * (1 + math.cos(math.pi * progress)),
    "constant": lambda progress, settings: 1.0,
    "linear": lambda progress, settings: 1 - progress,
    "multistep": _multistep,
    "one_cycle": lambda progress, settings: _one_cycle(progress),
}
