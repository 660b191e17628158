"""Samplers: each one function from noise to images, a generator of steps that neither prints, saves nor clips.

Every update has the form alpha * clean + sigma * noise, which holds for every schedule at both ends of time; the
samplers differ in which clean estimate they use and in how much of the noise they keep. The ODE and SDE solvers
walk in flow coordinates: noisy / (alpha + sigma) moves on a straight line between clean and noise whatever the
schedule, with sigma / (alpha + sigma) as its time. The grids are in `times.py`.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from models.diffusion.denoiser import Denoiser, Estimate
from models.diffusion.flow_time import t_of
from models.diffusion.noise_schedules import NoiseSchedule
from models.errors import UserError
from models.randomness import Draw


class Step(NamedTuple):
    """The images after an update, the estimate that led there, and the time reached."""

    noisy: Tensor
    estimate: Estimate
    t: Tensor


class _Level(NamedTuple):
    """One time of the grid as float64 numbers; `half_log_snr` is log(alpha / sigma), +-infinite at the ends."""

    t: Tensor
    alpha: float
    sigma: float

    @property
    def half_log_snr(self) -> float:
        if self.alpha == 0 or self.sigma == 0:
            return -math.inf if self.alpha == 0 else math.inf
        return math.log(self.alpha / self.sigma)

    @property
    def unit_deviation(self) -> float:
        """Of noisy images of unit Gaussian data; 1 where variance is preserved."""
        return math.hypot(self.alpha, self.sigma)

    @property
    def flow_scale(self) -> float:
        return self.alpha + self.sigma

    @property
    def flow_time(self) -> float:
        return self.sigma / (self.alpha + self.sigma)


def _levels(schedule: NoiseSchedule, times: Tensor) -> list[_Level]:
    times = times.double().cpu()
    return [
        _Level(t, float(a), float(s))
        for t, a, s in zip(times, schedule.alpha(times), schedule.sigma(times), strict=True)
    ]


def _kept_noise(here: _Level, there: _Level) -> float:
    """sigma' of the full posterior: what of the present noise a step of Ho et al. 2020 eq. 7 keeps."""
    if there.sigma == 0 or there.alpha == 0:
        return 0.0
    return there.sigma**2 * here.alpha / (here.sigma * there.alpha)


def _split_noise(here: _Level, there: _Level, eta: float) -> tuple[float, float]:
    """(kept, fresh) with kept^2 + fresh^2 = sigma'^2: eta = 0 keeps all, eta = 1 the posterior (DDIM eq. 16)."""
    fresh = eta * math.sqrt(max(there.sigma**2 - _kept_noise(here, there) ** 2, 0.0))
    return math.sqrt(max(there.sigma**2 - fresh**2, 0.0)), fresh


def _mix(there: _Level, clean: Tensor, noise: Tensor, kept: float, fresh: float, draw: Draw) -> Tensor:
    noisy = there.alpha * clean + kept * noise
    return noisy + fresh * draw(noisy.shape) if fresh > 0 else noisy


def _check_eta(eta: float) -> None:
    if not 0 <= eta <= 1:
        raise UserError(f"eta {eta}: between 0 (deterministic) and 1 (ancestral)")


def ddpm(denoiser: Denoiser, noisy: Tensor, times: Tensor, draw: Draw, variance: str = "posterior") -> Iterator[Step]:
    """Ancestral sampling, Ho et al. 2020 algorithm 2 (generalised to any schedule and any respaced grid).

    noisy: (N, C, H, W) at times[0]; times: (S+1,) decreasing. Yields S steps, one network call each.
    variance: "posterior" (beta-tilde, exact for data that is one point) or "beta" (exact for unit Gaussian data; it
    is Ho's beta where alpha^2 + sigma^2 = 1). The last step adds no noise.
    """
    if variance not in ("posterior", "beta"):
        raise UserError(f"unknown variance {variance!r}: choose posterior or beta")
    for here, there in pairwise(_levels(denoiser.noise_schedule, times)):
        estimate = denoiser(noisy, here.t)
        kept = _kept_noise(here, there)
        fresh = math.sqrt(max(there.sigma**2 - kept**2, 0.0))
        if variance == "beta" and there.sigma > 0:
            fresh *= (here.sigma / here.unit_deviation) / (there.sigma / there.unit_deviation)
        noisy = _mix(there, estimate.clean, estimate.noise, kept, fresh, draw)
        yield Step(noisy, estimate, there.t)


def ddim(denoiser: Denoiser, noisy: Tensor, times: Tensor, draw: Draw, eta: float = 0.0) -> Iterator[Step]:
    """Deterministic (eta = 0) to ancestral (eta = 1) sampling, Song et al. 2021 eq. 12 and 16. Arguments as ddpm."""
    _check_eta(eta)
    for here, there in pairwise(_levels(denoiser.noise_schedule, times)):
        estimate = denoiser(noisy, here.t)
        noisy = _mix(there, estimate.clean, estimate.noise, *_split_noise(here, there, eta), draw)
        yield Step(noisy, estimate, there.t)


