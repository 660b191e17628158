"""Settings of the methods of `bayes.py`, `code_length.py` and `gaussians.py`. The methods inherit these classes.

The command line reads its flags from here. This module imports no torch, so its import is fast.
"""

from dataclasses import dataclass
from typing import Annotated, Literal

from typing_extensions import Doc

from models.ranges import NonNegative, NonNegativeInt, PositiveInt, Range, Share

OdeSteps = Annotated[PositiveInt, Doc("Steps of the probability-flow ODE. Each step takes two network evaluations.")]


@dataclass(frozen=True)
class DenoisingSettings:
    """Options of --method denoising."""

    draws: PositiveInt = 50
    """Maximum number of network evaluations per class and image. All classes use the same noise."""
    weighting: Literal["variational", "sigmoid", "flow", "noise", "clean"] = "sigmoid"
    """Weight of the error as a function of time. variational: as in the variational bound; scores are in nats. sigmoid:
    less weight on fine detail. flow, noise, clean: the unweighted squared error of the estimated flow, noise
    or clean image."""
    time_range: tuple[float, float] = (0.3, 0.9)
    """Range of the flow times sigma / (alpha + sigma) at which the error is measured."""
    first_round: Annotated[int, Range(2)] = 8
    """Draws per class before the first classes are dropped. Each later round doubles the total number of draws."""
    patience: NonNegative = 2.5
    """A class is dropped if it is worse than the best one by more than this many standard errors; 0 drops none."""


@dataclass(frozen=True)
class BayesOdeSettings:
    """Options of --method likelihood."""

    ode_steps: OdeSteps = 12
    first_time: float = 0.2
    """Flow time of the noise that is added to the image before its density is computed; 0 adds none."""
    probes: NonNegativeInt = 4
    """Random probe vectors for the divergence, the same at every step; 0 takes the exact trace, for small latents."""


@dataclass(frozen=True)
class GaussiansSettings:
    """Options of --method gaussians."""

    shrinkage: Share = 0.1
    """Weight of the pooled covariance in the covariance of each class."""
    diagonal: bool = False
    """Set covariances between latent dimensions to 0."""


@dataclass(frozen=True)
class VlbSettings:
    """Options of --method vlb."""

    vlb_steps: NonNegativeInt = 100
    """Number of chain steps to evaluate per image, drawn at random for an unbiased estimate; 0 for all steps."""


@dataclass(frozen=True)
class DensitySettings:
    """Options of --method ode."""

    ode_steps: OdeSteps = 50
    first_time: float = 0.0023
    """Flow time of the ODE's clean end. Default: the standard deviation of uniform dequantisation noise."""
    probes: NonNegativeInt = 1
    """Random probe vectors for the divergence, the same at every step; 0 takes the exact trace, for small images."""
