"""Classification of latents by Bayes' rule, with one Gaussian per class."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from models.errors import UserError
from models.evaluation.method_settings import GaussiansSettings
from models.ranges import Share, check_ranges


@dataclass(frozen=True)
class ClassGaussians:
    """K Gaussians in D dimensions, float64 on the CPU: mean (K, D), factor (K, D, D), covariance F F.T."""

    mean: Tensor
    factor: Tensor

    @classmethod
    def fit(
        cls,
        latents: Tensor,
        labels: Tensor,
        classes: int,
        shrinkage: float = GaussiansSettings.shrinkage,
        diagonal: bool = GaussiansSettings.diagonal,
    ) -> ClassGaussians:
        """Fit the Gaussians to latents (N, ...) and labels (N,). Raises UserError for a class with one latent or none.

        shrinkage: weight of the pooled covariance (Friedman 1989, eq. 9). diagonal: set off-diagonal covariances to 0.
        """
        check_ranges({"shrinkage": shrinkage}, {"shrinkage": Share})
        rows, labels = latents.flatten(1).double().cpu(), labels.cpu()
        counts = torch.bincount(labels, minlength=classes)
        if counts.min() < 2:
            smallest = int(counts.argmin())
            raise UserError(f"class {smallest} has {int(counts[smallest])} training images; at least 2 are needed")
        mean = torch.stack([rows[labels == label].mean(0) for label in range(classes)])
        centred = [rows[labels == label] - mean[label] for label in range(classes)]
        within = torch.stack([group.T @ group / len(group) for group in centred])
        pooled = (within * (counts / counts.sum())[:, None, None]).sum(0)
        covariance = (1 - shrinkage) * within + shrinkage * pooled
        if diagonal:
            covariance = covariance.diagonal(dim1=1, dim2=2).diag_embed()
        # A thousandth of the mean variance keeps the covariance invertible if a dimension is constant.
        ridge = 1e-3 * pooled.diagonal().mean().clamp(min=1e-12)
        factor = torch.linalg.cholesky(covariance + ridge * torch.eye(rows.shape[1], dtype=torch.float64))
        return cls(mean, factor)

    def log_density(self, latents: Tensor) -> Tensor:
        """Return log p(latent | class) in nats, (N, K)."""
        rows = latents.flatten(1).double().cpu()
        densities = []
        for mean, factor in zip(self.mean, self.factor, strict=True):
            whitened = torch.linalg.solve_triangular(factor, (rows - mean).T, upper=False)  # (D, N)
            volume = factor.diagonal().log().sum() + rows.shape[1] / 2 * math.log(2 * math.pi)
            densities.append(-0.5 * whitened.square().sum(0) - volume)
        return torch.stack(densities, dim=1)

    def log_posterior(self, latents: Tensor, log_prior: Tensor) -> Tensor:
        """Return log p(class | latent) by Bayes' rule, (N, K). log_prior: (K,)."""
        return (self.log_density(latents) + log_prior).log_softmax(1)
