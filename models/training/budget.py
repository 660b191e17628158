"""The training budget: epochs, steps or minutes, whichever ends first."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Budget:
    """Limits of a run; None is no limit. wall_clock: max_minutes counts from the start of the process, otherwise
    training time alone counts."""

    epochs: float | None
    max_steps: int | None
    max_minutes: float | None
    wall_clock: bool = False

    def steps(self, images: int, batch_size: int) -> int | None:
        """Return the number of steps of the run, at least 1, or None if only minutes limit it."""
        limits = [] if self.epochs is None else [-int(-self.epochs * images // batch_size)]
        limits += [] if self.max_steps is None else [self.max_steps]
        return max(1, min(limits)) if limits else None

    def spent(self, steps: int | None, step: int, seconds: float) -> float:
        """Return the share of the budget that is spent, 0..1. steps: as from `steps()`. step, seconds: done so far."""
        shares = [0.0] if steps is None else [step / steps]
        if self.max_minutes is not None:
            shares.append(seconds / 60 / self.max_minutes)
        return min(1.0, max(shares))
