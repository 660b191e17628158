"""Predictions: the target of a network as two coefficients, target = a * clean + b * noise.

Together with `noisy = alpha * clean + sigma * noise` this is a 2x2 linear system: one solve turns any output into
(clean, noise), and one sum turns (clean, noise) into any target.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from models.errors import UserError

Coefficients = Callable[[Tensor, Tensor, float], tuple[Tensor, Tensor]]


def _eps(alpha: Tensor, sigma: Tensor, deviation: float) -> tuple[Tensor, Tensor]:
    """Noise (Ho et al. 2020)."""
    return torch.zeros_like(alpha), torch.ones_like(sigma)


def _x0(alpha: Tensor, sigma: Tensor, deviation: float) -> tuple[Tensor, Tensor]:
    """Clean image."""
    return torch.ones_like(alpha), torch.zeros_like(sigma)


def _flow(alpha: Tensor, sigma: Tensor, deviation: float) -> tuple[Tensor, Tensor]:
    """Velocity of the straight line, noise - clean (Lipman et al. 2023)."""
    return -torch.ones_like(alpha), torch.ones_like(sigma)


def _edm(alpha: Tensor, sigma: Tensor, deviation: float) -> tuple[Tensor, Tensor]:
    """Target of EDM's preconditioning (Karras et al. 2022, table 1).

    Its variance is 1 if the data have the standard deviation d.
    With s = sigma/alpha, c_skip and c_out of the paper give (up to the sign)
    target = (alpha * d^2 * noise - sigma * clean) / (d * sqrt(sigma^2 + alpha^2 d^2)).
    """
    norm = deviation * (sigma**2 + alpha**2 * deviation**2).sqrt()
    return -sigma / norm, alpha * deviation**2 / norm


def _v(alpha: Tensor, sigma: Tensor, deviation: float) -> tuple[Tensor, Tensor]:
    """alpha * noise - sigma * clean, divided by sqrt(alpha^2 + sigma^2): EDM's target for data of deviation 1.

    On variance-preserving schedules the divisor is 1, and this is v of Salimans & Ho 2022.
    """
    return _edm(alpha, sigma, 1.0)


@dataclass(frozen=True)
class Prediction:
    """Row of PREDICTIONS. deviation: standard deviation of the data. alpha and sigma broadcast against the images."""

    name: str
    deviation: float = 1.0

    def coefficients(self, alpha: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        return PREDICTIONS[self.name](alpha, sigma, self.deviation)

    def target(self, clean: Tensor, noise: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        """Return the target of the network's output."""
        a, b = self.coefficients(alpha, sigma)
        return a * clean + b * noise

    def solve(self, output: Tensor, noisy: Tensor, alpha: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        """Return the (clean, noise) that agree with both the output and the noisy image.

        The system is singular for x0 at sigma = 0, where the noisy image has no noise. The solution there is
        (noisy / alpha, 0). The system is also singular for eps at alpha = 0, which `check` rejects.
        """
        a, b = self.coefficients(alpha, sigma)
        determinant = alpha * b - sigma * a
        singular = determinant == 0
        determinant = torch.where(singular, 1.0, determinant)
        clean = (
            torch.where(singular, 1 / alpha, b / determinant),
            torch.where(singular, 0, -sigma / determinant),
        )
        noise = torch.where(singular, 0, -a / determinant), torch.where(singular, 0, alpha / determinant)
        return clean[0] * noisy + clean[1] * output, noise[0] * noisy + noise[1] * output

    def input_scale(self, alpha: Tensor, sigma: Tensor) -> Tensor:
        """Return EDM's c_in, which brings the network's input to unit variance; 1 for the other predictions."""
        if self.name != "edm":
            return torch.ones_like(alpha)
        return (alpha**2 * self.deviation**2 + sigma**2).rsqrt()

    def clean_error(self, alpha: Tensor, sigma: Tensor) -> Tensor:
        """Return the error of the clean estimate for a unit error of the output: |sigma / determinant|."""
        a, b = self.coefficients(alpha, sigma)
        return (sigma / (alpha * b - sigma * a)).abs()

    def noise_error(self, alpha: Tensor, sigma: Tensor) -> Tensor:
        """Return the error of the noise estimate for a unit error of the output: |alpha / determinant|."""
        a, b = self.coefficients(alpha, sigma)
        return (alpha / (alpha * b - sigma * a)).abs()

    def check(self, last_alpha: float) -> None:
        """Raise UserError for eps if `last_alpha` (alpha at t = 1) is 0: such a model cannot be sampled."""
        if self.name == "eps" and last_alpha < 1e-8:
            raise UserError(
                "`prediction eps`: the schedule ends in pure noise (alpha = 0 at t = 1), where the output has no "
                "information about the image",
                "use `prediction v`",
                "use a schedule with alpha > 0 at t = 1",
            )


PREDICTIONS: dict[str, Coefficients] = {"eps": _eps, "x0": _x0, "v": _v, "flow": _flow, "edm": _edm}


def build_prediction(name: str, deviation: float) -> Prediction:
    """Return the prediction of that name. deviation: standard deviation of the data, for edm. Raises UserError."""
    if name not in PREDICTIONS:
        raise UserError(f"`prediction` {name!r}: choose from {', '.join(PREDICTIONS)}")
    if name == "edm" and not deviation > 0:
        raise UserError(
            f"`prediction edm`: it divides by the deviation of the data, which is {deviation}", "use `prediction v`"
        )
    return Prediction(name, deviation)
