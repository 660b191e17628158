"""Samplers: functions from noise to images, each a generator of steps. They do not print, save or clip.

Every update has the form alpha * clean + sigma * noise, which is finite for every schedule, also at t = 0 and 1. The
samplers differ in which clean estimate they use and in how much of the noise they keep. The ODE and SDE solvers
walk in flow coordinates: noisy / (alpha + sigma) moves on a straight line between clean and noise on every
schedule, with the flow time sigma / (alpha + sigma) as its time.

A sampler's keyword-only arguments are its options. Their types state the ranges; `Args:` holds the help texts.
"""

import inspect
import math
from collections.abc import Callable, Iterator, Mapping
from itertools import pairwise
from typing import Annotated, Any, Literal, NamedTuple, get_type_hints

import torch
from torch import Tensor

from models.diffusion.denoiser import Denoiser, Estimate
from models.diffusion.noise_schedules import NoiseLevel
from models.diffusion.times import Grid
from models.errors import UserError, suggestion
from models.randomness import Draw
from models.ranges import NonNegative, Range, Share, check_ranges


class Step(NamedTuple):
    """Images after an update, the estimate that the update used, and the level reached."""

    noisy: Tensor
    estimate: Estimate
    level: NoiseLevel


def _kept_noise(here: NoiseLevel, there: NoiseLevel) -> float:
    """Return the factor of the noise estimate in an ancestral step (Ho et al. 2020, eq. 7)."""
    if there.sigma == 0 or there.alpha == 0:
        return 0.0
    return float(there.sigma**2 * here.alpha / (here.sigma * there.alpha))


def _split_noise(here: NoiseLevel, there: NoiseLevel, eta: float) -> tuple[float, float]:
    """Return (kept, fresh) with kept^2 + fresh^2 = there.sigma^2. fresh: eta * posterior sigma (DDIM eq. 16)."""
    variance = float(there.sigma**2)
    fresh = eta * math.sqrt(max(variance - _kept_noise(here, there) ** 2, 0.0))
    return math.sqrt(max(variance - fresh**2, 0.0)), fresh


def _mix(there: NoiseLevel, clean: Tensor, noise: Tensor, kept: float, fresh: float, draw: Draw) -> Tensor:
    noisy = there.alpha * clean + kept * noise
    return noisy + fresh * draw(noisy.shape) if fresh > 0 else noisy


def _velocity(denoiser: Denoiser, noisy: Tensor, level: NoiseLevel) -> tuple[Estimate, Tensor]:
    """Return the estimate, and noise - clean, the slope of the straight line."""
    estimate = denoiser(noisy, level)
    return estimate, estimate.noise - estimate.clean


def ddpm(
    denoiser: Denoiser,
    noisy: Tensor,
    grid: Grid,
    draw: Draw,
    *,
    variance: Literal["posterior", "beta"] = "posterior",
) -> Iterator[Step]:
    """Ancestral sampling, Ho et al. 2020 algorithm 2, for any schedule and any grid.

    noisy: (N, C, H, W) at grid[0]. Yields S steps, one evaluation each. The last step adds no noise.

    Args:
        variance: posterior is beta-tilde, exact if the data are one point. beta is exact for unit Gaussian data, and is
            the beta of Ho et al. on schedules that preserve variance.
    """
    for here, there in pairwise(grid):
        estimate = denoiser(noisy, here)
        kept = _kept_noise(here, there)
        fresh = math.sqrt(max(float(there.sigma**2) - kept**2, 0.0))
        if variance == "beta" and there.sigma > 0:
            fresh *= float((here.sigma / here.unit_deviation) / (there.sigma / there.unit_deviation))
        noisy = _mix(there, estimate.clean, estimate.noise, kept, fresh, draw)
        yield Step(noisy, estimate, there)


def ddim(denoiser: Denoiser, noisy: Tensor, grid: Grid, draw: Draw, *, eta: Share = 0.0) -> Iterator[Step]:
    """Deterministic to ancestral sampling, Song et al. 2021 eq. 12 and 16. Arguments and steps as in `ddpm`.

    Args:
        eta: 0 is deterministic, 1 is ancestral.
    """
    for here, there in pairwise(grid):
        estimate = denoiser(noisy, here)
        noisy = _mix(there, estimate.clean, estimate.noise, *_split_noise(here, there, eta), draw)
        yield Step(noisy, estimate, there)


def euler(denoiser: Denoiser, noisy: Tensor, grid: Grid, draw: Draw) -> Iterator[Step]:
    """First-order solver in flow coordinates; the update of DDIM with eta = 0. Arguments and steps as in `ddpm`."""
    for here, there in pairwise(grid):
        estimate, slope = _velocity(denoiser, noisy, here)
        moved = noisy / here.flow_scale + (there.flow_time - here.flow_time) * slope
        noisy = there.flow_scale * moved
        yield Step(noisy, estimate, there)


