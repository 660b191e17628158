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
from models.diffusion.samplers import SAMPLERS, Step
from models.diffusion.times import build_times
from models.drawing import image_files
from models.errors import UserError
from models.evaluation.classifier import Classifier
from models.generation import Counted, Generated, Sampling, collect, frame_steps, generate, guide_and_clip
from models.model import Model
from models.randomness import Draw, derive_seed, image_draw
from models.runs.files import write_text
from scripts.cli.arguments import check_positive, to_config
from scripts.cli.flags import ModelFlags, SamplerFlags, SourceFlags
from scripts.tasks.extractors import classifier_of
from scripts.tasks.protocol import load_data_of_run
from scripts.tasks.sampling import choose_labels, describe_model, new_folder, open_model, open_sampling, resolve_model

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


Begin = Callable[[Denoiser, slice], tuple[Iterator[Step], Tensor, Tensor | None]]


class TestImages(NamedTuple):
    """uint8 (N, C, H, W), the labels under which they are shown to a model, and their names beside a picture."""

    images: Tensor
    labels: list[int]
    names: list[str]


@dataclass(frozen=True)
class Shown:
    """A model, how it is sampled, and what its pictures are to be."""

    model: ModelFlags
    show: ShowFlags
    loaded: Model
    sampling: Sampling
    weak: Model | None

    @classmethod
    def open(cls, model: ModelFlags, sampler: SamplerFlags, show: ShowFlags) -> Shown:
        """Raises UserError for whatever cannot be."""
        show.check()
        model = resolve_model(model)
        loaded = open_model(model)
        return cls(model, show, loaded, *open_sampling(sampler, model, loaded))

    @property
    def device(self) -> torch.device:
        return torch.device(self.model.device)

    @property
    def times(self) -> Tensor:
        """(S + 1,) decreasing times of the sampler."""
        return build_times(self.sampling.grid, self.loaded.denoiser.noise_schedule, self.sampling.steps)

    def need_gaussian_noise(self, word: str) -> None:
        """Raises UserError where mixing noises would lead away from what the model has seen at t = 1."""
        if self.sampling.initial_noise != "gaussian":
            noise = self.sampling.initial_noise
            raise UserError(
                f"{word} mixes noises, which only Gaussian ones allow: {self.loaded.path} starts from {noise}"
            )

    def data(self) -> ImageData:
        return load_data_of_run(self.loaded.path, self.show.data)

    def test_images(self, count: int, numbers: Sequence[int] | None, labels: Sequence[int] | None) -> TestImages:
        """Those of these numbers and under these labels in turn; None: drawn by the seed, each under its own."""
        dataset = self.data()
        rows = pick_images(dataset.test, count, self.show.seed, numbers)
        asked = choose_labels(self.loaded, labels, len(rows)) if labels is not None else None
        own = dataset.test.labels[rows].tolist()
        return TestImages(dataset.test.images[rows], own if asked is None else asked, name_images(dataset, rows))

    def title(self, what: str, *nfe: float) -> str:
        """run, step, weights, sampler, guidance, NFE (of several, from least to most); then what is shown."""
        weak = f" away from {describe_model(self.weak)}" if self.weak is not None else ""
        ends = sorted({min(nfe), max(nfe)}) if nfe else []
        cost = f", NFE {' to '.join(f'{end:g}' for end in ends)}" if ends else ""
        return f"{describe_model(self.loaded)}, {self.sampling.describe()}{weak}{cost}: {what}"

    def generate(self, labels: Sequence[int] | None, count: int, frames: int = 0) -> Generated:
        """`count` images from the seed's noise."""
        weak = self.weak.denoiser if self.weak is not None else None
        loaded, size = self.loaded, self.show.batch_size
        parts = generate(
            loaded.denoiser,
            loaded.space,
            self.sampling,
            count,
            labels,
            loaded.spec.classes,
            self.show.seed,
            self.device,
            size,
            frames,
            weak,
        )
        return join_batches(list(parts))

    @torch.no_grad()
    def walk(self, count: int, begin: Begin, steps: int, frames: int = 0, start_time: float = 1.0) -> Generated:
        """`count` images, each batch from where `begin` says: (denoiser, its rows) -> (walk, start, labels).

        steps: how many steps each walk takes; frames: how many moments of them to keep.
        """
        parts = []
        for first in range(0, count, self.show.batch_size):
            rows = slice(first, min(first + self.show.batch_size, count))
            denoiser, counted = self.prepared()
            walk, start, label = begin(denoiser, rows)
            kept = frame_steps(steps, frames)
            parts.append(collect(walk, self.loaded.space, start, label, counted, kept, start_time))
        return join_batches(parts)

    def prepared(self) -> tuple[Denoiser, list[Counted]]:
        """The denoiser, guided and clipped as the flags say, and what counts its network's calls."""
        counted = [Counted(each.denoiser) for each in (self.loaded, self.weak) if each is not None]
        weak = counted[1] if self.weak is not None else None
        return guide_and_clip(counted[0], self.loaded.space, self.sampling, self.loaded.spec.classes, weak), counted

    def sampler(self, denoiser: Denoiser, noisy: Tensor, times: Tensor, draw: Draw) -> Iterator[Step]:
        return SAMPLERS[self.sampling.sampler](denoiser, noisy, times, draw, **self.sampling.options)

    def draw(self, indices: Sequence[int]) -> Draw:
        """Noise as the model knows it for the images of these numbers: a function of the seed and the number."""
        normal = image_draw(self.show.seed, indices, self.device)
        return lambda shape: shape_noise(self.sampling.initial_noise, normal(shape))

    def labels(self, asked: Sequence[int]) -> Tensor | None:
        """On the device; None for a model without labels."""
        return torch.tensor(asked, device=self.device) if self.loaded.spec.classes else None

    @contextmanager
    def folder(self, kind: str, words: str, flags: Any) -> Iterator[Path]:
        """The folder to write, in which config.txt says how it was made."""
        with new_folder(self.show.out, self.loaded.path, kind, words) as folder:
            yield folder
            settings = {**to_config(flags), **to_config(self.model), "steps": self.sampling.steps}
            settings["checkpoint"] = str(self.loaded.path)
            write_text(folder / "config.txt", yaml.safe_dump(settings, sort_keys=False))

    def save(self, picture: Image.Image, folder: Path, name: str) -> None:
        image_files.save_image(picture, folder / f"{name}.{self.show.format}")

    def animate(self, frames: Sequence[Image.Image], folder: Path, fps: float = 12.0) -> None:
        image_files.animate(frames, folder / f"animation.{self.show.animation_format}", fps)

    def classifier(self, dataset: ImageData) -> Classifier:
        """Raises UserError where there are no classes."""
        return classifier_of(dataset, Path(self.model.experiments_dir), self.device)


def join_batches(parts: Sequence[Generated]) -> Generated:
    """Batches as one; frames are those of the batches that kept some."""
    framed = [part for part in parts if part.frames]
    return Generated(
        images=torch.cat([part.images for part in parts]),
        labels=None if parts[0].labels is None else torch.cat([p.labels for p in parts if p.labels is not None]),
        nfe=sum(part.nfe * len(part.images) for part in parts) / sum(len(part.images) for part in parts),
        frame_times=framed[0].frame_times if framed else [],
        frames=[torch.cat(each) for each in zip(*(part.frames for part in framed), strict=True)],
        estimates=[torch.cat(each) for each in zip(*(part.estimates for part in framed), strict=True)],
    )


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
