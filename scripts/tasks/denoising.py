"""What `train_ddpm`, `train_flow` and `train_latent` share: from flags to a denoising objective in any space."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

import data
from data import ImageData
from data.batches import Batches
from models import devices, processes
from models.diffusion.losses import DenoisingLoss
from models.diffusion.times import TimeDensity
from models.errors import UserError
from models.evaluation.distances import gaussian
from models.evaluation.features import cached_features
from models.evaluation.measures import covariance_warnings
from models.evaluation.sample_test import SampleTest
from models.generation import Sampling, default_steps
from models.model import DenoiserSpec
from models.randomness import derive_seed
from models.spaces import Fitted, Space, Surroundings
from models.training.denoising_objective import DenoisingObjective
from models.variants import SPACES
from scripts.cli.arguments import gather, parse_flags, to_config
from scripts.cli.flags import BEST_BY, FLOW, SampleTestFlags, TrainFlags
from scripts.tasks.extractors import FEATURES_CACHE, classifier_of
from scripts.tasks.sampling import DENOISING
from scripts.tasks.training import (
    Prepared,
    build_settings,
    check,
    describe_run_line,
    few,
    fingerprint,
    initialise,
    load_data,
    resolve_flags,
    run_training,
    spaced_rows,
)

MOST_MEASURED = 10_000  # Images in files on which the deviation of pixels is taken.


def train_denoiser(
    argv: Sequence[str], task: str, default: TrainFlags, description: str, options: Mapping[str, Any] | None = None
) -> None:
    """Trains, and prints the run folder. Raises UserError before anything is written."""
    run_training(argv, task, default, description, prepare_denoiser, options)


def settings_to_measure(words: Sequence[str]) -> TrainFlags:
    """What `train_flow` would train with in a new run, given these flags. Raises UserError where it would."""
    settings = parse_flags(gather(words, "train_flow"), FLOW, "train_flow", "")
    if settings.run.resume or settings.run.init_from:
        raise UserError("--resume and --init_from bring training from before, and all of it is measured")
    settings = complete(resolve_flags(settings))
    check(to_config(settings))
    return settings


def complete(flags: TrainFlags) -> TrainFlags:
    """Refuses what no denoiser can have, and fills in what is still open."""
    process, sheets = flags.process, flags.sheets
    if not 0 <= process.label_drop <= 1:
        raise UserError(f"--label_drop {process.label_drop}: a share between 0 and 1")
    if process.timesteps < 0:
        raise UserError(f"--timesteps {process.timesteps}: 1 or more, or 0 for the continuous form")
    if process.coupling != "independent" and (flags.optimizer.accumulate > 1 or processes.world_size() > 1):
        raise UserError(
            f"--coupling {process.coupling} pairs whole batches: leave out --accumulate and take one process"
        )
    _check_sample_test(flags.sample_test)
    if sheets.steps is None:
        sheets = replace(sheets, steps=default_steps(sheets.sampler, process.timesteps))
    root = str(data.data_root(flags.data.data_root))
    return replace(flags, sheets=sheets, data=replace(flags.data, data_root=root))


def _check_sample_test(flags: SampleTestFlags) -> None:
    if flags.eval_samples < 0 or flags.eval_samples == 1:
        raise UserError(f"--eval_samples {flags.eval_samples}: 2 or more, or 0 for none")
    if flags.best_by not in BEST_BY:
        raise UserError(f"--best_by {flags.best_by}: choose from {', '.join(BEST_BY)}")
    if flags.best_by == "distance" and flags.eval_samples == 0:
        raise UserError("--best_by distance needs samples to measure: give --eval_samples, e.g. 500")


def prepare_denoiser(flags: TrainFlags, resumed: bool) -> Prepared:
    """Loads the data and builds every object. Raises UserError for what does not fit."""
    flags = complete(flags)
    return assemble(flags, load_data(flags), resumed)


def assemble(flags: TrainFlags, dataset: ImageData, resumed: bool = False) -> Prepared:
    """Every object from complete flags and data. Raises UserError for what does not fit."""
    device = torch.device(flags.run.device)
    data_sha256 = fingerprint(dataset)
    fitted = fit_space(flags, dataset, data_sha256)
    flags = replace(flags, space_options=replace(flags.space_options, **fitted.options))
    spec = build_spec(flags, dataset, fitted.space)
    torch.manual_seed(derive_seed(flags.run.seed, "weights"))
    network = spec.build_network().to(device)
    report = [describe_run_line(dataset, flags.network, network, flags.run), *fitted.report]
    if flags.run.precision == "bf16" and device.type == "cpu":
        ratio = devices.bf16_ratio(network, spec.space.shape)
        report.append(f"warning: on this CPU bf16 takes {ratio:.2f} times as long as float32 for this network")
    if flags.run.init_from is not None and not resumed:
        report.append(initialise(network, flags.run, DENOISING))
    objective = build_objective(flags, spec, dataset, device)
    objective.sampling.check(objective.model(network))
    if flags.sample_test.eval_samples > 0:
        test = build_sample_test(flags, dataset, data_sha256)
        objective = replace(objective, sample_test=test)
        report.append(f"{test.count} samples are measured in {test.extractor.name}")
        warnings = covariance_warnings(test.count, len(test.train.mean), test.extractor.name)
        report += [f"warning: {warning}" for warning in warnings]
    optimizer = flags.optimizer
    return Prepared(
        objective=objective,
        network=network,
        batches=Batches(
            replace(dataset.train, images=fitted.prepared),
            optimizer.batch_size,
            flags.run.seed,
            dataset.flips,
            device,
            fitted.mirrored,
            processes.rank_share(optimizer.batch_size),
            flags.run.workers,
        ),
        settings=build_settings(optimizer, flags.budget, flags.run, flags.report, flags.sample_test.best_by),
        config=to_config(flags),
        facts={"denoiser": spec.facts(), "data": {"name": dataset.name, "sha256": data_sha256}},
        report=report,
        device=device,
        broken=dataset.broken,
        needs=spec.space.needs,
    )


def fit_space(flags: TrainFlags, dataset: ImageData, data_sha256: str) -> Fitted:
    """The space, and the training split as it sees it."""
    around = Surroundings(
        dataset=dataset.name,
        data_sha256=data_sha256,
        experiments_dir=Path(flags.run.experiments_dir),
        device=torch.device(flags.run.device),
        # Of images in files as few in memory as streamed, so that a run may be taken up either way.
        measured=None if dataset.train.sha256 is None else spaced_rows(len(dataset.train), MOST_MEASURED),
    )
    options = asdict(flags.space_options)
    return SPACES.find(flags.space).fit(dataset.train.images, dataset.flips, around, **options)


def build_spec(flags: TrainFlags, dataset: ImageData, space: Space) -> DenoiserSpec:
    """What the denoiser is, from the flags, the data's classes and its space."""
    labelled = flags.data.conditional and bool(dataset.class_names)
    process = flags.process
    return DenoiserSpec(
        network=flags.network,
        network_options=asdict(flags.network_options),
        space=space,
        classes=len(dataset.class_names) if labelled else 0,
        class_names=dataset.class_names if labelled else (),
        noise_schedule=process.noise_schedule,
        timesteps=process.timesteps,
        zero_terminal_snr=process.zero_terminal_snr,
        prediction=process.prediction,
        label_drop=process.label_drop if labelled else 0.0,
        initial_noise=process.initial_noise,
    )


