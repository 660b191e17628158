"""Code shared by the tasks that draw pictures of a trained model: test images, sampling, titles and files."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from PIL import Image
from torch import Tensor

from data import ImageData, Split
from models.class_names import change_title
from models.diffusion.denoiser import Denoiser
from models.diffusion.noise import shape_noise
from models.diffusion.times import Grid
from models.drawing import image_files, sheets
from models.drawing.lettering import class_titles
from models.errors import UserError
from models.evaluation.classifier import Classifier
from models.generation import (
    MANY_STEPS,
    Generated,
    Sampling,
    Solver,
    Start,
    choose_labels,
    generate,
    generate_from,
)
from models.model import Model, require_every_level
from models.randomness import Draw, derive_seed, image_draw
from models.runs.files import write_text
from models.training.objectives import rows_in_turn
from scripts.cli.arguments import to_config
from scripts.cli.flags import ModelFlags, SamplerFlags, ShowFlags
from scripts.tasks.extractors import classifier_of
from scripts.tasks.protocol import load_data_of_run
from scripts.tasks.samples import INTERVAL_UNIT
from scripts.tasks.sampling import (
    FILM_FRAMES,
    Chosen,
    describe_model,
    describe_sampling,
    find_checkpoint,
    new_folder,
    open_model,
    open_sampling,
    read_labels,
    resolve_model,
)

ROWS = 10  # Rows of a picture by default.


@dataclass(frozen=True)
class Shown:
    """A model with its sampling settings and the settings of its pictures. chosen: the classes of --labels."""

    flags: ModelFlags
    show: ShowFlags
    model: Model
    sampling: Sampling
    chosen: Chosen

    @classmethod
    def open(
        cls,
        flags: ModelFlags,
        sampler: SamplerFlags,
        show: ShowFlags,
        labels: Sequence[str] | None = None,
        every_level: str = "",
        usual: Solver | None = None,
    ) -> Shown:
        """Load the model. Raises UserError if the flags do not fit the model.

        labels: words of --labels. every_level: the task's name, for the error message, if the task needs a model that
        has learnt all noise levels; else empty. usual: as for `open_sampling`; animations use MANY_STEPS instead.
        """
        flags = resolve_model(flags)
        model = open_model(find_checkpoint(flags), flags)
        if every_level:
            require_every_level(model, every_level)
        usual = MANY_STEPS if show.animate else usual
        return cls(flags, show, model, open_sampling(sampler, flags, model, usual), read_labels(labels, model))

    @property
    def class_names(self) -> tuple[str, ...]:
        """Name of each of the model's classes."""
        return self.model.spec.class_names

    @property
    def path(self) -> Path:
        """Checkpoint file of the model."""
        assert self.model.origin is not None
        return self.model.origin.path

    @property
    def grid(self) -> Grid:
        """Step grid of the sampler."""
        return self.sampling.levels(self.model)

    @property
    def frames(self) -> int:
        """Number of frames of the animation; 0 if there is none."""
        return FILM_FRAMES if self.show.animate else 0

    def need_gaussian_noise(self, task: str) -> None:
        """Raise UserError if the initial noise is not Gaussian. Only Gaussian noise keeps its distribution if mixed."""
        noise = self.model.spec.initial_noise
        if noise != "gaussian":
            raise UserError(f"{task} needs Gaussian initial noise: {self.path} starts from {noise} noise")

    def check_scale(self, scale: int | None, columns: int, rows: int) -> None:
        """Raise UserError if --scale makes a sheet of these columns and rows too large."""
        _, height, width = self.model.space.image_shape
        sheets.check_scale(scale, (height, width), columns, rows)

    def data(self) -> ImageData:
        return load_data_of_run(self.path, self.show.data)

    def test_images(self, count: int | None, numbers: Sequence[int] | None) -> tuple[Tensor, list[int], list[str]]:
        """Return test images, uint8 (N, C, H, W), the labels to sample with, and captions for the picture.

        numbers, count: as for `pick_rows`. Without --labels, each image has its true label. Raises UserError.
        """
        dataset = self.data()
        rows = self.pick_rows(dataset.test, count, numbers)
        chosen = choose_labels(self.model, self.chosen.labels, len(rows)) if self.chosen.labels else None
        shown_labels = dataset.test.labels[rows].tolist() if chosen is None else chosen
        targets = () if chosen is None else class_titles(self.class_names, chosen)
        return dataset.test.images[rows], shown_labels, name_images(dataset, rows, targets)

    def pick_rows(self, split: Split, count: int | None, numbers: Sequence[int] | None, step: int = 1) -> Tensor:
        """Return row indices of a split: `numbers`, or without them, `count` rows drawn with the seed.

        The drawn rows cycle through the classes. Default of `count`: ROWS times `step`; in a smaller split, the largest
        multiple of `step` that fits. Raises UserError.
        """
        fit = self.trained_rows(split)
        if numbers is not None:
            for number in numbers:
                if not 0 <= number < len(split):
                    raise UserError(f"--images {number}: the test split has images 0..{len(split) - 1}")
                if number not in fit:
                    name = self.class_names[int(split.labels[number])]
                    raise UserError(f"--images {number}: its class {name} had no training image; name other images")
            return torch.tensor(numbers, dtype=torch.long)
        count = min(ROWS, len(fit) // step) * step if count is None else count
        if count > len(fit) or not count:
            kind = "test images" + " of classes with training images" * (len(fit) < len(split))
            raise UserError(f"--rows: {max(count, step)} {kind} are needed, and the split has {len(fit)}")
        return fit[draw_rows(split.labels[fit], count, self.show.seed)]

    def trained_rows(self, split: Split) -> Tensor:
        """Return the rows of a split whose class had training images. With --labels, return all rows."""
        lost = () if self.chosen.labels else self.model.spec.untrained
        return (~torch.isin(split.labels, torch.tensor(lost, dtype=torch.long))).nonzero()[:, 0]

    def title(self, content: str, *nfe: float) -> str:
        """Return a title: the origin of the images, and `content`."""
        return f"{self.origin(*nfe)}: {content}"

    def origin(self, *nfe: float) -> str:
        """Return the origin of generated images: run, step, weights, sampler, guidance and range of the NFE."""
        ends = sorted({min(nfe), max(nfe)}) if nfe else []
        cost = f", NFE {' to '.join(f'{end:g}' for end in ends)}" if ends else ""
        return f"{describe_model(self.model)}, {describe_sampling(self.sampling)}{cost}"

    def generate(self, labels: Sequence[int] | None, count: int, frames: int = 0) -> Generated:
        """Return `count` images. Their noise is drawn with the seed."""
        size = self.show.batch_size
        return _join(list(generate(self.model, self.sampling, count, labels, self.show.seed, size, frames)))

    def generate_from(
        self, begin: Callable[[Denoiser, range], Start], count: int, steps: int, frames: int = 0
    ) -> Generated:
        """Return `count` images. `begin` returns the `Start` of each batch. steps: number of steps of each walk."""
        size, kept = self.show.batch_size, _frame_steps(steps, frames)
        return _join(list(generate_from(begin, self.model, self.sampling, count, steps, size, kept)))

    def draw(self, indices: Sequence[int]) -> Draw:
        """Return a function that draws the noise of the images `indices` with the seed, in the model's distribution."""
        normal = image_draw(self.show.seed, indices, self.model.device)
        return lambda shape: shape_noise(self.model.spec.initial_noise, normal(shape))

    def labels(self, labels: Sequence[int]) -> Tensor | None:
        """Return the labels on the model's device; None for a model without labels."""
        return torch.tensor(labels, device=self.model.device) if self.model.spec.classes else None

    @contextmanager
    def folder(self, kind: str, words: str, flags: Any) -> Iterator[Path]:
        """Yield the folder to write. At the end of the block, write config.txt with all settings."""
        with new_folder(self.show.out, self.path, self.flags.experiments_dir, kind, words) as folder:
            self.chosen.tell()
            yield folder
            settings = {
                **to_config(flags),
                **to_config(self.flags),
                "sampler": self.sampling.sampler,
                "steps": self.sampling.steps,
            }
            settings |= {"checkpoint": str(self.path), INTERVAL_UNIT: "flow time"}
            settings |= {} if self.chosen.labels is None else {"labels": self.chosen.labels}
            write_text(folder / "config.txt", yaml.safe_dump(settings, sort_keys=False))

    def save(self, picture: Image.Image, folder: Path, name: str) -> None:
        image_files.save_image(picture, folder / f"{name}.{self.show.format}")

    def animate(self, frames: Sequence[Image.Image], folder: Path) -> None:
        image_files.animate(frames, folder / f"animation.{self.show.animation_format}")

    def classifier(self, dataset: ImageData) -> Classifier:
        """Return the classifier of a data set. Raises UserError if the data set has no classes."""
        return classifier_of(dataset, Path(self.flags.experiments_dir), self.model.device)


def draw_rows(labels: Tensor, count: int, seed: int) -> Tensor:
    """Return up to `count` indices into labels (N,), drawn with the seed. They cycle through the classes."""
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(derive_seed(seed, "test images")))
    return order[rows_in_turn(labels[order], count)]


