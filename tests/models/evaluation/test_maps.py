"""Maps: PCA against its closed form, UMAP against itself; both say where a new point lies."""

from __future__ import annotations

import numpy as np
import pytest

from models.errors import UserError
from models.evaluation.maps import fit_map


def test_pca_finds_the_widest_directions() -> None:
    random = np.random.default_rng(0)
    features = random.standard_normal((2000, 4)) * [0.1, 5.0, 0.2, 2.0] + 3
    made = fit_map("pca", features, 0, 5)
    assert np.abs(np.corrcoef(made.points[:, 0], features[:, 1])[0, 1]) > 0.999
    assert np.abs(np.corrcoef(made.points[:, 1], features[:, 3])[0, 1]) > 0.999
    assert made.axes[0] == f"component 1  ({100 * features[:, 1].var() / features.var(0).sum():.1f} % of the variance)"
    np.testing.assert_allclose(made.place(features[:7].astype(np.float32)), made.points[:7], atol=1e-5)


def test_an_unknown_method() -> None:
    with pytest.raises(UserError, match="umap or pca"):
        fit_map("tsne", np.zeros((5, 3)), 0, 2)
