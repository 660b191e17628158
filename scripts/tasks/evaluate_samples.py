"""`evaluate`: how far generated images are from real ones, with intervals, and beside them how far real ones are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Annotated, Any, ClassVar

import numpy as np
import torch
import tyro
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
from models.runs.files import write_text
from models.training.interrupts import Interrupts
from models.variants import DATA_SETS
from scripts.cli.arguments import check_positive, parse_flags, to_config
from scripts.cli.flags import CodingFlags, ModelFlags, SamplerFlags, SourceFlags, one_of
from scripts.cli.terminal import tell
from scripts.tasks.extractors import FEATURES_CACHE, find_extractors, real_images
from scripts.tasks.protocol import load_data_of_run, model_card
from scripts.tasks.samples import INTERVAL_UNIT, draw_samples, labels_as_real, read_samples, settings_beside
from scripts.tasks.sampling import find_checkpoint, new_folder, open_model, open_sampling, resolve_model
from scripts.tasks.training import load_data as load_named
from scripts.tasks.training import one_loads_first

DESCRIPTION = "Measure generated images against real ones. Prints the folder of what it wrote."


@dataclass(frozen=True)
class SamplesFlags:
    """Settings of `evaluate --task samples`."""

    variants: ClassVar = CodingFlags.variants

    task: str = "samples"
    """This task. Others: bayes, accuracy of the model as a classifier; loss, error of the estimated noise by t;
    likelihood, bits per dimension of test images. --task NAME --help lists their flags. --compare A B sets two
    evaluations of samples side by side; --every_checkpoint measures all checkpoints of a run."""
    model: tyro.conf.OmitArgPrefixes[ModelFlags] = field(default_factory=ModelFlags)
    samples: str | None = None
    """Measure these images instead of generating some: a samples.npz, or a folder or zip of pictures."""
    dataset: Annotated[str | None, one_of(DATA_SETS.names())] = None
    """What --samples are to be like. Default: the data of the run that generated them, where that is known."""
    dataset_options: Annotated[Any, tyro.conf.arg(name="dataset")] = None
    data: tyro.conf.OmitArgPrefixes[SourceFlags] = field(default_factory=SourceFlags)
    num_images: int | None = None
    """How many images. Default, and for 0: as many as the data set has test images; all of --samples."""
    labels: tuple[int, ...] | None = None
    """Classes to generate, in turn. Default: each as often as among the training images, against which these are
    measured."""
    sampling: tyro.conf.OmitArgPrefixes[SamplerFlags] = field(default_factory=SamplerFlags)
    extractors: tuple[str, ...] | None = None
    """Networks in whose features images are compared: convnet, resnet (of the data set), inception, or the
    .safetensors file of train_classifier. Default: convnet; none where the data set has no classes."""
    inception_weights: str | None = None
    """File of torch-fidelity's weights for inception. Default: its own download."""
    k: int = 5
    """Nearest neighbours of precision, recall, density and coverage."""
    draws: int = 100
    """Resamples for the intervals."""
    extrapolate: bool = False
    """Also what the Frechet distance tends to with ever more images: a line in 1 / n."""
    classification_accuracy: bool = False
    """Also the classification accuracy score: a classifier trained on the samples and one trained on as many real
    images, both tested on real ones. Takes a minute or more."""
    seed: int = 0
    """Each image depends on the seed and its number alone; two models with one seed are compared image by image."""
    batch_size: int = 256
    """Images generated at a time; changes nothing else."""
    out: str | None = None
    """Folder to write; it must be new or empty. Default: a new one in the run's evaluation/, or beside --samples."""


def main(argv: list[str]) -> None:
    flags = parse_flags(argv, SamplesFlags(), "evaluate", DESCRIPTION)
    _check(flags)
    if flags.samples is not None:
        path = Path(flags.samples)
        _measure_file(flags, path / "samples.npz" if (path / "samples.npz").is_file() else path)
    else:
        _measure_run(replace(flags, model=resolve_model(flags.model)))


def _check(flags: SamplesFlags) -> None:
    check_positive(flags, "k", "batch_size")
    if flags.draws < 10:
        raise UserError(f"--draws {flags.draws}: takes 10 or more")
    if flags.num_images and flags.num_images <= flags.k:
        raise UserError(f"--num_images {flags.num_images}: takes more than the --k {flags.k} nearest neighbours")
    if flags.samples is None and flags.dataset is not None:
        raise UserError("--dataset goes with --samples: a run is measured against the data it was trained on")
    of_run = {"run": flags.model.run != ModelFlags.run, "labels": flags.labels is not None}
    of_run |= {"checkpoint": flags.model.checkpoint != ModelFlags.checkpoint, "seed": flags.seed != 0}
    sampling, usual = to_config(flags.sampling), to_config(SamplerFlags())
    of_run |= {name: value != usual[name] for name, value in sampling.items()}
    given = [name for name, is_given in of_run.items() if is_given]
    if flags.samples is not None and given:
        raise UserError(f"--{given[0]} says how to generate images: it does not go with --samples")


