"""Classification by a conditional generative model: p(label | image) is proportional to p(image | label) p(label).

By the denoising error: the class whose label lets the denoiser find the image again best, under noise that all
classes share (Li et al. 2023, Clark & Jaini 2023). By the likelihood: the density of `likelihood.py` under every
label. Both read random numbers that depend on (seed, number of the image) alone, so that neither the batch size nor
the other images change an answer.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from models.diffusion.denoiser import Denoiser, add_noise
from models.diffusion.flow_time import last_flow_time, t_of
from models.diffusion.noise_schedules import NoiseSchedule
from models.errors import UserError
from models.evaluation.images import Images
from models.evaluation.likelihood import Ode, log_density, rising_grid
from models.evaluation.statistics import refuse_infinite

GOLDEN = (math.sqrt(5) - 1) / 2


class Posterior(NamedTuple):
    """What is known of N images among K classes.

    log_posterior: (N, K) float64. prediction: (N,), the best of the classes that were followed to the end.
    evaluations: (N, K) network evaluations spent.
    """

    log_posterior: Tensor
    prediction: Tensor
    evaluations: Tensor


# Each weighting is a factor of the squared error of the flow's slope (noise - clean), where flow times are uniform.
WEIGHTINGS: dict[str, Callable[[Tensor], Tensor]] = {
    # The bound: 1/2 |noise error|^2 over the log-SNR (Kingma et al. 2021 eq. 17); with it alone a score is in nats.
    "variational": lambda flow_times: (1 - flow_times) / flow_times,
    # The bound times the flow time, which is the logistic function of -log-SNR / 2: a mean of the bounds of the image
    # under all levels of noise (Kingma & Gao 2023, theorem 1), so that fine detail counts less.
    "sigmoid": lambda flow_times: 1 - flow_times,
    # The plain errors: of the slope itself, of the noise estimate (Ho et al. 2020) and of the clean one.
    "flow": torch.ones_like,
    "noise": lambda flow_times: (1 - flow_times) ** 2,
    "clean": lambda flow_times: flow_times**2,
}


@dataclass(frozen=True)
class Denoising:
    """By the denoising error, in rounds of doubling length after each of which hopeless classes are dropped.

    draws: of time and noise for each image, the same for all its classes; every second has the time of the one before
    and the opposite noise, which cancels much of its chance. weighting: a row of WEIGHTINGS. low, high: the flow times
    between which times are drawn. first_round: draws before the first class is dropped.
    patience: a class is dropped once it is worse than the best by so many standard errors of their paired
    difference; 0 drops none.
    """

    draws: int = 50
    weighting: str = "sigmoid"
    low: float = 0.3
    high: float = 0.9
    first_round: int = 8
    patience: float = 2.5

    def check(self, schedule: NoiseSchedule, shape: Sequence[int], initial_noise: str = "gaussian") -> None:
        """Raises UserError for values that cannot be."""
        if self.draws < 1:
            raise UserError(f"--draws {self.draws}: takes 1 or more")
        if self.weighting not in WEIGHTINGS:
            raise UserError(f"unknown weighting {self.weighting!r}: choose from {', '.join(WEIGHTINGS)}")
        last = last_flow_time(schedule)
        if not 0 < self.low < self.high <= last:
            raise UserError(f"--time_range {self.low:g} {self.high:g}: two rising times above 0 and up to {last:.4g}")
        if self.first_round < 2:
            raise UserError(f"--first_round {self.first_round}: takes 2 or more")
        if not self.patience >= 0:
            raise UserError(f"--patience {self.patience:g}: takes more than 0, or 0 to drop no class")

    def rounds(self) -> Iterator[range]:
        """The draws of each round: each doubles how many were made."""
        start, stop = 0, self.first_round if self.patience > 0 else self.draws
        while start < self.draws:
            yield range(start, min(stop, self.draws))
            start, stop = stop, 2 * stop

    def flow_times(self, images: Images) -> Tensor:
        """(draws, N): golden-ratio steps from a start of each image's own, so that every round covers the range."""
        steps = GOLDEN * (torch.arange(self.draws) // 2).double()[:, None]
        return self.low + (self.high - self.low) * ((images.uniforms("times") + steps) % 1)

    @torch.no_grad()
    def classify(self, denoiser: Denoiser, images: Images, log_prior: Tensor, batch_size: int) -> Posterior:
        """log_prior: (K,) log-probabilities of the classes. batch_size: images per network call. Raises UserError."""
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
            wanted = undecided[rows].expand(len(draws), -1, -1)
            found = self._errors(denoiser, images[rows], flow_times[draws][:, rows], draws, wanted, batch_size)
            errors[draws.start : draws.stop, rows] = found
            evaluations += len(draws) * undecided
            if draws.stop < self.draws:
                alive &= ~_hopeless(errors[: draws.stop], alive, prior, self.patience)
        return _decide(errors, alive, prior, evaluations)

    def _errors(
        self, denoiser: Denoiser, images: Images, flow_times: Tensor, draws: range, wanted: Tensor, batch_size: int
    ) -> Tensor:
        """(R, N, K) weighted errors, NaN where not wanted: the mean over the draws is minus the score of a class.

        flow_times: (R, N). wanted: (R, N, K) bool.
        """
        device = images.clean.device
        weights = (self.high - self.low) * WEIGHTINGS[self.weighting](flow_times)
        noise = torch.stack([images.noise(draw // 2) * (-1) ** draw for draw in draws])  # (R, N, C, H, W)
        t = t_of(denoiser.noise_schedule, flow_times)
        errors = torch.full(wanted.shape, math.nan, dtype=torch.float64)
        for batch in wanted.nonzero().split(batch_size):
            draw, image, label = batch.unbind(1)
            clean, drawn = images.clean[image.to(device)], noise[draw.to(device), image.to(device)]
            noisy = add_noise(denoiser.noise_schedule, clean, drawn, t[draw, image])
            estimate = denoiser(noisy, t[draw, image], label.to(device))
            slope_error = (estimate.noise - estimate.clean) - (drawn - clean)
            errors[draw, image, label] = weights[draw, image] * slope_error.square().flatten(1).sum(1).cpu()
        return errors


@dataclass(frozen=True)
class Likelihood(Ode):
    """By the log-density along the probability-flow ODE, of the image under a little noise that its classes share."""

    steps: int = 12
    first: float = 0.2
    probes: int = 4

    def classify(self, denoiser: Denoiser, images: Images, log_prior: Tensor, batch_size: int) -> Posterior:
        """As `Denoising.classify`; no class is dropped."""
        prior, clean = log_prior.double().cpu(), images.clean
        schedule, device = denoiser.noise_schedule, clean.device
        grid = rising_grid(schedule, self.steps, self.first)
        start = t_of(schedule, grid[0])
        noisy = add_noise(schedule, clean, images.noise(0), start)
        probes = self.probes_of(images)
        scores = torch.empty(len(images), len(prior), dtype=torch.float64)
        for batch in torch.ones_like(scores).nonzero().split(batch_size):
            image, label = batch.to(device).unbind(1)
            own = probes if self.probes == 0 else probes[:, image]
            found = log_density(denoiser, noisy[image], label, grid, own)
            scores[batch[:, 0], batch[:, 1]] = found.cpu()
        refuse_infinite(scores)
        posterior = (scores + prior).log_softmax(1)
        return Posterior(posterior, posterior.argmax(1), torch.full(scores.shape, 2 * self.steps))


def _best(errors: Tensor, alive: Tensor, prior: Tensor) -> Tensor:
    """(N, 1) the best of the classes that are alive, by the draws that all of these have seen."""
    scores = prior - errors.nanmean(0)
    return torch.where(alive, scores, -math.inf).argmax(1, keepdim=True)


def _excess(errors: Tensor, best: Tensor) -> Tensor:
    """(R, N, K) by how much every class is worse than the best one, draw by draw."""
    return errors - errors.gather(2, best.expand(len(errors), -1, -1))


def _hopeless(errors: Tensor, alive: Tensor, prior: Tensor, patience: float) -> Tensor:
    """(N, K) whether a class is worse than the best by more than `patience` standard errors; draws: (R, N, K).

    The times are spread more evenly than independent ones, so that the error is smaller than it is taken for.
    """
    best = _best(errors, alive, prior)
    excess = _excess(errors, best)
    behind = excess.mean(0) - (prior - prior[best])
    return behind > patience * excess.std(0) / math.sqrt(len(errors))


def _decide(errors: Tensor, alive: Tensor, prior: Tensor, evaluations: Tensor) -> Posterior:
    """A class is compared with the winner by the draws that both have seen."""
    best = _best(errors, alive, prior)
    scores = prior - _excess(errors, best).nanmean(0)
    refuse_infinite(scores)
    return Posterior(scores.log_softmax(1), best.squeeze(1), evaluations)


Method = Denoising | Likelihood
