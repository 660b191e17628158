"""Loss of an autoencoder, one number per image."""

from dataclasses import asdict, dataclass
from typing import get_type_hints

import torch
from torch import Tensor

from models.autoencoders import Coded
from models.autoencoders.autoencoder import LIKELIHOODS
from models.ranges import NonNegative, NonNegativeInt, check_ranges


@dataclass(frozen=True)
class AutoencoderLoss:
    """-log p(image | latent) + kl_weight * KL(posterior || unit Gaussian), nats per dimension (Kingma & Welling 2014).

    likelihood: a key of LIKELIHOODS. l1 is a Laplace likelihood with scale 1, l2 a Gaussian one with variance 1/2. With
    kl_weight 1, the loss is an upper bound on -log p(image), up to a constant. Larger weights give a beta-VAE
    (Higgins et al. 2017); latent diffusion uses 1e-6 (Rombach et al. 2022). kl_warmup_steps: steps over which the
    weight rises linearly from 0. free_bits: nats per latent unit and image. A unit with a smaller KL gets no KL
    gradient (Kingma et al. 2016). Raises UserError.
    """

    likelihood: str
    kl_weight: NonNegative
    kl_warmup_steps: NonNegativeInt
    free_bits: NonNegative

    def __post_init__(self) -> None:
        check_ranges(asdict(self), get_type_hints(type(self), include_extras=True))

    def kl_weight_at(self, step: int) -> float:
        """Return the KL weight at a training step: it rises linearly during the warm-up."""
        return self.kl_weight * (min(1.0, step / self.kl_warmup_steps) if self.kl_warmup_steps else 1.0)

    def __call__(
        self, coded: Coded, images: Tensor, kl_weight: Tensor | float | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return (N,) tensors: loss and reconstruction in nats per dimension, KL in nats per image (0 if not a VAE).

        images: (N, C, H, W) in [-1, 1]. kl_weight: weight at the current step; None for the full weight.
        """
        weight = self.kl_weight if kl_weight is None else kl_weight
        pixels = images[0].numel()
        reconstruction = LIKELIHOODS[self.likelihood].distance(coded.output, images).flatten(1).mean(1)
        units = unit_kl(coded.mean, coded.log_variance)
        penalty = units.clamp(min=self.free_bits).flatten(1).sum(1)
        loss = reconstruction + weight / pixels * penalty
        return loss, reconstruction, units.flatten(1).sum(1)


def unit_kl(mean: Tensor, log_variance: Tensor | None) -> Tensor:
    """Return each latent unit's KL divergence from the unit Gaussian in nats, (N, c, h, w); 0 without log_variance."""
    if log_variance is None:
        return torch.zeros_like(mean)
    return 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance)
