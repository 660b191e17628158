"""The work of `evaluate --task samples`: compare generated images with real ones. Real test images give the floor."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
import yaml

from data import ImageData
from models import devices, processes
from models.errors import UserError
from models.evaluation.evaluation import Evaluation
from models.evaluation.evaluation_report import evaluation_table, write_evaluation
from models.evaluation.features import Extractor
from models.evaluation.image_sets import Samples
from models.evaluation.measures import MeasureSettings
from models.evaluation.protocol import Protocol
from models.generation import choose_labels
from models.runs import checkpoints
from models.runs.files import write_text
from models.runs.status import STATUS
from models.training.interrupts import Interrupts
from scripts.cli.arguments import to_config
from scripts.cli.flags import ModelFlags, SamplerFlags
from scripts.cli.terminal import tell
from scripts.tasks.extractors import FEATURES_CACHE, find_extractors, real_images
from scripts.tasks.protocol import load_data_of_run, model_card
from scripts.tasks.samples import INTERVAL_UNIT, draw_samples, labels_as_real, read_samples, settings_beside
from scripts.tasks.sampling import (
    find_checkpoint,
    new_folder,
    open_model,
    open_sampling,
    read_labels,
    resolve_model,
    tell_sampling,
)
from scripts.tasks.training import load_data

if TYPE_CHECKING:
    from scripts.cli.evaluation_flags import SamplesFlags


def main(flags: SamplesFlags) -> None:
    _check(flags)
    if flags.samples is not None:
        path = Path(flags.samples)
        _measure_file(flags, path / "samples.npz" if (path / "samples.npz").is_file() else path)
    else:
        _measure_run(replace(flags, model=resolve_model(flags.model)))


def _check(flags: SamplesFlags) -> None:
    if flags.num_images and flags.num_images <= flags.k:
        raise UserError(f"`num_images` {flags.num_images}: must be more than `k` {flags.k}, the number of neighbours")
    if flags.samples is None:
        if flags.dataset is not None:
            message = f"`dataset` {flags.dataset}: a run is measured against the data it was trained on"
            raise UserError(message, "leave out `dataset`", "name images with `samples`")
        return
    sampling, usual = to_config(flags.sampling), to_config(SamplerFlags())
    generation = {"run": flags.model.run != ModelFlags.run, "labels": flags.labels is not None}
    generation |= {"checkpoint": flags.model.checkpoint != ModelFlags.checkpoint, "seed": flags.seed != 0}
    generation |= {name: value != usual[name] for name, value in sampling.items()}
    given = next((name for name, is_given in generation.items() if is_given), None)
    if given is not None:
        message = f"`{given}` says how to generate images, and with `samples` none are generated"
        raise UserError(message, f"leave out `{given}`")


def _check_data(flags: SamplesFlags, dataset: ImageData) -> None:
    """Raise UserError if a split is streamed or has at most `k` images. All images must be in memory to be measured."""
    for split in (dataset.train, dataset.test):
        split.in_memory()
    fewest = min(len(dataset.train), len(dataset.test))
    if fewest <= flags.k:
        ways = ["use a smaller `k`"] if fewest > 1 else []
        raise UserError(f"{dataset.name} has a split of {fewest} images, too few for `k` {flags.k}", *ways)


def _measure_run(flags: SamplesFlags) -> None:
    path, device = find_checkpoint(flags.model), torch.device(flags.model.device)
    model = open_model(path, flags.model)
    sampling = open_sampling(flags.sampling, flags.model, model)
    chosen = read_labels(flags.labels, model)
    dataset = load_data_of_run(path, flags.data)
    _check_data(flags, dataset)
    count = flags.num_images or len(dataset.test)
    if chosen.labels is None:
        labels = labels_as_real(model, dataset, count)
    else:
        labels = choose_labels(model, chosen.labels, count)
    draw = partial(draw_samples, model, sampling, count, labels, flags.seed, flags.batch_size)
    if not processes.is_rank_zero():
        draw()
        return
    with new_folder(flags.out, path, flags.model.experiments_dir, "evaluation", "samples") as folder:
        extractors = _extractors(flags, dataset, device)
        tell_sampling(flags.sampling, sampling, model)
        chosen.tell()
        samples = draw()
        card = {**model_card(path, flags.model), **samples.card}
        _write(flags, folder, replace(samples, card=card), dataset, extractors, device)
        _save_npz(samples, folder)
        settings = {
            **to_config(flags),
            "sampler": sampling.sampler,
            "steps": sampling.steps,
            "checkpoint": str(path),
            INTERVAL_UNIT: "flow time",
        }
        settings["labels"] = chosen.labels
        write_text(folder / "config.txt", yaml.safe_dump(settings, sort_keys=False))


def _measure_file(flags: SamplesFlags, path: Path) -> None:
    device = devices.pick_device(flags.model.device)
    devices.prepare_device(device)
    dataset = _data_of(flags, path)
    samples = read_samples(path, flags.num_images or 0, dataset)
    if len(samples.images) <= flags.k:
        message = f"`samples` {path}: {len(samples.images)} images have fewer than {flags.k} neighbours"
        raise UserError(message, "use a smaller `k`")
    _check_data(flags, dataset)
    out = flags.out or str(path.absolute().parent / "evaluation" / f"{datetime.now():%Y%m%d_%H%M%S}-{path.stem}")
    with new_folder(out, path, flags.model.experiments_dir, "evaluation", "samples") as folder:
        extractors = _extractors(flags, dataset, device)
        _write(flags, folder, samples, dataset, extractors, device)


def _data_of(flags: SamplesFlags, path: Path) -> ImageData:
    """Load the data set to compare with a file of samples: --dataset, or the data of the run that generated them."""
    if flags.dataset is not None:
        return load_data(flags, flags.model.experiments_dir)
    settings = settings_beside(path)
    several = settings.get("checkpoints")
    for checkpoint in (settings.get("checkpoint"), *(several if isinstance(several, list) else ())):
        if isinstance(checkpoint, str) and Path(checkpoint).is_file():
            return load_data_of_run(Path(checkpoint), flags.data)
    around = path.absolute().parent
    if (around / STATUS).is_file():  # samples that a run drew when it ended
        return load_data_of_run(checkpoints.resolve_checkpoint(around), flags.data)
    raise UserError(f"`samples` {path}: the run that generated them is not found", "name their data set with `dataset`")


def _extractors(flags: SamplesFlags, dataset: ImageData, device: torch.device) -> list[Extractor]:
    experiments, names = Path(flags.model.experiments_dir), flags.extractors
    if names is None and not dataset.class_names:
        return []
    return find_extractors(names or ("convnet",), flags.inception_weights, dataset, experiments, device)


def _write(
    flags: SamplesFlags,
    folder: Path,
    samples: Samples,
    dataset: ImageData,
    extractors: Sequence[Extractor],
    device: torch.device,
) -> None:
    settings = MeasureSettings(flags.k, flags.draws, extrapolate=flags.extrapolate)
    cache = Path(flags.model.experiments_dir) / FEATURES_CACHE
    protocol = Protocol(real_images(dataset), extractors, settings, cache, device)
    with Interrupts(at_once=True):
        evaluation = Evaluation(protocol, samples)
        evaluation.measure(flags.classification_accuracy)
        write_evaluation(evaluation, folder, flags.format)
    tell(evaluation_table(evaluation))


def _save_npz(samples: Samples, folder: Path) -> None:
    """Save the images in the format of `generate`, so that they can be measured again."""
    labels = {} if samples.labels is None else {"arr_1": samples.labels.numpy()}
    np.savez(folder / "samples.npz", allow_pickle=False, arr_0=samples.images.permute(0, 2, 3, 1).numpy(), **labels)