def _velocity(denoiser: Denoiser, noisy: Tensor, t: Tensor) -> tuple[Estimate, Tensor]:
    """The estimate and the slope of the straight line, noise - clean."""
    estimate = denoiser(noisy, t)
    return estimate, estimate.noise - estimate.clean


def euler(denoiser: Denoiser, noisy: Tensor, times: Tensor, draw: Draw) -> Iterator[Step]:
    """First order in flow coordinates; the same update as DDIM with eta = 0. Arguments as ddpm."""
    for here, there in pairwise(_levels(denoiser.noise_schedule, times)):
        estimate, slope = _velocity(denoiser, noisy, here.t)
        moved = noisy / here.flow_scale + (there.flow_time - here.flow_time) * slope
        noisy = there.flow_scale * moved
        yield Step(noisy, estimate, there.t)


def midpoint(denoiser: Denoiser, noisy: Tensor, times: Tensor, draw: Draw) -> Iterator[Step]:
    """Second order with two network calls a step: the slope is read half-way. Arguments as ddpm."""
    schedule = denoiser.noise_schedule
    grid = _levels(schedule, times)
    flow_times = torch.tensor([level.flow_time for level in grid], dtype=torch.float64)
    halfway_times = (flow_times[:-1] + flow_times[1:]) / 2
    middles = _levels(schedule, t_of(schedule, halfway_times))
    for here, there, middle in zip(grid[:-1], grid[1:], middles, strict=True):
        start = noisy / here.flow_scale
        _, slope = _velocity(denoiser, noisy, here.t)
        halfway = middle.flow_scale * (start + (middle.flow_time - here.flow_time) * slope)
        estimate, slope = _velocity(denoiser, halfway, middle.t)
        noisy = there.flow_scale * (start + (there.flow_time - here.flow_time) * slope)
        yield Step(noisy, estimate, there.t)


def heun(denoiser: Denoiser, noisy: Tensor, times: Tensor, draw: Draw) -> Iterator[Step]:
    """Second order: the mean of the slopes at both ends, Karras et al. 2022 algorithm 1 in flow coordinates.

    Two network calls a step, one where the step ends at t = 0. Arguments as ddpm.
    """
    for here, there in pairwise(_levels(denoiser.noise_schedule, times)):
        start, span = noisy / here.flow_scale, there.flow_time - here.flow_time
        estimate, slope = _velocity(denoiser, noisy, here.t)
        noisy = there.flow_scale * (start + span * slope)
        if there.sigma > 0:
            estimate, slope_there = _velocity(denoiser, noisy, there.t)
            noisy = there.flow_scale * (start + span * (slope + slope_there) / 2)
        yield Step(noisy, estimate, there.t)


def sde(denoiser: Denoiser, noisy: Tensor, times: Tensor, draw: Draw, diffusion: float = 0.5) -> Iterator[Step]:
    """Euler-Maruyama with diffusion coefficient `diffusion * flow time`, which vanishes at the clean end.

    The drift carries -1/2 g^2 score, so that every g keeps the marginals of the ODE (Song et al. 2021 eq. 6, 13);
    the score of the flow's marginal is -noise / flow time. diffusion = 0 is `euler`. With time counted from noise
    to data, as some write flows, the coefficient reads diffusion * (1 - t). The last step adds no noise.
    """
    if diffusion < 0:
        raise UserError(f"diffusion {diffusion} of sde: 0 (the ODE) or more")
    for here, there in pairwise(_levels(denoiser.noise_schedule, times)):
        estimate, slope = _velocity(denoiser, noisy, here.t)
        span = here.flow_time - there.flow_time
        moved = noisy / here.flow_scale - span * slope
        if there.sigma > 0 and diffusion > 0:
            moved = moved - 0.5 * diffusion**2 * here.flow_time * span * estimate.noise
            moved = moved + diffusion * here.flow_time * math.sqrt(span) * draw(noisy.shape)
        noisy = there.flow_scale * moved
        yield Step(noisy, estimate, there.t)


def dpmpp_2m(denoiser: Denoiser, noisy: Tensor, times: Tensor, draw: Draw, eta: float = 0.0) -> Iterator[Step]:
    """DPM-Solver++(2M), Lu et al. 2022 algorithm 2: DDIM with the clean estimate extrapolated from two steps.

    eta = 1 is its SDE form (their section 5, second order). First order where a step begins or ends at an infinite
    log-SNR. One network call a step. Arguments as ddpm.
    """
    _check_eta(eta)
    previous: tuple[_Level, Tensor] | None = None
    for here, there in pairwise(_levels(denoiser.noise_schedule, times)):
        estimate = denoiser(noisy, here.t)
        clean, noise = estimate
        step = there.half_log_snr - here.half_log_snr
        if previous is not None and math.isfinite(step):
            last_step = here.half_log_snr - previous[0].half_log_snr
            clean = clean + step / (2 * last_step) * (clean - previous[1])
            noise = (noisy - here.alpha * clean) / here.sigma
        noisy = _mix(there, clean, noise, *_split_noise(here, there, eta), draw)
        previous = here, estimate.clean
        yield Step(noisy, estimate, there.t)


