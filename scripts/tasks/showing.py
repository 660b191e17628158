"""What the tasks that draw a trained model share: its test images, walks in batches, titles, stills and animations."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
import tyro
import yaml
from PIL import Image
from torch import Tensor

from data import ImageData, Split
from models.diffusion.denoiser import Denoiser
from models.diffusion.noise import shape_noise
from models.diffusion.times import Grid
from models.drawing import image_files
from models.errors import UserError
from models.evaluation.classifier import Classifier
from models.generation import Generated, Sampling, Start, choose_labels, generate, generate_from, join
from models.model import Model
from models.randomness import Draw, derive_seed, image_draw
from models.runs.files import write_text
from scripts.cli.arguments import check_positive, to_config
from scripts.cli.flags import ModelFlags, SamplerFlags, SourceFlags
from scripts.tasks.extractors import classifier_of
from scripts.tasks.protocol import load_data_of_run
from scripts.tasks.samples import INTERVAL_UNIT
from scripts.tasks.sampling import describe_model, find_checkpoint, new_folder, open_model, open_sampling, resolve_model

FILM_FRAMES = 40  # Moments of an animation.


@dataclass(frozen=True)
class ShowFlags:
    """What every picture of a model takes."""

    seed: int = 0
    """The same seed gives the same picture."""
    batch_size: int = 256
    """Images at a time; changes nothing else."""
    animate: bool = False
    """Write an animation, too."""
    format: str = "png"
    """Of pictures: png, pdf or svg."""
    animation_format: str = "webp"
    """Of the animation: webp or gif."""
    data: tyro.conf.OmitArgPrefixes[SourceFlags] = field(default_factory=SourceFlags)
    out: str | None = None
    """Folder to write; it must be new or empty. Default: a new one in the run's folder."""

    def check(self) -> None:
        """Raises UserError for values that no picture can have."""
        check_positive(self, "batch_size")
        if f".{self.format}" not in (".png", *image_files.PAGE_FORMATS):
            raise UserError(f"--format {self.format}: choose png, pdf or svg")
        if f".{self.animation_format}" not in image_files.ANIMATION_FORMATS:
            raise UserError(f"--animation_format {self.animation_format}: choose webp or gif")


class TestImages(NamedTuple):
    """uint8 (N, C, H, W), the labels under which they are shown to a model, and their names beside a picture."""

    images: Tensor
    labels: list[int]
    names: list[str]


@dataclass(frozen=True)
class Shown:
    """A model, how it is sampled, and what its pictures are to be."""

    flags: ModelFlags
    show: ShowFlags
    model: Model
    sampling: Sampling

    @classmethod
    def open(cls, flags: ModelFlags, sampler: SamplerFlags, show: ShowFlags) -> Shown:
        """Load the model. Raises UserError for flags that do not fit."""
        show.check()
        flags = resolve_model(flags)
        model = open_model(find_checkpoint(flags), flags)
        return cls(flags, show, model, open_sampling(sampler, flags, model))

    @property
    def path(self) -> Path:
        """Checkpoint file of the model."""
        assert self.model.origin is not None
        return self.model.origin.path

    @property
    def grid(self) -> Grid:
        """Grid that the sampler walks."""
        return self.sampling.levels(self.model)

    def need_gaussian_noise(self, task: str) -> None:
        """Raise UserError if the model starts from other noise: mixed, it would be noise that the model never saw."""
        noise = self.model.spec.initial_noise
        if noise != "gaussian":
            raise UserError(f"{task} mixes noises, which only Gaussian ones allow: {self.path} starts from {noise}")

    def data(self) -> ImageData:
        return load_data_of_run(self.path, self.show.data)

    def test_images(self, count: int, numbers: Sequence[int] | None, labels: Sequence[int] | None) -> TestImages:
        """Return test images of these numbers under these labels in turn.

        numbers: None for images drawn by the seed. labels: None for each image's own.
        """
        dataset = self.data()
        rows = pick_images(dataset.test, count, self.show.seed, numbers)
        chosen = choose_labels(self.model, labels, len(rows)) if labels is not None else None
        own_labels = dataset.test.labels[rows].tolist()
        images, names = dataset.test.images[rows], name_images(dataset, rows)
        return TestImages(images, own_labels if chosen is None else chosen, names)

    def title(self, what: str, *nfe: float) -> str:
        """Return run, step, weights, sampler, guidance and NFE (the least and the most), then what is shown."""
        weak = f" away from {describe_model(self.sampling.weak)}" if self.sampling.weak is not None else ""
        ends = sorted({min(nfe), max(nfe)}) if nfe else []
        cost = f", NFE {' to '.join(f'{end:g}' for end in ends)}" if ends else ""
        return f"{describe_model(self.model)}, {self.sampling.describe()}{weak}{cost}: {what}"

    def generate(self, labels: Sequence[int] | None, count: int, frames: int = 0) -> Generated:
        """Return `count` images from the seed's noise."""
        size = self.show.batch_size
        return join(list(generate(self.model, self.sampling, count, labels, self.show.seed, size, frames)))

    def generate_from(
        self, begin: Callable[[Denoiser, range], Start], count: int, steps: int, frames: int = 0
    ) -> Generated:
        """Return `count` images, each batch from where `begin` says. steps: how many steps each walk has."""
        size = self.show.batch_size
        return join(list(generate_from(begin, self.model, self.sampling, count, steps, size, frames)))

    def draw(self, indices: Sequence[int]) -> Draw:
        """Return the noise of the images with these indices, as the model knows noise: a function of seed and index."""
        normal = image_draw(self.show.seed, indices, self.model.device)
        return lambda shape: shape_noise(self.model.spec.initial_noise, normal(shape))

    def labels(self, labels: Sequence[int]) -> Tensor | None:
        """Return the labels on the device; None for a model without labels."""
        return torch.tensor(labels, device=self.model.device) if self.model.spec.classes else None

    @contextmanager
    def folder(self, kind: str, words: str, flags: Any) -> Iterator[Path]:
        """The folder to write, in which config.txt says how it was made."""
        with new_folder(self.show.out, self.path, kind, words) as folder:
            yield folder
            settings = {**to_config(flags), **to_config(self.flags), "steps": self.sampling.steps}
            settings |= {"checkpoint": str(self.path), INTERVAL_UNIT: "flow time"}
            write_text(folder / "config.txt", yaml.safe_dump(settings, sort_keys=False))

    def save(self, picture: Image.Image, folder: Path, name: str) -> None:
        image_files.save_image(picture, folder / f"{name}.{self.show.format}")

    def animate(self, frames: Sequence[Image.Image], folder: Path, fps: float = 12.0) -> None:
        image_files.animate(frames, folder / f"animation.{self.show.animation_format}", fps)

    def classifier(self, dataset: ImageData) -> Classifier:
        """Raises UserError where there are no classes."""
        return classifier_of(dataset, Path(self.flags.experiments_dir), self.model.device)


