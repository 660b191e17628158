"""Contents of the pages: an entry of the index for each run, and the parts of a run's page."""

import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from models.progress import duration
from models.report.curves import charts_of, spark
from models.report.evaluations import Evaluated, Measure
from models.report.pictures import (
    FEWEST_SHEETS,
    LARGE_FRAME,
    LARGE_SHEET,
    MOST_SHEETS,
    SHEET_BYTES,
    Album,
    Picture,
    frames_of,
    safe_name,
    sheet_label,
    sheets_of,
)
from models.report.reading import RunFacts, text
from models.runs.lookup import name_loss

MODEL = re.compile(r"(\w+) of ([\d,]+) parameters on (\S+?), (\w+)")
# Settings of folders, hardware and logging. A page does not list them as different from the usual ones.
MACHINE_SETTINGS = (
    "data_root",
    "memory_limit",
    "experiments_dir",
    "name",
    "device",
    "workers",
    "compile",
    "tensorboard",
    "logger",
)
KNOWN = {
    "epoch_samples",
    "final_samples",
    "denoising_steps",
    "latent_space",
    "evaluation",
    "checkpoints",
    "tensorboard",
}
STRIPS = ("final_samples/with_teacher.png", "forward_noising.png")
EXPORTED = (".", "exported")  # Folders of a run in which `make export` writes pages.
MOST_OTHERS, MOST_FILES, TABLE_ROWS = 12, 12, 30
PICTURE_NAMES = {
    "samples": "Samples of the evaluation",
    "nearest": "Nearest to training images, in features",
    "farthest": "Farthest from training images, in features",
    "closest_pairs": "Closest pairs in pixels: each sample with its training image",
    "confusion": "Requested and recognised classes",
}


@dataclass(frozen=True)
class Command:
    """A command to type. purpose: what it does."""

    purpose: str
    words: str


@dataclass(frozen=True)
class Advice:
    """Functions about the tasks of runs, given by the caller of the report.

    commands(folder, task, state, config): what to type next, the likeliest first.
    usual(task, config, command): name of the settings that a run started from, such as "recipe mnist", and their
    values. Both are empty if the settings are unknown.
    """

    commands: Callable[[Path, str, str, Mapping[str, Any]], Sequence[Command]]
    usual: Callable[[str, Mapping[str, Any], str], tuple[str, Mapping[str, Any]]]


@dataclass(frozen=True)
class Entry:
    """A row of the index. data: data set and its options. Runs with different data cannot be compared.

    measured: evaluations of samples with a ratio of distance to floor. evaluated: the one with the smallest ratio, or
    the newest evaluation of samples if none has a ratio.
    """

    id: str
    name: str
    state: str
    reason: str
    task: str
    dataset: str
    data: str
    step: float | None
    progress: float | None
    train_loss: float | None
    test_loss: float | None
    best_test_loss: float | None
    loss: str
    measured: Sequence[Evaluated]
    evaluated: Evaluated | None
    seconds: float | None
    device: str
    began: str
    spark: str
    thumbnail: str | None

    @property
    def kind(self) -> str:
        """The task without its verb, e.g. flow."""
        return self.task.removeprefix("train_")

    @property
    def recognised(self) -> Measure | None:
        return self.evaluated.recognised if self.evaluated else None

    @property
    def over_floor(self) -> float | None:
        return self.evaluated.over_floor if self.evaluated else None


def entry_of(run: RunFacts, thumbnail: str | None) -> Entry:
    options = [(key, value) for key, value in run.config.items() if str(key).startswith("dataset.")]
    of_samples = [evaluated for evaluated in run.evaluations if evaluated.task == "samples"]
    measured = [evaluated for evaluated in of_samples if evaluated.over_floor is not None]
    return Entry(
        id=safe_name(run.name),
        name=run.name,
        state=run.state,
        reason=run.reason,
        task=run.task,
        dataset=run.dataset,
        data=f"{run.dataset} {options}",
        step=run.step,
        progress=run.progress,
        train_loss=run.train_loss,
        test_loss=run.test_loss,
        best_test_loss=run.best_test_loss,
        loss=name_loss(run.config),
        measured=measured,
        evaluated=min(measured, key=lambda one: one.over_floor or 0, default=of_samples[0] if of_samples else None),
        seconds=run.seconds,
        device=run.device,
        began=run.began,
        spark=spark(run),
        thumbnail=thumbnail,
    )


