"""Maps by PCA, against known directions of variance and against a singular value decomposition."""

from __future__ import annotations

import numpy as np
import pytest

from models.errors import UserError
from models.evaluation.maps import fit_map, principal_axes


def test_pca_finds_the_widest_directions() -> None:
    random = np.random.default_rng(0)
    features = random.standard_normal((2000, 4)) * [0.1, 5.0, 0.2, 2.0] + 3
    chart = fit_map("pca", features, 0, 5)
    assert np.abs(np.corrcoef(chart.points[:, 0], features[:, 1])[0, 1]) > 0.999
    assert np.abs(np.corrcoef(chart.points[:, 1], features[:, 3])[0, 1]) > 0.999
    assert chart.axes[0] == f"component 1  ({100 * features[:, 1].var() / features.var(0).sum():.1f} % of the variance)"
    np.testing.assert_allclose(chart.transform(features[:7].astype(np.float32)), chart.points[:7], atol=1e-5)


@pytest.mark.parametrize("shape", [(50, 4), (3, 200), (2, 9)])
def test_principal_axes_are_singular_vectors_with_a_fixed_sign(shape: tuple[int, int]) -> None:
    features = np.random.default_rng(0).standard_normal(shape) + 7
    axes, shares = principal_axes(features)
    _, singular, directions = np.linalg.svd(features - features.mean(0), full_matrices=False)
    np.testing.assert_allclose(shares, singular[:2] ** 2 / (singular**2).sum(), atol=1e-12)
    assert (axes[np.arange(2), np.abs(axes).argmax(1)] > 0).all()
    np.testing.assert_allclose(np.abs((axes[0] * directions[0]).sum()), 1, atol=1e-12)


def test_a_single_point_has_one_axis() -> None:
    """An autoencoder's test split may have one image."""
    assert principal_axes(np.ones((1, 5)))[0].shape == (1, 5)


def test_an_unknown_method_is_refused() -> None:
    with pytest.raises(UserError, match="method tsne: choose umap or pca"):
        fit_map("tsne", np.zeros((5, 3)), 0, 2)
