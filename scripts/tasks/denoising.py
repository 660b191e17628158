"""Code shared by `train_ddpm`, `train_flow` and `train_latent`: build a denoising objective from the flags."""

from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

import data
from data import ImageData
from data.batches import Batches
from models import devices, processes, spaces
from models.diffusion.losses import DenoisingLoss
from models.diffusion.noise_schedules import NoiseSchedule
from models.diffusion.times import TimeDensity
from models.drawing.sheets import check_sample_sheet
from models.errors import UserError
from models.evaluation.measures import covariance_warnings
from models.evaluation.sample_test import DISTANCE
from models.generation import Sampling, choose_solver
from models.model import DenoiserSpec
from models.randomness import derive_seed
from models.runs.lookup import DENOISING
from models.spaces import Fitted, Space, Surroundings
from models.training.denoising_objective import DenoisingObjective
from models.variants import SPACES
from scripts.cli.arguments import to_config
from scripts.cli.flags import TrainFlags
from scripts.cli.settings import Request
from scripts.tasks import run_data
from scripts.tasks.extractors import build_sample_test
from scripts.tasks.run_data import data_facts, identity_of
from scripts.tasks.training import (
    Prepared,
    describe_run_line,
    few,
    initialise,
    load_data,
    run_training,
    spaced_rows,
    spelled,
    train_settings,
)

MUCH_SIGNAL = 0.05  # Largest alpha at t = 1 that counts as pure noise. Rescaled chains end at 0.03 or less.
MOST_MEASURED = 10_000  # Largest number of image files from which the pixels' deviation is measured.
BEST_BY = {"loss": "test_loss", "distance": DISTANCE}  # Column of metrics.csv for each value of --best_by.


def train_denoiser(request: Request[TrainFlags]) -> None:
    """Train a denoiser and print the run folder. Mistakes raise UserError before the run folder is written."""
    run_training(request, prepare_denoiser)


def complete(flags: TrainFlags) -> TrainFlags:
    """Fill in the folder of the data sets. Raises UserError for flags that contradict each other."""
    process = flags.process
    if process.coupling != "independent" and (flags.optimizer.accumulate > 1 or processes.world_size() > 1):
        raise UserError(
            f"`coupling` {process.coupling} needs the whole batch at once", "leave out `accumulate` and use one process"
        )
    if flags.sample_test.eval_samples == 1:
        raise UserError("`eval_samples` 1: must be at least 2, or 0 for none")
    if flags.sample_test.best_by == "distance" and flags.sample_test.eval_samples == 0:
        raise UserError("`best_by` distance: there are no samples to measure", "set `eval_samples`, e.g. 500")
    root = str(data.data_root(flags.data.data_root))
    return replace(flags, data=replace(flags.data, data_root=root))


def prepare_denoiser(flags: TrainFlags, stored: Mapping[str, Any]) -> Prepared:
    """Load the data and build the objects of a training run. stored: as for `run_training`. Raises UserError."""
    flags = complete(flags)
    return assemble(flags, load_data(flags, flags.run.experiments_dir, lambda note: None, stored), stored)


def assemble(flags: TrainFlags, dataset: ImageData, stored: Mapping[str, Any] | None = None) -> Prepared:
    """Build the objects of a run from complete flags and data. stored: as for `run_training`. Raises UserError."""
    device = torch.device(flags.run.device)
    fitted = fit_space(flags, dataset)
    if stored:
        fitted = fitted._replace(space=_original_space(stored, fitted.space).to(device))
    flags = replace(flags, space_options=replace(flags.space_options, **fitted.options))
    spec = build_spec(flags, dataset, fitted.space)
    solver = choose_solver(spec, flags.sheets.sampler, flags.sheets.steps)
    flags = replace(flags, sheets=replace(flags.sheets, sampler=solver.sampler, steps=solver.steps))
    torch.manual_seed(derive_seed(flags.run.seed, "weights"))
    network = spec.build_network().to(device)
    report = [describe_run_line(dataset, flags.network, network, flags.run), *spelled(dataset.notes), *fitted.report]
    if flags.run.precision == "bf16" and device.type == "cpu":
        ratio = devices.bf16_ratio(network, spec.space.shape)
        report.append(f"warning: on this CPU bf16 takes {ratio:.2f} times as long as float32 for this network")
    if flags.run.init_from is not None and not stored:
        report.append(initialise(network, flags.run, DENOISING))
    objective = build_objective(flags, spec, dataset, device)
    model = objective.model(network)
    objective.sampling.check(model)
    if spec.chain_betas == "published":
        report.append(describe_end(model.noise_schedule))
    if flags.sample_test.eval_samples > 0:
        test = build_sample_test(flags, dataset)
        objective = replace(objective, sample_test=test)
        warnings = covariance_warnings(test.count, len(test.train.mean), test.extractor.name)
        report.append(f"{test.count} samples are measured by {test.extractor.name}")
        report += [f"warning: {warning}" for warning in warnings]
    split, size = replace(dataset.train, images=fitted.prepared), flags.optimizer.batch_size
    share, workers = processes.rank_share(size), flags.run.workers
    return Prepared(
        objective=objective,
        network=network,
        batches=Batches(split, size, flags.run.seed, dataset.flips, device, fitted.mirrored, share, workers),
        settings=train_settings(flags, BEST_BY[flags.sample_test.best_by]),
        config=to_config(flags),
        facts={"denoiser": spec.facts(), "data": data_facts(dataset)},
        report=report,
        device=device,
        broken=dataset.broken,
        needs=spec.space.needs,
        files=run_data.rows_of(dataset),
    )