def describe(run: RunFacts) -> str:
    """Return one sentence about a run: what is trained, on what data, how long, on what device."""
    model = MODEL.search(run.first_line)
    shape = "×".join(map(str, run.shape))
    kinds = {
        "train_flow": "Flow",
        "train_ddpm": "Diffusion model",
        "train_latent": "Latent model",
        "distill": "Student",
    }
    kind = {"vae": "VAE", "autoencoder": "Autoencoder"}.get(text(run.config.get("kind")), kinds.get(run.task, run.task))
    parts = [f"{kind or 'Run'} on {run.dataset or 'unknown data'}"]
    if shape:
        parts[0] += f" ({'latents ' if run.config.get('space') == 'latents' else ''}{shape})"
    if model:
        parts.append(f"{text(run.config.get('network')) or model[1]} of {model[2]} parameters")
    if run.step is not None:
        steps = f"{run.step:,.0f} steps of {text(run.config.get('batch_size')) or 'unknown'} images"
        parts.append(steps + (f" in {duration(run.seconds)} of training" if run.seconds is not None else ""))
    if run.device:
        precision = text(run.config.get("precision"))
        parts.append(f"on {run.device}" + (f" in {precision}" if precision else ""))
    return ", ".join(parts) + "."


def settings_of(run: RunFacts, advice: Advice) -> dict[str, Any]:
    """Return a run's settings: those that differ from the usual ones, with the usual values, and all others."""
    command = run.started[0].get("command", "") if run.started else ""
    name, usual = advice.usual(run.task, run.config, command)
    differing, same = [], []
    for key, value in run.config.items():
        shown = (text(key), setting(value))
        unless = ("auto", None, value) if key == "steps" else ("auto", value)  # A run stores what auto resolved to.
        if usual and key in usual and key not in MACHINE_SETTINGS and usual[key] not in unless:
            differing.append((*shown, setting(usual[key])))
        else:
            same.append(shown)
    return {"usual": name, "known": bool(usual), "differing": differing, "same": same}


def setting(value: Any) -> str:
    """Return a setting as one line of text."""
    if isinstance(value, list | tuple):
        return " ".join(map(setting, value)) or "none"
    if isinstance(value, float):
        return repr(value).removesuffix(".0")
    return "none" if value is None else str(value).lower() if isinstance(value, bool) else text(value)


def page_of(run: RunFacts, album: Album, advice: Advice, links_from: Path | None) -> dict[str, Any]:
    """Return what the page of a run shows. links_from: base folder of the links to files; None for no links."""
    reverse, strips = _reverse(run, album)
    sheets = _sheets(run, album)
    files = list(_files(run, links_from))
    return {
        "run": run,
        "line": describe(run),
        "commands": advice.commands(run.folder, run.task, run.state, run.config),
        "started": run.started,
        "sheets": sheets,
        "reverse": reverse,
        "curves": album.add(run.folder / "loss_curves.png"),
        "evaluations": [(evaluated, _pictures_of(evaluated, album)) for evaluated in run.evaluations],
        "strips": [*strips, *album.add_all([path for name in STRIPS if (path := run.folder / name).is_file()])],
        "latent": album.add_all(sorted(run.folder.glob("latent_space/[!r]*.png"))),
        "others": _others(run, album),
        "settings": settings_of(run, advice),
        "rows": _rows(run),
        "charts": charts_of(run),
        "files": files,
        # Pages that `make export` has written, which generate images.
        "pages": [file for name, names, _ in files if name in EXPORTED for file in names if file[0].endswith(".html")],
        "missing": album.missing,
    }