def _check_data(flags: SamplesFlags, dataset: ImageData) -> None:
    """Images are compared with all training images, and as many test images, at once."""
    for split in (dataset.train, dataset.test):
        split.in_memory()
    fewest = min(len(dataset.train), len(dataset.test))
    if fewest <= flags.k:
        raise UserError(f"--k {flags.k}: {dataset.name} has a split of {fewest} images, which takes a smaller one")


def _measure_run(flags: SamplesFlags) -> None:
    path, device = find_checkpoint(flags.model), torch.device(flags.model.device)
    model = open_model(path, flags.model)
    sampling = open_sampling(flags.sampling, flags.model, model)
    with one_loads_first():
        dataset = load_data_of_run(path, flags.data)
    _check_data(flags, dataset)
    count = flags.num_images or len(dataset.test)
    if flags.labels is None:
        labels = labels_as_real(model, dataset, count)
    else:
        labels = choose_labels(model, flags.labels, count)
    draw = partial(draw_samples, model, sampling, count, labels, flags.seed, flags.batch_size)
    if not processes.is_rank_zero():
        draw()
        return
    with new_folder(flags.out, path, "evaluation", "samples") as folder:
        extractors = _extractors(flags, dataset, device)
        samples = draw()
        card = {**model_card(path, flags.model), **samples.card}
        _write(flags, folder, replace(samples, card=card), dataset, extractors)
        _keep(samples, folder)
        settings = {**to_config(flags), "steps": sampling.steps, "checkpoint": str(path), INTERVAL_UNIT: "flow time"}
        write_text(folder / "config.txt", yaml.safe_dump(settings, sort_keys=False))


def _measure_file(flags: SamplesFlags, path: Path) -> None:
    device = devices.pick_device(flags.model.device)
    devices.prepare_device(device)
    dataset = _data_of(flags, path)
    samples = read_samples(path, flags.num_images or 0, dataset)
    if len(samples.images) <= flags.k:
        raise UserError(f"--samples {path}: {len(samples.images)} images have fewer than {flags.k} neighbours; see --k")
    _check_data(flags, dataset)
    out = flags.out or str(path.absolute().parent / "evaluation" / f"{datetime.now():%Y%m%d_%H%M%S}-{path.stem}")
    with new_folder(out, path, "evaluation", "samples") as folder:
        extractors = _extractors(flags, dataset, device)
        _write(flags, folder, samples, dataset, extractors)


def _data_of(flags: SamplesFlags, path: Path) -> ImageData:
    if flags.dataset is not None:
        return load_named(flags)
    settings = settings_beside(path)
    several = settings.get("checkpoints")
    for checkpoint in (settings.get("checkpoint"), *(several if isinstance(several, list) else ())):
        if isinstance(checkpoint, str) and Path(checkpoint).is_file():
            return load_data_of_run(Path(checkpoint), flags.data)
    raise UserError(f"--samples {path}: say what they are to be like with --dataset")


def _extractors(flags: SamplesFlags, dataset: ImageData, device: torch.device) -> list[Extractor]:
    experiments, words = Path(flags.model.experiments_dir), flags.extractors
    if words is None and not dataset.class_names:
        return []
    return find_extractors(words or ("convnet",), flags.inception_weights, dataset, experiments, device)


def _write(
    flags: SamplesFlags, folder: Path, samples: Samples, dataset: ImageData, extractors: Sequence[Extractor]
) -> None:
    settings = MeasureSettings(flags.k, flags.draws, extrapolate=flags.extrapolate)
    protocol = Protocol(real_images(dataset), extractors, settings, Path(flags.model.experiments_dir) / FEATURES_CACHE)
    with Interrupts(at_once=True):
        evaluation = Evaluation(protocol, samples)
        evaluation.measure(flags.classification_accuracy)
        write_evaluation(evaluation, folder)
    tell(evaluation_table(evaluation))


def _keep(samples: Samples, folder: Path) -> None:
    """The images, as `generate` would have written them, so that they can be measured again."""
    labels = {} if samples.labels is None else {"arr_1": samples.labels.numpy()}
    np.savez(folder / "samples.npz", allow_pickle=False, arr_0=samples.images.permute(0, 2, 3, 1).numpy(), **labels)
