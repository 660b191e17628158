"""Settings of the length of a run: epochs, steps or minutes, whichever ends first."""

from dataclasses import dataclass
from typing import Annotated

from models.ranges import RESUMABLE, NonNegativeInt, Positive, PositiveInt

DEFAULT_EPOCHS = 20.0


@dataclass(frozen=True)
class Budget:
    """Limits on the length of a run. A limit that is not set does not apply."""

    epochs: Annotated[Positive | None, RESUMABLE] = None
    """Length of the run in passes over the data. Default: 20 if no other budget is given."""
    max_steps: Annotated[PositiveInt | None, RESUMABLE] = None
    """Length of the run in optimizer steps. The budget that ends first ends the run."""
    max_minutes: Annotated[Positive | None, RESUMABLE] = None
    """Length of the run in minutes of training, compilation included. Evaluation, pictures and checkpoints are not
    counted; the log reports their time."""
    wall_clock: Annotated[bool, RESUMABLE] = False
    """Count max_minutes from the start of the process to the last step, including start-up, evaluation, pictures and
    checkpoints."""
    patience: Annotated[NonNegativeInt, RESUMABLE] = 0
    """Stop early after this many evaluations without improvement of best_by; 0 for never."""

    def steps(self, images: int, batch_size: int) -> int | None:
        """Return the number of steps that epochs and max_steps allow, at least 1; None if both are None."""
        limits = [] if self.epochs is None else [-int(-self.epochs * images // batch_size)]
        limits += [] if self.max_steps is None else [self.max_steps]
        return max(1, min(limits)) if limits else None

    def used_up(self, images: int, batch_size: int, step: int, seconds: float) -> dict[str, float]:
        """Return, by name, the spent amount of each limit that is reached after `step` steps and `seconds` seconds."""
        limits = {"epochs": self.epochs, "max_steps": self.max_steps, "max_minutes": self.max_minutes}
        spent = {"epochs": step * batch_size / images, "max_steps": step, "max_minutes": seconds / 60}
        alone = {name: Budget(**{name: limit}) for name, limit in limits.items() if limit}
        shares = {name: one.spent(one.steps(images, batch_size), step, seconds) for name, one in alone.items()}
        return {name: max(limits[name], spent[name]) for name, share in shares.items() if share == 1}

    def spent(self, steps: int | None, step: int, seconds: float) -> float:
        """Return the spent share of the budget, in [0, 1], after `step` of `steps` steps and `seconds` seconds."""
        shares = [0.0] if steps is None else [step / steps]
        if self.max_minutes is not None:
            shares.append(seconds / 60 / self.max_minutes)
        return min(1.0, max(shares))
