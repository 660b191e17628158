"""The loss of an autoencoder, one number per image."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from models.autoencoders import Coded
from models.autoencoders.autoencoder import LIKELIHOODS
from models.errors import UserError


@dataclass(frozen=True)
class AutoencoderLoss:
    """-log p(image | latent) + kl_weight * KL(posterior || unit Gaussian), in nats per pixel (Kingma & Welling 2014).

    likelihood: a row of LIKELIHOODS; with kl_weight 1 the sum is the bound for bernoulli, for l1 with scale 1 and for
    l2 with variance 1/2, and other weights are those of the beta-VAE (Higgins et al. 2017) or of latent diffusion
    (1e-6, Rombach et al. 2022). kl_warmup_steps: steps over which the weight rises from 0. free_bits: nats of each
    latent unit's KL below which it is not pushed (Kingma et al. 2016, image by image).
    """

    likelihood: str
    kl_weight: float
    kl_warmup_steps: int
    free_bits: float

    def __post_init__(self) -> None:
        for name in ("kl_weight", "kl_warmup_steps", "free_bits"):
            if getattr(self, name) < 0:
                raise UserError(f"--{name} {getattr(self, name)}: takes 0 or more")

    def __call__(self, coded: Coded, images: Tensor, step: int | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """(N,) each: the loss; its reconstruction part, per pixel; the KL in nats per image, 0 without a posterior.

        images: (N, C, H, W) in [-1, 1]. step: of training, None once it is over.
        """
        pixels = images[0].numel()
        reconstruction = LIKELIHOODS[self.likelihood][0](coded.output, images).flatten(1).mean(1)
        units = unit_kl(coded.mean, coded.log_variance)
        warmed = 1.0 if step is None or self.kl_warmup_steps == 0 else min(1.0, step / self.kl_warmup_steps)
        pushed = units.clamp(min=self.free_bits).flatten(1).sum(1)
        loss = reconstruction + self.kl_weight * warmed / pixels * pushed
        return loss, reconstruction, units.flatten(1).sum(1)


def unit_kl(mean: Tensor, log_variance: Tensor | None) -> Tensor:
    """KL of each latent unit's posterior to the unit Gaussian, in nats: (N, c, h, w); 0 without a posterior."""
    if log_variance is None:
        return torch.zeros_like(mean)
    return 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance)