def pick_images(split: Split, count: int, seed: int, asked: Sequence[int] | None) -> Tensor:
    """Rows of a split: the asked ones, else `count` drawn by the seed, the classes in turn. Raises UserError."""
    if asked is not None:
        for index in asked:
            if not 0 <= index < len(split):
                raise UserError(f"--images {index}: the test split has images 0..{len(split) - 1}")
        return torch.tensor(asked, dtype=torch.long)
    if count > len(split):
        raise UserError(f"{count} test images: the test split has {len(split)}")
    order = torch.randperm(len(split), generator=torch.Generator().manual_seed(derive_seed(seed, "test images")))
    seen: Counter[int] = Counter()
    turns = []
    for label in split.labels[order].tolist():
        turns.append((seen[label], label))
        seen[label] += 1
    in_turn = sorted(range(len(order)), key=turns.__getitem__)
    return order[in_turn[:count]]


def name_images(dataset: ImageData, rows: Tensor, word: str = "test image ") -> list[str]:
    """What test images are called beside a picture: their number and class."""
    names = dataset.class_names
    labels = dataset.test.labels[rows].tolist()
    numbers = [f"{word}{row}" for row in rows.tolist()]
    return [f"{n} ({names[k]})" for n, k in zip(numbers, labels, strict=True)] if names else numbers


def write_numbers(folder: Path, name: str, numbers: Mapping[str, Any]) -> None:
    """A small table of named numbers, YAML for people and programs."""
    rounded = {key: round(value, 5) if isinstance(value, float) else value for key, value in numbers.items()}
    write_text(folder / f"{name}.txt", yaml.safe_dump(rounded, sort_keys=False))


def write_table(folder: Path, name: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """The same rows as .csv for programs and, in columns, as .txt for people."""
    texts = [
        list(rows[0]),
        *([f"{v:.4g}" if isinstance(v, float) else str(v) for v in row.values()] for row in rows),
    ]
    widths = [max(map(len, column)) for column in zip(*texts, strict=True)]
    lines = ["  ".join(text.rjust(width) for text, width in zip(row, widths, strict=True)) for row in texts]
    write_text(folder / f"{name}.txt", "\n".join(lines) + "\n")
    write_text(folder / f"{name}.csv", "".join(",".join(row) + "\n" for row in texts))


def rmse(one: Tensor, other: Tensor) -> Tensor:
    """(N,) root mean squared differences of uint8 images, in grey levels of 0..255."""
    return (one.double() - other.double()).square().flatten(1).mean(1).sqrt()