def _sheets(run: RunFacts, album: Album) -> list[Picture]:
    """Return the sheets drawn during training and at its end. If the sheets are large, fewer are returned."""
    finals = (run.folder / "final_samples" / "grid.png", run.folder / "latent_space" / "reconstructions.png")
    end = f"end, step {run.step:,.0f}" if run.step is not None else "end"
    final = [picture for path in finals if (picture := album.add(path, end)) is not None][:1]
    newest = album.add_all(sheets_of(run.folder)[-1:], large=LARGE_SHEET)
    size = max((album.size_of(picture) for picture in newest), default=1)
    sheets = sheets_of(run.folder, max(FEWEST_SHEETS, min(MOST_SHEETS, SHEET_BYTES // size)))
    return [*album.add_all(sheets, [sheet_label(path) for path in sheets], LARGE_SHEET), *final]


def _reverse(run: RunFacts, album: Album) -> tuple[list[tuple[str, Picture, Picture | None]], list[Picture]]:
    """Return the steps of the reverse process (t, noisy images, clean estimate), or strips if the run has no steps."""
    folder = run.folder / "denoising_steps"
    noisy = [(label, album.add(path, label, LARGE_FRAME)) for label, path in frames_of(folder / "noisy")]
    estimates = [album.add(path, label, LARGE_FRAME) for label, path in frames_of(folder / "clean_estimate")]
    after = [None] * (len(noisy) - len(estimates)) + estimates  # There is no estimate before the first step.
    steps = [(label, one, other) for (label, one), other in zip(noisy, after, strict=False) if one is not None]
    return steps, [] if steps else album.add_all(sorted(folder.glob("*.png")))


def _pictures_of(evaluated: Evaluated, album: Album) -> list[Picture]:
    paths = evaluated.pictures
    return album.add_all(paths, [PICTURE_NAMES.get(path.stem, path.stem.replace("_", " ")) for path in paths])


def _others(run: RunFacts, album: Album) -> list[tuple[str, Picture]]:
    """Return the newest pictures of `generate` and the visualizing tasks, each with its folders and name as title."""
    paths = [path for path in run.folder.glob("*/*/*.png") if path.parts[-3] not in KNOWN and path.parts[-2][0] != "."]
    paths.sort(key=lambda path: (path.parent.name, path.name), reverse=True)
    pictures = ((f"{path.parts[-3]}, {path.parts[-2]}: {path.stem}", album.add(path)) for path in paths[:MOST_OTHERS])
    return [(title, picture) for title, picture in pictures if picture is not None]


def _rows(run: RunFacts) -> list[list[Any]]:
    """Return up to TABLE_ROWS evenly spaced rows of the metrics, the last one included."""
    names = ("step", "epoch", "train_loss", "test_loss", "lr", "images_per_second")
    rows = list(zip(*(run.metrics.get(name, []) for name in names), strict=False))
    step = -(-len(rows) // TABLE_ROWS) or 1
    return [list(row) for row in rows[::-1][::step][::-1]]


def _files(run: RunFacts, page: Path | None) -> Iterator[tuple[str, list[tuple[str, str | None]], int]]:
    """Yield the folders of a run: name, files with their links, number of files not listed.

    page: base folder of the links; None for no links.
    """
    for folder, folders, names in os.walk(run.folder):
        folders[:] = sorted(name for name in folders if name not in ("tensorboard", "by_sample") and name[0] != ".")
        names = sorted(name for name in names if name[0] != ".")
        listed = []
        for name in names[:MOST_FILES]:
            href = quote(os.fsencode(os.path.relpath(os.path.join(folder, name), page))) if page else None
            listed.append((name, href))
        if names:
            yield os.path.relpath(folder, run.folder), listed, len(names) - len(listed)
