"""What the loop trains when it trains an autoencoder: its loss, its test, and reconstructions to look at."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn

from models.autoencoders import AutoencoderNetwork, Coded
from models.autoencoders.autoencoder import AutoencoderSpec
from models.autoencoders.loss import AutoencoderLoss
from models.diffusion.denoiser import in_autocast
from models.drawing import pictures
from models.randomness import StepRandomness, derive_seed
from models.spaces.pixels import Pixels
from models.training.latent_pictures import Codec, draw_latent_space
from models.training.objectives import EVALUATION_BATCH, Losses, LossOf, TestLoss

SHOWN = 32
ACTIVE = 0.01  # Variance over images from which a latent unit counts as active (Burda et al. 2016, section 5.2).
COLLAPSED = 0.5  # Share of active units below which the log warns.


@dataclass
class AutoencoderObjective:
    """Trains the network of `spec`. train_images, test_images: uint8 on the device, for evaluation and pictures.

    latent_shape: of the network, for the noise of its posterior. umap: draw the map that takes ten seconds, too."""

    spec: AutoencoderSpec
    loss: AutoencoderLoss
    latent_shape: tuple[int, int, int]
    autocast: torch.dtype | None
    train_images: Tensor
    test_images: Tensor
    test_labels: Tensor
    seed: int
    umap: bool = False

    figures = ()

    @property
    def parts(self) -> tuple[str, ...]:
        """reconstruction: per pixel, in nats up to a constant. kl: nats per image. rate: its bits per pixel."""
        return ("reconstruction", "kl", "rate") if self.spec.kind == "vae" else ("reconstruction",)

    def loss_of(self, network: nn.Module) -> LossOf:
        def loss(images: Tensor, labels: Tensor, randomness: StepRandomness) -> Losses:
            clean = Pixels.scale(images)
            coded = self._coded(network, clean, randomness.noise(self.latent_shape))
            losses, reconstruction, kl = self.loss(coded, clean, randomness.step)
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
        """The loss with the full KL weight, on the same images and posterior noise at every call."""
        losses, figures, means = self._test(network, self.test_images)
        train, _, _ = self._test(network, self.train_images)
        active = int((means.var(0, correction=0) > ACTIVE).sum())
        units = means[0].numel()
        words = [f"reconstruction {figures[0].mean():.4f}"]
        if self.spec.kind == "vae":
            words.append(f"KL {figures[1].mean():.2f} nats per image ({figures[2].mean():.3g} bits per pixel)")
        note = ", ".join([*words, f"active units {active} of {units}"])
        if self.spec.kind == "vae" and active < COLLAPSED * units:
            note += ": warning, posterior collapse; a lower --kl_weight, --kl_warmup_steps or --free_bits may help"
        return TestLoss(losses.mean().item(), train.mean().item(), figures.mean(1).tolist(), note)

    def _test(self, network: nn.Module, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(N,) losses, (K, N) parts and (N, c, h, w) posterior means, on the CPU."""
        count = len(images)
        frozen = StepRandomness(derive_seed(self.seed, "evaluation"), 0, count, 0, count, images.device)
        noise = frozen.noise(self.latent_shape)
        found = []
        for rows in torch.arange(count).split(EVALUATION_BATCH):
            part = slice(int(rows[0]), int(rows[-1]) + 1)
            clean = Pixels.scale(images[part])
            coded = self._coded(network, clean, noise[part])
            losses, reconstruction, kl = self.loss(coded, clean)
            figures = torch.stack(self._figures(reconstruction, kl), dim=1)
            found.append((losses.cpu(), figures.cpu(), coded.mean.cpu()))
        losses, figures, means = (torch.cat(each) for each in zip(*found, strict=True))
        return losses, figures.T, means

    def draw_progress(self, network: nn.Module, path: Path, title: str) -> None:
        images = self.test_images[:SHOWN]
        words = f"{title}: test images, each with its reconstruction on the right"
        pictures.save_image(pictures.pairs(images, self.reconstruct(network, images), 8, words), path)

    def draw_final(self, network: nn.Module, folder: Path, title: str) -> None:
        place = folder / "latent_space"
        place.mkdir(exist_ok=True)
        self.draw_progress(network, place / "reconstructions.png", title)
        codec = Codec(cast(AutoencoderNetwork, network), self.spec)
        classes = self.spec.class_names
        draw_latent_space(codec, self.test_images, self.test_labels, classes, place, title, self.seed, self.umap)

    @torch.no_grad()
    def reconstruct(self, network: nn.Module, images: Tensor) -> Tensor:
        """uint8 -> uint8 on the CPU, through the posterior's mean."""
        clean = Pixels.scale(images)
        output = self._coded(network, clean, torch.zeros(len(images), *self.latent_shape, device=images.device)).output
        return Pixels(self.spec.shape, 1.0).decode(self.spec.images(output)).cpu()
