"""`evaluate --compare A B`: two evaluations side by side, if they may be compared at all."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from types import NoneType
from typing import Any, NamedTuple

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from models.errors import UserError
from models.evaluation.evaluation_report import RESAMPLED
from models.evaluation.measure_names import format_value, is_share
from models.evaluation.statistics import Measurement, Z, difference_of_shares
from models.runs.files import write_text
from models.runs.lookup import find_run
from scripts.cli.arguments import parse_flags
from scripts.cli.flags import experiments_dir
from scripts.cli.terminal import tell
from scripts.tasks.protocol import unused_path
from scripts.tasks.sampling import DENOISING, make_folder

DESCRIPTION = "Compare two evaluations of images. Prints the file of the comparison."
REPORT = "report.json"
NUMBERS = ("value", "low", "high")


@dataclass(frozen=True)
class CompareFlags:
    """Settings of `evaluate --compare`."""

    compare: tuple[str, str] = ("", "")
    """Two evaluations: folders with a report.json, or runs, of which the latest evaluation is taken."""
    experiments_dir: str = field(default_factory=experiments_dir)
    """Where runs are looked for by name; the variable EXPERIMENTS_DIR sets its default."""
    out: str | None = None
    """File to write, .json; a .txt comes beside it. Default: a new one in comparisons/ among the runs."""


@dataclass(frozen=True)
class Report:
    """One evaluation, read back."""

    folder: Path
    protocol: dict[str, Any]
    samples: dict[str, Any]
    results: dict[str, Any]
    resampled: dict[str, Tensor]
    warnings: list[str]


def main(argv: list[str]) -> None:
    flags = parse_flags(argv, CompareFlags(), "evaluate", DESCRIPTION)
    one, other = (_read(_find(word, Path(flags.experiments_dir))) for word in flags.compare)
    _refuse_unlike(one, other)
    out = _place(flags)
    paired = _paired(one, other)
    rows = {name: _difference(name, one, other, paired) for name in one.results if name in other.results}
    table = _table(one, other, rows, paired)
    content = {"one": str(one.folder), "other": str(other.folder), "paired": paired, "protocol": one.protocol}
    write_text(out.with_suffix(".txt"), table + "\n")
    write_text(out, json.dumps({**content, "differences": rows}, indent=2, allow_nan=False) + "\n")
    tell(table)
    print(out)


def _find(word: str, experiments: Path) -> Path:
    """The folder of an evaluation, itself or the latest of a run."""
    folder = Path(word)
    if folder.name == REPORT:
        folder = folder.parent
    if not (folder / REPORT).is_file():
        run = find_run(word, experiments, DENOISING)
        found = sorted(path.parent for path in run.glob(f"evaluation/*-samples*/{REPORT}"))
        if not found:
            raise UserError(f"{run} has no evaluation of its images yet: evaluate it first")
        folder = found[-1]
    return folder


def _read(folder: Path) -> Report:
    path = folder / REPORT
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["task"] != "samples":
            raise UserError(f"{path} is a report of {content['task']}: only those of samples are compared")
        parts = {key: content[key] for key in ("protocol", "samples", "results")}
        if not all(isinstance(part, dict) for part in parts.values()):
            raise ValueError("not a report of evaluate")
        for row in parts["results"].values():
            if not all(isinstance(row["found"][key], (float, int, NoneType)) for key in NUMBERS):
                raise ValueError("a value that is no number")
        if not parts["results"]:
            raise ValueError("no results")
        warnings = [str(each) for each in content["warnings"]]
        resampled = safetensors.torch.load_file(folder / RESAMPLED) if (folder / RESAMPLED).is_file() else {}
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise UserError(f"{path} is no report of evaluate, or a damaged one: {error}") from None
    return Report(folder, **parts, resampled=resampled, warnings=warnings)


def _refuse_unlike(one: Report, other: Report) -> None:
    """Raises UserError where two figures would not mean the same."""
    keys = [*one.protocol, *(key for key in other.protocol if key not in one.protocol)]
    unlike = [key for key in keys if one.protocol.get(key) != other.protocol.get(key)]
    if unlike:
        told = "; ".join(f"{key} {one.protocol.get(key)} and {other.protocol.get(key)}" for key in unlike)
        raise UserError(f"not to be compared, their protocols differ: {told}")


def _paired(one: Report, other: Report) -> bool:
    """Whether image k of both began with the same noise and label."""
    generated = all(each.samples.get("made_by") == "generate" and "seed" in each.samples for each in (one, other))
    return generated and all(one.samples.get(key) == other.samples.get(key) for key in ("seed", "labels_sha256"))


def _place(flags: CompareFlags) -> Path:
    if flags.out is not None:
        out = Path(flags.out).absolute()
        if out.suffix != ".json" or out.exists() or out.with_suffix(".txt").exists():
            raise UserError(f"--out {out}: name a new .json file, with no .txt of that name beside it")
    else:
        out = unused_path(Path(flags.experiments_dir) / "comparisons", f"{datetime.now():%Y%m%d_%H%M%S}")
    make_folder(out.parent)
    return out


class _Spreads(NamedTuple):
    """Deviations of the resampled values of two evaluations, and their correlation."""

    one: float
    other: float
    together: float


def _spreads(one: Tensor | None, other: Tensor | None, paired: bool) -> _Spreads | None:
    """Resample b holds images of the same numbers in both: paired ones rise and fall together."""
    if one is None or other is None or one.shape != other.shape:
        return None
    deviations = one.std().item(), other.std().item()
    moving = paired and min(deviations) > 0
    return _Spreads(*deviations, torch.corrcoef(torch.stack([one, other]))[0, 1].item() if moving else 0.0)


def _difference(name: str, one: Report, other: Report, paired: bool) -> dict[str, Any]:
    """other minus one, with its 95 % interval where the resamples allow one."""
    first, second = (each.results[name]["found"] for each in (one, other))
    found = {"one": first["value"], "other": second["value"], "value": second["value"] - first["value"]}
    spreads = _spreads(one.resampled.get(name), other.resampled.get(name), paired)
    low, high = None, None
    if is_share(name) and first["low"] is not None and second["low"] is not None:
        mine, theirs = (Measurement(*(each[key] for key in NUMBERS)) for each in (first, second))
        low, high = difference_of_shares(mine, theirs, spreads.together if spreads is not None else 0.0)
    elif spreads is not None:
        half = Z * math.sqrt(spreads.one**2 + spreads.other**2 - 2 * spreads.together * spreads.one * spreads.other)
        low, high = found["value"] - half, found["value"] + half
    return {**found, "low": low, "high": high}


def _table(one: Report, other: Report, rows: dict[str, dict[str, Any]], paired: bool) -> str:
    width = max(map(len, rows), default=0)
    how = "paired by seed and label" if paired else "not paired: other seeds or labels"
    lines = [f"A  {one.folder}", f"B  {other.folder}", f"{one.protocol['images']} images each; differences {how}", ""]
    for key in sorted({*one.samples, *other.samples} - {"images_sha256", "labels_sha256", "samples"}):
        if one.samples.get(key) != other.samples.get(key):
            lines.append(f"   {key}: {one.samples.get(key)} and {other.samples.get(key)}")
    lines += ["", f"{'':<{width}}  {'A':>10}  {'B':>10}  B - A [95 %]"]
    for name, row in rows.items():
        first, second = (format_value(name, row[key]) for key in ("one", "other"))
        low, high = row["low"], row["high"]
        clear = " *" if low is not None and (low > 0 or high < 0) else ""
        interval = "" if low is None else f" [{format_value(name, low)}, {format_value(name, high)}]{clear}"
        lines.append(f"{name:<{width}}  {first:>10}  {second:>10}  {format_value(name, row['value'])}{interval}")
    lines += ["", "*: the interval does not hold 0"]
    lines += [f"warning: of {letter}: {told}" for letter, each in (("A", one), ("B", other)) for told in each.warnings]
    return "\n".join(lines)
