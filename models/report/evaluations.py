"""Evaluations of a run, read from their folders: measures with their floors, protocol cards, tables and pictures."""

import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import yaml

from models.evaluation.measure_names import (
    BETTER,
    MEANINGS,
    format_measurement,
    kind_of,
    short_names,
    space_of,
)

OVER_FLOOR = re.compile(r"^\s*fd / floor\s+([0-9.]+)", re.MULTILINE)
EVALUATION_PICTURES = ("samples", "nearest", "farthest", "closest_pairs", "confusion", "checkpoints")
FOLDER_REPORTS = ("report.json", "metrics.json")  # Other reports lie directly in evaluation/.
MOST = 30  # Largest number of evaluations, and of comparisons, on a page.
LONGEST = 20_000  # Characters of a text table that are shown.
SafeDumper = getattr(yaml, "CSafeDumper", yaml.SafeDumper)  # CSafeDumper is faster, but missing in some builds.
# Errors that a damaged file can cause when it is read.
UNREADABLE = (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError)


@dataclass(frozen=True)
class Measure:
    """A measure of an evaluation. name: e.g. fd_convnet_c076aadd. value, low, high: None if undefined."""

    name: str
    label: str
    value: float | None
    low: float | None
    high: float | None
    shown: str
    floor: str
    better: str
    meaning: str


@dataclass(frozen=True)
class Evaluated:
    """An evaluation. title: what was measured. table: text for evaluations without measures.

    card: protocol and samples as YAML. over_floor: Frechet distance divided by its floor, None if the report lacks this
    ratio. protocol: settings of the evaluation. Evaluations with equal protocols can be compared.
    """

    path: Path
    task: str
    title: str
    measures: list[Measure] = field(default_factory=list)
    table: str = ""
    card: str = ""
    warnings: list[str] = field(default_factory=list)
    pictures: list[Path] = field(default_factory=list)
    over_floor: float | None = None
    protocol: dict[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Date, time and kind, e.g. 20260208_143052-loss."""
        return self.path.parent.name if self.path.name in FOLDER_REPORTS else self.path.stem

    @property
    def comparable(self) -> str:
        """The protocol as one text. It is equal for evaluations that can be compared."""
        return json.dumps(self.protocol, sort_keys=True)

    @property
    def recognised(self) -> Measure | None:
        """Share of images that the first classifier recognises, None if it was not measured."""
        return next((measure for measure in self.measures if kind_of(measure.name) == "recognised"), None)


def read_evaluations(run: Path, notes: list[str]) -> list[Evaluated]:
    """Return the newest evaluations of a run: first those of samples, then the others.

    Evaluations that cannot be read, or are left out because there are many, are noted in `notes`.
    """
    paths = [*run.glob("evaluation/*/report.json"), *run.glob("evaluation/*.json"), *run.glob("*/*/metrics.json")]
    newest_first = sorted(paths, key=lambda path: path.relative_to(run).as_posix(), reverse=True)
    if len(paths) > MOST:
        notes.append(f"{len(paths) - MOST} of {len(paths)} evaluations, the oldest ones")
    return sorted(_readable(newest_first[:MOST], notes), key=lambda evaluated: evaluated.task != "samples")


def _readable(paths: list[Path], notes: list[str]) -> Iterator[Evaluated]:
    for path in paths:
        if any(part.startswith(".") for part in path.parts[-3:]):
            continue  # An evaluation that is still being written.
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            yield _evaluation(path, content)
        except UNREADABLE as error:
            name = f"{path.parent.name}/{path.name}"
            notes.append(f"{name} cannot be read: {type(error).__name__}: {' '.join(str(error).split())[:200]}")


def _evaluation(path: Path, content: Mapping[str, Any]) -> Evaluated:
    task = str(content.get("task", "reconstruction"))
    beside = {kind: path.with_suffix(f".{kind}") for kind in ("txt", "png")}
    if path.name in FOLDER_REPORTS:
        tables = (path.parent / name for name in ("table.txt", "report.txt", "metrics.txt"))
        beside["txt"] = next((table for table in tables if table.is_file()), path)
        pictures = [path.parent / f"{name}.png" for name in EVALUATION_PICTURES]
        if task == "reconstruction":
            pictures = sorted(path.parent.glob("*.png"))
    else:
        pictures = [beside["png"]]
    text = beside["txt"].read_text(encoding="utf-8", errors="replace")[:LONGEST] if beside["txt"] != path else ""
    pictures = [picture for picture in pictures if picture.is_file()]
    warnings = [str(warning) for warning in content.get("warnings", ())]
    protocol = content.get("protocol", {})
    parts = {key: content[key] for key in ("protocol", "samples") if key in content}
    card = yaml.dump(parts, Dumper=SafeDumper, sort_keys=False)
    if task != "samples":
        return Evaluated(path, task, task, [], text.partition("\n\nprotocol\n")[0], card, warnings, pictures)
    ratio = OVER_FLOOR.search(text)
    samples = content.get("samples", {})
    title = text.partition("\n")[0] or f"{protocol.get('images')} images"
    return Evaluated(
        path,
        task,
        title.removeprefix(f"{samples.get('run')}, "),
        _measures(content["results"]),
        "",
        card,
        warnings,
        pictures,
        float(ratio[1]) if ratio else None,
        _comparable(protocol),
    )


def _comparable(protocol: Mapping[str, Any]) -> dict[str, str]:
    """Return the settings that must be equal. Hashes of contents replace hashes that include the names of files."""
    replaced = {key.replace("_contents", "_sha256") for key in map(str, protocol) if key.endswith("_contents")}
    return {str(key): str(value) for key, value in protocol.items() if str(key) not in replaced}


def _measures(results: Mapping[str, Any]) -> list[Measure]:
    labels, measures = labels_of(results), []
    for name, row in results.items():
        kind, found = kind_of(name), measured(row["found"])
        ends = (found.value, found.low, found.high)
        value, low, high = (number if math.isfinite(number) else None for number in ends)
        floor = format_measurement(name, measured(row.get("floor")))
        shown = format_measurement(name, found)
        measures.append(Measure(name, labels[name], value, low, high, shown, floor, BETTER[kind], MEANINGS[kind]))
    return measures


def labels_of(names: Iterable[str]) -> dict[str, str]:
    """Return a label for each measure's name, e.g. "fd in convnet". Raises ValueError for an unknown measure."""
    spaces = short_names(map(space_of, names))
    return {name: f"{kind_of(name)} in {space}" if (space := spaces[space_of(name)]) else name for name in names}


def measured(row: Mapping[str, float | None] | None) -> Any:
    """Return a row of a report (a value with its interval) as a measurement. Undefined numbers become NaN."""
    if row is None:
        return None
    return SimpleNamespace(**{key: math.nan if row[key] is None else row[key] for key in ("value", "low", "high")})
