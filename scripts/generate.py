"""Generates images from a trained run: a sheet, samples.npz, and on request single PNGs, strips and animations."""

from __future__ import annotations

import time
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
import tyro
import yaml
from torch import Tensor

from models import processes
from models.drawing import image_files, sheets
from models.errors import UserError
from models.generation import FRAMED, Generated, Sampling, choose_labels, generate
from models.model import Model
from models.progress import duration
from models.runs.files import write_text
from scripts.cli.arguments import check_positive, parse_flags, to_config
from scripts.cli.command import run_command
from scripts.cli.flags import ModelFlags, SamplerFlags
from scripts.cli.terminal import tell_progress
from scripts.tasks.exporting import export_run
from scripts.tasks.protocol import stored_facts
from scripts.tasks.samples import INTERVAL_UNIT
from scripts.tasks.sampling import (
    describe_model,
    find_checkpoint,
    find_every_checkpoint,
    new_folder,
    open_model,
    open_sampling,
    resolve_model,
)

STRIP_ROWS, STRIP_FRAMES, FILM_FRAMES = 8, 10, 40
DESCRIPTION = "Generate images from a run. Prints the folder of what it wrote."


@dataclass(frozen=True)
class GenerateFlags:
    """Settings of `generate`."""

    model: tyro.conf.OmitArgPrefixes[ModelFlags] = field(default_factory=ModelFlags)
    every_checkpoint: bool = False
    """One sheet for each saved checkpoint of the run, and a film strip over training."""
    num_samples: int = 64
    """How many images."""
    labels: tuple[int, ...] | None = None
    """Classes to generate, in turn, e.g. 3 1 4. Default: all classes in turn."""
    sampling: tyro.conf.OmitArgPrefixes[SamplerFlags] = field(default_factory=SamplerFlags)
    seed: int = 0
    """Each image depends on the seed and its number alone, whatever the batch size."""
    batch_size: int = 256
    """Images at a time."""
    save_images: bool = False
    """Write each image as a PNG of its own, too."""
    animate: bool = False
    """Write the reverse process of the whole sheet as an animation."""
    format: str = "webp"
    """Of the animation: webp or gif."""
    out: str | None = None
    """Folder to write; it must be new or empty. Default: a new one under the run's samples/."""
    export: str | None = None
    """Generate nothing: pack the run, this checkpoint and the autoencoder it needs into this folder, which is a run on
    any machine."""


def main(argv: list[str]) -> None:
    flags = parse_flags(argv, GenerateFlags(), "generate", DESCRIPTION)
    _check(flags)
    flags = replace(flags, model=resolve_model(flags.model))
    paths = _checkpoints(flags)
    model = open_model(paths[-1], flags.model)
    if flags.export is not None:
        if processes.is_rank_zero():
            export_run(model, flags.export)
        return
    sampling = open_sampling(flags.sampling, flags.model, model)
    flags = replace(flags, sampling=replace(flags.sampling, steps=sampling.steps))
    labels = choose_labels(model, flags.labels, flags.num_samples)
    sampler = _Sampler(flags, sampling, labels)
    if not processes.is_rank_zero():
        sampler.assist(model, paths)
        return
    with new_folder(flags.out, paths[-1], "samples", f"{sampling.sampler}-{sampling.steps}") as folder:
        facts: dict[str, Any] = {"checkpoints": [str(path) for path in paths]}
        if flags.every_checkpoint:
            sampler.draw_training(paths, folder)
        else:
            step = stored_facts(paths[-1])["step"]
            facts |= {"step": step, "checkpoint_sha256": stored_facts(paths[-1])["sha256"]}
            facts["nfe"] = sampler.write(model, folder)
        if sampling.weak is not None:
            facts["autoguidance_checkpoint"] = sampling.weak.name
        facts[INTERVAL_UNIT] = "flow time"
        write_text(folder / "config.txt", yaml.safe_dump({**to_config(flags), **facts}, sort_keys=False))


def _check(flags: GenerateFlags) -> None:
    check_positive(flags, "num_samples", "batch_size")
    if flags.format not in ("webp", "gif"):
        raise UserError(f"--format {flags.format}: choose webp or gif")
    if flags.export is not None and (flags.every_checkpoint or flags.out is not None):
        raise UserError("--export packs one checkpoint and generates nothing: leave out --every_checkpoint and --out")
    if flags.every_checkpoint and (flags.save_images or flags.num_samples > FRAMED):
        raise UserError(f"--every_checkpoint draws sheets of up to {FRAMED} images: leave out --save_images")


def _checkpoints(flags: GenerateFlags) -> list[Path]:
    """The checkpoint files to sample."""
    return find_every_checkpoint(flags.model) if flags.every_checkpoint else [find_checkpoint(flags.model)]


@contextmanager
def _npz_member(archive: zipfile.ZipFile, name: str, shape: Sequence[int], dtype: Any) -> Iterator[IO[bytes]]:
    """An array of a known shape in an .npz, whose bytes come piece by piece."""
    with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
        header = {
            "descr": np.lib.format.dtype_to_descr(np.dtype(dtype)),
            "fortran_order": False,
            "shape": tuple(shape),
        }
        np.lib.format.write_array_header_1_0(file, header)
        yield file


