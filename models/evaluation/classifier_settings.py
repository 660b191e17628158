"""Training settings of a classifier, for the command line. This module imports no torch, so its import is fast."""

from dataclasses import dataclass

from models.ranges import NonNegative, Positive, PositiveInt

MIN_EPOCHS, MAX_EPOCHS, MIN_STEPS = 12, 100, 600


@dataclass(frozen=True)
class ClassifierSettings:
    """Training settings of a classifier."""

    network: str = "convnet"
    """Architecture of the network: convnet or resnet."""
    width: PositiveInt = 32
    """Channels of the first layers. The middle layers of the convnet have twice as many."""
    epochs: Positive | None = None
    """Epochs over the training split. Default: 12, or up to 100 for a small split."""
    batch_size: PositiveInt = 128
    """Images per step."""
    lr: Positive = 4e-3
    """Peak learning rate of the one-cycle schedule."""
    weight_decay: NonNegative = 0.05
    """Weight decay of AdamW."""
    flips: bool = False
    """Also train on mirrored images. Always on for data sets whose models are trained on mirrored images."""
    seed: int = 0
    """Random seed. The same seed gives the same network on the same machine."""

    def epochs_for(self, images: int) -> float:
        """Return the number of epochs: by default 12, or up to 100 if 12 epochs are fewer than 600 steps."""
        default = max(MIN_EPOCHS, min(MAX_EPOCHS, MIN_STEPS * self.batch_size / images))
        return default if self.epochs is None else self.epochs
