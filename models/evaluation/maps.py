"""Maps of features in two dimensions, by PCA or UMAP (McInnes et al. 2018). The same seed gives the same map."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from models.errors import UserError
from models.progress import progress

METHODS = ("umap", "pca")


@dataclass(frozen=True)
class Map:
    """Points (N, 2) of the fitted features. transform: maps other features (M, D) to points (M, 2). axes: titles."""

    points: np.ndarray
    transform: Callable[[np.ndarray], np.ndarray]
    axes: tuple[str, str]


def fit_map(method: str, features: np.ndarray, seed: int, neighbours: int) -> Map:
    """Fit a map to features (N, D), N > 2, D > 1. neighbours: for UMAP. Raises UserError for an unknown method."""
    if method not in METHODS:
        raise UserError(f"`method` {method}: choose {' or '.join(METHODS)}")
    features = features.astype(np.float32)
    return _pca(features) if method == "pca" else _umap(features, seed, neighbours)


def principal_axes(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the two directions of largest variance of features (N, D), and the share of variance along each, (2,).

    The directions are float64 (2, D). The entry of largest magnitude in each is positive. If N or D is 1, only one
    direction is returned.
    """
    from sklearn.decomposition import PCA

    with np.errstate(invalid="ignore"):  # Without any variance, the shares are NaN.
        fitted = PCA(min(2, *features.shape), svd_solver="full").fit(features.astype(np.float64))
    axes = np.asarray(fitted.components_)
    signs = np.sign(axes[np.arange(len(axes)), np.abs(axes).argmax(1)])
    return axes * signs[:, None], np.asarray(fitted.explained_variance_ratio_)


def _pca(features: np.ndarray) -> Map:
    mean = features.mean(0)
    axes, shares = principal_axes(features)

    def transform(others: np.ndarray) -> np.ndarray:
        return (others - mean) @ axes.T

    first, second = (f"component {k + 1}  ({100 * shares[k]:.1f} % of the variance)" for k in range(2))
    return Map(transform(features), transform, (first, second))


def _umap(features: np.ndarray, seed: int, neighbours: int) -> Map:
    title = f"mapping {len(features):,} points by UMAP"
    with warnings.catch_warnings(action="ignore"), progress(title, None):
        import umap

        neighbours = min(neighbours, len(features) - 1)
        model = umap.UMAP(n_neighbors=neighbours, random_state=seed, transform_seed=seed, n_jobs=1)
        points = np.asarray(model.fit_transform(features))

    def transform(others: np.ndarray) -> np.ndarray:
        with warnings.catch_warnings(action="ignore"), progress(f"mapping {len(others):,} points by UMAP", None):
            return np.asarray(model.transform(others.astype(np.float32)))

    return Map(points, transform, ("UMAP 1", "UMAP 2"))
