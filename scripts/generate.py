"""Generates images from a trained run: a sheet, samples.npz, and on request single PNGs, strips and animations."""

from __future__ import annotations

import os
import shutil
import sys
import time
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
import tyro
import yaml
from torch import Tensor

from models import build, checkpoint, pictures
from models.build import Loaded
from models.errors import UserError
from models.generation import FRAMED, Generated, Sampling, generate
from models.interrupts import Interrupts
from models.objectives import sheet
from models.run import find_run, write_text
from models.training import duration
from scripts.command import run_command
from scripts.flags import SamplerFlags, default_steps, experiments_dir, parse, to_config

STRIP_ROWS, STRIP_FRAMES, FILM_FRAMES = 8, 10, 40
DESCRIPTION = "Generate images from a run. Prints the folder of what it wrote."


@dataclass(frozen=True)
class GenerateFlags:
    """Settings of `generate`."""

    run: str = "latest"
    """The run: its folder, its name, or latest."""
    checkpoint: str = "last"
    """last, best, or a checkpoint file, which then needs no run."""
    every_checkpoint: bool = False
    """One sheet for each saved checkpoint of the run, and a film strip over training."""
    weights: str = "ema"
    """ema or raw."""
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
    experiments_dir: str = field(default_factory=experiments_dir)
    """Where runs are looked for by name."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1, mps."""
    precision: str = "auto"
    """auto, float32 or bf16."""


def main(argv: list[str]) -> None:
    flags = parse(argv, GenerateFlags(), "generate", DESCRIPTION)
    _check(flags)
    device = build.pick_device(flags.device)
    precision = build.pick_precision(flags.precision, device)
    build.prepare_device(device)
    flags = replace(flags, device=str(device), precision=precision)
    paths, run = _checkpoints(flags)
    loaded = _load(paths[-1], flags, device)
    steps = flags.sampling.steps
    if steps is None:
        steps = default_steps(flags.sampling.sampler, loaded.spec.timesteps)
    flags = replace(flags, sampling=replace(flags.sampling, steps=steps))
    sampling = _sampling(flags.sampling, steps)
    sampling.check(loaded.denoiser.noise_schedule)
    labels = _labels(flags, loaded)
    weak = _weak(flags, loaded, device)
    with _new_folder(flags, run, sampling) as folder:
        sampler = _Sampler(flags, sampling, labels, weak.denoiser if weak is not None else None, device)
        if flags.every_checkpoint:
            sampler.draw_training(paths, folder)
        else:
            sampler.write(loaded, folder)
        facts: dict[str, Any] = {"checkpoints": [str(path) for path in paths]}
        if weak is not None:
            facts["autoguidance_checkpoint"] = str(weak.path)
        write_text(folder / "config.txt", yaml.safe_dump({**to_config(flags), **facts}, sort_keys=False))


def _check(flags: GenerateFlags) -> None:
    for key, value in (("num_samples", flags.num_samples), ("batch_size", flags.batch_size)):
        if value < 1:
            raise UserError(f"--{key} {value}: takes 1 or more")
    if flags.weights not in build.WEIGHTS:
        raise UserError(f"--weights {flags.weights}: choose ema or raw")
    if flags.format not in ("webp", "gif"):
        raise UserError(f"--format {flags.format}: choose webp or gif")
    if flags.every_checkpoint and flags.checkpoint != "last":
        raise UserError("--every_checkpoint goes with --run, not with --checkpoint")
    if flags.every_checkpoint and (flags.save_images or flags.num_samples > FRAMED):
        raise UserError(f"--every_checkpoint draws sheets of up to {FRAMED} images: leave out --save_images")


def _checkpoints(flags: GenerateFlags) -> tuple[list[Path], Path | None]:
    """The checkpoint files to sample, and the run they belong to if it is known."""
    if flags.checkpoint not in (checkpoint.LAST, checkpoint.BEST):
        path = Path(flags.checkpoint)
        run = path.parent.parent
        return [path], run if path.parent.name == "checkpoints" else None
    run = find_run(flags.run, Path(flags.experiments_dir))
    if not flags.every_checkpoint:
        return [checkpoint.resolve(run, flags.checkpoint)], run
    paths = checkpoint.list_checkpoints(run / "checkpoints")
    if not paths:
        raise UserError(f"{run} has no checkpoint yet")
    return paths, run


def _sampling(flags: SamplerFlags, steps: int) -> Sampling:
    options = {name: getattr(flags, name) for name in ("eta", "variance", "diffusion", "order")}
    return Sampling(
        sampler=flags.sampler,
        steps=steps,
        grid=flags.grid,
        options={name: value for name, value in options.items() if value is not None},
        guidance_scale=flags.guidance_scale,
        guidance_interval=flags.guidance_interval,
        guidance_rescale=flags.guidance_rescale,
        clip=flags.clip,
    )