class _Sampler:
    """Samples as the flags say and writes what they ask for."""

    def __init__(self, flags: GenerateFlags, sampling: Sampling, labels: list[int] | None):
        self.flags, self.sampling, self.labels = flags, sampling, labels

    @property
    def frames(self) -> int:
        """How many moments of the reverse process are kept."""
        if self.flags.every_checkpoint:
            return 0
        return FILM_FRAMES if self.flags.animate else STRIP_FRAMES

    @property
    def count(self) -> int:
        """Images of each checkpoint."""
        return min(self.flags.num_samples, FRAMED) if self.flags.every_checkpoint else self.flags.num_samples

    def assist(self, model: Model, paths: list[Path]) -> None:
        """This process's share of the images, for the first process, which writes them."""
        models = (open_model(path, self.flags.model) for path in paths)
        for each_model in models if self.flags.every_checkpoint else [model]:
            for _ in self.batches(each_model):
                pass

    def batches(self, model: Model) -> Iterator[Generated]:
        flags = self.flags
        return generate(
            model, self.sampling, self.count, self.labels, flags.seed, flags.batch_size, self.frames, over_ranks=True
        )

    def title(self, model: Model, nfe: float) -> str:
        weak = f" away from {self.flags.sampling.autoguidance}" if self.sampling.weak is not None else ""
        return f"{describe_model(model)}, {self.sampling.describe()}{weak}, NFE {nfe:g}"

    def write(self, model: Model, folder: Path) -> float:
        """samples.npz as the images come, then the sheet, the strips and the animation from the first ones; returns the
        network evaluations per image."""
        flags, count = self.flags, self.count
        channels, height, width = model.space.image_shape
        shown: list[Generated] = []
        done, evaluations, started = 0, 0.0, time.perf_counter()
        with zipfile.ZipFile(folder / "samples.npz", "w") as archive:
            with _npz_member(archive, "arr_0", (count, height, width, channels), np.uint8) as file:
                for batch in self.batches(model):
                    file.write(batch.images.permute(0, 2, 3, 1).contiguous().numpy().tobytes())
                    if flags.save_images:
                        image_files.save_each(batch.images, folder / "images", batch.labels, first=done)
                    if done < FRAMED:
                        shown.append(batch)
                    done += len(batch.images)
                    evaluations += batch.nfe * len(batch.images)
                    tell_progress(done, count, duration(time.perf_counter() - started))
            if self.labels is not None:
                with _npz_member(archive, "arr_1", (count,), np.int64) as file:
                    file.write(np.asarray(self.labels, dtype=np.int64).tobytes())
        nfe = evaluations / count
        self._write_timing(folder, time.perf_counter() - started, nfe)
        self._draw(model, folder, shown, nfe)
        return nfe

    def _write_timing(self, folder: Path, seconds: float, nfe: float) -> None:
        lines = {
            "images": self.flags.num_samples,
            "seconds": round(seconds, 3),
            "seconds_per_image": round(seconds / self.flags.num_samples, 6),
            "network_evaluations_per_image": round(nfe, 3),
            "device": self.flags.model.device,
            "precision": self.flags.model.precision,
        }
        write_text(folder / "timing.txt", yaml.safe_dump(lines, sort_keys=False))

    def _draw(self, model: Model, folder: Path, shown: list[Generated], nfe: float) -> None:
        images = torch.cat([batch.images for batch in shown])[:FRAMED]
        title = self.title(model, nfe)
        if self.flags.num_samples > len(images):
            title += f" (first {len(images)} of {self.flags.num_samples})"
        image_files.save_image(self._sheet(images, model, title), folder / "grid.png")
        times = shown[0].frame_times
        noisy = [torch.cat(each)[:FRAMED] for each in zip(*(batch.frames for batch in shown), strict=True)]
        every = max(1, (len(times) - 1) // STRIP_FRAMES)
        kept = sorted({0, *range(len(times) - 1, 0, -every)})
        strip = sheets.strip(
            [noisy[index][:STRIP_ROWS] for index in kept],
            [f"t = {times[index]:.2f}" for index in kept],
            title=f"{title}: x_t along the reverse process",
        )
        image_files.save_image(strip, folder / "denoising_strip.png")
        if self.flags.animate:
            film = [self._sheet(frame, model, f"{title}, t = {t:.2f}") for frame, t in zip(noisy, times, strict=True)]
            image_files.animate(film, folder / f"animation.{self.flags.format}")

    def _sheet(self, images: Tensor, model: Model, title: str):
        names = model.spec.class_names if self.flags.labels is None else ()
        return sheets.sample_sheet(images, names, title)

    def draw_training(self, paths: list[Path], folder: Path) -> None:
        """A sheet for every checkpoint, and the same first images over training as one strip."""
        frames, captions, film = [], [], []
        for path in paths:
            model = open_model(path, self.flags.model)
            batches = list(self.batches(model))
            images = torch.cat([batch.images for batch in batches])
            title = self.title(model, batches[0].nfe)
            film.append(self._sheet(images, model, title))
            image_files.save_image(film[-1], folder / f"{path.stem}.png")
            frames.append(images[:STRIP_ROWS])
            assert model.origin is not None
            captions.append(f"step {model.origin.step}")
        title = f"{paths[0].parent.parent.name}, {self.flags.model.weights} weights, {self.sampling.describe()}"
        image_files.save_image(sheets.strip(frames, captions, title=title), folder / "training_strip.png")
        if self.flags.animate:
            image_files.animate(film, folder / f"animation.{self.flags.format}", fps=2)


if __name__ == "__main__":
    run_command(main, parallel=True)
