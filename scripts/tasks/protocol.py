"""Data, protocol card and report of the evaluations of a trained run.

A card names the weights, the images and the settings of a measurement. Results can only be compared if their cards
agree, so a report has the results and their card. Reports are written as JSON for programs and as text for people.
"""

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
from models.progress import duration, progress
from models.runs.files import write_text
from models.runs.yaml_files import read_yaml
from scripts.cli.flags import ModelFlags, SourceFlags
from scripts.cli.terminal import tell
from scripts.tasks import run_data
from scripts.tasks.run_data import CONTENTS_CACHE, data_facts, load_data_again, notes_on_data, same_data, split_hash
from scripts.tasks.sampling import name_of
from scripts.tasks.training import one_loads_first, spaced_rows

USUAL_COUNT = 1000  # Default number of images to measure, if there are that many.
Result = TypeVar("Result")


def stored_facts(path: Path) -> dict[str, Any]:
    """Return the content of the YAML file beside a checkpoint's tensors."""
    return read_yaml(path.with_suffix(".yaml"))


def load_data_of_run(path: Path, source: SourceFlags) -> ImageData:
    """Load the data set that the run of a checkpoint was trained on. Raises UserError if its images have changed."""
    facts = stored_facts(path)
    config = facts["config"]
    options = {key.removeprefix("dataset."): value for key, value in config.items() if key.startswith("dataset.")}
    stored = config["data_root"]  # It may be a folder of another machine.
    root = data.data_root(source.data_root or (stored if stored and Path(stored).is_dir() else None))
    in_run = path.parent.name == "checkpoints"
    kept = path.absolute().parents[2] / CONTENTS_CACHE if in_run else None
    with one_loads_first():
        dataset = load_data_again(config["dataset"], options, root, source, facts, name_of(path), kept)
    now, rows = data_facts(dataset), run_data.rows_of(dataset)
    if not same_data(facts["data"], now):
        change = run_data.describe_change(path.parent.parent, facts["data"], now, rows)
        place = options.get("path") or root
        message = f"the data set {dataset.name} in {place} differs from the data that {path} was trained on: {change}"
        moved = Path(str(place)).expanduser().is_absolute() and place is not root
        raise UserError(message, *([] if moved else ["name the folder of the original data with `data_root`"]))
    for note in notes_on_data(facts["data"], now, rows):
        tell(note)
    return dataset


def part_of(dataset: ImageData, split: str, first: int, count: int | None) -> Split:
    """Return `count` images of a split, from index `first` on. count: as for `_count`. Raises UserError."""
    whole: Split = getattr(dataset, split)
    if first >= len(whole):
        raise UserError(f"`first_image` {first}: the {split} split of {dataset.name} has images 0..{len(whole) - 1}")
    description = f"{split} images of {dataset.name} from {first} on"
    stop = first + _count(description, len(whole) - first, count, USUAL_COUNT, 1)
    return Split(whole.images[first:stop], whole.labels[first:stop])


def spread_over(dataset: ImageData, split: str, count: int | None, usual: int = USUAL_COUNT) -> tuple[Split, list[int]]:
    """Return `count` images evenly spaced over a split, and their indices. count: as for `_count`. Raises UserError.

    At least two images are required, since an interval needs two. A split sorted by class gives images of all classes.
    """
    whole: Split = getattr(dataset, split)
    rows = spaced_rows(len(whole), _count(f"{split} images of {dataset.name}", len(whole), count, usual, 2))
    return Split(whole.images[rows], whole.labels[rows]), rows.tolist()


def _count(description: str, available: int, count: int | None, usual: int, fewest: int) -> int:
    """Return the number of images to take. count: 0 for all; None for the smaller of `usual` and `available`."""
    number = min(usual, available) if count is None else count or available
    if available < fewest:
        raise UserError(f"{fewest} {description} are needed; the number available is {available}")
    if not fewest <= number <= available:
        message = f"`num_images` {number}: must be {fewest} to {available}, the number of {description}"
        raise UserError(message, "use 0 for all")
    return number


def refuse_unused(method: str, options: Mapping[str, object]) -> None:
    """Raise UserError if an option is set that the chosen method does not use. options: a dataclass per method."""
    for other, flags in options.items():
        for name, value in vars(flags).items():
            if other != method and value != getattr(type(flags)(), name):
                shown = " ".join(map(str, value)) if isinstance(value, tuple) else value
                message = f"`{name}` {shown}: the method is {method} here, and only {other} uses this option"
                raise UserError(message, "leave it out")


def model_card(path: Path, flags: ModelFlags) -> dict[str, Any]:
    """Return the part of a card that names the weights, and the device and precision of the computation."""
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


def data_card(dataset: ImageData, split: str, position: Mapping[str, Any], part: Split) -> dict[str, Any]:
    """Return the part of a card that names the images. position: their position in the split."""
    return {
        "dataset": dataset.name,
        "split": split,
        **position,
        "num_images": len(part),
        "images_sha256": split_hash(part),
    }


def in_batches(
    work: Callable[[slice], Result], count: int, size: int, summary: Callable[[int], str]
) -> Iterator[Result]:
    """Yield `work(rows)` for each batch of the rows 0..count-1, in order. Ranks share the work; each gets all results.

    Shows the progress, and prints `summary(count)` at the end.
    """
    started = time.perf_counter()
    batches = [slice(start, min(start + size, count)) for start in range(0, count, size)]
    with progress("measuring images", count) as advance:
        for rows, result in zip(batches, distributed.map_over_ranks(work, batches), strict=True):
            yield result
            advance(rows.stop - rows.start, summary(rows.stop))
    tell(f"{count} of {count} images, {summary(count)}, {duration(time.perf_counter() - started)}")


def mean_estimate(values: Tensor) -> dict[str, Any]:
    """Return the mean of values (N,) and its 95 % interval, for a report."""
    return {"mean": values.mean().item(), "interval_95": list(mean_interval(values))}


def format_estimate(estimate: Mapping[str, Any], digits: int = 4) -> str:
    """Return a `mean_estimate` as text: mean [low, high]."""
    low, high = estimate["interval_95"]
    return f"{estimate['mean']:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


def unused_path(folder: Path, stem: str) -> Path:
    """Return the path `<stem>.json` in the folder. If that file exists, a number follows the stem."""
    names = (stem if count == 1 else f"{stem}-{count}" for count in range(1, 1000))
    return next(path for name in names if not (path := folder / f"{name}.json").exists())


def write_report(folder: Path, task: str, card: Mapping[str, Any], results: Mapping[str, Any], table: str) -> Path:
    """Write a report, print its table, and return its path, `<date>_<time>-<task>.json`.

    The JSON file has the card and the results. A .txt beside it has the table and the card.
    """
    tell(f"\n{table}\n")
    path = unused_path(folder, f"{datetime.now():%Y%m%d_%H%M%S}-{task}")
    content = json.dumps({"task": task, "protocol": card, "results": results}, indent=2)
    protocol = yaml.safe_dump(dict(card), sort_keys=False, allow_unicode=True)
    write_text(path.with_suffix(".txt"), f"{table}\n\nprotocol\n\n{protocol}")
    write_text(path, content + "\n")
    return path
