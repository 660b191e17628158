"""Classification by a generative model: posteriors against Bayes' rule in closed form, and what each option buys."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any, cast, get_args, get_type_hints

import pytest
import torch
from torch import Tensor

from models.diffusion.denoiser import Estimate
from models.diffusion.noise_schedules import NoiseLevel, build_noise_schedule
from models.errors import UserError
from models.evaluation.bayes import WEIGHTINGS, Denoising, Likelihood, Posterior
from models.evaluation.images import Images
from models.evaluation.method_settings import DenoisingSettings
from tests.models.evaluation.densities import Classes

SHAPE = (1, 2, 3)
FLOW = build_noise_schedule("flow")
SCHEDULES = {
    "flow": FLOW,
    "cosine": build_noise_schedule("cosine"),
    "chain": build_noise_schedule("linear", 1000, zero_terminal_snr=True),
}
EVEN = torch.full((3,), 1 / 3, dtype=torch.float64).log()
UNEVEN = torch.tensor([0.9, 0.09, 0.01], dtype=torch.float64).log()


def images_of(clean: Tensor, first: int = 0) -> Images:
    return Images(clean, range(first, first + len(clean)), seed=0)


def distance(found: Posterior, true: Tensor) -> float:
    """The largest difference of a probability."""
    return float((found.log_posterior.exp() - true.exp()).abs().max())


# -- by the likelihood ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("prior", [EVEN, UNEVEN], ids=["even", "uneven"])
@pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)
def test_the_exact_likelihood_gives_the_true_posterior(schedule, prior: Tensor) -> None:
    classes = Classes(schedule, SHAPE, 3)
    clean, _ = classes.draw(12)
    clean = 0.3 * clean  # nearer to one another, so that probabilities are not all 0 or 1
    true = classes.log_posterior(clean, prior)
    found = Likelihood(ode_steps=24, first_time=0.0, probes=0).classify(
        classes, classes.schedule, images_of(clean), prior, batch_size=20
    )
    assert 0.02 < float(true.exp().max(1).values.min()) < 0.98
    assert distance(found, true) < 0.01
    assert torch.equal(found.prediction, true.argmax(1))
    assert torch.all(found.evaluations == 48)
    assert classes.images == 48 * 12 * 3


def test_probes_and_noise_are_the_same_for_all_classes() -> None:
    """Classes that do not differ cannot be told apart by chance."""
    classes = Classes(FLOW, SHAPE, 3)
    classes.each = classes.each[:1] * 3
    clean, _ = classes.draw(5)
    for method in (Likelihood(ode_steps=4), Denoising(draws=8)):
        found = method.classify(classes, classes.schedule, images_of(clean), EVEN, batch_size=4)
        assert torch.allclose(found.log_posterior, EVEN.expand(5, 3))


# -- by the denoising error -------------------------------------------------------------------------------------


@pytest.mark.slow
def test_variational_errors_estimate_the_true_posterior() -> None:
    """Half the squared noise error over all log-SNRs is minus the log-density, but for a constant."""
    classes = Classes(FLOW, SHAPE, 3)
    clean, _ = classes.draw(6)
    clean = 0.3 * clean
    method = Denoising(draws=8000, weighting="variational", time_range=(0.01, 0.99), patience=0)
    found = method.classify(classes, classes.schedule, images_of(clean), UNEVEN, batch_size=5000)
    assert distance(found, classes.log_posterior(clean, UNEVEN)) < 0.04


def test_the_settings_name_every_weighting() -> None:
    assert get_args(get_type_hints(DenoisingSettings)["weighting"]) == tuple(WEIGHTINGS)


@pytest.mark.parametrize("weighting", WEIGHTINGS)
def test_the_noise_schedule_changes_nothing(weighting: Any) -> None:
    """Times and errors are those of the straight flow, whatever the model was trained with."""
    found = []
    for schedule in SCHEDULES.values():
        classes = Classes(schedule, SHAPE, 3)
        clean, _ = classes.draw(6)
        method = Denoising(draws=10, weighting=weighting, patience=0)
        found.append(method.classify(classes, classes.schedule, images_of(clean), UNEVEN, batch_size=99).log_posterior)
    assert torch.allclose(found[0], found[1]) and torch.allclose(found[0], found[2])


def test_every_weighting_recognises_classes_that_lie_apart() -> None:
    classes = Classes(FLOW, (1, 6, 6), 3)
    clean, labels = classes.draw(30)
    for weighting in cast(Any, WEIGHTINGS):
        found = Denoising(draws=32, weighting=weighting).classify(
            classes, classes.schedule, images_of(clean), EVEN, batch_size=64
        )
        assert torch.equal(found.prediction, labels), weighting
        assert torch.equal(found.log_posterior.argmax(1), labels)


@pytest.mark.parametrize("method", [Denoising(draws=12, first_round=4), Likelihood(ode_steps=3)])
def test_neither_batch_size_nor_the_other_images_change_an_answer(method) -> None:
    classes = Classes(FLOW, SHAPE, 3)
    clean, _ = classes.draw(7)
    whole = method.classify(classes, classes.schedule, images_of(clean), EVEN, batch_size=1000)
    for found, rows in (
        (method.classify(classes, classes.schedule, images_of(clean), EVEN, batch_size=2), slice(0, 7)),
        (
            method.classify(classes, classes.schedule, images_of(clean[3:5], first=3), EVEN, batch_size=2),
            slice(3, 5),
        ),
    ):
        assert torch.allclose(found.log_posterior, whole.log_posterior[rows])
        assert torch.equal(found.evaluations, whole.evaluations[rows])
    other = method.classify(classes, classes.schedule, replace(images_of(clean), seed=1), EVEN, batch_size=1000)
    assert not torch.allclose(other.log_posterior, whole.log_posterior)


def test_hopeless_classes_are_dropped_early() -> None:
    classes = Classes(FLOW, (1, 6, 6), 5)
    clean, labels = classes.draw(40)
    prior = torch.full((5,), 0.2).log()
    patient = Denoising(draws=64, patience=0).classify(
        classes, classes.schedule, images_of(clean), prior, batch_size=256
    )
    assert torch.all(patient.evaluations == 64)
    assert classes.images == 40 * 5 * 64
    classes.images = 0
    early = Denoising(draws=64).classify(classes, classes.schedule, images_of(clean), prior, batch_size=256)
    assert torch.equal(early.prediction, patient.prediction) and torch.equal(early.prediction, labels)
    assert early.evaluations.max() <= 64
    assert early.evaluations.double().mean() < 16
    assert classes.images == early.evaluations.sum()


def test_a_prior_decides_where_the_images_say_nothing() -> None:
    classes = Classes(FLOW, SHAPE, 3)
    classes.each = classes.each[:1] * 3
    clean, _ = classes.draw(4)
    for method in (Denoising(draws=8, weighting="variational"), Likelihood(ode_steps=2)):
        found = method.classify(classes, classes.schedule, images_of(clean), UNEVEN, batch_size=99)
        assert torch.all(found.prediction == 0)
    assert torch.allclose(found.log_posterior, UNEVEN.expand(4, 3))


@pytest.mark.parametrize("draws", [1, 7, 8, 9, 16, 50, 100])
def test_rounds_double_and_make_every_draw_once(draws: int) -> None:
    rounds = list(Denoising(draws=draws).rounds())
    assert [draw for each in rounds for draw in each] == list(range(draws))
    assert [each.stop for each in rounds[:-1]] == [8 * 2**k for k in range(len(rounds) - 1)]
    assert list(Denoising(draws=draws, patience=0).rounds()) == [range(draws)]


def test_the_times_of_every_round_cover_the_range() -> None:
    method = Denoising(draws=48, time_range=(0.2, 0.7))
    times = method.flow_times(images_of(torch.zeros(3, *SHAPE)))
    assert times.shape == (48, 3) and times.min() >= 0.2 and times.max() < 0.7
    assert len(set(times[0].tolist())) == 3
    assert torch.equal(times[::2], times[1::2])
    for count in (6, 12, 24, 48):
        gaps = times[:count:2].sort(0).values.diff(dim=0)
        assert float(gaps.max()) < 2 * 0.5 / (count / 2)


@pytest.mark.parametrize("initial_noise", ["gaussian", "uniform", "bernoulli"])
def test_every_second_noise_is_the_opposite_of_the_one_before(initial_noise: str) -> None:
    shown: list[Tensor] = []

    class Watch:
        def __call__(self, noisy: Tensor, level: NoiseLevel, label: Tensor | None = None) -> Estimate:
            shown.append(
                (noisy / level.sigma.reshape(-1, 1, 1, 1)).float()
            )  # the images are black, so this is the noise
            return Estimate(noisy, noisy)

    images = Images(torch.zeros(2, *SHAPE), [0, 1], seed=0, initial_noise=initial_noise)
    Denoising(draws=4, patience=0).classify(Watch(), FLOW, images, EVEN, batch_size=6)
    assert torch.allclose(shown[0], -shown[1], atol=1e-6) and torch.allclose(shown[2], -shown[3], atol=1e-6)
    assert not torch.allclose(shown[0].abs(), shown[2].abs(), atol=1e-3) or initial_noise == "bernoulli"
    if initial_noise == "bernoulli":
        assert torch.allclose(shown[0].abs(), torch.ones(1))
    assert torch.equal(shown[0][0], shown[0][1])  # the same for every class


# -- what cannot be ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "words"),
    [
        (Denoising(draws=0), "draws 0"),
        (Denoising(weighting=cast(Any, "sharp")), "must be one of variational, sigmoid, flow, noise, clean"),
        (Denoising(time_range=(0.0, 0.9)), "time_range 0 0.9"),
        (Denoising(time_range=(0.3, 1.2)), "time_range 0.3 1.2"),
        (Denoising(first_round=1), "first_round 1"),
        (Denoising(patience=-1.0), "patience -1"),
        (Denoising(patience=math.nan), "patience nan"),
        (Likelihood(ode_steps=0), "ode_steps 0"),
        (Likelihood(first_time=1.0), "first_time 1"),
        (Likelihood(probes=-1), "probes -1"),
        (Likelihood(probes=0), "exact trace of 784 dimensions"),
    ],
)
def test_values_that_cannot_be_are_refused(method, words: str) -> None:
    with pytest.raises(UserError, match=words):
        method.check(FLOW, (1, 28, 28))


def test_a_likelihood_needs_gaussian_noise() -> None:
    Denoising().check(FLOW, (1, 28, 28), "uniform")
    with pytest.raises(UserError, match="the run has uniform noise"):
        Likelihood().check(FLOW, (1, 28, 28), "uniform")


def test_the_exact_trace_is_for_few_dimensions() -> None:
    Likelihood(probes=0).check(FLOW, (4, 7, 7))


class _Broken:
    def __call__(self, noisy: Tensor, level: NoiseLevel, label: Tensor | None = None) -> Estimate:
        return Estimate(noisy, noisy * math.nan)


@pytest.mark.parametrize("method", [Denoising(draws=4), Denoising(draws=9, patience=0), Likelihood(ode_steps=2)])
def test_numbers_that_are_not_finite_are_no_answer(method) -> None:
    with pytest.raises(UserError, match="not finite"):
        method.classify(_Broken(), FLOW, images_of(torch.zeros(2, *SHAPE)), EVEN, batch_size=8)