def build_objective(
    flags: TrainFlags, spec: DenoiserSpec, dataset: ImageData, device: torch.device
) -> DenoisingObjective:
    """The loss, the frozen grid and the sheets. Raises UserError for what does not go together."""
    process, sheets = flags.process, flags.sheets
    density = TimeDensity(process.times, process.time_mean, process.time_deviation, process.stratified)
    # A first draw, so that a density the schedule cannot have is refused here.
    density.draw(torch.zeros(1), spec.model(nn.Identity(), device).noise_schedule)
    assert sheets.steps is not None, "complete the flags first"
    scale = sheets.guidance_scale if spec.classes else 1.0
    if scale != 1 and spec.label_drop == 0:
        raise UserError(f"--guidance_scale {scale:g} of the sample sheets needs --label_drop above 0, or set it to 1")
    train, test = (few(split, flags.report.eval_images, device) for split in (dataset.train, dataset.test))
    return DenoisingObjective(
        spec=spec,
        loss=DenoisingLoss(
            process.loss,
            process.weighting,
            process.weight_limit,
            density,
            spec.label_drop,
            spec.classes,
            process.initial_noise,
            process.coupling,
        ),
        autocast=devices.autocast_dtype(flags.run.precision),
        train_images=train.in_memory(),
        train_labels=train.labels,
        test_images=test.in_memory(),
        test_labels=test.labels,
        sampling=Sampling(sheets.sampler, sheets.steps, guidance_scale=scale),
        num_samples=sheets.num_samples,
        seed=flags.run.seed,
    )


def build_sample_test(flags: TrainFlags, dataset: ImageData, data_sha256: str) -> SampleTest:
    """The data set's classifier, trained if need be, and what it makes of the training images. Raises UserError."""
    if not dataset.class_names:
        raise UserError(f"--eval_samples: {dataset.name} has no classes, so there is no classifier to measure by")
    experiments = Path(flags.run.experiments_dir)
    extractor = classifier_of(dataset, experiments, torch.device(flags.run.device))
    train = cached_features(extractor, dataset.train.images, data_sha256, experiments / FEATURES_CACHE)
    return SampleTest(extractor, gaussian(train.features), flags.sample_test.eval_samples)
