"""The work of `evaluate --compare A B`: compare two evaluations of samples whose protocols are equal."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from models.errors import UserError
from models.evaluation.evaluation_report import RESAMPLED
from models.evaluation.measure_names import BETTER, REPORT, format_value, is_share, kind_of, short_names
from models.evaluation.statistics import Measurement, Z, difference_of_shares
from models.evaluation.text_tables import text_table
from models.runs.files import write_text
from models.runs.lookup import DENOISING, find_run, results_folder
from models.spaces import Identity
from scripts.cli.terminal import tell
from scripts.tasks.protocol import unused_path
from scripts.tasks.sampling import make_folder

if TYPE_CHECKING:
    from scripts.cli.evaluation_flags import CompareFlags

NUMBERS = ("value", "low", "high")


@dataclass(frozen=True)
class _Report:
    """An evaluation read from its folder. resampled: values of each measure, one per bootstrap resample."""

    folder: Path
    protocol: dict[str, Any]
    samples: dict[str, Any]
    results: dict[str, Any]
    resampled: dict[str, Tensor]
    warnings: list[str]


def main(flags: CompareFlags) -> None:
    one, other = (_read(_find(name, Path(flags.experiments_dir))) for name in flags.compare)
    _check_protocols(one, other)
    out = _output_path(flags)
    paired = _are_paired(one, other)
    differences = {name: _difference(name, one, other, paired) for name in one.results if name in other.results}
    table = _table(one, other, differences, paired)
    content = {"one": str(one.folder), "other": str(other.folder), "paired": paired, "protocol": one.protocol}
    write_text(out.with_suffix(".txt"), table + "\n")
    write_text(out, json.dumps({**content, "differences": differences}, indent=2, allow_nan=False) + "\n")
    tell(table)
    print(out)


def _find(name: str, experiments: Path) -> Path:
    """Return the folder of an evaluation. name: the folder, its report.json, or a run (its latest evaluation)."""
    folder = Path(name)
    if folder.name == REPORT:
        folder = folder.parent
    if (folder / REPORT).is_file():
        return folder
    run = find_run(name, experiments, DENOISING)
    reports = sorted(results_folder(run, experiments).glob(f"evaluation/*-samples*/{REPORT}"))
    if not reports:
        raise UserError(f"{run} has no evaluation of samples", "evaluate the run first")
    return reports[-1].parent


def _read(folder: Path) -> _Report:
    path = folder / REPORT
    try:
        content = json.loads(path.read_text(encoding="utf-8"), parse_constant=_refuse_constant)
        if content["task"] != "samples":
            raise UserError(f"{path} is a report of {content['task']}: only reports of samples can be compared")
        parts = {key: content[key] for key in ("protocol", "samples", "results")}
        if not all(isinstance(part, dict) for part in parts.values()):
            raise ValueError("its parts are not mappings")
        for name, row in parts["results"].items():
            kind_of(name)  # raises ValueError for a name that is no measure
            numbers = [row["found"][key] for key in NUMBERS]
            if not all(number is None or math.isfinite(number) for number in numbers):
                raise ValueError(f"a value of {name} is not a finite number")
        if not parts["results"] or "images" not in parts["protocol"]:
            raise ValueError("it has no results, or no number of images")
        warnings = [str(warning) for warning in content["warnings"]]
        resampled = safetensors.torch.load_file(folder / RESAMPLED) if (folder / RESAMPLED).is_file() else {}
    except (OSError, ValueError, KeyError, TypeError, OverflowError, SafetensorError) as error:
        raise UserError(f"{path} is not a report of evaluate, or it is damaged: {error}") from None
    return _Report(folder, **parts, resampled=resampled, warnings=warnings)


def _refuse_constant(word: str) -> None:
    raise ValueError(f"{word} is not a number in JSON")


def _check_protocols(one: _Report, other: _Report) -> None:
    """Raise UserError if the protocols differ, because then the results cannot be compared."""
    keys = dict.fromkeys([*one.protocol, *other.protocol])
    pairs = {key: (one.protocol.get(key), other.protocol.get(key)) for key in keys}
    # Reports on the same images may differ in one of two hashes. If `Identity.matches` is true, both are ignored.
    for part in ("reference", "floor"):
        hashes = [Identity.from_facts(report.protocol, f"{part}_") for report in (one, other)]
        if hashes[0].matches(hashes[1]):
            pairs = {key: pair for key, pair in pairs.items() if key not in (f"{part}_sha256", f"{part}_contents")}
    differences = [f"{key} {first} and {second}" for key, (first, second) in pairs.items() if first != second]
    if differences:
        raise UserError(f"the evaluations cannot be compared, because their protocols differ: {'; '.join(differences)}")


def _are_paired(one: _Report, other: _Report) -> bool:
    """Return whether images with the same index were generated from the same noise and label."""
    cards = (one.samples, other.samples)
    generated = all(card.get("made_by") == "generate" and "seed" in card for card in cards)
    return generated and all(
        one.samples.get(key) == other.samples.get(key) for key in ("seed", "noise", "labels_sha256")
    )


def _output_path(flags: CompareFlags) -> Path:
    if flags.out is not None:
        out = Path(flags.out).absolute()
        if out.suffix != ".json" or out.exists() or out.with_suffix(".txt").exists():
            raise UserError(f"`out` {out}: must be a new .json file, with no .txt of the same name beside it")
    else:
        out = unused_path(Path(flags.experiments_dir) / "comparisons", f"{datetime.now():%Y%m%d_%H%M%S}")
    make_folder(out.parent)
    return out


def _spreads(one: Tensor | None, other: Tensor | None, paired: bool) -> tuple[float, float, float] | None:
    """Return the standard deviations and the correlation of a measure's resampled values in two evaluations.

    Returns None if resampled values are missing or their counts differ. The correlation is 0 if the evaluations are
    not paired. In both evaluations, resample k has the same image indices.
    """
    if one is None or other is None or one.shape != other.shape:
        return None
    deviations = one.std().item(), other.std().item()
    correlated = paired and min(deviations) > 0
    return *deviations, torch.corrcoef(torch.stack([one, other]))[0, 1].item() if correlated else 0.0


def _difference(name: str, one: _Report, other: _Report, paired: bool) -> dict[str, Any]:
    """Return the measure of `other` minus that of `one`. The value and its interval are None if undefined."""
    first, second = (report.results[name]["found"] for report in (one, other))
    undefined = {"one": first["value"], "other": second["value"], "value": None, "low": None, "high": None}
    if None in (first["value"], second["value"]):
        return undefined
    value = second["value"] - first["value"]
    spreads = _spreads(one.resampled.get(name), other.resampled.get(name), paired)
    low, high = None, None
    if is_share(name) and None not in (first["low"], first["high"], second["low"], second["high"]):
        share, other_share = (Measurement(*(row[key] for key in NUMBERS)) for row in (first, second))
        low, high = difference_of_shares(share, other_share, spreads[2] if spreads is not None else 0.0)
    elif spreads is not None:
        deviation, other_deviation, correlation = spreads
        variance = deviation**2 + other_deviation**2 - 2 * correlation * deviation * other_deviation
        half = Z * math.sqrt(variance)
        low, high = value - half, value + half
    if low is None or high is None or not math.isfinite(low + high):
        return {**undefined, "value": value}
    return {**undefined, "value": value, "low": low, "high": high}


def _table(one: _Report, other: _Report, differences: dict[str, dict[str, Any]], paired: bool) -> str:
    pairing = "paired by seed and label" if paired else "not paired: seed, noise or labels differ or are unknown"
    lines = [
        f"A  {one.folder}",
        f"B  {other.folder}",
        f"{one.protocol['images']} images each; differences {pairing}",
        "",
    ]
    for key in sorted({*one.samples, *other.samples} - {"images_sha256", "labels_sha256", "samples"}):
        if one.samples.get(key) != other.samples.get(key):
            lines.append(f"   {key}: {one.samples.get(key)} and {other.samples.get(key)}")
    rows, short = [], short_names(differences)
    for name, row in differences.items():
        value, low, high = (row[key] for key in NUMBERS)
        interval = "" if low is None else f" [{format_value(name, low)}, {format_value(name, high)}]"
        mark = " *" if low is not None and (low > 0 or high < 0) else ""
        cells = (format_value(name, row["one"]), format_value(name, row["other"]))
        rows.append((short[name], *cells, BETTER[kind_of(name)], f"{format_value(name, value)}{interval}{mark}"))
    lines += ["", text_table(rows, ("", "A", "B", "better", "B - A [95 %]"), right=(1, 2))] if rows else []
    lines += ["", "*: the interval does not contain 0"]
    for letter, report in (("A", one), ("B", other)):
        lines += [f"warning about {letter}: {warning}" for warning in report.warnings]
    return "\n".join(lines)