def _load(path: Path, flags: GenerateFlags, device: torch.device) -> Loaded:
    return build.load_denoiser(path, flags.weights, device, build.autocast_dtype(flags.precision))


def _labels(flags: GenerateFlags, loaded: Loaded) -> list[int] | None:
    """One label per image. Raises UserError for a label that the model does not know, or guidance it cannot give."""
    classes, scale = loaded.spec.classes, flags.sampling.guidance_scale
    if classes == 0:
        if flags.labels is not None:
            raise UserError(f"{loaded.path} is a model without labels: leave out --labels")
        if scale != 1 and flags.sampling.autoguidance is None:
            raise UserError(f"{loaded.path} is a model without labels: --guidance_scale has nothing to guide by")
        return None
    if scale != 1 and loaded.spec.label_drop == 0 and flags.sampling.autoguidance is None:
        raise UserError("--guidance_scale: the model was trained with --label_drop 0 and knows no unconditional half")
    for label in flags.labels or ():
        if not 0 <= label < classes:
            raise UserError(f"--labels {label}: the model knows classes 0..{classes - 1}")
    chosen = flags.labels or tuple(range(classes))
    return [chosen[index % len(chosen)] for index in range(flags.num_samples)]


def _weak(flags: GenerateFlags, loaded: Loaded, device: torch.device) -> Loaded | None:
    """The weaker model of autoguidance, if asked for."""
    wanted = flags.sampling.autoguidance
    if wanted is None:
        return None
    if flags.sampling.guidance_scale == 1:
        raise UserError("--autoguidance does nothing at --guidance_scale 1: give a larger scale")
    path = Path(wanted)
    if path.suffix != ".safetensors":
        path = checkpoint.resolve(find_run(wanted, Path(flags.experiments_dir)))
    weak = _load(path, flags, device)
    if weak.spec.shape != loaded.spec.shape or weak.spec.classes != loaded.spec.classes:
        raise UserError(f"--autoguidance {wanted}: made for other images or classes than {loaded.path}")
    mine, other = loaded.spec, weak.spec
    same = ("noise_schedule", "timesteps", "zero_terminal_snr")
    if any(getattr(mine, name) != getattr(other, name) for name in same):
        raise UserError(f"--autoguidance {wanted}: trained on another noise schedule than {loaded.path}")
    return weak


@contextmanager
def _new_folder(flags: GenerateFlags, run: Path | None, sampling: Sampling) -> Iterator[Path]:
    """A folder that appears whole under its name when the block ends, and not at all if it fails or is stopped."""
    if flags.out is not None:
        final = Path(flags.out).absolute()
        if final.exists() and (not final.is_dir() or any(final.iterdir())):
            raise UserError(f"--out {final} is there already and not an empty folder: name a new one")
    elif run is not None:
        name = f"{datetime.now():%Y%m%d_%H%M%S}-{sampling.sampler}-{sampling.steps}"
        final = run / "samples" / name
    else:
        raise UserError("--checkpoint outside a run folder: say where to write with --out")
    partial = final.with_name(f".{final.name}.{os.getpid()}.partial")
    try:
        partial.mkdir(parents=True)
    except OSError as error:
        raise UserError(f"cannot write in {final.parent}: {error.strerror}; name another folder with --out") from None
    try:
        with Interrupts(at_once=True):
            yield partial
        final = _rename(partial, final, flags.out is None)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    print(final)


