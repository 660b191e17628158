"""Results of a study, read from the folders of its cells: tables, comparisons, study.json, a plot and a sheet."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.drawing import image_files, sheets
from models.drawing.study_plots import StudyPanel, draw_study
from models.evaluation.comparisons import Comparison, compare_with_reference, power
from models.evaluation.measure_names import kind_of, short_names, space_of
from models.evaluation.text_tables import text_table
from models.report.studies import PLOT, RESULTS, SHEET, TABLE
from models.runs.files import write_text
from scripts.tasks.study_cells import RUNS, finished_runs, report_of
from scripts.tasks.study_plan import Study, as_yaml

KINDS = {"fd": "distance / floor", "recognised": "recognised, %", "recall": "recall, %"}
DEVIATIONS = (3, 4, 6)  # Differences, in standard deviations of the residuals, for which the table gives the power.
SHOWN = 20  # Images of each cell on the sheet.


@dataclass(frozen=True)
class StudyMeasure:
    """A measure of all cells. values: (cells, seeds), NaN where a cell has failed.

    ratio: True for distances divided by the distance of real test images. They are compared by their ratios, because
    their deviation grows with their mean. Other values are percentages, and are compared by their differences.
    """

    name: str
    values: NDArray[np.float64]
    ratio: bool
    floor: float | None = None

    @property
    def heading(self) -> str:
        return f"{KINDS[kind_of(self.name)]}, {space_of(self.name)}".removesuffix(", ")

    @property
    def means(self) -> NDArray[np.float64]:
        """Mean over the seeds of each cell: geometric for ratios."""
        counts = np.isfinite(self.values).sum(1)
        sums = np.nansum(self._linear, axis=1)
        return self.back(np.divide(sums, counts, out=np.full(len(sums), math.nan), where=counts > 0))

    @cached_property
    def comparison(self) -> Comparison:
        return compare_with_reference(self._linear)

    @property
    def differs(self) -> list[bool]:
        """True for each cell that differs significantly from the reference."""
        return [difference is not None and difference.significant for difference in self.comparison.differences]

    @property
    def intervals(self) -> NDArray[np.float64]:
        """95 % intervals (cells, 2) of the differences, added to the reference's mean like `adjusted`; NaN if none."""
        differences = self.comparison.differences
        return self._from_reference([(math.nan, math.nan) if row is None else row[1:3] for row in differences])

    @property
    def adjusted(self) -> NDArray[np.float64]:
        """The reference's mean plus each difference, or times it for ratios. Without missing seeds, these are `means`.

        Cells that are not compared have their own mean.
        """
        shifted = self._from_reference([math.nan if row is None else row.value for row in self.comparison.differences])
        return np.where(np.isfinite(shifted), shifted, self.means)

    def _from_reference(self, differences: Sequence[Any]) -> NDArray[np.float64]:
        mean, shift = self.means[self.comparison.reference], self.back(np.array(differences))
        return np.asarray(mean * shift if self.ratio else mean + shift)

    @property
    def _linear(self) -> NDArray[np.float64]:
        return np.log(self.values) if self.ratio else self.values

    def back(self, values: Any) -> Any:
        """Undo `_linear`: return exp(values) for a ratio, otherwise the values."""
        return np.exp(values) if self.ratio else values


def collect(study: Study, reports: Sequence[tuple[int, int, dict[str, Any]]]) -> list[StudyMeasure]:
    """Return the measures in the reports of `read_reports`. A measure that no cell has is left out."""
    rows: dict[str, NDArray[np.float64]] = {}
    floors: dict[str, float] = {}
    shape = len(study.cells), len(study.seeds)
    short = short_names(name for _, _, report in reports for name in report["results"])
    for index, column, report in reports:
        for name, result in report["results"].items():
            kind, value = kind_of(name), result["found"]["value"]
            floor = (result["floor"] or {}).get("value")
            if kind not in KINDS or value is None or (kind == "fd" and not floor):
                continue
            value = value / floor if kind == "fd" else 100 * value
            rows.setdefault(short[name], np.full(shape, math.nan))[index, column] = value
            if floor is not None:
                floors[short[name]] = 1.0 if kind == "fd" else 100 * floor
    order = sorted(rows, key=lambda name: list(KINDS).index(kind_of(name)))
    return [StudyMeasure(name, rows[name], kind_of(name) == "fd", floors.get(name)) for name in order]


