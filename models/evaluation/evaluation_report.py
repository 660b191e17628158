"""The report of an evaluation: report.json for programs, report.txt for people, and pictures."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
import yaml
from torch import Tensor

from models.drawing import image_files, sheets
from models.drawing.confusion_matrix import draw_confusion_matrix
from models.drawing.lettering import class_titles
from models.evaluation.evaluation import Evaluation
from models.evaluation.image_sets import sha256_of
from models.evaluation.measure_names import (
    AS_FLOOR,
    BETTER,
    MEANINGS,
    REPORT,
    for_json,
    format_measurement,
    kind_of,
    short_names,
    space_of,
)
from models.evaluation.text_tables import text_table
from models.runs.files import write_text

RESAMPLED = "resampled.safetensors"  # File with the values of the measures in all resamples.
SHOWN, EXTREMES, PAIRS = 100, 30, 24


def write_evaluation(evaluation: Evaluation, folder: Path, picture_format: str = "png") -> None:
    """Write report.json, report.txt, the resampled values and the pictures into a folder."""
    samples, measurements = evaluation.samples, evaluation.measurements
    labels = samples.labels
    card = {
        "protocol": evaluation.protocol.card(len(samples.images)),
        "samples": {
            **samples.card,
            "images_sha256": sha256_of(samples.images),
            "labels_sha256": None if labels is None else sha256_of(labels),
            "images_of_each_class": None if labels is None else torch.bincount(labels).tolist(),
        },
        "versions": {"torch": str(torch.__version__), "numpy": np.__version__},
    }
    results = {
        name: {"found": for_json(measurement), "floor": for_json(evaluation.floors.get(name))}
        for name, measurement in measurements.items()
    }
    content: dict[str, Any] = {"task": "samples", **card, "results": results, "warnings": evaluation.warnings}
    if evaluation.confusion is not None:
        content["confusion"] = evaluation.confusion.tolist()
    write_text(folder / REPORT, json.dumps(content, indent=2, allow_nan=False) + "\n")
    tensors = {name: measurement.resampled for name, measurement in measurements.items()}
    resampled = {name: tensor.contiguous() for name, tensor in tensors.items() if tensor is not None}
    (folder / RESAMPLED).write_bytes(safetensors.torch.save(resampled))
    cards = yaml.safe_dump(card, sort_keys=False, allow_unicode=True)
    write_text(folder / "report.txt", f"{evaluation_table(evaluation)}\n\n{cards}")
    _draw_samples(evaluation, folder / f"samples.{picture_format}")
    _draw_extremes(evaluation, folder, picture_format)
    _draw_pairs(evaluation, folder / f"closest_pairs.{picture_format}")
    if evaluation.confusion is not None:
        names = evaluation.protocol.real.class_names
        path = folder / f"confusion.{picture_format}"
        draw_confusion_matrix(evaluation.confusion.numpy(), names, path, samples.title)


def evaluation_table(evaluation: Evaluation) -> str:
    """Return the table of the measures with their floors, the warnings, and the meanings of the measures.

    Feature networks are named without their hashes where that is unambiguous. The protocol contains the full names.
    """
    count = len(evaluation.samples.images)
    floor_count = min(count, len(evaluation.protocol.real.test))
    spaces = short_names(map(space_of, evaluation.measurements))
    rows, space = [], ""
    for name, measurement in evaluation.measurements.items():
        if (within := spaces[space_of(name)]) != space:
            rows.append((f"in {within}" if within else "", "", "", ""))
        space, kind, indent = within, kind_of(name), "  " if within else ""
        values = (format_measurement(name, number) for number in (measurement, evaluation.floors.get(name)))
        rows.append((f"{indent}{kind}", *values, BETTER[kind]))
        if ratio := _ratio(evaluation, name):
            rows.append((f"{indent}{kind} / floor", ratio, "", BETTER[kind]))
    headings = ("", f"{count} images", f"floor: {floor_count} test images", "better")
    parts = [evaluation.samples.title, text_table(rows, headings)]
    if evaluation.warnings:
        parts.append("\n".join(f"warning: {warning}" for warning in evaluation.warnings))
    kinds = dict.fromkeys(map(kind_of, evaluation.measurements))
    meanings = {
        **{kind: MEANINGS[kind] for kind in kinds},
        AS_FLOOR: "the nearer to the value of real images, the better",
    }
    parts.append(text_table(meanings.items()))
    return "\n\n".join(parts)


def _ratio(evaluation: Evaluation, name: str) -> str:
    """Return the ratio of a Frechet distance to its floor, or an empty string if they cannot be compared."""
    floor = evaluation.floors.get(name)
    if kind_of(name) != "fd" or floor is None or floor.value <= 0 or name in evaluation.without_ratio:
        return ""
    return f"{evaluation.measurements[name].value / floor.value:.2f}"


def _draw_samples(evaluation: Evaluation, path: Path) -> None:
    """Draw up to SHOWN samples. The classes take turns, and headings or captions name them."""
    samples, names = evaluation.samples, evaluation.protocol.real.class_names
    numbers = torch.arange(len(samples.images))
    rows = _classes_in_turn(samples.labels, numbers, numbers if samples.labels is None else samples.labels)[:SHOWN]
    labels = [] if samples.labels is None else samples.labels[rows].tolist()
    present = sorted(set(labels))
    in_turn = labels == [present[index % len(present)] for index in range(len(labels))]
    turns = class_titles(names, present if in_turn else labels)
    title = f"{samples.title} ({len(rows)} of {len(samples.images)})"
    image_files.save_image(sheets.sample_sheet(samples.images[rows], turns, title), path)


def _draw_extremes(evaluation: Evaluation, folder: Path, picture_format: str) -> None:
    if evaluation.remoteness is None:
        return
    samples, order = evaluation.samples, evaluation.remoteness.argsort()
    for word, rows in (("nearest to", order[:EXTREMES]), ("farthest from", order.flip(0)[:EXTREMES])):
        title = f"{samples.title}: the {len(rows)} {word} training images in features"
        path = folder / f"{word.split()[0]}.{picture_format}"
        image_files.save_image(sheets.grid(samples.images[rows], 10, title=title), path)


def _draw_pairs(evaluation: Evaluation, path: Path) -> None:
    """Draw the samples that are nearest to a training image in pixels, each beside that image."""
    if evaluation.pixels is None:
        return
    samples, distances = evaluation.samples, evaluation.pixels.distances
    # The classes take turns, because all closest pairs would otherwise be of the simplest class.
    rows = _classes_in_turn(samples.labels, distances, distances)[:PAIRS]
    partners = evaluation.protocol.real.train.images[evaluation.pixels.nearest[rows]]
    title = f"{samples.title}: closest pairs in pixels, each with its training image to the right"
    image_files.save_image(sheets.pairs(samples.images[rows], partners, 6, title), path)


def _classes_in_turn(labels: Tensor | None, values: Tensor, order_in_turn: Tensor) -> Tensor:
    """Return the order of rows in which each turn takes one image of every class.

    Within a class, images with smaller `values` (N,) come first. Within a turn, images are sorted by `order_in_turn`.
    """
    labels = torch.zeros(len(values)) if labels is None else labels
    turns = torch.empty(len(values), dtype=torch.int64)
    for label in labels.unique():
        rows = (labels == label).nonzero()[:, 0]
        turns[rows[values[rows].argsort(stable=True)]] = torch.arange(len(rows))
    order = order_in_turn.argsort(stable=True)
    return order[turns[order].argsort(stable=True)]