def describe_end(schedule: NoiseSchedule) -> str:
    """Return a log line about the signal that is left at t = 1, where samples start from pure noise."""
    alpha = schedule.level(torch.ones(())).alpha.item()
    note = ": its last step is not pure noise, but samples start from pure noise" if alpha > MUCH_SIGNAL else ""
    return f"the chain ends at sqrt(alpha-bar) {alpha:.2g}{note}"


def _original_space(stored: Mapping[str, Any], fitted: Space) -> Space:
    """Return the space that a resumed run was started with. A new fit may differ, since the data may have changed.

    A latent space gets the autoencoder of `fitted`. If the shapes of the two spaces differ, returns `fitted`;
    `run_training` then refuses to resume.
    """
    original = spaces.from_facts(stored["denoiser"]["space"], lambda sha256: fitted.needs[0])
    return original if original.shape == fitted.shape else fitted


def fit_space(flags: TrainFlags, dataset: ImageData) -> Fitted:
    """Fit the space to the training split. Raises UserError."""
    around = Surroundings(
        dataset=dataset.name,
        identify=lambda: identity_of(dataset.train),
        experiments_dir=Path(flags.run.experiments_dir),
        device=torch.device(flags.run.device),
        # The same images are measured whether streamed or in memory, so that a run can be resumed either way.
        measured=None if dataset.train.sha256 is None else spaced_rows(len(dataset.train), MOST_MEASURED),
    )
    options = asdict(flags.space_options)
    return SPACES.find(flags.space).fit(dataset.train.images, dataset.flips, around, **options)


def build_spec(flags: TrainFlags, dataset: ImageData, space: Space) -> DenoiserSpec:
    """Return the specification of the denoiser that the flags describe."""
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
        chain_betas=process.chain_betas,
        prediction=process.prediction,
        label_drop=process.label_drop if labelled else 0.0,
        initial_noise=process.initial_noise,
        untrained=dataset.untrained if labelled else (),
    )


def build_objective(
    flags: TrainFlags, spec: DenoiserSpec, dataset: ImageData, device: torch.device
) -> DenoisingObjective:
    """Build the objective: loss, images to evaluate, sample sheets. Raises UserError for settings that do not fit."""
    process, sheets = flags.process, flags.sheets
    _, height, width = spec.space.image_shape
    check_sample_sheet(sheets.num_samples, len(spec.trained), (height, width), sheets.columns, sheets.scale)
    density = TimeDensity(process.times, process.time_mean, process.time_deviation, process.stratified)
    # Drawing one t here raises UserError if the density of times does not suit the schedule.
    density.draw(torch.zeros(1), spec.model(nn.Identity(), device).noise_schedule)
    assert sheets.sampler is not None and sheets.steps is not None, "assemble sets both"
    scale = sheets.guidance_scale if spec.classes else 1.0
    if scale != 1 and spec.label_drop == 0:
        raise UserError(
            f"`guidance_scale` {scale:g} of the sample sheets needs an unconditional estimate",
            "set `label_drop` above 0",
            "set `guidance_scale` 1",
        )
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
        picture_format=flags.report.format,
        columns=sheets.columns,
        scale=sheets.scale,
        seed=flags.run.seed,
    )