def dpmpp_2m_sde(denoiser: Denoiser, noisy: Tensor, times: Tensor, draw: Draw) -> Iterator[Step]:
    """The SDE form of DPM-Solver++(2M): `dpmpp_2m` with eta = 1."""
    return dpmpp_2m(denoiser, noisy, times, draw, eta=1.0)


def _unipc_weights(ratios: list[float], step: float) -> list[float]:
    """Coefficients of UniPC's B2 form for data prediction (Zhao et al. 2023, eq. 5 and appendix), B(h) = e^-h - 1.

    ratios: positions of the earlier points in units of the step, relative to the present (and 1 for the new
    point, in the corrector). Solves the small Vandermonde system in float64.
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
    here: _Level,
    there: _Level,
    history: list[tuple[_Level, Tensor]],
    order: int,
    corrected: Tensor | None = None,
) -> Tensor:
    """The effective clean estimate of a UniPC step from `here`, whose own estimate ends the history.

    corrected: the estimate at `there`, which makes this the corrector.
    """
    clean = history[-1][1]
    step = there.half_log_snr - here.half_log_snr
    finite = math.isfinite(step)
    earlier = [past for past in history[:-1] if math.isfinite(past[0].half_log_snr)] if finite else []
    earlier = earlier[::-1][: order - 1]
    ratios = [(level.half_log_snr - here.half_log_snr) / step for level, _ in earlier]
    slopes = [(past - clean) / ratio for (_, past), ratio in zip(earlier, ratios, strict=True)]
    if corrected is not None:
        ratios, slopes = [*ratios, 1.0], [*slopes, corrected - clean]
    if not slopes:
        return clean
    # A line through two points has weight 1/2 in the paper's own solver, whatever the step.
    weights = [0.5] if len(slopes) == 1 else _unipc_weights(ratios, step)
    return clean + sum(weight * slope for weight, slope in zip(weights, slopes, strict=True))


def unipc(denoiser: Denoiser, noisy: Tensor, times: Tensor, draw: Draw, order: int = 2) -> Iterator[Step]:
    """UniPC of order 1..3, predictor and corrector (Zhao et al. 2023), on the data prediction.

    Each network call corrects the step that led to it before the next begins, so a step costs one call. The order
    falls at the start, where there is no history, and at the end (`order` steps left: order 1 in the last one).
    Arguments as ddpm.
    """
    if not 1 <= order <= 3:
        raise UserError(f"order {order} of unipc: choose 1, 2 or 3")
    grid = _levels(denoiser.noise_schedule, times)
    history: list[tuple[_Level, Tensor]] = []
    start, start_order = noisy, 1

    def move(here: _Level, there: _Level, origin: Tensor, clean: Tensor) -> Tensor:
        return there.alpha * clean + there.sigma * (origin - here.alpha * clean) / here.sigma

    for index, (here, there) in enumerate(pairwise(grid)):
        estimate = denoiser(noisy, here.t)
        if index > 0:
            before = grid[index - 1]
            clean = _unipc_clean(before, here, history, start_order, corrected=estimate.clean)
            noisy = move(before, here, start, clean)
        history = [*history, (here, estimate.clean)][-order:]
        start_order = min(order, index + 1, len(grid) - 1 - index)
        start = noisy
        noisy = move(here, there, start, _unipc_clean(here, there, history, start_order))
        yield Step(noisy, estimate, there.t)


Sampler = Callable[..., Iterator[Step]]
SAMPLERS: dict[str, Sampler] = {
    "ddpm": ddpm,
    "ddim": ddim,
    "euler": euler,
    "midpoint": midpoint,
    "heun": heun,
    "dpmpp_2m": dpmpp_2m,
    "dpmpp_2m_sde": dpmpp_2m_sde,
    "unipc": unipc,
    "sde": sde,
}


def sampler_options(name: str) -> dict[str, object]:
    """The options of a sampler with their defaults, e.g. {"eta": 0.0} for ddim. Raises UserError: unknown name."""
    if name not in SAMPLERS:
        raise UserError(f"unknown sampler {name!r}: choose from {', '.join(SAMPLERS)}")
    parameters = inspect.signature(SAMPLERS[name]).parameters.values()
    return {p.name: p.default for p in parameters if p.default is not inspect.Parameter.empty}