def midpoint(denoiser: Denoiser, noisy: Tensor, grid: Grid, draw: Draw) -> Iterator[Step]:
    """Second-order solver with two evaluations a step: the slope is evaluated halfway. Arguments as in `ddpm`."""
    for index, (here, there) in enumerate(pairwise(grid)):
        middle, start = grid.halfway[index], noisy / here.flow_scale
        _, slope = _velocity(denoiser, noisy, here)
        halfway = middle.flow_scale * (start + (middle.flow_time - here.flow_time) * slope)
        estimate, slope = _velocity(denoiser, halfway, middle)
        noisy = there.flow_scale * (start + (there.flow_time - here.flow_time) * slope)
        yield Step(noisy, estimate, there)


def heun(denoiser: Denoiser, noisy: Tensor, grid: Grid, draw: Draw) -> Iterator[Step]:
    """Second-order solver with the mean slope of both ends, Karras et al. 2022 algorithm 1 in flow coordinates.

    A step costs two evaluations, or one if it ends at t = 0. Arguments as in `ddpm`.
    """
    for here, there in pairwise(grid):
        start, span = noisy / here.flow_scale, there.flow_time - here.flow_time
        estimate, slope = _velocity(denoiser, noisy, here)
        noisy = there.flow_scale * (start + span * slope)
        if there.sigma > 0:
            estimate, slope_there = _velocity(denoiser, noisy, there)
            noisy = there.flow_scale * (start + span * (slope + slope_there) / 2)
        yield Step(noisy, estimate, there)


def sde(denoiser: Denoiser, noisy: Tensor, grid: Grid, draw: Draw, *, diffusion: NonNegative = 0.5) -> Iterator[Step]:
    """Euler-Maruyama with diffusion coefficient `diffusion * flow time`, which vanishes at the clean end.

    The drift contains -1/2 g^2 score, so the marginals are those of the ODE for every diffusion coefficient g (Song et
    al. 2021 eq. 6, 13). The score of the flow's marginal is -noise / flow time. diffusion = 0 is `euler`. The last step
    adds no noise. Arguments and steps as in `ddpm`.

    Args:
        diffusion: d in the diffusion coefficient d * flow time; 0 is the ODE. In papers whose t runs from noise to
            data, the coefficient is d * (1 - t).
    """
    for here, there in pairwise(grid):
        estimate, slope = _velocity(denoiser, noisy, here)
        span = here.flow_time - there.flow_time
        moved = noisy / here.flow_scale - span * slope
        if there.sigma > 0 and diffusion > 0:
            moved = moved - 0.5 * diffusion**2 * here.flow_time * span * estimate.noise
            moved = moved + diffusion * here.flow_time * span.sqrt() * draw(noisy.shape)
        noisy = there.flow_scale * moved
        yield Step(noisy, estimate, there)


def dpmpp_2m(denoiser: Denoiser, noisy: Tensor, grid: Grid, draw: Draw, *, eta: Share = 0.0) -> Iterator[Step]:
    """DPM-Solver++(2M), Lu et al. 2022 algorithm 2: DDIM with the clean estimate extrapolated from two steps.

    eta = 1 is its SDE form (their section 5, second order). A step that begins or ends at an infinite log-SNR has
    first order. Arguments and steps as in `ddpm`.

    Args:
        eta: 0 is deterministic, 1 is ancestral.
    """
    previous: tuple[NoiseLevel, Tensor] | None = None
    for here, there in pairwise(grid):
        estimate = denoiser(noisy, here)
        clean, noise = estimate
        step = there.half_log_snr - here.half_log_snr
        if previous is not None and step.isfinite():
            last_step = here.half_log_snr - previous[0].half_log_snr
            clean = clean + step / (2 * last_step) * (clean - previous[1])
            noise = (noisy - here.alpha * clean) / here.sigma
        noisy = _mix(there, clean, noise, *_split_noise(here, there, eta), draw)
        previous = here, estimate.clean
        yield Step(noisy, estimate, there)


def dpmpp_2m_sde(denoiser: Denoiser, noisy: Tensor, grid: Grid, draw: Draw) -> Iterator[Step]:
    """SDE form of DPM-Solver++(2M): `dpmpp_2m` with eta = 1."""
    return dpmpp_2m(denoiser, noisy, grid, draw, eta=1.0)


def _unipc_weights(ratios: list[float], step: float) -> list[float]:
    """Return the coefficients of UniPC's B2 form for data prediction, B(step) = e^-step - 1 (Zhao et al. 2023, eq. 5).

    ratios: positions of the earlier points in units of the step, relative to the current point. The corrector adds the
    ratio 1 of the new point. The small Vandermonde system is solved in float64.
    """
    h = -step
    factor, phi = 1.0, math.expm1(h) / h - 1
    right = []
    for order in range(1, len(ratios) + 1):
        factor *= order
        right.append(phi * factor / math.expm1(h))
        phi = phi / h - 1 / (factor * (order + 1))
    points = torch.tensor(ratios, dtype=torch.float64)
    matrix = torch.stack([points**k for k in range(len(ratios))])
    return torch.linalg.solve(matrix, torch.tensor(right, dtype=torch.float64)).tolist()