def read_reports(study: Study, finished: Mapping[str, Path]) -> list[tuple[int, int, dict[str, Any]]]:
    """Return (index of the cell, index of the seed, report) for each evaluation that is done.

    finished: from `finished_runs`.
    """
    reports = []
    for index, cell in enumerate(study.cells):
        for column, seed in enumerate(study.seeds):
            run = finished.get(study.training(cell, seed).key)
            if run is not None and (path := report_of(run, cell)).is_file():
                reports.append((index, column, json.loads(path.read_text(encoding="utf-8"))))
    return reports


def study_table(
    study: Study,
    measures: Sequence[StudyMeasure],
    failures: Mapping[str, str],
    warnings: Iterable[str] = (),
    missing: int = 0,
) -> str:
    """Return the tables of all measures, their statistical power, and the trainings that failed.

    missing: number of evaluations that are not done.
    """
    cells, seeds = len(study.cells), len(study.seeds)
    head = f"{study.question}\n{_describe(study)}"
    head += f"\n{cells * seeds - missing} of {cells * seeds} evaluations are done" * (missing > 0)
    parts = [head, *(_measure_table(study, measure) for measure in measures)]
    if seeds > 1 and cells > 1 and measures:
        chances = (f"{deviations}: {100 * power(cells, seeds, deviations):.0f} %" for deviations in DEVIATIONS)
        parts.append(
            "*: differs from the reference, with Holm's correction for all differences of the table. Each interval\n"
            "alone has at least 95 % confidence. Cells are paired by seed; the deviation of the paired residuals is\n"
            "pooled over all cells. Probability to find a true difference, by its size in deviations, if no training\n"
            f"fails: {', '.join(chances)}."
        )
    elif seeds == 1:
        parts.append("One seed: differences have no intervals.")
    names = {training.key: training.name for training in study.trainings()}
    parts += [f"warning: {warning}" for warning in warnings]
    if failures:
        parts.append("\n".join(f"failed: {names[key]}: {reason}" for key, reason in failures.items()))
    return "\n\n".join(parts)


def _describe(study: Study) -> str:
    seeds = f"{len(study.seeds)} seeds" if len(study.seeds) > 1 else "one seed"
    return f"recipe {study.recipe}, {study.images:,} training images a cell, {seeds}, {study.num_images:,} samples each"


def _measure_table(study: Study, measure: StudyMeasure) -> str:
    comparison, rows = measure.comparison, []
    for index, cell in enumerate(study.cells):
        values = measure.values[index][np.isfinite(measure.values[index])]
        spread = f"± {values.std(ddof=1):.3g}" if len(values) > 1 else ""
        difference = comparison.differences[index]
        if not len(values):
            cells = ("none", "", "")
        elif index == comparison.reference:
            cells = (f"{measure.means[index]:.4g}", spread, "reference")
        else:
            cells = (f"{measure.means[index]:.4g}", spread, "" if difference is None else _shown(measure, difference))
        rows.append((cell.name, *cells))
    floor = "" if measure.floor is None else f"; real test images: {measure.floor:.4g}"
    better = "lower" if measure.ratio else "higher"
    compared = "ratio" if measure.ratio else "difference"
    one = len(study.seeds) == 1
    headings = (measure.heading, *(("value", "", compared) if one else ("mean", "over seeds", f"{compared} [95 %]")))
    lines = [text_table(rows, headings, right=(1,)), f"{better} is better{floor}"]
    if comparison.detectable is not None:
        least = comparison.detectable
        seen = f"a factor of {_ratio(least)}" if measure.ratio else f"a difference of {least:.3g} points"
        degrees = f"{comparison.degrees} degree{'s' * (comparison.degrees > 1)} of freedom"
        deviation = _deviation(measure, comparison.deviation)
        lines.append(f"paired residuals deviate by {deviation} ({degrees}); 4 of 5 studies would find {seen} or more")
    return "\n".join(lines)


def _ratio(logarithm: float) -> str:
    """Return a ratio above 1 as text: two significant digits of ratio - 1, e.g. 1.00034, and at least two decimals.

    logarithm: natural logarithm of the ratio, above 0.
    """
    digits = max(2, 1 - math.floor(math.log10(math.expm1(logarithm))))
    return f"{math.exp(logarithm):.{digits}f}"


def _deviation(measure: StudyMeasure, deviation: float) -> str:
    return f"{100 * deviation:.2g} %" if measure.ratio else f"{deviation:.2g} points"


