"""Distances between distributions, against closed forms, torch-fidelity and torchmetrics."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch_fidelity.metric_fid import KEY_METRIC_FID, fid_features_to_statistics, fid_statistics_to_metric
from torch_fidelity.metric_isc import KEY_METRIC_ISC_MEAN, isc_features_to_metric
from torch_fidelity.metric_kid import KEY_METRIC_KID_MEAN, kid_features_to_metric
from torchmetrics.image.fid import _compute_fid
from torchmetrics.image.kid import poly_mmd

from models.evaluation import distances
from models.evaluation.distances import (
    frechet_distance,
    frechet_limit,
    frechet_resampled,
    gaussian,
    kernel_distance,
)
from models.evaluation.recognition import inception_score
from models.evaluation.statistics import resampled_counts


def draws(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def rectified(count: int, width: int, seed: int) -> Tensor:
    """Features like those of a network: not negative, correlated, and one of them constant."""
    features = (draws(count, 6, seed=seed) @ draws(6, width, seed=99) + 0.3).relu()
    features[:, 0] = 0
    return features


def whitened(count: int, width: int, seed: int) -> Tensor:
    """Features with a mean of exactly 0 and a covariance of exactly 1."""
    centred = draws(count, width, seed=seed)
    centred = centred - centred.mean(0)
    return torch.linalg.qr(centred).Q * (count - 1) ** 0.5


def distance(one: Tensor, other: Tensor) -> float:
    return frechet_distance(gaussian(one), gaussian(other))


# -- Frechet -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [1, 5, 40])
def test_frechet_distance_of_gaussians_with_known_moments(width: int) -> None:
    """The distance is |shift|^2 + sum (s1 - s2)^2 if the covariances have the same axes."""
    one, shift = whitened(90, width, 0), draws(width, seed=1)
    scales = torch.linspace(0.2, 3, width, dtype=torch.float64)
    turn = torch.linalg.qr(draws(width, width, seed=2)).Q
    other = whitened(70, width, 3) * scales
    expected = shift.square().sum() + (scales - 1).square().sum()
    assert distance(one, other @ turn + shift) == pytest.approx(expected.item(), rel=1e-10)
    assert distance(one, one + shift) == pytest.approx(shift.square().sum().item(), rel=1e-10)


def test_frechet_distance_of_covariances_that_do_not_commute() -> None:
    """In two dimensions tr (A B)^(1/2) = (tr AB + 2 (det AB)^(1/2))^(1/2), by Cayley and Hamilton."""
    maps = draws(2, 2, 2, seed=0)
    one, other = whitened(50, 2, 1) @ maps[0], whitened(60, 2, 2) @ maps[1]
    first, second = (factor.T @ factor for factor in maps)
    root = ((first @ second).trace() + 2 * torch.det(first @ second).sqrt()).sqrt()
    expected = first.trace() + second.trace() - 2 * root
    assert distance(one, other) == pytest.approx(expected.item(), rel=1e-10)


@pytest.mark.parametrize(("count", "width"), [(200, 16), (12, 64), (2, 3)])
def test_identical_sets_are_no_distance_apart(count: int, width: int) -> None:
    features = rectified(count, width, 0)
    assert distance(features, features) == pytest.approx(0, abs=1e-9)
    assert distance(features, features.flip(0)) == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize(("one", "other", "width"), [(150, 90, 24), (400, 300, 2)])
def test_frechet_distance_equals_that_of_the_libraries(one: int, other: int, width: int) -> None:
    features, reference = rectified(one, width, 0) + 0.1 * draws(one, width, seed=5), rectified(other, width, 1)
    result = distance(features, reference)
    mine, theirs = (fid_features_to_statistics(part) for part in (features, reference))
    assert result == pytest.approx(fid_statistics_to_metric(mine, theirs, False)[KEY_METRIC_FID], rel=1e-6)
    moments = [moment for part in (features, reference) for moment in (part.mean(0), part.T.cov())]
    assert result == pytest.approx(_compute_fid(*moments).item(), rel=1e-6)


@pytest.mark.parametrize("count", [60, 9])
def test_frechet_distances_of_resamples_are_those_of_the_repeated_images(count: int) -> None:
    features, reference = rectified(count, 12, 0), gaussian(rectified(80, 12, 1))
    counts = resampled_counts(count, 5, 3)
    repeated = [features.repeat_interleave(row.long(), dim=0) for row in counts]
    expected = [frechet_distance(gaussian(part), reference) for part in repeated]
    assert frechet_resampled(features, reference, counts).tolist() == pytest.approx(expected, rel=1e-10)


def test_the_limit_is_where_a_line_in_one_over_n_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distances, "gaussian", lambda features: len(features))
    monkeypatch.setattr(distances, "frechet_distance", lambda size, reference: reference + 40 / size)
    reference: object = 3.0
    for count in (5, 73, 1000):
        assert frechet_limit(torch.zeros(count, 1), reference, 0) == pytest.approx(3, rel=1e-9)  # type: ignore[arg-type]


def test_the_limit_is_nearer_to_the_truth_than_the_distance_itself() -> None:
    """The true distance is 0 for two equal Gaussians, and the squared shift for two shifted ones."""
    width, shift = 10, torch.full((10,), 0.2, dtype=torch.float64)
    reference = gaussian(whitened(1000, width, 0))
    for true, moved in ((0.0, torch.zeros(width)), (0.4, shift)):
        sets = [draws(300, width, seed=seed) + moved for seed in range(1, 31)]
        plain = torch.tensor([frechet_distance(gaussian(features), reference) for features in sets])
        limits = torch.tensor([frechet_limit(features, reference, 0) for features in sets])
        assert plain.mean() - true > 0.05
        assert (limits.mean() - true).abs() < 0.4 * (plain.mean() - true)


# -- kernel ------------------------------------------------------------------------------------------------------


def test_kernel_distance_equals_that_of_the_libraries() -> None:
    one, other = rectified(90, 24, 0), 1.2 * rectified(90, 24, 1)
    result, _ = kernel_distance(one, other)
    settings = {"kid_subsets": 1, "kid_subset_size": 90, "verbose": False}
    assert result == pytest.approx(kid_features_to_metric(one, other, **settings)[KEY_METRIC_KID_MEAN], rel=1e-6)
    assert result == pytest.approx(poly_mmd(other, one).item(), rel=1e-6)


def kernel_by_pairs(one: list[int], features: Tensor, reference: Tensor) -> float:
    """Kernel distance of some rows, computed pair by pair, without pairs of an image with itself."""

    def kernel(x: Tensor, y: Tensor) -> float:
        return ((x @ y / len(x) + 1) ** 3).item()

    within = [kernel(features[i], features[j]) for i in one for j in one if i != j]
    within_reference = [kernel(x, y) for i, x in enumerate(reference) for j, y in enumerate(reference) if i != j]
    across = [kernel(features[i], y) for i in one for y in reference]
    means = [sum(values) / len(values) for values in (within, within_reference, across)]
    return means[0] + means[1] - 2 * means[2]


def test_kernel_distances_of_resamples_leave_out_pairs_of_an_image_with_itself() -> None:
    features, reference = rectified(14, 6, 0), rectified(11, 6, 1)
    counts = resampled_counts(14, 3, 1)
    result, resampled = kernel_distance(features, reference, counts)
    assert result == pytest.approx(kernel_by_pairs(list(range(14)), features, reference), rel=1e-10)
    for value, row in zip(resampled.tolist(), counts, strict=True):
        rows = torch.arange(14).repeat_interleave(row.long()).tolist()
        assert value == pytest.approx(kernel_by_pairs(rows, features, reference), rel=1e-10)


def test_kernel_distance_is_unbiased() -> None:
    """For two sets of one distribution, it is 0 on average for any number of images."""
    result = torch.tensor([kernel_distance(draws(8, 5, seed=s), draws(12, 5, seed=1000 + s))[0] for s in range(1000)])
    error = result.std() / len(result) ** 0.5
    assert result.mean().abs() < 3 * error < 0.1


@pytest.mark.parametrize("chunk", [1, 7])
def test_chunks_change_no_distance(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    features, reference, counts = rectified(30, 6, 0), rectified(25, 6, 1), resampled_counts(30, 4, 0)
    whole = kernel_distance(features, reference, counts)
    monkeypatch.setattr(distances, "CHUNK", chunk)
    parts = kernel_distance(features, reference, counts)
    assert parts[0] == pytest.approx(whole[0], abs=1e-9)
    torch.testing.assert_close(parts[1], whole[1], rtol=0, atol=1e-9)


# -- Inception Score -----------------------------------------------------------------------------------------------


def test_inception_score_equals_that_of_torch_fidelity() -> None:
    logits = 3 * draws(80, 10, seed=0)
    result = inception_score(logits, torch.ones(1, 80, dtype=torch.float64)).item()
    assert result == pytest.approx(isc_features_to_metric(logits, splits=1)[KEY_METRIC_ISC_MEAN], rel=1e-10)
    counts = resampled_counts(80, 3, 0)
    repeated = [logits.repeat_interleave(row.long(), dim=0) for row in counts]
    expected = [isc_features_to_metric(part, splits=1)[KEY_METRIC_ISC_MEAN] for part in repeated]
    assert inception_score(logits, counts).tolist() == pytest.approx(expected, rel=1e-10)


def test_inception_score_runs_from_one_to_the_number_of_classes() -> None:
    once = torch.ones(1, 40, dtype=torch.float64)
    sure = 1000 * torch.eye(10, dtype=torch.float64).repeat(4, 1)
    assert inception_score(sure, once).item() == pytest.approx(10, rel=1e-12)
    assert inception_score(sure[:1].expand(40, -1), once).item() == pytest.approx(1, rel=1e-12)
    assert inception_score(torch.zeros(40, 10), once).item() == pytest.approx(1, rel=1e-12)
