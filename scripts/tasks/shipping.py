"""The work of `pretrained`: train each model, write its folder in models/pretrained, measure it, and write its card."""

from __future__ import annotations

import json
import shlex
import shutil
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
import yaml

from models.errors import UserError
from models.evaluation.measure_names import REPORT
from models.places import PRETRAINED
from models.runs import checkpoints
from models.runs.files import write_text
from models.runs.lookup import CONFIG, SHIPPED_PREFIX, find_runs, results_folder
from models.runs.status import STATUS, read_status
from models.runs.yaml_files import read_yaml
from scripts.cli.terminal import tell
from scripts.tasks.running import run_task
from scripts.tasks.shipping_card import (
    Made,
    RecordRow,
    Way,
    card_head,
    card_results,
    commands_of,
    index,
    read_head,
    student_of,
    training_command,
)
from scripts.tasks.shipping_pictures import draw_pictures

if TYPE_CHECKING:
    from scripts.pretrained import PretrainedFlags

RUN_NAME = "pretrained"  # Suffix of the run folders.


class Shipped(NamedTuple):
    """A shipped model: its training task with flags, and facts for its card.

    The training budget is in steps, so that the training can be repeated. data: name of the data set. title: what the
    images are. source: origin and licence of the data.
    """

    task: str
    words: str
    data: str
    title: str
    source: str


_DIGITS = "digits of scikit-learn (UCI, optical recognition of handwritten digits; CC BY 4.0)"
_MNIST = "MNIST (LeCun, Cortes and Burges; CC BY-SA 3.0)"
_FASHION = "Fashion-MNIST (Zalando; MIT)"
_STEPS = "--max_minutes None --max_steps"
# The order matters: an autoencoder comes before its latent model, and a teacher before its student.
MODELS = {
    "digits": Shipped(
        "train_flow", f"--recipe demo_digits {_STEPS} 2000", "digits", "handwritten digits of 8x8 pixels", _DIGITS
    ),
    "mnist": Shipped(
        "train_flow",
        f"--recipe mnist {_STEPS} 1200 --coupling optimal --time_mean 0.5",
        "mnist",
        "handwritten digits of 28x28 pixels",
        _MNIST,
    ),
    "mnist-1": Shipped(
        "distill",
        f"--run {SHIPPED_PREFIX}mnist --sampler heun --steps 3 --guidance_scale 1.5 --reuse 3 {_STEPS} 600",
        "mnist",
        "handwritten digits of 28x28 pixels, in one evaluation",
        _MNIST,
    ),
    "fashion_mnist": Shipped(
        "train_flow",
        f"--recipe fashion_mnist {_STEPS} 1200 --coupling optimal",
        "fashion_mnist",
        "clothes of 28x28 pixels",
        _FASHION,
    ),
    "fashion_mnist-1": Shipped(
        "distill",
        f"--run {SHIPPED_PREFIX}fashion_mnist --sampler heun --steps 3 --guidance_scale 1.5 --reuse 3 {_STEPS} 400",
        "fashion_mnist",
        "clothes of 28x28 pixels, in one evaluation",
        _FASHION,
    ),
    "mnist-vae": Shipped(
        "train_vae",
        f"--recipe vae_mnist {_STEPS} 1800",
        "mnist",
        "handwritten digits: 28x28 pixels to 4x7x7 latents",
        _MNIST,
    ),
    "mnist-latent": Shipped(
        "train_latent",
        f"--recipe latent_mnist {_STEPS} 5000 --network.width 32 --autoencoder {SHIPPED_PREFIX}mnist-vae",
        "mnist",
        f"handwritten digits, in the latents of {SHIPPED_PREFIX}mnist-vae",
        _MNIST,
    ),
}
# Sampler, steps and guidance scale of each row of a card. The first row is the default of `evaluate`. The card of a
# student has a single row, sampled by the student itself.
ROWS = (("heun", 3, 1.0), ("heun", 3, 1.5), ("heun", 12, 1.5))
PICTURED = ("heun", 12, 1.5)  # Sampler, steps and guidance scale of the picture on a card.
# Settings that belong to the machine of the training, and their values in a shipped config.txt.
ELSEWHERE = {"data_root": None, "experiments_dir": "experiments", "device": "auto", "name": None}


def make_models(flags: PretrainedFlags, words: Sequence[str]) -> None:
    """Make the models that the flags name, and the table of all models. words: more flags for the trainings."""
    unknown = [name for name in flags.models if name not in MODELS]
    if unknown:
        raise UserError(f"--models {unknown[0]}: choose from {', '.join(MODELS)}")
    chosen = [name for name in MODELS if name in flags.models or not flags.models]
    for name in chosen:
        tell(f"{SHIPPED_PREFIX}{name}")
        _make_model(name, flags, words)
    write_text(PRETRAINED / "README.md", index((PRETRAINED / "README.md").read_text(encoding="utf-8"), MODELS))
    draw_pictures([name for name in chosen if MODELS[name].task != "train_vae"], flags.experiments_dir)
    print(PRETRAINED)


