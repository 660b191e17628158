"""Measures of nearest neighbours, against expected values and against prdc and scikit-learn."""

from __future__ import annotations

import io
from contextlib import redirect_stdout

import pytest
import torch
from prdc import compute_prdc
from sklearn.model_selection import LeaveOneOut, cross_val_score
from sklearn.neighbors import KNeighborsClassifier
from torch import Tensor

from models.evaluation.neighbours import CHUNK, expected_coverage, expected_mixing, manifolds, mixing, nearest


def shares(real: Tensor, generated: Tensor, k: int) -> dict[str, float]:
    return {name: values.double().mean().item() for name, values in manifolds(real, generated, k)._asdict().items()}


def cloud(count: int, seed: int, shift: float = 0.0) -> Tensor:
    return torch.randn(count, 6, generator=torch.Generator().manual_seed(seed)) + shift


@pytest.mark.parametrize(("one", "other"), [(500, 500), (800, 200)])
def test_sets_of_one_distribution_mix_as_expected(one: int, other: int) -> None:
    means = [mixing(cloud(one, seed), cloud(other, 100 + seed), 5).mean().item() for seed in range(4)]
    assert abs(sum(means) / 4 - expected_mixing(one, other)) < 0.02


def test_expected_mixing() -> None:
    assert expected_mixing(500, 500) == pytest.approx(500 / 999)


def test_separate_sets_neither_mix_nor_cover() -> None:
    here, there = cloud(200, 0), cloud(200, 1, shift=50)
    assert mixing(here, there, 5).sum() == 0
    assert set(shares(here, there, 5).values()) == {0.0}


@pytest.mark.parametrize(("one", "other", "k"), [(400, 400, 5), (300, 600, 3)])
def test_coverage_and_density_of_like_sets(one: int, other: int, k: int) -> None:
    rows = [shares(cloud(one, seed), cloud(other, 100 + seed), k) for seed in range(4)]
    assert abs(sum(row["coverage"] for row in rows) / 4 - expected_coverage(one, other, k)) < 0.02
    assert abs(sum(row["density"] for row in rows) / 4 - 1) < 0.1


def test_a_missing_mode_shows_in_recall_and_coverage_alone() -> None:
    real = torch.cat([cloud(200, 0), cloud(200, 1, shift=20)])
    result = shares(real, cloud(400, 2), 5)
    assert result["coverage"] < 0.55 and result["recall"] < 0.55
    assert result["density"] > 0.9 and result["precision"] > 0.85


def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    real, generated = cloud(90, 0), cloud(80, 1)
    whole = mixing(real, generated, 3), *manifolds(real, generated, 3), *nearest(real, generated)
    monkeypatch.setattr("models.evaluation.neighbours.CHUNK", 7)
    parts = mixing(real, generated, 3), *manifolds(real, generated, 3), *nearest(real, generated)
    for one, other in zip(whole, parts, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-12)
    assert CHUNK > 90 * 2


@pytest.mark.parametrize("k", [1, 3, 5])
def test_precision_recall_density_and_coverage_are_those_of_prdc(k: int) -> None:
    real, generated = cloud(300, 0).double(), cloud(260, 1, shift=0.4).double()
    with redirect_stdout(io.StringIO()):
        expected = compute_prdc(real.numpy(), generated.numpy(), k)
    measured = shares(real, generated, k)
    assert {name: measured[name] for name in expected} == pytest.approx(expected, abs=1e-12)


def test_errors_of_nearest_neighbour_classification_are_those_of_scikit_learn() -> None:
    one, other = cloud(200, 0), cloud(150, 1, shift=0.5)
    both, labels = torch.cat([one, other]).numpy(), [0] * 200 + [1] * 150
    judge = KNeighborsClassifier(1)
    wrong = 1 - cross_val_score(judge, both, labels, cv=LeaveOneOut())
    assert mixing(one, other, 1).tolist() == wrong.tolist()
    assert manifolds(other, one, 5).mixed.tolist() == wrong.tolist()


def test_a_tie_between_the_sets_counts_as_the_own_set() -> None:
    real = torch.tensor([[0.0], [0.0], [5.0]])
    generated = torch.tensor([[0.0], [4.0]])
    # The first generated image is a copy of a real one. The real ones at 0 have a copy in each set.
    assert manifolds(real, generated, 1).mixed.tolist() == [True, True, False, False, True]


def test_grey_levels_are_compared_exactly() -> None:
    generator = torch.Generator().manual_seed(0)
    rows, columns = (torch.randint(0, 256, (count, 784), generator=generator).byte() for count in (20, 300))
    columns[17] = rows[3]
    columns[18] = rows[4]
    columns[18, 5] = (int(rows[4, 5]) + 1) % 256
    result = nearest(rows, columns)
    differences = rows.long()[:, None] - columns.long()[None]
    assert result.squares.tolist() == differences.square().sum(2).min(1).values.tolist()
    assert result.columns[[3, 4]].tolist() == [17, 18] and result.squares[3] == 0