def _shown(measure: StudyMeasure, difference: Any) -> str:
    value, low, high = map(measure.back, difference[:3])
    form = ".3f" if measure.ratio else "+.2f"
    interval = f" [{low:{form}}, {high:{form}}]" if math.isfinite(low) else ""
    return f"{value:{form}}{interval}{' *' * difference.significant}"


def write_tables(folder: Path, study: Study, failures: Mapping[str, str]) -> tuple[list[StudyMeasure], str]:
    """Write the table and study.json of all results so far. Return the measures and the table.

    failures: reason of each training that has failed, by its key.
    """
    finished = finished_runs(folder)
    reports = read_reports(study, finished)
    measures = collect(study, reports)
    warnings = dict.fromkeys(text for *_, report in reports for text in report.get("warnings", ()))
    missing = len(study.cells) * len(study.seeds) - len(reports)
    table = study_table(study, measures, failures, warnings, missing)
    write_text(folder / TABLE, f"{table}\n")
    write_text(
        folder / RESULTS, json.dumps(_content(study, folder.name, finished, measures, failures), indent=2) + "\n"
    )
    return measures, table


def draw_study_pictures(folder: Path, study: Study, measures: Sequence[StudyMeasure]) -> None:
    """Draw the plot of the measures and the sheet of samples."""
    if measures:
        panels = [
            StudyPanel(row.heading, row.values, row.adjusted, row.differs, row.intervals, row.floor, row.ratio)
            for row in measures
        ]
        draw_study([cell.labels for cell in study.cells], panels, folder / PLOT, study.question)
    draw_study_samples(study, folder)


def _content(
    study: Study,
    name: str,
    finished: Mapping[str, Path],
    measures: Sequence[StudyMeasure],
    failures: Mapping[str, str],
) -> dict[str, Any]:
    """Return study.json: the study, its cells with their runs, and the measures with their comparisons."""
    trainings = []
    for training, cells in study.trainings().items():
        run = finished.get(training.key)
        place = None if run is None else str(Path(RUNS, run.name))
        names = [cell.name for cell in cells]
        trainings.append({"cells": names, "seed": training.seed, "run": place, "failure": failures.get(training.key)})
    return {
        "study": name,
        "definition": as_yaml(study),
        "trainings": trainings,
        "measures": [_measure_content(study, measure) for measure in measures],
    }


def _measure_content(study: Study, measure: StudyMeasure) -> dict[str, Any]:
    comparison, rows = measure.comparison, []
    for index, cell in enumerate(study.cells):
        difference = comparison.differences[index]
        compared = None
        if difference is not None and math.isfinite(difference.low):
            numbers = [float(measure.back(number)) for number in difference[:3]]
            compared = dict(zip(("value", "low", "high"), numbers, strict=True)) | {"p": difference.p}
        row: dict[str, Any] = {"cell": cell.name, "values": [_finite(value) for value in measure.values[index]]}
        rows.append(
            row | {"mean": _finite(measure.means[index]), "compared": compared, "differs": measure.differs[index]}
        )
    return {
        "measure": measure.name,
        "heading": measure.heading,
        "floor": measure.floor,
        "compared_by": "ratio" if measure.ratio else "difference",
        "deviation": _finite(comparison.deviation),
        "degrees": comparison.degrees,
        "detectable": comparison.detectable,
        "rows": rows,
    }


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def draw_study_samples(study: Study, folder: Path) -> None:
    """Draw a row of images for each cell that has images of the first seed. All rows have the same noise and labels."""
    seed, rows, finished = study.seeds[0], {}, finished_runs(folder)
    for cell in study.cells:
        run = finished.get(study.training(cell, seed).key)
        path = run and report_of(run, cell).with_name("samples.npz")
        if path and path.is_file():
            with np.load(path, allow_pickle=False) as content:
                rows[cell.name] = content["arr_0"][:SHOWN].transpose(0, 3, 1, 2)
    if rows:
        import torch

        first = next(iter(rows.values())).shape
        shown = {name: images for name, images in rows.items() if images.shape == first}
        images = torch.from_numpy(np.concatenate(list(shown.values())))
        title = f"{study.question} Seed {seed}, the same noise in every row"
        title += "; cells with images of another size are left out" * (len(shown) < len(rows))
        columns = len(images) // len(shown)
        image_files.save_image(sheets.grid(images, columns, title=title, row_titles=list(shown)), folder / SHEET)