def _make_model(name: str, flags: PretrainedFlags, words: Sequence[str]) -> None:
    """Train a model, measure it and write its card. With --trained, use its newest run, or else the shipped weights."""
    model, folder = MODELS[name], PRETRAINED / name
    if not flags.trained:
        flagged = [*shlex.split(model.words), *words]
        run = run_task(model.task, *flagged, "--experiments_dir", flags.experiments_dir, "--name", RUN_NAME)
        head = ship(run, folder, name, [training_command(model.task, flagged)])
    elif run := _newest_run(model, Path(flags.experiments_dir)):
        head = ship(run, folder, name, commands_of(run, model.task, model.words))
    else:
        tell(f"no run of this model in {flags.experiments_dir}: the shipped weights are measured")
        head = read_head(folder)
    results = results_folder(folder, Path(flags.experiments_dir))
    student = student_of(read_yaml(checkpoints.resolve_checkpoint(folder).with_suffix(".yaml")))
    pictured = Way.of(*PICTURED) if student is None else Way.of_student(student)
    ways = [Way.of(*row) for row in ROWS] if student is None else [pictured]
    rows = [] if model.task == "train_vae" else [_measure(folder, results, way, flags) for way in ways]
    errors = _draw(folder, results, model, pictured, flags)
    write_text(folder / "README.md", head + card_results(f"{SHIPPED_PREFIX}{name}", model, rows, errors, pictured))


def _newest_run(model: Shipped, experiments: Path) -> Path | None:
    """Return the newest finished run that `pretrained` has trained for a model, or None."""
    for run in find_runs(experiments):
        status = read_status(run)
        found = (status.get("task"), status.get("dataset"), status.get("state"))
        if run.name.endswith(f"-{RUN_NAME}") and found == (model.task, model.data, "finished"):
            return run
    return None


def ship(run: Path, folder: Path, name: str, commands: Sequence[str]) -> str:
    """Write the folder of a shipped model: settings, status, and the EMA weights of the last checkpoint in float16.

    Return the first part of its card. commands: calls of `make` that trained and resumed the run.
    """
    model = MODELS[name]
    path = checkpoints.resolve_checkpoint(run)
    tensors, facts = checkpoints.load_checkpoint(path)
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "checkpoints").mkdir(parents=True)
    half = {name: tensor.to(torch.float16) for name, tensor in checkpoints.under("ema", tensors).items()}
    config = {**facts["config"], **ELSEWHERE}
    config |= {"space.autoencoder": f"{SHIPPED_PREFIX}mnist-vae"} if "space.autoencoder" in config else {}
    kept = {key: value for key, value in facts.items() if key not in ("format", "sha256", "training", "step")}
    weights = checkpoints.prefixed("ema", half)
    written = checkpoints.save_checkpoint(
        folder / "checkpoints", facts["step"], weights, {**kept, "config": config}, keep=1
    )
    write_text(folder / CONFIG, yaml.safe_dump(config, sort_keys=False))
    status = {"task": model.task, "dataset": model.data, "state": "finished", "step": facts["step"], "progress": 1.0}
    write_text(folder / STATUS, json.dumps(status, indent=2) + "\n")
    return card_head(f"{SHIPPED_PREFIX}{name}", model, Made.of(run, commands, written, config))


def _measure(folder: Path, results: Path, way: Way, flags: PretrainedFlags) -> RecordRow:
    """Generate and measure images for one row of the card."""
    words: list[Any] = [*way.flags]
    words += [] if flags.num_images is None else ["--num_images", flags.num_images]
    words += ["--extractors", "convnet", "resnet", *(["--classification_accuracy"] * flags.classification_accuracy)]
    places = ("--run", folder, "--experiments_dir", flags.experiments_dir)
    evaluation = run_task("evaluate", *places, *words, "--out", _new(results / "evaluation"))
    return RecordRow(json.loads((evaluation / REPORT).read_text(encoding="utf-8")), way)


def _draw(folder: Path, results: Path, model: Shipped, way: Way, flags: PretrainedFlags) -> dict[str, Any]:
    """Draw samples.png: samples, or an autoencoder's reconstructions. Return an autoencoder's errors, else {}."""
    places = ("--run", folder, "--experiments_dir", flags.experiments_dir, "--out", _new(results / "pictures"))
    if model.task == "train_vae":
        drawn = run_task("reconstruct", *places)
        shutil.copyfile(drawn / "reconstructions.png", folder / "samples.png")
        return json.loads((drawn / "metrics.json").read_text(encoding="utf-8"))
    drawn = run_task("generate", *places, *way.flags)
    shutil.copyfile(drawn / "grid.png", folder / "samples.png")
    return {}


def _new(folder: Path) -> Path:
    return folder / f"{datetime.now():%Y%m%d_%H%M%S_%f}-samples"
