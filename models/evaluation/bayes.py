"""Classification by a conditional generative model: p(label | image) is proportional to p(image | label) p(label).

`Denoising` chooses the class whose label lets the denoiser restore the image best, with the same noise for all
classes (Li et al. 2023, Clark & Jaini 2023). `Likelihood` compares the log-densities of the image under every label.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import NamedTuple, get_type_hints

import torch
from torch import Tensor

from models.diffusion.denoiser import Denoiser, add_noise
from models.diffusion.noise_schedules import NoiseLevel, NoiseSchedule
from models.errors import UserError
from models.evaluation.images import Images
from models.evaluation.likelihood import Ode, density_grid, log_density
from models.evaluation.method_settings import BayesOdeSettings, DenoisingSettings
from models.evaluation.statistics import refuse_infinite
from models.ranges import check_ranges

GOLDEN = (math.sqrt(5) - 1) / 2


class Posterior(NamedTuple):
    """Posterior of N images over K classes. log_posterior: (N, K) float64. evaluations: network calls, (N, K).

    prediction: (N,), the best class among those that were not dropped.
    """

    log_posterior: Tensor
    prediction: Tensor
    evaluations: Tensor


# Each weighting multiplies the squared error of the flow's slope (noise - clean). Flow times are uniform.
WEIGHTINGS: dict[str, Callable[[Tensor], Tensor]] = {
    # The bound: integral of 1/2 |noise error|^2 over the log-SNR (Kingma et al. 2021 eq. 17). Its scores are in nats.
    "variational": lambda flow_times: (1 - flow_times) / flow_times,
    # The bound times the flow time, which is sigmoid(-log-SNR / 2). This product is a mean of the bounds of the noisy
    # image over all noise levels (Kingma & Gao 2023, theorem 1). Fine detail counts less.
    "sigmoid": lambda flow_times: 1 - flow_times,
    # Unweighted squared errors of the slope, of the noise estimate (Ho et al. 2020) and of the clean estimate.
    "flow": torch.ones_like,
    "noise": lambda flow_times: (1 - flow_times) ** 2,
    "clean": lambda flow_times: flow_times**2,
}


@dataclass(frozen=True)
class Denoising(DenoisingSettings):
    """Classification by the denoising error, in rounds of increasing length. Each round drops unlikely classes.

    draws: (time, noise) pairs for each image, the same for all classes. Every second draw repeats the previous time
    with the opposite noise, which reduces the variance. patience: a class is dropped if it is worse than the best class
    by more than this many standard errors of the paired difference.
    """

    def check(self, schedule: NoiseSchedule, shape: Sequence[int], initial_noise: str = "gaussian") -> None:
        """Raise UserError for values out of range."""
        check_ranges(asdict(self), get_type_hints(DenoisingSettings, include_extras=True))
        low, high = self.time_range
        last = schedule.last_flow_time()
        if not 0 < low < high <= last:
            allowed = f"must be two rising flow times above 0 and up to {last:.4g}"
            raise UserError(f"`time_range` {low:g} {high:g}: {allowed}")

    def rounds(self) -> Iterator[range]:
        """Yield the draw numbers of each round. Each further round doubles the total number of draws."""
        start, stop = 0, self.first_round if self.patience > 0 else self.draws
        while start < self.draws:
            yield range(start, min(stop, self.draws))
            start, stop = stop, 2 * stop

    def flow_times(self, images: Images) -> Tensor:
        """Return flow times (draws, N): golden-ratio steps from a random start. Every round covers the range evenly."""
        steps = GOLDEN * (torch.arange(self.draws) // 2).double()[:, None]
        low, high = self.time_range
        return low + (high - low) * ((images.uniforms("times") + steps) % 1)

    @torch.no_grad()
    def classify(
        self, denoiser: Denoiser, schedule: NoiseSchedule, images: Images, log_prior: Tensor, batch_size: int
    ) -> Posterior:
        """Classify images. log_prior: (K,). batch_size: images per call. Raises UserError for non-finite scores."""
        prior = log_prior.double().cpu()
        flow_times = self.flow_times(images)
        errors = torch.full((self.draws, len(images), len(prior)), math.nan, dtype=torch.float64)
        alive = torch.ones(len(images), len(prior), dtype=torch.bool)
        evaluations = torch.zeros(len(images), len(prior), dtype=torch.int64)
        for draws in self.rounds():
            undecided = alive & (alive.sum(1, keepdim=True) > 1)
            rows = undecided.any(1).nonzero().flatten()
            if len(rows) == 0:
                break
            needed = undecided[rows].expand(len(draws), -1, -1)
            levels = schedule.level_at(flow_times[draws][:, rows])
            new_errors = self._errors(denoiser, images[rows], levels, draws, needed, batch_size)
            errors[draws.start : draws.stop, rows] = new_errors
            evaluations += len(draws) * undecided
            if draws.stop < self.draws:
                alive &= ~_hopeless(errors[: draws.stop], alive, prior, self.patience)
        return _decide(errors, alive, prior, evaluations)

    def _errors(
        self, denoiser: Denoiser, images: Images, levels: NoiseLevel, draws: range, needed: Tensor, batch_size: int
    ) -> Tensor:
        """Return (R, N, K) weighted errors, NaN if not needed. levels: (R, N). needed: (R, N, K) bool."""
        device = images.clean.device
        low, high = self.time_range
        weights = (high - low) * WEIGHTINGS[self.weighting](levels.flow_time)
        noise = torch.stack([images.noise(draw // 2) * (-1) ** draw for draw in draws])  # (R, N, C, H, W)
        errors = torch.full(needed.shape, math.nan, dtype=torch.float64)
        for batch in needed.nonzero().split(batch_size):
            draw, image, label = batch.unbind(1)
            clean, drawn = images.clean[image.to(device)], noise[draw.to(device), image.to(device)]
            level = levels[draw, image]
            estimate = denoiser(add_noise(clean, drawn, level), level, label.to(device))
            slope_error = (estimate.noise - estimate.clean) - (drawn - clean)
            errors[draw, image, label] = weights[draw, image] * slope_error.square().flatten(1).sum(1).cpu()
        return errors


@dataclass(frozen=True)
class Likelihood(BayesOdeSettings, Ode):
    """Classification by the log-density of a slightly noisy image (probability-flow ODE). Classes share the noise."""

    def classify(
        self, denoiser: Denoiser, schedule: NoiseSchedule, images: Images, log_prior: Tensor, batch_size: int
    ) -> Posterior:
        """Classify images as `Denoising.classify` does; no class is dropped."""
        prior, device = log_prior.double().cpu(), images.clean.device
        grid = density_grid(schedule, self.ode_steps, self.first_time)
        noisy = add_noise(images.clean, images.noise(0), grid[-1])
        probes = self.probes_of(images)
        scores = torch.empty(len(images), len(prior), dtype=torch.float64)
        for batch in torch.ones_like(scores).nonzero().split(batch_size):
            image, label = batch.to(device).unbind(1)
            batch_probes = probes if self.probes == 0 else probes[:, image]
            density = log_density(denoiser, noisy[image], label, grid, batch_probes)
            scores[batch[:, 0], batch[:, 1]] = density.cpu()
        refuse_infinite(scores)
        posterior = (scores + prior).log_softmax(1)
        return Posterior(posterior, posterior.argmax(1), torch.full(scores.shape, 2 * self.ode_steps))


def _best(errors: Tensor, alive: Tensor, prior: Tensor) -> Tensor:
    """Return the best remaining class of each image, (N, 1). All remaining classes have used the same draws."""
    scores = prior - errors.nanmean(0)
    return torch.where(alive, scores, -math.inf).argmax(1, keepdim=True)


def _excess(errors: Tensor, best: Tensor) -> Tensor:
    """Return the error of each class minus the error of the best class, for each draw: (R, N, K)."""
    return errors - errors.gather(2, best.expand(len(errors), -1, -1))


def _hopeless(errors: Tensor, alive: Tensor, prior: Tensor, patience: float) -> Tensor:
    """Return bool (N, K): whether a class is worse than the best class by more than `patience` standard errors."""
    best = _best(errors, alive, prior)
    excess = _excess(errors, best)
    behind = excess.mean(0) - (prior - prior[best])
    return behind > patience * excess.std(0) / math.sqrt(len(errors))


def _decide(errors: Tensor, alive: Tensor, prior: Tensor, evaluations: Tensor) -> Posterior:
    """Return the posterior. A class is compared with the best class over the draws that both have used."""
    best = _best(errors, alive, prior)
    scores = prior - _excess(errors, best).nanmean(0)
    refuse_infinite(scores)
    return Posterior(scores.log_softmax(1), best.squeeze(1), evaluations)


Method = Denoising | Likelihood