def name_images(dataset: ImageData, rows: Tensor, targets: Sequence[str] = ()) -> list[str]:
    """Return captions of test images: the class, then the row in the split. targets: titles of requested classes."""
    numbers = [f"test image {row}" for row in rows.tolist()]
    if not dataset.class_names:
        return numbers
    names = class_titles(dataset.class_names, dataset.test.labels[rows].tolist())
    changes = [change_title(*pair) for pair in zip(names, *([targets] if targets else ()), strict=True)]
    return [f"{change}\n{number}" for change, number in zip(changes, numbers, strict=True)]


def write_numbers(folder: Path, name: str, numbers: Mapping[str, Any]) -> None:
    """Write a YAML file `<name>.txt` of named numbers, with floats rounded to 5 decimals."""
    rounded = {key: round(value, 5) if isinstance(value, float) else value for key, value in numbers.items()}
    write_text(folder / f"{name}.txt", yaml.safe_dump(rounded, sort_keys=False))


def write_table(folder: Path, name: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write the rows of a table as `<name>.csv`, and in aligned columns as `<name>.txt`."""
    texts = [list(rows[0])]
    texts += [[f"{v:.4g}" if isinstance(v, float) else str(v) for v in row.values()] for row in rows]
    widths = [max(map(len, column)) for column in zip(*texts, strict=True)]
    lines = ["  ".join(text.rjust(width) for text, width in zip(row, widths, strict=True)) for row in texts]
    write_text(folder / f"{name}.txt", "\n".join(lines) + "\n")
    write_text(folder / f"{name}.csv", "".join(",".join(row) + "\n" for row in texts))


def rmse(one: Tensor, other: Tensor) -> Tensor:
    """Return the root mean squared difference of each pair of uint8 images, (N,), in grey levels 0..255."""
    return (one.double() - other.double()).square().flatten(1).mean(1).sqrt()


def _frame_steps(steps: int, count: int) -> set[int]:
    """Return at most `count` evenly spaced step indices, which include the last step."""
    count = min(count, steps)
    return {round((index + 1) * steps / count) - 1 for index in range(count)} if count > 0 else set()


def _join(batches: Sequence[Generated]) -> Generated:
    """Join batches into one. Frames come from the batches that kept frames."""
    framed = [batch for batch in batches if batch.frames]
    count = sum(len(batch.images) for batch in batches)
    return Generated(
        images=torch.cat([batch.images for batch in batches]),
        labels=None if batches[0].labels is None else torch.cat([b.labels for b in batches if b.labels is not None]),
        nfe=sum(batch.nfe * len(batch.images) for batch in batches) / count,
        frame_times=framed[0].frame_times if framed else [],
        frames=[torch.cat(frames) for frames in zip(*(batch.frames for batch in framed), strict=True)],
        estimates=[torch.cat(estimates) for estimates in zip(*(batch.estimates for batch in framed), strict=True)],
    )