def _rename(partial: Path, final: Path, numbered: bool) -> Path:
    """Gives the finished folder its name; where another of this second has it already, a number is added."""
    for count in range(1, 1000):
        place = final if count == 1 else final.with_name(f"{final.name}-{count}")
        try:
            partial.rename(place)  # an empty folder of that name is replaced, any other refused
            return place
        except OSError:
            if not numbered:
                raise
    raise UserError(f"{final.parent} holds a thousand folders of this second")


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

    def __init__(
        self,
        flags: GenerateFlags,
        sampling: Sampling,
        labels: list[int] | None,
        weak: Any,
        device: torch.device,
    ):
        self.flags, self.sampling, self.labels, self.weak, self.device = flags, sampling, labels, weak, device

    def batches(self, loaded: Loaded, count: int, frames: int = 0) -> Iterator[Generated]:
        return generate(
            loaded.denoiser,
            loaded.spec.space,
            self.sampling,
            count,
            self.labels,
            loaded.spec.classes,
            self.flags.seed,
            self.device,
            self.flags.batch_size,
            frames,
            self.weak,
        )

    def title(self, loaded: Loaded, nfe: float) -> str:
        run = loaded.path.parent.parent.name if loaded.path.parent.name == "checkpoints" else loaded.path.name
        weak = f" away from {self.flags.sampling.autoguidance}" if self.weak is not None else ""
        return f"{run}, step {loaded.step}, {loaded.weights} weights, {self.sampling.describe()}{weak}, NFE {nfe:g}"

    def write(self, loaded: Loaded, folder: Path) -> None:
        """samples.npz as the images come, then the sheet, the strips and the animation from the first ones."""
        flags, count = self.flags, self.flags.num_samples
        frames = FILM_FRAMES if flags.animate else STRIP_FRAMES
        channels, height, width = loaded.spec.shape
        shown: list[Generated] = []
        done, evaluations, started = 0, 0.0, time.perf_counter()
        with zipfile.ZipFile(folder / "samples.npz", "w") as archive:
            with _npz_member(archive, "arr_0", (count, height, width, channels), np.uint8) as file:
                for batch in self.batches(loaded, count, frames):
                    file.write(batch.images.permute(0, 2, 3, 1).contiguous().numpy().tobytes())
                    if flags.save_images:
                        pictures.save_each(batch.images, folder / "images", batch.labels, first=done)
                    if done < FRAMED:
                        shown.append(batch)
                    done += len(batch.images)
                    evaluations += batch.nfe * len(batch.images)
                    self._tell(done, count, time.perf_counter() - started)
            if self.labels is not None:
                with _npz_member(archive, "arr_1", (count,), np.int64) as file:
                    file.write(np.asarray(self.labels, dtype=np.int64).tobytes())
        self._write_timing(folder, time.perf_counter() - started, evaluations / count)
        self._draw(loaded, folder, shown, evaluations / count)

    def _tell(self, done: int, count: int, seconds: float) -> None:
        end = "\r" if sys.stderr.isatty() and done < count else "\n"
        if sys.stderr.isatty() or done == count:
            print(f"{done} of {count} images, {duration(seconds)}", file=sys.stderr, end=end, flush=True)

    def _write_timing(self, folder: Path, seconds: float, nfe: float) -> None:
        lines = {
            "images": self.flags.num_samples,
            "seconds": round(seconds, 3),
            "seconds_per_image": round(seconds / self.flags.num_samples, 6),
            "network_evaluations_per_image": round(nfe, 3),
            "device": str(self.device),
            "precision": self.flags.precision,
        }
        write_text(folder / "timing.txt", yaml.safe_dump(lines, sort_keys=False))

    def _draw(self, loaded: Loaded, folder: Path, shown: list[Generated], nfe: float) -> None:
        images = torch.cat([batch.images for batch in shown])[:FRAMED]
        title = self.title(loaded, nfe)
        if self.flags.num_samples > len(images):
            title += f" (first {len(images)} of {self.flags.num_samples})"
        pictures.save_image(self._sheet(images, loaded, title), folder / "grid.png")
        times = shown[0].frame_times
        noisy = [torch.cat(each)[:FRAMED] for each in zip(*(batch.frames for batch in shown), strict=True)]
        every = max(1, (len(times) - 1) // STRIP_FRAMES)
        kept = sorted({0, *range(len(times) - 1, 0, -every)})
        strip = pictures.strip(
            [noisy[index][:STRIP_ROWS] for index in kept],
            [f"t = {times[index]:.2f}" for index in kept],
            title=f"{title}: x_t along the reverse process",
        )
        pictures.save_image(strip, folder / "denoising_strip.png")
        if self.flags.animate:
            sheets = [
                self._sheet(frame, loaded, f"{title}, t = {t:.2f}") for frame, t in zip(noisy, times, strict=True)
            ]
            pictures.animate(sheets, folder / f"animation.{self.flags.format}")

    def _sheet(self, images: Tensor, loaded: Loaded, title: str):
        names = loaded.spec.class_names if self.flags.labels is None else ()
        return sheet(images, names, title)

    def draw_training(self, paths: list[Path], folder: Path) -> None:
        """A sheet for every checkpoint, and the same first images over training as one strip."""
        count = min(self.flags.num_samples, FRAMED)
        frames, captions, sheets = [], [], []
        for path in paths:
            loaded = _load(path, self.flags, self.device)
            batches = list(self.batches(loaded, count))
            images = torch.cat([batch.images for batch in batches])
            title = self.title(loaded, batches[0].nfe)
            sheets.append(self._sheet(images, loaded, title))
            pictures.save_image(sheets[-1], folder / f"{path.stem}.png")
            frames.append(images[:STRIP_ROWS])
            captions.append(f"step {loaded.step}")
        title = f"{paths[0].parent.parent.name}, {self.flags.weights} weights, {self.sampling.describe()}"
        pictures.save_image(pictures.strip(frames, captions, title=title), folder / "training_strip.png")
        if self.flags.animate:
            pictures.animate(sheets, folder / f"animation.{self.flags.format}", fps=2)


if __name__ == "__main__":
    run_command(main)
