"""Classification in a latent space by one Gaussian for each class and Bayes' rule; knows latents as rows only."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from models.errors import UserError


@dataclass(frozen=True)
class ClassGaussians:
    """K Gaussians in D dimensions, float64 on the CPU.

    mean: (K, D). factor: (K, D, D) lower triangular, factor @ factor.T is the covariance.
    """

    mean: Tensor
    factor: Tensor

    @classmethod
    def fit(
        cls, latents: Tensor, labels: Tensor, classes: int, shrinkage: float = 0.1, diagonal: bool = False
    ) -> ClassGaussians:
        """From latents (N, ...) and labels (N,) of the training split; rows are flattened.

        shrinkage: share of the covariance of all classes about their means in that of each (Friedman 1989 eq. 9).
        A thousandth of the mean variance is added to the diagonal, so that dead dimensions do no harm. diagonal: no
        covariances between dimensions. Raises UserError for a class of fewer than two latents.
        """
        if not 0 <= shrinkage <= 1:
            raise UserError(f"--shrinkage {shrinkage:g}: a share between 0 and 1")
        rows, labels = latents.flatten(1).double().cpu(), labels.cpu()
        counts = torch.bincount(labels, minlength=classes)
        if counts.min() < 2:
            raise UserError(f"class {int(counts.argmin())} has {int(counts.min())} training images: 2 are needed")
        mean = torch.stack([rows[labels == label].mean(0) for label in range(classes)])
        around = [rows[labels == label] - mean[label] for label in range(classes)]
        within = torch.stack([each.T @ each / len(each) for each in around])
        pooled = (within * (counts / counts.sum())[:, None, None]).sum(0)
        covariance = (1 - shrinkage) * within + shrinkage * pooled
        if diagonal:
            covariance = covariance.diagonal(dim1=1, dim2=2).diag_embed()
        ridge = 1e-3 * pooled.diagonal().mean().clamp(min=1e-12)
        factor = torch.linalg.cholesky(covariance + ridge * torch.eye(rows.shape[1], dtype=torch.float64))
        return cls(mean, factor)

    def log_density(self, latents: Tensor) -> Tensor:
        """(N, K) log p(latent | class) in nats."""
        rows = latents.flatten(1).double().cpu()
        found = []
        for mean, factor in zip(self.mean, self.factor, strict=True):
            whitened = torch.linalg.solve_triangular(factor, (rows - mean).T, upper=False)  # (D, N)
            volume = factor.diagonal().log().sum() + rows.shape[1] / 2 * math.log(2 * math.pi)
            found.append(-0.5 * whitened.square().sum(0) - volume)
        return torch.stack(found, dim=1)

    def log_posterior(self, latents: Tensor, log_prior: Tensor) -> Tensor:
        """(N, K) log p(class | latent) by Bayes' rule. log_prior: (K,)."""
        return (self.log_density(latents) + log_prior).log_softmax(1)
