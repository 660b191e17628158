"""The work of `evaluate --every_checkpoint`: measure every checkpoint with raw and with EMA weights."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
import yaml
from torch import Tensor

from models.drawing import curves
from models.errors import UserError
from models.evaluation.classifier import Classifier
from models.evaluation.distances import Gaussian, gaussian
from models.evaluation.features import Extractor, FeaturesAndLogits
from models.evaluation.images import Images
from models.evaluation.measure_names import (
    BETTER,
    MEANINGS,
    REPORT,
    for_json,
    format_measurement,
    format_value,
    is_share,
    kind_of,
    short_names,
)
from models.evaluation.measures import MeasureSettings, covariance_warnings, measure_frechet
from models.evaluation.noise_loss import noise_losses
from models.evaluation.protocol import Protocol
from models.evaluation.statistics import (
    Measurement,
    mean_measurement,
    refuse_infinite,
    resampled_counts,
    share_measurement,
)
from models.evaluation.text_tables import text_table
from models.generation import Sampling
from models.model import Model, has_raw_weights
from models.runs.files import write_text
from scripts.cli.flags import ModelFlags
from scripts.cli.terminal import tell
from scripts.tasks.extractors import FEATURES_CACHE, find_extractors, real_images
from scripts.tasks.protocol import USUAL_COUNT, load_data_of_run, model_card, stored_facts
from scripts.tasks.samples import draw_samples, labels_as_real
from scripts.tasks.sampling import (
    describe_sampling,
    find_every_checkpoint,
    name_of,
    new_folder,
    open_model,
    open_sampling,
    resolve_model,
    tell_sampling,
)

if TYPE_CHECKING:
    from scripts.cli.evaluation_flags import CheckpointsFlags

NOISE_LOSS = "noise_loss"
HEADINGS = {NOISE_LOSS: "error of the estimated noise", "fd": "distance", "recognised": "recognised, %"}


class _Row(NamedTuple):
    """Measurements, by name, of one checkpoint with raw or EMA weights. samples_card: how the images were generated."""

    step: int
    epoch: float
    weights: str
    path: Path
    measurements: dict[str, Measurement]
    samples_card: dict[str, Any]


def main(flags: CheckpointsFlags) -> None:
    if flags.model.weights != ModelFlags.weights:
        message = f"`weights` {flags.model.weights}: `every_checkpoint` measures raw and EMA weights"
        raise UserError(message, "leave out `weights`")
    flags = replace(flags, model=resolve_model(flags.model))
    paths = find_every_checkpoint(flags.model)
    evaluation = _Evaluation.of(flags, open_model(paths[-1], flags.model), paths[-1])
    with new_folder(flags.out, paths[-1], flags.model.experiments_dir, "evaluation", "checkpoints") as folder:
        report = _Report(evaluation, list(evaluation.measure(paths)))
        report.write(folder)
    tell(report.table())


@dataclass(frozen=True)
class _Evaluation:
    """Settings for all checkpoints. count, labels: number and labels of the images that a checkpoint generates."""

    flags: CheckpointsFlags
    protocol: Protocol
    sampling: Sampling
    count: int
    labels: Sequence[int] | None

    @classmethod
    def of(cls, flags: CheckpointsFlags, model: Model, path: Path) -> _Evaluation:
        """Build the evaluation of a run. path: one of its checkpoints. model: loaded from `path`. Raises UserError."""
        sampling = open_sampling(flags.sampling, flags.model, model)
        dataset = load_data_of_run(path, flags.data)
        if len(dataset.test) < 2:
            raise UserError(f"{dataset.name} has one test image, and its floor needs two")
        count = flags.num_images or min(USUAL_COUNT, len(dataset.test))
        labels = labels_as_real(model, dataset, count)
        experiments, device = Path(flags.model.experiments_dir), torch.device(flags.model.device)
        extractors = find_extractors(flags.extractors, flags.inception_weights, dataset, experiments, device)
        settings = MeasureSettings(draws=flags.draws)
        protocol = Protocol(real_images(dataset), extractors, settings, experiments / FEATURES_CACHE, device)
        tell_sampling(flags.sampling, sampling, model)
        return cls(flags, protocol, sampling, count, labels)

    @cached_property
    def rows(self) -> Tensor:
        """Rows of the test images for the loss and the floor: `count` rows, or all if there are fewer."""
        return self.protocol.floor_rows(self.count)

    @cached_property
    def train(self) -> dict[str, Gaussian]:
        """Moments of the features of all training images, by extractor."""
        extractors = self.protocol.extractors
        return {network.name: gaussian(self.protocol.train_features(network).features) for network in extractors}

    @cached_property
    def warnings(self) -> list[str]:
        widths = {name: len(moments.mean) for name, moments in self.train.items()}
        return [warning for name, width in widths.items() for warning in covariance_warnings(self.count, width, name)]

    def measure(self, paths: Sequence[Path]) -> Iterator[_Row]:
        """Yield two rows per checkpoint: raw weights, then EMA weights. Shipped models have no raw weights."""
        epochs_per_step = stored_facts(paths[-1])["config"]["batch_size"] / len(self.protocol.real.train)
        for path in paths:
            step = stored_facts(path)["step"]
            for weights in ("raw", "ema") if has_raw_weights(path) else ("ema",):
                model, flags = open_model(path, replace(self.flags.model, weights=weights)), self.flags
                samples = draw_samples(model, self.sampling, self.count, self.labels, flags.seed, flags.batch_size)
                compared = self._compare(
                    lambda network, of=samples: self.protocol.sample_features(network, of.images), samples.labels
                )
                # A student is trained at its own noise levels only.
                noise_loss = {} if model.spec.student else {NOISE_LOSS: self._noise_loss(model)}
                measurements = {**noise_loss, **compared}
                values = ", ".join(f"{name} {format_value(name, row.value)}" for name, row in measurements.items())
                tell(f"step {step}, {weights} weights: {values}")
                yield _Row(step, step * epochs_per_step, weights, path, measurements, samples.card)

    def floors(self) -> dict[str, Measurement]:
        """Measure real test images in place of generated ones."""

        def extract(network: Extractor) -> FeaturesAndLogits:
            test = self.protocol.test_features(network)
            return FeaturesAndLogits(test.features[self.rows], test.logits[self.rows])

        labels = None if self.labels is None else self.protocol.real.test.labels[self.rows]
        return self._compare(extract, labels)

    def _noise_loss(self, model: Model) -> Measurement:
        flags, test, device = self.flags, self.protocol.real.test, torch.device(self.flags.model.device)
        losses = []
        for rows in self.rows.split(flags.batch_size):
            clean = model.space.encode(test.images[rows].to(device))
            images = Images(clean, rows.tolist(), flags.seed, model.spec.initial_noise)
            label = test.labels[rows].to(device) if model.spec.classes else None
            losses.append(noise_losses(model.denoiser, model.noise_schedule, images, label)[1].mean(1))
            refuse_infinite(losses[-1])
        settings = self.protocol.settings
        return mean_measurement(torch.cat(losses), resampled_counts(len(self.rows), settings.draws, settings.seed))

    def _compare(
        self, extract: Callable[[Extractor], FeaturesAndLogits], labels: Tensor | None
    ) -> dict[str, Measurement]:
        """Measure images. extract: returns their features and logits. labels: (N,); None for a model without labels."""
        measurements = {}
        for network in self.protocol.extractors:
            output, name = extract(network), network.name
            measurements[f"fd_{name}"] = measure_frechet(output.features, self.train[name], self.protocol.settings)
            if labels is not None and isinstance(network, Classifier):
                measurements[f"recognised_{name}"] = share_measurement(output.predictions == labels)
        return measurements


@dataclass(frozen=True)
class _Report:
    evaluation: _Evaluation
    rows: list[_Row]

    @cached_property
    def floors(self) -> dict[str, Measurement]:
        return self.evaluation.floors()

    @property
    def title(self) -> str:
        evaluation, run = self.evaluation, name_of(self.rows[-1].path)
        return f"{run}: {evaluation.count} images of every checkpoint, {describe_sampling(evaluation.sampling)}"

    def write(self, folder: Path) -> None:
        """Write report.json, table.csv, table.txt and the plot."""
        card, columns = self._card(), self._columns()
        content = {
            "task": "checkpoints",
            **card,
            "floor": {name: for_json(floor) for name, floor in self.floors.items()},
            "warnings": self.evaluation.warnings,
            "checkpoints": [
                {
                    "step": row.step,
                    "epoch": row.epoch,
                    "weights": row.weights,
                    "checkpoint": row.path.name,
                    "checkpoint_sha256": stored_facts(row.path)["sha256"],
                    "results": {name: for_json(measurement) for name, measurement in row.measurements.items()},
                }
                for row in self.rows
            ],
        }
        write_text(folder / REPORT, json.dumps(content, indent=2, allow_nan=False) + "\n")
        card_text = yaml.safe_dump(card, sort_keys=False, allow_unicode=True)
        write_text(folder / "table.txt", f"{self.table()}\n\n{card_text}")
        buffer = io.StringIO()
        writer = csv.DictWriter(buffer, list(columns[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(columns)
        write_text(folder / "table.csv", buffer.getvalue())
        panels = []
        for name in self.rows[0].measurements:
            kind = kind_of(name)
            heading = HEADINGS[kind] + name.removeprefix(kind).replace("_", ", ", 1)
            floor = self.floors[name].value if name in self.floors else None
            panels.append(curves.Panel(name, heading, floor, percent=is_share(name)))
        curves.draw_checkpoint_curves(
            columns, panels, folder / f"checkpoints.{self.evaluation.flags.format}", self.title
        )

    def _card(self) -> dict[str, Any]:
        """Return the protocol and the generation settings. Only reports with equal protocols can be compared."""
        evaluation = self.evaluation
        card = model_card(self.rows[-1].path, evaluation.flags.model)
        for key in ("checkpoint", "checkpoint_sha256", "step", "weights"):
            del card[key]
        protocol = evaluation.protocol.card(evaluation.count)
        if NOISE_LOSS in self.rows[0].measurements:
            images = f"{len(evaluation.rows)} test images, ten times each"
            protocol[NOISE_LOSS] = f"mean squared error of the estimated noise, {images}"
        return {
            "protocol": protocol,
            "samples": {**self.rows[-1].samples_card, **card},
        }

    def _columns(self) -> list[dict[str, Any]]:
        """Return the rows of table.csv: each measure with its interval and its floor."""
        rows = []
        for row in self.rows:
            columns: dict[str, Any] = {"step": row.step, "epoch": round(row.epoch, 3), "weights": row.weights}
            for name, (value, low, high, _) in row.measurements.items():
                columns.update({name: value, f"{name}_low": low, f"{name}_high": high})
                if name in self.floors:
                    columns[f"{name}_floor"] = self.floors[name].value
            rows.append(columns)
        return rows

    def table(self) -> str:
        """Return the table as text: measures with their floors, then their meanings and the warnings."""
        names, evaluation = list(self.rows[0].measurements), self.evaluation
        table = []
        for row in self.rows:
            cells = [format_measurement(name, measurement) for name, measurement in row.measurements.items()]
            table.append((str(row.step), f"{row.epoch:.2f}", row.weights, *cells))
        table.append(("floor", "", "real", *(format_measurement(name, self.floors.get(name)) for name in names)))
        floor = f"{len(evaluation.rows)} real test images in place of the {evaluation.count} generated ones"
        kinds = {kind: f"{MEANINGS[kind]}; {BETTER[kind]} is better" for kind in map(kind_of, names)}
        meanings = {"floor": floor, **kinds}
        short = short_names(names)
        headings = ("step", "epoch", "weights", *(short[name] for name in names))
        parts = [self.title, text_table(table, headings), text_table(meanings.items())]
        if evaluation.warnings:
            parts.append("\n".join(f"warning: {warning}" for warning in evaluation.warnings))
        return "\n\n".join(parts)
