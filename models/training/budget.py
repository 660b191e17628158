"""When a run ends: after so many epochs, steps or minutes, whichever comes first."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Budget:
    """None: no such limit. wall_clock: the minutes are those since the process began, else those of training."""

    epochs: float | None
    max_steps: int | None
    max_minutes: float | None
    wall_clock: bool = False

    def steps(self, images: int, batch_size: int) -> int | None:
        """The step at which the epochs or steps end, at least 1; None if only minutes limit the run."""
        limits = [] if self.epochs is None else [-int(-self.epochs * images // batch_size)]
        limits += [] if self.max_steps is None else [self.max_steps]
        return max(1, min(limits)) if limits else None

    def spent(self, steps: int | None, step: int, seconds: float) -> float:
        """The share that is spent after so many steps, of those that there will be, and seconds: 0..1."""
        shares = [0.0] if steps is None else [step / steps]
        if self.max_minutes is not None:
            shares.append(seconds / 60 / self.max_minutes)
        return min(1.0, max(shares))
