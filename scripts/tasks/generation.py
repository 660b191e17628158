"""The work of `generate`: write samples.npz, a sheet and a strip, and optionally PNG files and animations."""

from __future__ import annotations

import time
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np
import torch
import yaml
from PIL import Image
from torch import Tensor

from models import processes
from models.class_names import ending_of
from models.drawing import image_files, sheets
from models.drawing.lettering import class_titles
from models.errors import UserError
from models.generation import FRAMED, MANY_STEPS, Generated, Sampling, choose_labels, generate
from models.model import Model
from models.progress import duration
from models.randomness import IMAGE_NOISE
from models.runs.files import write_text
from models.runs.lookup import read_config
from models.training.reporting import ReportSettings
from scripts.cli.arguments import to_config
from scripts.cli.terminal import tell
from scripts.tasks.exporting import export_run
from scripts.tasks.protocol import stored_facts
from scripts.tasks.samples import INTERVAL_UNIT
from scripts.tasks.sampling import (
    FILM_FRAMES,
    describe_model,
    describe_sampling,
    find_checkpoint,
    find_every_checkpoint,
    name_of,
    new_folder,
    open_model,
    open_sampling,
    read_labels,
    resolve_model,
    run_of,
    tell_sampling,
)

if TYPE_CHECKING:
    from scripts.generate import GenerateFlags

STRIP_ROWS, STRIP_FRAMES = 10, 10


def write_samples(flags: GenerateFlags) -> None:
    """Write generated images into a folder and print its name, or export the run. Raises UserError."""
    for flag in ("every_checkpoint", "sample_folders"):
        if getattr(flags, flag) and flags.num_samples > FRAMED:
            raise UserError(f"--num_samples {flags.num_samples}: --{flag} draws at most {FRAMED} images")
    flags = replace(flags, model=resolve_model(flags.model))
    paths = find_every_checkpoint(flags.model) if flags.every_checkpoint else [find_checkpoint(flags.model)]
    if flags.every_checkpoint:
        _report_pruned(paths, flags.animate)
    model = open_model(paths[-1], flags.model)
    if flags.export is not None:
        if processes.is_rank_zero():
            export_run(model, flags.export, flags.model.experiments_dir, "--export")
        return
    film = (flags.animate and not flags.every_checkpoint) or flags.sample_folders
    sampling = open_sampling(flags.sampling, flags.model, model, MANY_STEPS if film else None)
    chosen, names = read_labels(flags.labels, model), model.spec.class_names
    turns = class_titles(names, chosen.labels or model.spec.trained)
    writer = _Writer(flags, sampling, choose_labels(model, chosen.labels, flags.num_samples), turns)
    writer.check(model.space.image_shape, len(paths))
    if not processes.is_rank_zero():
        writer.assist(model, paths)
        return
    words = f"{sampling.sampler}-{sampling.steps}"
    with new_folder(flags.out, paths[-1], flags.model.experiments_dir, "samples", words) as folder:
        tell_sampling(flags.sampling, sampling, model)
        chosen.tell()
        facts: dict[str, Any] = {"sampler": sampling.sampler, "steps": sampling.steps}
        facts["checkpoints"] = [str(path) for path in paths]
        if flags.every_checkpoint:
            writer.draw_training(paths, folder)
        else:
            stored = stored_facts(paths[-1])
            facts |= {"step": stored["step"], "checkpoint_sha256": stored["sha256"]}
            facts["nfe"] = writer.write(model, folder)
        if sampling.weak is not None:
            facts["autoguidance_checkpoint"] = sampling.weak.name
        facts |= {"noise": IMAGE_NOISE, INTERVAL_UNIT: "flow time", "labels": chosen.labels}
        write_text(folder / "config.txt", yaml.safe_dump({**to_config(flags), **facts}, sort_keys=False))


def _report_pruned(paths: Sequence[Path], animate: bool) -> None:
    """Print a note if the run has one checkpoint or may have lost some. Animating one checkpoint raises UserError."""
    run = run_of(paths[0])
    assert run is not None
    keep = ReportSettings.keep_checkpoints
    with suppress(UserError):  # Without config.txt, assume the default.
        keep = read_config(run).get("keep_checkpoints", keep)
    if len(paths) == 1:
        remedy = "train with --keep_checkpoints 0 and a lower --checkpoint_every for more"
        if animate:
            raise UserError(
                f"--animate: {run.name} has one checkpoint, which gives one frame; leave out --animate, or {remedy}"
            )
        tell(f"{run.name} has one checkpoint: {remedy}")
    elif 0 < keep <= len(paths):
        kept = f"training keeps the latest {keep} and the best"
        tell(f"{run.name} has {len(paths)} checkpoints: {kept}; with --keep_checkpoints 0 it keeps all")


