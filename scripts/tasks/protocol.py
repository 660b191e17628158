"""What every evaluation shares: the data of a trained run, the card that says how a figure was taken, and the report.

A figure without its card cannot be compared, so a report is one JSON file for programs and one text for people, and
both carry it.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

import torch
import yaml
from torch import Tensor

import data
from data import ImageData, Split
from models import distributed
from models.errors import UserError
from models.evaluation.statistics import mean_interval
from models.progress import duration
from models.runs.files import write_text
from models.runs.yaml_files import read_yaml
from scripts.cli.flags import ModelFlags, SourceFlags
from scripts.cli.terminal import tell, tell_progress
from scripts.tasks.sampling import folder_in_run, name_of
from scripts.tasks.training import fingerprint, spaced_rows, split_hash

Result = TypeVar("Result")


def stored_facts(path: Path) -> dict[str, Any]:
    """What stands beside the tensors of a checkpoint file."""
    return read_yaml(path.with_suffix(".yaml"))


def load_data_of_run(path: Path, source: SourceFlags) -> ImageData:
    """The data set that the run of a checkpoint was trained on. Raises UserError where it is another one now."""
    facts = stored_facts(path)
    config = facts["config"]
    options = {key.removeprefix("dataset."): value for key, value in config.items() if key.startswith("dataset.")}
    root = data.data_root(source.data_root or config["data_root"])
    dataset = data.load(config["dataset"], options, root, source.memory_limit)
    if fingerprint(dataset) != facts["data"]["sha256"]:
        raise UserError(f"the {dataset.name} in {root} is not what {path} was trained on: name the right --data_root")
    return dataset


def whole_split(dataset: ImageData, split: str) -> Split:
    """Raises UserError for a split that there is not."""
    if split not in ("train", "test"):
        raise UserError(f"--split {split}: choose train or test")
    return getattr(dataset, split)


def part_of(dataset: ImageData, split: str, first: int, count: int | None, usual: int) -> Split:
    """`count` images of a split from number `first` on, as `count_of` says. Raises UserError."""
    whole = whole_split(dataset, split)
    if not 0 <= first < len(whole):
        raise UserError(f"--first_image {first}: the {split} split of {dataset.name} has images 0..{len(whole) - 1}")
    stop = first + count_of(f"{split} images of {dataset.name} from {first} on", len(whole) - first, count, usual, 1)
    return Split(whole.images[first:stop], whole.labels[first:stop])


def spread_over(dataset: ImageData, split: str, count: int | None, usual: int) -> tuple[Split, list[int]]:
    """`count` images evenly spaced over a split, so that sorted classes are all among them, and their numbers; as
    `count_of` says, and at least the two that an interval needs. Raises UserError."""
    whole = whole_split(dataset, split)
    rows = spaced_rows(len(whole), count_of(f"{split} images of {dataset.name}", len(whole), count, usual, 2))
    return Split(whole.images[rows], whole.labels[rows]), rows.tolist()


def count_of(what: str, there: int, count: int | None, usual: int, fewest: int) -> int:
    """How many images --num_images asks for: all for 0, and for None the usual number or as many as there are. Raises
    UserError for more than there are, and for too few."""
    asked = min(usual, there) if count is None else count or there
    if not fewest <= asked <= there:
        raise UserError(f"--num_images {asked}: takes {fewest} to {there}, the {what}, or 0 for all")
    return asked


def model_card(path: Path, flags: ModelFlags) -> dict[str, Any]:
    """Which weights a figure belongs to, and what they were computed with."""
    facts = stored_facts(path)
    space = (facts.get("denoiser") or {}).get("space") or {}
    card = {
        "run": name_of(path),
        "checkpoint": path.name,
        "checkpoint_sha256": facts["sha256"],
        "autoencoder_sha256": space.get("autoencoder"),
        "step": facts["step"],
        "weights": flags.weights,
        "device": flags.device,
        "precision": flags.precision,
        "threads": torch.get_num_threads(),
        "torch": str(torch.__version__),
    }
    return {key: value for key, value in card.items() if value is not None}


def data_card(dataset: ImageData, split: str, where: Mapping[str, Any], part: Split) -> dict[str, Any]:
    """Which images a figure was taken on. where: which part of the split they are."""
    return {
        "dataset": dataset.name,
        "split": split,
        **where,
        "num_images": len(part),
        "images_sha256": split_hash(part),
    }


def in_batches(
    work: Callable[[slice], Result], count: int, size: int, so_far: Callable[[int], str]
) -> Iterator[Result]:
    """What `work` makes of the rows 0..count-1, `size` at a time and shared out among the processes of the task, all of
    which get it all; with a line of progress: of each batch on a terminal, elsewhere of all.

    so_far: what it says of so many rows.
    """
    started = time.perf_counter()
    parts = [slice(start, min(start + size, count)) for start in range(0, count, size)]
    for done, result in zip((part.stop for part in parts), distributed.map_over_ranks(work, parts), strict=True):
        yield result
        tell_progress(done, count, so_far(done), duration(time.perf_counter() - started))


def estimated(values: Tensor) -> dict[str, Any]:
    """A mean over images, (N,), with its interval, for a report."""
    return {"mean": values.mean().item(), "interval_95": list(mean_interval(values))}


def with_interval(estimate: Mapping[str, Any], digits: int = 4) -> str:
    """The same for people."""
    low, high = estimate["interval_95"]
    return f"{estimate['mean']:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


def report_folder(path: Path, out: str | None) -> Path:
    """Where a report goes: --out, else evaluation/ in the run of the checkpoint file. Raises UserError."""
    return folder_in_run(path, out, "evaluation")


def unused_path(folder: Path, stem: str) -> Path:
    """`<stem>.json`, numbered where others of this second are there already."""
    names = (stem if count == 1 else f"{stem}-{count}" for count in range(1, 1000))
    return next(path for name in names if not (path := folder / f"{name}.json").exists())


def write_report(folder: Path, task: str, card: Mapping[str, Any], results: Mapping[str, Any], table: str) -> Path:
    """`<date>_<time>-<task>.json` with the card and the results, and the table with the card beside it as .txt. The
    table is told, too."""
    tell(f"\n{table}\n")
    path = unused_path(folder, f"{datetime.now():%Y%m%d_%H%M%S}-{task}")
    content = json.dumps({"task": task, "protocol": card, "results": results}, indent=2)
    protocol = yaml.safe_dump(dict(card), sort_keys=False, allow_unicode=True)
    write_text(path.with_suffix(".txt"), f"{table}\n\nprotocol\n\n{protocol}")
    write_text(path, content + "\n")
    return path
