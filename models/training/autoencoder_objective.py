"""Objective of an autoencoder: loss, evaluation, reconstructions and pictures of the latent space."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn

from models.autoencoders import AutoencoderNetwork, Coded
from models.autoencoders.autoencoder import AutoencoderSpec
from models.autoencoders.loss import AutoencoderLoss
from models.diffusion.denoiser import in_autocast
from models.drawing import image_files, sheets
from models.progress import duration
from models.randomness import StepRandomness, derive_seed
from models.spaces.pixels import Pixels
from models.training.latent_pictures import Codec, draw_latent_space
from models.training.objectives import EVALUATION_BATCH, Losses, LossOf, Objective, TestLoss, rows_to_show

SHOWN = 32
UMAP_SECONDS = 60  # Longest time of a UMAP, mostly compilation. Runs that train for less have no UMAP.
# Variance of the posterior mean over images above which a latent unit is active (Burda et al. 2016, section 5.2).
ACTIVE_VARIANCE = 0.01
# The log warns if the share of active units is lower than this.
COLLAPSE_SHARE = 0.5


@dataclass
class AutoencoderObjective(Objective):
    """Objective of the autoencoder of `spec`. Images are uint8 on the device.

    latent_shape: (c, h, w) of the network. umap: also draw a UMAP of latents. scale: enlargement of the images on
    sheets. picture_format: format in which pictures are written in addition to PNG.
    """

    spec: AutoencoderSpec
    loss: AutoencoderLoss
    latent_shape: tuple[int, int, int]
    autocast: torch.dtype | None
    train_images: Tensor
    test_images: Tensor
    test_labels: Tensor
    seed: int
    umap: bool = False
    scale: int | None = None
    picture_format: str = "png"

    @property
    def parts(self) -> tuple[str, ...]:
        """reconstruction: nats per dimension, up to a constant. kl: nats per image. rate: KL in bits per dimension."""
        return ("reconstruction", "kl", "rate") if self.spec.kind == "vae" else ("reconstruction",)

    def plan(self, randomness: StepRandomness) -> dict[str, Tensor]:
        """Return the KL weight of the step, which rises during the warm-up."""
        return {"kl_weight": torch.tensor(self.loss.kl_weight_at(randomness.step), dtype=torch.float64)}

    def loss_of(self, network: nn.Module) -> LossOf:
        def loss(images: Tensor, labels: Tensor, plan: Mapping[str, Tensor], randomness: StepRandomness) -> Losses:
            clean = Pixels.scale(images)
            coded = self._coded(network, clean, randomness.noise(self.latent_shape))
            losses, reconstruction, kl = self.loss(coded, clean, plan["kl_weight"])
            sums = torch.stack(self._figures(reconstruction.detach(), kl.detach())).sum(1)
            return Losses(losses, torch.stack([sums, torch.full_like(sums, len(losses))]))

        return loss

    def _figures(self, reconstruction: Tensor, kl: Tensor) -> list[Tensor]:
        rate = kl / (math.log(2) * math.prod(self.spec.shape))
        return [reconstruction, kl, rate][: len(self.parts)]

    def _coded(self, network: nn.Module, clean: Tensor, noise: Tensor) -> Coded:
        with in_autocast(clean.device, self.autocast):
            return network(clean, noise if self.spec.kind == "vae" else None)

    @torch.no_grad()
    def evaluate(self, network: nn.Module) -> TestLoss:
        """Measure the loss with the full KL weight, on the same images and posterior noise at every call."""
        losses, figures, means = self._test(network, self.test_images)
        train, _, _ = self._test(network, self.train_images)
        active = int((means.var(0, correction=0) > ACTIVE_VARIANCE).sum())
        units = means[0].numel()
        parts = [f"reconstruction {figures[0].mean():.4f}"]
        if self.spec.kind == "vae":
            parts.append(f"KL {figures[1].mean():.2f} nats per image ({figures[2].mean():.3g} bits per dimension)")
        note = ", ".join([*parts, f"active units {active} of {units}"])
        if self.spec.kind == "vae" and active < COLLAPSE_SHARE * units:
            note += ": warning, posterior collapse; try a lower kl_weight, more kl_warmup_steps or more free_bits"
        return TestLoss(losses.mean().item(), train.mean().item(), figures.mean(1).tolist(), note)

    def _test(self, network: nn.Module, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return (N,) losses, (K, N) parts and (N, c, h, w) posterior means, on the CPU."""
        count = len(images)
        frozen = StepRandomness(derive_seed(self.seed, "evaluation"), 0, count, 0, count, images.device)
        noise = frozen.noise(self.latent_shape)
        batches = []
        for part, part_noise in zip(images.split(EVALUATION_BATCH), noise.split(EVALUATION_BATCH), strict=True):
            clean = Pixels.scale(part)
            coded = self._coded(network, clean, part_noise)
            losses, reconstruction, kl = self.loss(coded, clean)
            figures = torch.stack(self._figures(reconstruction, kl), dim=1)
            batches.append((losses.cpu(), figures.cpu(), coded.mean.cpu()))
        losses, figures, means = (torch.cat(tensors) for tensors in zip(*batches, strict=True))
        return losses, figures.T, means

    def draw_progress(self, network: nn.Module, path: Path, title: str) -> None:
        images = self.test_images[rows_to_show(self.test_labels, SHOWN)]
        caption = f"{title}: test images, each with its reconstruction on the right"
        sheet = sheets.pairs(images, self.reconstruct(network, images), 8, caption, self.scale)
        image_files.save_with(sheet, path, self.picture_format)

    def draw_final(self, network: nn.Module, folder: Path, title: str, seconds: float) -> str:
        subfolder = folder / "latent_space"
        subfolder.mkdir(exist_ok=True)
        self.draw_progress(network, subfolder / "reconstructions.png", title)
        codec = Codec(cast(AutoencoderNetwork, network), self.spec)
        umap = self.umap and math.prod(self.latent_shape) > 2
        looks = self.seed, umap and seconds >= UMAP_SECONDS, self.scale, self.picture_format
        draw_latent_space(codec, self.test_images, self.test_labels, subfolder, title, *looks)
        if not umap or seconds >= UMAP_SECONDS:
            return ""
        least, took = duration(UMAP_SECONDS), duration(seconds)
        return f"the latents are mapped by PCA only: UMAP takes up to {least}, and this run trained for {took}"

    @torch.no_grad()
    def reconstruct(self, network: nn.Module, images: Tensor) -> Tensor:
        """Encode and decode uint8 images with the posterior mean. Returns uint8 images on the CPU."""
        noise = torch.zeros(len(images), *self.latent_shape, device=images.device)
        output = self._coded(network, Pixels.scale(images), noise).output
        return Pixels(self.spec.shape, 1.0).decode(self.spec.images(output)).cpu()