def _strip_frames(count: int) -> list[int]:
    """Return the indices of the frames, of `count` frames, that a strip of the reverse process shows."""
    stride = max(1, (count - 1) // STRIP_FRAMES)
    return sorted({0, *range(count - 1, 0, -stride)})


@contextmanager
def _npz_member(archive: zipfile.ZipFile, name: str, shape: Sequence[int], dtype: Any) -> Iterator[IO[bytes]]:
    """Add an array of known shape to an .npz. Yields the open file; the caller writes the array's bytes in parts."""
    descr = np.lib.format.dtype_to_descr(np.dtype(dtype))
    with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
        header = {"descr": descr, "fortran_order": False, "shape": tuple(shape)}
        np.lib.format.write_array_header_1_0(file, header)
        yield file


@dataclass(frozen=True)
class _Writer:
    """Generates images and writes files. labels: one per image. turns: class titles, repeated over the images."""

    flags: GenerateFlags
    sampling: Sampling
    labels: list[int] | None
    turns: list[str]

    def check(self, shape: tuple[int, ...], checkpoints: int) -> None:
        """Raise UserError if --scale makes a sheet or a strip too large. checkpoints: number of them to be drawn."""
        count, size, scale = min(self.flags.num_samples, FRAMED), (shape[1], shape[2]), self.flags.scale
        sheets.check_sample_sheet(count, len(self.turns), size, self.flags.columns, scale)
        frames = len(_strip_frames(min(self.frames, self.sampling.steps) + 1))
        sheets.check_scale(scale, size, checkpoints if self.flags.every_checkpoint else frames, STRIP_ROWS)

    @property
    def frames(self) -> int:
        """Largest number of frames of the reverse process to keep, without the noise."""
        return 0 if self.flags.every_checkpoint else FILM_FRAMES if self.flags.animate else STRIP_FRAMES

    @property
    def row_titles(self) -> list[str]:
        """Classes of the rows of a strip."""
        rows = range(min(self.flags.num_samples, STRIP_ROWS))
        return [self.turns[row % len(self.turns)] for row in rows] if self.turns else []

    def batches(self, model: Model) -> Iterator[Generated]:
        flags, count = self.flags, self.flags.num_samples
        return generate(
            model, self.sampling, count, self.labels, flags.seed, flags.batch_size, self.frames, over_ranks=True
        )

    def assist(self, model: Model, paths: Sequence[Path]) -> None:
        """Generate this rank's share of the images. Rank 0 receives them and writes the files."""
        models = (open_model(path, self.flags.model) for path in paths) if self.flags.every_checkpoint else [model]
        for sampled in models:
            for _ in self.batches(sampled):
                pass

    def write(self, model: Model, folder: Path) -> float:
        """Write samples.npz batch by batch, then the pictures of the first images. Return the NFE."""
        flags, count = self.flags, self.flags.num_samples
        channels, height, width = model.space.image_shape
        shown: list[Generated] = []
        done, evaluations, started = 0, 0.0, time.perf_counter()
        with zipfile.ZipFile(folder / "samples.npz", "w") as archive:
            with _npz_member(archive, "arr_0", (count, height, width, channels), np.uint8) as file:
                for batch in self.batches(model):
                    file.write(batch.images.permute(0, 2, 3, 1).contiguous().numpy().tobytes())
                    if flags.save_images:
                        names = model.spec.class_names
                        image_files.save_each(batch.images, folder / "images", batch.labels, done, names)
                    if done < FRAMED:
                        shown.append(batch)
                    done += len(batch.images)
                    evaluations += batch.nfe * len(batch.images)
            if self.labels is not None:
                with _npz_member(archive, "arr_1", (count,), np.int64) as file:
                    file.write(np.asarray(self.labels, dtype=np.int64).tobytes())
        nfe, seconds = evaluations / count, time.perf_counter() - started
        tell(f"{count} of {count} images, {duration(seconds)}")
        timing = {
            "images": count,
            "seconds": round(seconds, 3),
            "seconds_per_image": round(seconds / count, 6),
            "network_evaluations_per_image": round(nfe, 3),
            "device": flags.model.device,
            "precision": flags.model.precision,
        }
        write_text(folder / "timing.txt", yaml.safe_dump(timing, sort_keys=False))
        self._draw(model, folder, shown, nfe)
        return nfe

    def draw_training(self, paths: Sequence[Path], folder: Path) -> None:
        """Draw one sheet per checkpoint, and a strip that shows how the first images change in training."""
        frames, captions, film = [], [], []
        for path in paths:
            model = open_model(path, self.flags.model)
            batches = list(self.batches(model))
            images = torch.cat([batch.images for batch in batches])
            film.append(self._sheet(images, self._title(model, batches[0].nfe)))
            self._save(film[-1], folder / path.stem)
            frames.append(images[:STRIP_ROWS])
            assert model.origin is not None
            captions.append(f"step {model.origin.step}")
        title = f"{name_of(paths[0])}, {self.flags.model.weights} weights, {describe_sampling(self.sampling)}"
        strip = sheets.strip(frames, captions, title, self.row_titles, self.flags.scale)
        self._save(strip, folder / "training_strip")
        if self.flags.animate:
            self._animate(film, folder, fps=2)

    def _draw(self, model: Model, folder: Path, shown: Sequence[Generated], nfe: float) -> None:
        images = torch.cat([batch.images for batch in shown])[:FRAMED]
        title = self._title(model, nfe)
        if self.flags.num_samples > len(images):
            title += f" (first {len(images)} of {self.flags.num_samples})"
        self._save(self._sheet(images, title), folder / "grid")
        times = shown[0].frame_times
        noisy = [torch.cat(frames)[:FRAMED] for frames in zip(*(batch.frames for batch in shown), strict=True)]
        indices = _strip_frames(len(times))
        strip = sheets.strip(
            [noisy[index][:STRIP_ROWS] for index in indices],
            [f"t = {times[index]:.2f}" for index in indices],
            f"{title}: x_t along the reverse process",
            self.row_titles,
            self.flags.scale,
        )
        self._save(strip, folder / "denoising_strip")
        if self.flags.animate:
            film = [self._sheet(frame, f"{title}, t = {t:.2f}") for frame, t in zip(noisy, times, strict=True)]
            self._animate(film, folder)
        if self.flags.sample_folders:
            names = model.spec.class_names
            for number in range(len(images)):
                ending = "" if self.labels is None else ending_of(names, self.labels[number])
                sample = folder / "by_sample" / f"{number:05d}{ending}"
                self._write_sample(sample, [frame[number] for frame in noisy], times, indices)

    def _write_sample(
        self, folder: Path, frames: Sequence[Tensor], times: Sequence[float], indices: Sequence[int]
    ) -> None:
        """Write the folder of one image. frames: (C, H, W), one per time. indices: the frames in the strip."""
        (folder / "steps").mkdir(parents=True)
        self._save(sheets.large(frames[-1]), folder / "image")
        captions = [f"t = {times[index]:.2f}" for index in indices]
        self._save(sheets.strip([frames[index][None] for index in indices], captions), folder / "strip")
        film = [sheets.large(frame) for frame in frames]
        for index, picture in enumerate(film):
            self._save(picture, folder / "steps" / f"{index:02d}_t{times[index]:.2f}")
        if self.flags.animate:
            self._animate(film, folder)

    def _save(self, picture: Image.Image, path: Path) -> None:
        image_files.save_image(picture, path.with_name(f"{path.name}.{self.flags.format}"))

    def _animate(self, film: Sequence[Image.Image], folder: Path, fps: float = 12.0) -> None:
        image_files.animate(film, folder / f"animation.{self.flags.animation_format}", fps)

    def _title(self, model: Model, nfe: float) -> str:
        return f"{describe_model(model)}, {describe_sampling(self.sampling)}, NFE {nfe:g}"

    def _sheet(self, images: Tensor, title: str) -> Image.Image:
        if len(images) == 1 and self.flags.scale is None:
            return sheets.large(images[0], title)
        return sheets.sample_sheet(images, self.turns, title, self.flags.columns, self.flags.scale)
