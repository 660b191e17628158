"""Maps: features in two dimensions, by PCA or UMAP (McInnes et al. 2018). The same seed gives the same map."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from models.errors import UserError

METHODS = ("umap", "pca")


@dataclass(frozen=True)
class Map:
    """points: (N, 2) of the features it was made from. place: puts others (M, D) on the same map."""

    points: np.ndarray
    place: Callable[[np.ndarray], np.ndarray]
    axes: tuple[str, str]


def fit_map(method: str, features: np.ndarray, seed: int, neighbours: int) -> Map:
    """A map of features (N, D), N > 2, D > 1. neighbours: of UMAP. Raises UserError for an unknown method."""
    if method not in METHODS:
        raise UserError(f"--method {method}: choose {' or '.join(METHODS)}")
    features = features.astype(np.float32)
    return _pca(features) if method == "pca" else _umap(features, seed, neighbours)


def principal_axes(centred: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of features (N, D) about their mean: the two directions of largest variance (2, D), each pointing where its
    largest entry is positive, and N times the variance along all directions. Float64."""
    _, singular, directions = np.linalg.svd(centred.astype(np.float64), full_matrices=False)
    top = directions[:2]
    signs = np.sign(top[np.arange(len(top)), np.abs(top).argmax(1)])
    return top * signs[:, None], singular**2


def _pca(features: np.ndarray) -> Map:
    mean = features.mean(0)
    top, variances = principal_axes(features - mean)
    shares = variances / variances.sum()

    def place(others: np.ndarray) -> np.ndarray:
        return (others - mean) @ top.T

    names = [f"component {k + 1}  ({100 * shares[k]:.1f} % of the variance)" for k in range(2)]
    return Map(place(features), place, (names[0], names[1]))


def _umap(features: np.ndarray, seed: int, neighbours: int) -> Map:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import umap

        neighbours = min(neighbours, len(features) - 1)
        model = umap.UMAP(n_neighbors=neighbours, random_state=seed, transform_seed=seed, n_jobs=1)
        points = np.asarray(model.fit_transform(features))

    def place(others: np.ndarray) -> np.ndarray:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return np.asarray(model.transform(others.astype(np.float32)))

    return Map(points, place, ("UMAP 1", "UMAP 2"))
