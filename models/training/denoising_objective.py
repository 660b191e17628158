"""The objective of a denoiser: its loss, its test on a frozen grid, and its pictures."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from models.diffusion.denoiser import add_noise
from models.diffusion.losses import DenoisingLoss
from models.diffusion.times import BINS, bin_of
from models.drawing import image_files, sheets
from models.evaluation.sample_test import SampleTest
from models.generation import Generated, Sampling, generate, sheet_labels
from models.model import DenoiserSpec
from models.randomness import StepRandomness, derive_seed
from models.training.objectives import EVALUATION_BATCH, Losses, LossOf, TestLoss

FRAMES = 10

STRIP_IMAGES = 8

FORWARD_TIMES = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)


@dataclass
class DenoisingObjective:
    """Trains the network of `spec`. train_images, test_images and their labels: uint8 on the device, for evaluation
    and pictures only (a few hundred of each). num_samples, sampling: of the sample sheets. sample_test: what some
    samples, made in the same way, are measured by at every evaluation, if anything."""

    spec: DenoiserSpec
    loss: DenoisingLoss
    autocast: torch.dtype | None
    train_images: Tensor
    train_labels: Tensor
    test_images: Tensor
    test_labels: Tensor
    sampling: Sampling
    num_samples: int
    seed: int
    sample_test: SampleTest | None = None

    parts = tuple(f"t{index}" for index in range(BINS))

    @property
    def figures(self) -> tuple[str, ...]:
        return () if self.sample_test is None else self.sample_test.names(bool(self.spec.classes))

    def loss_of(self, network: nn.Module) -> LossOf:
        denoiser = self.spec.denoiser(network, self.autocast)

        def loss(images: Tensor, labels: Tensor, randomness: StepRandomness) -> Losses:
            clean = self.spec.space.draw(images, randomness)
            losses, t = self.loss(denoiser, clean, labels if self.spec.classes else None, randomness)
            bins = bin_of(t).to(losses.device, non_blocking=True)
            both = torch.stack([losses.detach(), torch.ones_like(losses)])
            return Losses(losses, both.new_zeros(2, BINS).index_add_(1, bins, both))

        return loss

    @torch.no_grad()
    def evaluate(self, network: nn.Module) -> TestLoss:
        """The loss on a grid of (image, t, noise) that is the same at every call, with no label dropped; and how good
        samples are, from noise that is the same at every call."""
        test, t = self._losses(network, self.test_images, self.test_labels)
        train, _ = self._losses(network, self.train_images, self.train_labels)
        bins = bin_of(t)
        by_t = [test[bins == index].mean().item() for index in range(BINS)]
        found = TestLoss(test.mean().item(), train.mean().item(), by_t)
        if self.sample_test is None:
            return found
        count = self.sample_test.count
        images = torch.cat([batch.images for batch in self._generate(network, count, "sample test")])
        figures = self.sample_test.measure(images, sheet_labels(count, self.spec.classes))
        return found._replace(note=self.sample_test.describe(figures), figures=figures)

    def _losses(self, network: nn.Module, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        denoiser = self.spec.denoiser(network, self.autocast)
        count, device = len(images), images.device
        frozen = StepRandomness(derive_seed(self.seed, "evaluation"), 0, count, 0, count, device)
        t = self.loss.density.draw(frozen.uniform("times"), denoiser.noise_schedule)
        t = t[frozen.uniform("order").argsort()]  # images may come sorted by class, and the slices of t must not
        noise = self.loss.noise(frozen, self.spec.space.shape)
        losses = []
        for part in torch.arange(count).split(EVALUATION_BATCH):
            rows = slice(int(part[0]), int(part[-1]) + 1)
            clean = self.spec.space.encode(images[rows])
            label = labels[rows] if self.spec.classes else None
            losses.append(self.loss.at(denoiser, clean, label, t[rows], noise[rows]).cpu())
        return torch.cat(losses), t

    def draw_progress(self, network: nn.Module, path: Path, title: str) -> None:
        images, _ = self._sample(network, frames=0)
        sheet = sheets.sample_sheet(images, self.spec.class_names, f"{title}, {self.sampling.describe()}")
        image_files.save_image(sheet, path)

    def draw_final(self, network: nn.Module, folder: Path, title: str) -> None:
        images, first = self._sample(network, frames=FRAMES)
        title = f"{title}, {self.sampling.describe()}"
        for name in ("final_samples", "denoising_steps"):
            (folder / name).mkdir(exist_ok=True)
        sample_sheet = sheets.sample_sheet(images, self.spec.class_names, title)
        image_files.save_image(sample_sheet, folder / "final_samples" / "grid.png")
        image_files.save_each(images, folder / "final_samples", sheet_labels(len(images), self.spec.classes))
        for name, what, frames in (
            ("noisy", "x_t", first.frames),
            ("clean_estimate", "clean estimate", first.estimates),
        ):
            times = first.frame_times[-len(frames) :]
            strip = sheets.strip(
                [frame[:STRIP_IMAGES] for frame in frames],
                [f"t = {t:.2f}" for t in times],
                title=f"{title}: {what} along the reverse process",
            )
            image_files.save_image(strip, folder / "denoising_steps" / f"{name}.png")
        self.draw_forward(folder / "forward_noising.png")

    def draw_forward(self, path: Path) -> None:
        """Test images under growing noise."""
        schedule = self.spec.denoiser(nn.Identity()).noise_schedule
        space, count = self.spec.space, min(STRIP_IMAGES, len(self.test_images))
        clean = space.encode(self.test_images[:count])
        frozen = StepRandomness(derive_seed(self.seed, "forward"), 0, count, 0, count, clean.device)
        noise = self.loss.noise(frozen, self.spec.space.shape)
        times = torch.tensor(FORWARD_TIMES, dtype=torch.float64)
        frames = [space.decode(add_noise(schedule, clean, noise, t)).cpu() for t in times]
        captions = [f"t = {t:.1f}" for t in FORWARD_TIMES]
        title = f"forward process, {self.spec.noise_schedule} schedule"
        image_files.save_image(sheets.strip(frames, captions, title=title), path)

    def _sample(self, network: nn.Module, frames: int) -> tuple[Tensor, Generated]:
        """All images, and the first batch with its frames."""
        batches = self._generate(network, self.num_samples, "pictures", frames)
        first = next(batches)
        return torch.cat([first.images, *(batch.images for batch in batches)]), first

    def _generate(self, network: nn.Module, count: int, stream: str, frames: int = 0) -> Iterator[Generated]:
        return generate(
            self.spec.denoiser(network, self.autocast),
            self.spec.space,
            self.sampling,
            count,
            sheet_labels(count, self.spec.classes),
            self.spec.classes,
            derive_seed(self.seed, stream),
            self.test_images.device,
            EVALUATION_BATCH,
            frames,
        )
