"""Settings of the rows, pictures and checkpoints that a run writes."""

from dataclasses import dataclass
from typing import Annotated, Literal

from models.ranges import RESUMABLE, NonNegative, NonNegativeInt, PositiveInt

PictureFormat = Literal["png", "pdf", "svg"]
Logger = Literal["tensorboard", "wandb", "trackio", "none"]


@dataclass(frozen=True)
class ReportSettings:
    """Frequency and number of the rows, pictures and checkpoints of a run."""

    log_every: Annotated[NonNegativeInt, RESUMABLE] = 0
    """Steps between lines of the training loss. 0: every few seconds at first, then every minute."""
    eval_every: Annotated[NonNegative | None, RESUMABLE] = None
    """Epochs between evaluations of the test loss; 0: only at the end. Default: 1, but at least 100 steps."""
    eval_images: PositiveInt = 512
    """Number of test images, and of training images, on which each evaluation measures the loss,
    always at the same times and noise."""
    sample_every: Annotated[NonNegative | None, RESUMABLE] = None
    """Epochs between sample sheets; 0: only at the end. Default: 5, but at least 500 steps."""
    checkpoint_every: Annotated[NonNegative | None, RESUMABLE] = None
    """Epochs between checkpoints, fractions allowed; 0: only at the end. Default: 1, but at least 100 steps."""
    keep_checkpoints: Annotated[NonNegativeInt, RESUMABLE] = 3
    """Number of latest checkpoints to keep, in addition to the best one; 0 keeps all."""
    format: Annotated[PictureFormat, RESUMABLE] = "png"
    """Format of the pictures. pdf and svg files are written in addition to png."""
    logger: Annotated[Logger, RESUMABLE] = "tensorboard"
    """Board that shows losses, settings and pictures. wandb and trackio must be installed. --no_tensorboard means
    --logger none."""

    def epochs_between(self, epoch_steps: float) -> tuple[float, float, float]:
        """Return the epochs between evaluations, sheets and checkpoints. epoch_steps: number of steps of an epoch.

        The defaults also have a minimum in steps, because an epoch of a small data set can take less time than an
        evaluation.
        """
        usual = (self.eval_every, 1, 100), (self.sample_every, 5, 500), (self.checkpoint_every, 1, 100)
        evaluation, sheet, checkpoint = (
            max(epochs, steps / epoch_steps) if given is None else given for given, epochs, steps in usual
        )
        return evaluation, sheet, checkpoint