def _unipc_clean(
    here: NoiseLevel,
    there: NoiseLevel,
    history: list[tuple[NoiseLevel, Tensor]],
    order: int,
    corrected: Tensor | None = None,
) -> Tensor:
    """Return the effective clean estimate of a UniPC step from `here`. The history ends with the estimate at `here`.

    corrected: the clean estimate at `there` for the corrector, None for the predictor.
    """
    clean = history[-1][1]
    start = float(here.half_log_snr)
    step = float(there.half_log_snr) - start
    earlier = [(float(level.half_log_snr), past) for level, past in history[:-1]] if math.isfinite(step) else []
    earlier = [point for point in earlier if math.isfinite(point[0])][::-1][: order - 1]
    ratios = [(position - start) / step for position, _ in earlier]
    slopes = [(past - clean) / ratio for (_, past), ratio in zip(earlier, ratios, strict=True)]
    if corrected is not None:
        ratios, slopes = [*ratios, 1.0], [*slopes, corrected - clean]
    if not slopes:
        return clean
    # With a single slope, the paper's own solver uses the weight 1/2 for every step size.
    weights = [0.5] if len(slopes) == 1 else _unipc_weights(ratios, step)
    return clean + sum(weight * slope for weight, slope in zip(weights, slopes, strict=True))


def unipc(
    denoiser: Denoiser, noisy: Tensor, grid: Grid, draw: Draw, *, order: Annotated[int, Range(1, 3)] = 2
) -> Iterator[Step]:
    """UniPC, predictor and corrector (Zhao et al. 2023), on the data prediction. Arguments and steps as in `ddpm`.

    Each evaluation first corrects the previous step, so a step costs one evaluation. The order is lower at the start,
    where there is no history, and at the end. It is 1 in the last step.

    Args:
        order: order of the solver.
    """
    history: list[tuple[NoiseLevel, Tensor]] = []
    start, start_order = noisy, 1

    def move(here: NoiseLevel, there: NoiseLevel, origin: Tensor, clean: Tensor) -> Tensor:
        return there.alpha * clean + there.sigma * (origin - here.alpha * clean) / here.sigma

    for index, (here, there) in enumerate(pairwise(grid)):
        estimate = denoiser(noisy, here)
        if index > 0:
            before = grid[index - 1]
            clean = _unipc_clean(before, here, history, start_order, corrected=estimate.clean)
            noisy = move(before, here, start, clean)
        history = [*history, (here, estimate.clean)][-order:]
        start_order = min(order, index + 1, len(grid) - 1 - index)
        start = noisy
        noisy = move(here, there, start, _unipc_clean(here, there, history, start_order))
        yield Step(noisy, estimate, there)


def _one_each(steps: int) -> int:
    return steps


def _never(options: Mapping[str, Any]) -> bool:
    return False


class Sampler(NamedTuple):
    """Row of SAMPLERS.

    walk: the sampler. nfe: evaluations of the denoiser per image for S steps. adds_noise: whether the sampler
    adds fresh Gaussian noise with these options.
    """

    walk: Callable[..., Iterator[Step]]
    nfe: Callable[[int], int] = _one_each
    adds_noise: Callable[[Mapping[str, Any]], bool] = _never

    @property
    def options(self) -> dict[str, Any]:
        """Options by name with their defaults."""
        parameters = inspect.signature(self.walk).parameters.values()
        return {p.name: p.default for p in parameters if p.kind is inspect.Parameter.KEYWORD_ONLY}

    def check(self, options: Mapping[str, Any]) -> None:
        """Raise UserError for an option out of its range. The names must be options of this sampler."""
        check_ranges(options, get_type_hints(self.walk, include_extras=True))


SAMPLERS: dict[str, Sampler] = {
    "ddpm": Sampler(ddpm, adds_noise=lambda options: True),
    "ddim": Sampler(ddim, adds_noise=lambda options: options["eta"] > 0),
    "euler": Sampler(euler),
    "midpoint": Sampler(midpoint, nfe=lambda steps: 2 * steps),
    "heun": Sampler(heun, nfe=lambda steps: 2 * steps - 1),
    "dpmpp_2m": Sampler(dpmpp_2m, adds_noise=lambda options: options["eta"] > 0),
    "dpmpp_2m_sde": Sampler(dpmpp_2m_sde, adds_noise=lambda options: True),
    "unipc": Sampler(unipc),
    "sde": Sampler(sde, adds_noise=lambda options: options["diffusion"] > 0),
}


def find_sampler(name: str) -> Sampler:
    """Return a row of SAMPLERS. Raises UserError for an unknown name."""
    if name not in SAMPLERS:
        raise UserError(f"`sampler` {name!r}: choose from {', '.join(SAMPLERS)}{suggestion(name, SAMPLERS)}")
    return SAMPLERS[name]
