"""Embeddings of times and labels, and rotations whose products depend on differences of positions alone."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from models.networks.embeddings import Condition, axial_angles, rotate, sinusoids


def test_sinusoids_have_the_known_values() -> None:
    row = sinusoids(torch.tensor([0.25], dtype=torch.float64), 5)[0].tolist()
    expected = [math.sin(250), math.sin(0.025), math.cos(250), math.cos(0.025), 0]
    assert row == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("width", [1, 2, 3, 4, 32])
def test_sinusoids_have_any_width(width: int) -> None:
    assert sinusoids(torch.rand(4), width).shape == (4, width)


def test_close_times_differ() -> None:
    rows = sinusoids(torch.linspace(0, 1, 1001), 32)
    assert torch.pdist(rows).min() > 1e-2


def test_the_condition_is_of_time_and_label() -> None:
    condition, t = Condition("embedding", 3, 8, (1, 4, 4)), torch.rand(4)
    labelled, signals = condition(t, torch.arange(4))
    null, _ = condition(t, None)
    assert labelled.shape == (4, 8)
    assert signals.planes is None and signals.tokens is None
    torch.testing.assert_close(labelled[3], null[3])
    assert (labelled[:3] - null[:3]).abs().amax(dim=1).min() > 1e-3


def test_a_label_without_a_vector_leaves_the_time_alone() -> None:
    condition, t = Condition("cross_attention", 3, 8, (1, 4, 4)), torch.rand(4)
    assert torch.equal(condition(t, torch.arange(4))[0], condition(t, None)[0])


@given(st.integers(0, 5), st.integers(0, 5), st.integers(0, 5), st.integers(0, 5), st.sampled_from([4, 8, 12]))
def test_rotated_products_know_only_the_difference(row: int, column: int, down: int, right: int, width: int) -> None:
    """The product of a query and of a key `down` and `right` of it is the same at every position."""
    angles = axial_angles(11, 12, width).double().unflatten(0, (11, 12))
    generator = torch.Generator().manual_seed(0)
    query, key = torch.randn(2, 1, width, generator=generator, dtype=torch.float64)

    def at(vector: torch.Tensor, row: int, column: int) -> torch.Tensor:
        return rotate(vector, angles[row, column].cos(), angles[row, column].sin())

    here = (at(query, row, column) * at(key, row + down, column + right)).sum()
    origin = (at(query, 0, 0) * at(key, down, right)).sum()
    torch.testing.assert_close(here, origin, atol=1e-5, rtol=1e-5)


def test_rotation_keeps_lengths_and_tells_rows_from_columns() -> None:
    angles = axial_angles(3, 4, 8)
    vectors = torch.randn(12, 8)
    torch.testing.assert_close(rotate(vectors, angles.cos(), angles.sin()).norm(dim=1), vectors.norm(dim=1))
    assert torch.pdist(angles).min() > 0.1
