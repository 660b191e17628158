"""Mixing, density and coverage against what they must be for equal, for like and for separate sets."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from models.evaluation.neighbours import CHUNK, cover, expected_coverage, expected_mixing, mixing


def cloud(count: int, seed: int, shift: float = 0.0) -> Tensor:
    return torch.randn(count, 6, generator=torch.Generator().manual_seed(seed)) + shift


@pytest.mark.parametrize(("one", "other"), [(500, 500), (800, 200)])
def test_sets_of_one_distribution_mix_as_expected(one: int, other: int) -> None:
    found = [mixing(cloud(one, seed), cloud(other, 100 + seed), 5) for seed in range(4)]
    assert abs(sum(found) / 4 - expected_mixing(one, other)) < 0.02


def test_expected_mixing() -> None:
    assert expected_mixing(500, 500) == pytest.approx(500 / 999)


def test_separate_sets_neither_mix_nor_cover() -> None:
    here, there = cloud(200, 0), cloud(200, 1, shift=50)
    assert mixing(here, there, 5) == 0
    assert cover(here, there, 5) == (0, 0)


@pytest.mark.parametrize(("one", "other", "k"), [(400, 400, 5), (300, 600, 3)])
def test_coverage_and_density_of_like_sets(one: int, other: int, k: int) -> None:
    found = [cover(cloud(one, seed), cloud(other, 100 + seed), k) for seed in range(4)]
    assert abs(sum(each.coverage for each in found) / 4 - expected_coverage(one, other, k)) < 0.02
    assert abs(sum(each.density for each in found) / 4 - 1) < 0.1


def test_a_missing_mode_shows_in_coverage_alone() -> None:
    real = torch.cat([cloud(200, 0), cloud(200, 1, shift=20)])
    found = cover(real, cloud(400, 2), 5)
    assert found.coverage < 0.55 and found.density > 0.9


def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    real, generated = cloud(90, 0), cloud(80, 1)
    whole = mixing(real, generated, 3), cover(real, generated, 3)
    monkeypatch.setattr("models.evaluation.neighbours.CHUNK", 7)
    assert (mixing(real, generated, 3), cover(real, generated, 3)) == whole
    assert CHUNK > 90 * 2
