"""The work of `distill`: open the teacher, and build the objects that train its student."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from models import devices, processes
from models.diffusion.samplers import find_sampler
from models.drawing.sheets import check_sample_sheet
from models.errors import UserError
from models.generation import Sampling
from models.model import Model, Student, load_model
from models.randomness import derive_seed
from models.runs import checkpoints
from models.runs.lookup import TEACHERS, is_shipped, run_name
from models.runs.status import liveness, read_status
from models.training.pairs import Teacher, TeacherBatches
from models.training.student_objective import StudentObjective
from scripts.cli.arguments import to_config
from scripts.cli.settings import data_settings
from scripts.cli.student_flags import StudentFlags, TeacherFlags
from scripts.tasks.protocol import stored_facts
from scripts.tasks.sampling import find_own_or_shipped, name_of, run_of
from scripts.tasks.training import Prepared, train_settings

# Largest factor by which an error of the teacher's output may grow in the clean estimate at t = 1. With a larger
# factor, the student cannot learn.
LARGEST_FACTOR = 20.0


def prepare_student(flags: StudentFlags, stored: Mapping[str, Any]) -> Prepared:
    """Load the teacher and build the objects of a training run. stored: as for `run_training`. Raises UserError."""
    device = torch.device(flags.run.device)
    path = find_teacher(flags.teacher, flags.run.experiments_dir)
    facts = stored_facts(path)
    _check_same_teacher(path, facts["sha256"], stored)
    autocast = devices.autocast_dtype(flags.run.precision)
    teacher = open_teacher(load_model(path, flags.teacher.weights, device, autocast), flags.teacher)
    spec, sampling = teacher.model.spec, teacher.sampling
    student = Student(teacher.times, name_of(path), facts["sha256"], sampling.describe(), sampling.guidance_scale)
    spec = replace(spec, label_drop=0.0, student=student)
    size, seed, sheets = flags.optimizer.batch_size, flags.run.seed, flags.sheets
    _, height, width = spec.space.image_shape
    check_sample_sheet(sheets.num_samples, len(spec.trained), (height, width), sheets.columns, sheets.scale)
    network = spec.build_network().to(device)
    network.load_state_dict(teacher.model.denoiser.network.state_dict())
    train_seed = derive_seed(seed, "pairs")
    objective = StudentObjective(
        spec=spec,
        teacher=teacher,
        autocast=autocast,
        train_seed=train_seed,
        eval_images=flags.report.eval_images,
        num_samples=sheets.num_samples,
        seed=seed,
        columns=sheets.columns,
        scale=sheets.scale,
        picture_format=flags.report.format,
    )
    epoch, share = facts["data"].get("train") or size, processes.rank_share(size)
    settings = flags.teacher
    batches = TeacherBatches(teacher, train_seed, size, settings.reuse, settings.pairs, epoch, share)
    config = {**data_settings(facts["config"]), **to_config(flags), "teacher_sha256": facts["sha256"]}
    if settings.checkpoint in (checkpoints.LAST, checkpoints.BEST):
        config["run"] = _to_find_again(path, flags.run.experiments_dir)
    parameters = sum(parameter.numel() for parameter in network.parameters())
    report = [
        f"{student.describe()}; {spec.network} of {parameters:,} parameters on {device}, {flags.run.precision}"
        + (f", {processes.world_size()} processes" if processes.world_size() > 1 else ""),
        f"teacher: {name_of(path)}, step {facts['step']}, {settings.weights} weights ({facts['sha256'][:12]}), "
        f"{sampling.describe()}",
    ]
    return Prepared(
        objective=objective,
        network=network.requires_grad_(True),
        batches=batches,
        settings=train_settings(flags),
        config=config,
        facts={"denoiser": spec.facts(), "data": facts["data"]},
        report=report,
        device=device,
        needs=spec.space.needs,
    )


def find_teacher(flags: TeacherFlags, experiments_dir: str) -> Path:
    """Return the teacher's checkpoint file. Raises UserError if there is none, or if the teacher is still training."""
    if flags.checkpoint not in (checkpoints.LAST, checkpoints.BEST):
        return Path(flags.checkpoint)
    run = find_own_or_shipped(flags.run, experiments_dir, TEACHERS)
    if liveness(read_status(run)) == "running":
        raise UserError(
            f"`run` {run.name}: is still training, and its student would imitate weights that change",
            "wait until it has ended",
            "stop it",
            "name a file with `checkpoint`",
        )
    return checkpoints.resolve_checkpoint(run, flags.checkpoint)


def _to_find_again(path: Path, experiments_dir: str) -> str:
    """Return the name of the run of a checkpoint, or its folder if it lies outside `experiments_dir`."""
    run = run_of(path)
    assert run is not None
    named = is_shipped(run) or run.resolve().parent == Path(experiments_dir).resolve()
    return run_name(run) if named else str(run.resolve())


def open_teacher(model: Model, flags: TeacherFlags) -> Teacher:
    """Return the model and its sampling settings as a teacher. Raises UserError if a student cannot learn from it."""
    if model.spec.student is not None:
        raise UserError(
            f"`run`: {model.name} is a student itself", f"name its teacher: `run {model.spec.student.teacher}`"
        )
    sampling = Sampling(
        flags.sampler,
        flags.steps,
        flags.grid,
        guidance_scale=flags.guidance_scale,
        guidance_interval=flags.guidance_interval,
    )
    sampling.check(model)
    check_map(sampling, flags.evaluations)
    level = model.noise_schedule.level(torch.ones(1))
    factor = model.denoiser.prediction.clean_error(level.alpha, level.sigma).item()
    if factor > LARGEST_FACTOR:
        raise UserError(
            f"{model.name} predicts the noise: at t = 1, its errors grow {factor:,.0f}-fold in the clean image",
            "train a teacher that predicts something else, e.g. v",
        )
    return Teacher(model, sampling, flags.evaluations)


def check_map(sampling: Sampling, evaluations: int) -> None:
    """Raise UserError if the sampler adds noise, or if its steps are not a multiple of the student's evaluations."""
    sampler = find_sampler(sampling.sampler)
    if sampler.adds_noise(sampler.options):
        raise UserError(
            f"`sampler` {sampling.sampler}: adds noise, so an image is not a function of its initial noise",
            "choose a deterministic one, e.g. `sampler heun`",
        )
    if sampling.steps % evaluations:
        raise UserError(
            f"`evaluations` {evaluations}: must divide the teacher's {sampling.steps} steps",
            f"set `steps` {-(-sampling.steps // evaluations) * evaluations}",
        )


def _check_same_teacher(path: Path, sha256: str, stored: Mapping[str, Any]) -> None:
    """Raise UserError if a resumed student had another teacher."""
    known = (((stored.get("denoiser") or {}).get("student")) or {}).get("sha256", sha256)
    if known != sha256:
        raise UserError(
            f"{path} has the hash {sha256[:12]}, but the teacher of this student has {known[:12]}",
            "name the teacher's file with `checkpoint`",
        )
