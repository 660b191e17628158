"""Settings of the rows, pictures and checkpoints that a run writes."""

from dataclasses import dataclass
from typing import Annotated, Literal

from models.ranges import RESUMABLE, NonNegative, NonNegativeInt, PositiveInt

PictureFormat = Literal["png", "pdf", "svg"]


@dataclass(frozen=True)
class ReportSettings:
    """Frequency and number of the rows, pictures and checkpoints of a run."""

    eval_every: Annotated[NonNegative, RESUMABLE] = 1.0
    """Epochs between rows of losses; 0 for one row at the end."""
    eval_images: PositiveInt = 512
    """Number of test images, and of training images, for the losses at fixed times and noise."""
    sample_every: Annotated[NonNegative, RESUMABLE] = 5.0
    """Epochs between sample sheets; 0 for one sheet at the end."""
    checkpoint_every: Annotated[NonNegative, RESUMABLE] = 1.0
    """Epochs between checkpoints, fractions allowed; 0 for one checkpoint at the end."""
    keep_checkpoints: Annotated[NonNegativeInt, RESUMABLE] = 3
    """Number of latest checkpoints to keep, beside the best one; 0 keeps all."""
    format: Annotated[PictureFormat, RESUMABLE] = "png"
    """Format of the pictures. pdf and svg are written beside png."""
    tensorboard: Annotated[bool, RESUMABLE] = True
    """Write the losses for TensorBoard too."""
