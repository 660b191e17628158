"""Objective of a denoiser, for every network, schedule, prediction and space: loss, test loss and pictures."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor, nn

from models.diffusion.denoiser import add_noise
from models.diffusion.losses import DenoisingLoss
from models.diffusion.times import BINS, TimeBins, bin_of, build_grid
from models.drawing import image_files, sheets
from models.drawing.lettering import class_titles
from models.evaluation.sample_test import SampleTest
from models.generation import MANY_STEPS, Generated, Sampling, choose_labels, choose_solver, generate
from models.model import DenoiserSpec, Model
from models.randomness import StepRandomness, derive_seed
from models.training.objectives import EVALUATION_BATCH, KeptModels, Losses, LossOf, TestLoss, rows_to_show

FRAMES, STRIP_IMAGES = 10, 10  # Pictures of the reverse process: frames, and images per strip.
FEWEST_ROWS, MOST_ROWS, FORWARD_STEPS = 8, 20, 10  # Picture of the forward process: bounds on the rows, and steps.


@dataclass
class DenoisingObjective:
    """Objective of the denoiser of `spec`.

    train_images, test_images: a few hundred images, uint8 on the device, with labels, for evaluation and pictures only.
    num_samples: images on a sample sheet. columns: images in a row of the sheet. scale: enlargement of the images.
    sample_test: test of samples at every evaluation; None to skip it. picture_format: format in which pictures are
    written in addition to PNG.
    """

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
    columns: int | None = None
    scale: int | None = None
    picture_format: str = "png"

    parts = tuple(f"t{index}" for index in range(BINS))
    version = 2

    @property
    def figures(self) -> tuple[str, ...]:
        return () if self.sample_test is None else self.sample_test.names(bool(self.spec.classes))

    def changes_since(self, version: int) -> list[str]:
        if version >= self.version:
            return []
        lines = ["the test loss now uses another frozen grid (times and noise): the best test loss so far is discarded"]
        if self.loss.weighting != "uniform" and self.loss.distance != "l2":
            lines.append(
                f"weighting {self.loss.weighting} with loss {self.loss.distance} has changed: the loss of an "
                "estimate no longer depends on the prediction"
            )
        return lines

    @cached_property
    def model(self) -> KeptModels:
        return KeptModels(self.spec, self.test_images.device, self.autocast)

    def plan(self, randomness: StepRandomness) -> dict[str, Tensor]:
        """Draw the times and the labels to drop. bins: the bin of each time, for the log."""
        model = self._unbuilt
        plan = self.loss.plan(model.noise_schedule, model.denoiser.prediction, randomness)
        return {**plan, "bins": bin_of(plan["t"])}

    @cached_property
    def _unbuilt(self) -> Model:
        """Model with an identity in place of the network, for its schedule, prediction and classes."""
        return self.model(nn.Identity())

    def loss_of(self, network: nn.Module) -> LossOf:
        denoiser = self.spec.model(network, self.test_images.device, self.autocast).denoiser

        def loss(images: Tensor, labels: Tensor, plan: Mapping[str, Tensor], randomness: StepRandomness) -> Losses:
            clean = self.spec.space.draw(images, randomness)
            losses = self.loss(denoiser, clean, labels if self.spec.classes else None, plan, randomness)
            both = torch.stack([losses.detach(), torch.ones_like(losses)])
            return Losses(losses, both.new_zeros(2, BINS).index_add_(1, plan["bins"], both))

        return loss

    @torch.no_grad()
    def evaluate(self, network: nn.Module) -> TestLoss:
        """Measure the loss with fixed images, times and noise, and no dropped label. Run the sample test, if any."""
        test, t, weights = self._losses(network, self.test_images, self.test_labels)
        train, _, train_weights = self._losses(network, self.train_images, self.train_labels)
        bins = bin_of(t)
        by_t = [test[bins == index].mean().item() for index in range(BINS)]
        tested = TestLoss((test * weights).sum().item(), (train * train_weights).sum().item(), by_t)
        if self.sample_test is None:
            return tested
        count = self.sample_test.count
        images = torch.cat([batch.images for batch in self._generate(network, count, "sample test", self.sampling)])
        figures = self.sample_test.measure(images, self._labels(count))
        return tested._replace(note=self.sample_test.describe(figures), figures=figures)

    def _losses(self, network: nn.Module, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return losses, times and their weights, (N,) each on the CPU. The weights sum to 1."""
        model, count, device = self.model(network), len(images), images.device
        frozen = StepRandomness(derive_seed(self.seed, "evaluation"), 0, count, 0, count, device)
        times = TimeBins(self.loss.density, model.noise_schedule)
        # Times are in random order, because images may be sorted by class.
        t, weights = times.frozen_times(frozen.uniform("times"), frozen.uniform("order").argsort())
        level = model.noise_schedule.level(t)
        loss_weights = self.loss.weights(level, model.noise_schedule, model.denoiser.prediction)
        noise = self.loss.noise(frozen, self.spec.space.shape)
        losses = []
        for first in range(0, count, EVALUATION_BATCH):
            rows = slice(first, first + EVALUATION_BATCH)
            clean = self.spec.space.encode(images[rows])
            label = labels[rows] if self.spec.classes else None
            part = self.loss.at(model.denoiser, clean, label, level[rows], loss_weights[rows], noise[rows])
            losses.append(part.cpu())
        return torch.cat(losses).double(), t, weights

    def draw_progress(self, network: nn.Module, path: Path, title: str) -> None:
        images = self._sample(network)
        self._save(self._sheet(images, f"{title}, {self.sampling.describe()}"), path)

    def draw_final(self, network: nn.Module, folder: Path, title: str, seconds: float) -> str:
        images = self._sample(network)
        samples = folder / "final_samples"
        image_files.replace_each(images, samples, self._labels(len(images)), self.spec.class_names)
        self._save(self._sheet(images, f"{title}, {self.sampling.describe()}"), samples / "grid.png")
        self._draw_reverse(network, folder / "denoising_steps", title)
        self.draw_forward(folder / "forward_noising.png")
        return ""

    def _draw_reverse(self, network: nn.Module, folder: Path, title: str) -> None:
        """Draw the reverse process of the sample sheet's first images.

        If the sheet's sampler takes fewer than FRAMES steps, sampler and steps are those of MANY_STEPS.
        """
        sampling, count = self.sampling, min(sheets.FRAME_IMAGES, self.num_samples)
        if sampling.steps < FRAMES:
            solver = choose_solver(self.spec, usual=MANY_STEPS)
            sampling = replace(sampling, sampler=solver.sampler, steps=solver.steps)
        (walk,) = self._generate(network, count, "pictures", sampling, FRAMES)
        turns = self._row_titles(self._labels(min(STRIP_IMAGES, count)) or ())
        noisy, estimates = ("noisy", "x_t", walk.frames), ("clean_estimate", "clean estimate", walk.estimates)
        for name, words, frames in (noisy, estimates):
            times = walk.frame_times[-len(frames) :]
            sheets.save_frames(frames, times, folder / name)
            captions = [f"t = {t:.2f}" for t in times]
            heading = f"{title}, {sampling.describe()}: {words} along the reverse process"
            shown = [frame[:STRIP_IMAGES] for frame in frames]
            self._save(sheets.strip(shown, captions, heading, turns, self.scale), folder / f"{name}.png")

    def _save(self, picture: Image.Image, path: Path) -> None:
        image_files.save_with(picture, path, self.picture_format)

    def _sheet(self, images: Tensor, title: str) -> Image.Image:
        return sheets.sample_sheet(
            images, class_titles(self.spec.class_names, self.spec.trained), title, self.columns, self.scale
        )

    def draw_forward(self, path: Path) -> None:
        """Draw test images with increasing noise, in equal steps of flow time. Up to MOST_ROWS classes are drawn."""
        schedule, space = self._unbuilt.noise_schedule, self.spec.space
        classes = len(self.test_labels.unique())
        count = max(FEWEST_ROWS, min(classes, MOST_ROWS))
        rows = rows_to_show(self.test_labels, max(count, classes))
        rows = rows[torch.linspace(0, len(rows) - 1, min(count, len(rows))).long()]
        clean = space.encode(self.test_images[rows])
        frozen = StepRandomness(derive_seed(self.seed, "forward"), 0, len(clean), 0, len(clean), clean.device)
        noise = self.loss.noise(frozen, space.shape)
        grid = build_grid("flow_time", schedule, min(FORWARD_STEPS, schedule.steps or FORWARD_STEPS))
        levels = list(grid)[::-1]
        frames = [space.decode(add_noise(clean, noise, level)).cpu() for level in levels]
        captions = [f"t = {level.t.item():.2f}" for level in levels]
        title = f"forward process, {self.spec.noise_schedule} schedule"
        if classes > len(rows):
            title += f": {len(rows)} of {classes} classes"
        row_titles = self._row_titles(self.test_labels[rows].tolist())
        self._save(sheets.strip(frames, captions, title, row_titles, self.scale), path)

    def _row_titles(self, labels: Sequence[int]) -> list[str]:
        return class_titles(self.spec.class_names, labels) if self.spec.class_names else []

    def _labels(self, count: int) -> list[int] | None:
        """Return labels that cycle through the classes with training images; None for a model without classes."""
        return choose_labels(self._unbuilt, None, count)

    def _sample(self, network: nn.Module) -> Tensor:
        """Return the images of a sheet."""
        batches = self._generate(network, self.num_samples, "pictures", self.sampling)
        return torch.cat([batch.images for batch in batches])

    def _generate(
        self, network: nn.Module, count: int, stream: str, sampling: Sampling, frames: int = 0
    ) -> Iterator[Generated]:
        labels = self._labels(count)
        seed = derive_seed(self.seed, stream)
        return generate(self.model(network), sampling, count, labels, seed, EVALUATION_BATCH, frames)
