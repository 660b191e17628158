"""evaluate --every_checkpoint, and samples measured in training: by a classifier of little schooling."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from PIL import Image

from data.digits import Digits
from models.evaluation import classifier
from models.evaluation.classifier import ClassifierSettings, train_and_save
from models.runs import checkpoints
from scripts.tasks.extractors import real_images
from tests.commands.tasks import TINY, Ended, grey_folder, rows_of, run_here, weights_hash

pytestmark = pytest.mark.slow

FEW = ("--num_images", "60", "--steps", "4", "--draws", "10")
LEARNING = ("--max_steps", "120", "--batch_size", "32", "--lr", "1e-2", "--sample_every", "0")
EVERY = ("--eval_every", "0.02", "--checkpoint_every", "0.02", "--keep_checkpoints", "0", "--max_steps", "4")


@pytest.fixture(scope="module", autouse=True)
def quick_classifier(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """In the place of the one of models/pretrained."""
    folder = tmp_path_factory.mktemp("pretrained")
    path = folder / "digits_convnet.safetensors"
    train_and_save(ClassifierSettings(epochs=2), real_images(Digits().load(Path())), torch.device("cpu"), path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(classifier, "PRETRAINED", folder)
        yield path


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a flow, from its first step to one that knows a little; a chain without labels; an autoencoder with
    a latent flow from uniform noise."""
    from scripts import train_ddpm, train_flow, train_latent, train_vae

    folder = tmp_path_factory.mktemp("runs")
    once = ["--eval_every", "0", "--sample_every", "0", "--no-tensorboard", "--experiments_dir", str(folder)]
    tiny = [*TINY, *once]
    kept = ("--checkpoint_every", "1.3", "--keep_checkpoints", "0")
    train_flow.main([*tiny, *LEARNING, *kept, "--name", "labels", "--max_steps", "1"])
    train_flow.main([*tiny, *LEARNING, *kept, "--resume", "latest", "--name", "labels"])
    train_ddpm.main([*tiny, "--timesteps", "50", "--no-conditional", "--name", "plain"])
    train_vae.main([*once, "--network.width", "8", "--batch_size", "32", "--max_steps", "20", "--no-umap"])
    train_latent.main([*tiny, "--network.multipliers", "1", "1", "--initial_noise", "uniform"])
    return folder


@pytest.fixture
def measure(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    def run(kind: str, *words: object) -> Ended:
        (folder,) = runs.glob(f"*{kind}")
        few = [*FEW, "--run", folder, "--experiments_dir", runs]
        return run_here("evaluate", "--every_checkpoint", *few, *words, capsys=capsys)

    return run


@pytest.fixture(scope="module")
def usual(runs: Path) -> Path:
    """The folder of the labelled flow's evaluation."""
    from scripts import evaluate

    (folder,) = runs.glob("*labels")
    printed = io.StringIO()
    with redirect_stdout(printed):
        evaluate.main(["--every-checkpoint", *FEW, "--run", str(folder), "--experiments_dir", str(runs)])
    return Path(printed.getvalue().strip())


def report_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "report.json").read_text())


def table_of(folder: Path) -> list[dict[str, str]]:
    with (folder / "table.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def figures_of(folder: Path, name: str, weights: str = "ema") -> list[dict[str, float]]:
    """By step, of the measure whose name begins so."""
    rows = [row["results"] for row in report_of(folder)["checkpoints"] if row["weights"] == weights]
    return [next(value for key, value in row.items() if key.startswith(name)) for row in rows]


def test_a_row_for_every_checkpoint_and_its_weights(usual: Path, runs: Path) -> None:
    (run,) = runs.glob("*labels")
    assert usual.parent == run / "evaluation" and usual.name.endswith("-checkpoints")
    saved = checkpoints.list_checkpoints(run / "checkpoints")
    steps = [checkpoints.load_checkpoint(path)[1]["step"] for path in saved]
    rows = table_of(usual)
    assert steps[0] == 1 and len(saved) > 2
    assert [(int(row["step"]), row["weights"]) for row in rows] == [(n, w) for n in steps for w in ("raw", "ema")]
    assert all(float(row["epoch"]) == pytest.approx(int(row["step"]) * 32 / 1438, abs=1e-3) for row in rows)
    text = (usual / "table.txt").read_text()
    assert all(f"\n{step} " in text for step in steps) and "\nfloor " in text and "reference_sha256" in text
    assert Image.open(usual / "checkpoints.png").width > 1000
    written = ["checkpoints.png", "report.json", "table.csv", "table.txt"]
    assert sorted(path.name for path in usual.iterdir()) == written


def test_the_report_carries_its_protocol_and_the_floor(usual: Path, quick_classifier: Path) -> None:
    report = report_of(usual)
    facts = yaml.safe_load(quick_classifier.with_suffix(".yaml").read_text())
    name = f"convnet_{facts['sha256'][:8]}"
    card = report["protocol"]
    assert (card["images"], card["dataset"], card["extractors"]) == (60, "digits", [name])
    assert report["samples"]["nfe"] == 7 and "uint8" in report["samples"]["quantisation"]
    (warning,) = report["warnings"]
    assert warning.startswith(f"60 images for 128 features of {name}: their covariance is singular")
    assert f"warning: {report['warnings'][0]}" in (usual / "table.txt").read_text()
    assert report["samples"]["sampling"] == "heun, 4 steps" and "checkpoint_sha256" not in report["samples"]
    assert set(report["floor"]) == {f"fd_{name}", f"recognised_{name}"}
    for row in report["checkpoints"]:
        assert set(row["results"]) == {"noise_loss", f"fd_{name}", f"recognised_{name}"}
        assert len(row["checkpoint_sha256"]) == 64
        for figure in row["results"].values():
            assert figure["low"] <= figure["value"] <= figure["high"]
        assert row["results"][f"fd_{name}"]["value"] > report["floor"][f"fd_{name}"]["value"]


def test_training_shows(usual: Path) -> None:
    """In both weights; and the average is another network than the raw one."""
    for weights in ("raw", "ema"):
        for name in ("noise_loss", "fd"):
            first, *_, last = (each["value"] for each in figures_of(usual, name, weights))
            assert last < 0.9 * first, (name, weights)
    assert figures_of(usual, "noise_loss", "raw") != figures_of(usual, "noise_loss", "ema")


def test_batch_size_changes_no_figure(measure, usual: Path, tmp_path: Path) -> None:
    parts = measure("labels", "--batch_size", "7", "--out", tmp_path / "parts").folder
    assert parts == tmp_path / "parts"
    for name, close in (("fd", 1e-9), ("recognised", 1e-9), ("noise_loss", 1e-4)):
        for one, other in zip(figures_of(parts, name), figures_of(usual, name), strict=True):
            assert one == pytest.approx(other, rel=close), name


def test_other_runs_and_flags(measure, quick_classifier: Path) -> None:
    plain = measure("plain", "--extractors", quick_classifier).folder
    assert not any(name.startswith("recognised") for name in table_of(plain)[0])
    assert len(figures_of(measure("latent-digits").folder, "recognised")) == 1
    few = ("--num_images", "30")
    first = measure("labels", *few).folder
    for words in (("--seed", "1"), ("--steps", "2"), ("--guidance_scale", "3"), ("--sampler", "ddim")):
        other = measure("labels", *few, *words).folder
        assert figures_of(other, "fd") != figures_of(first, "fd"), words
        same_loss = figures_of(other, "noise_loss") == figures_of(first, "noise_loss")
        assert same_loss == (words[0] != "--seed"), words


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--checkpoint", "best"), ("--every_checkpoint takes all; leave out --checkpoint",)),
        (("--weights", "raw"), ("leave out --weights",)),
        (("--num_images", "1"), ("--num_images 1",)),
        (("--draws", "3"), ("--draws 3",)),
        (("--batch_size", "0"), ("--batch_size 0",)),
        (("--extractors", "convnext"), ("extractors convnext", "convnet")),
        (("--steps", "0"), ("--steps",)),
        (("--drawz", "3"), ("--drawz", "did you mean --draws")),
        (("--run", "none"), ("no run 'none'",)),
    ],
)
def test_mistakes_are_one_line(measure, runs: Path, flags: tuple[str, ...], words: tuple[str, ...]) -> None:
    before = sorted(runs.rglob("*"))
    ended = measure("labels", *flags)
    refused(ended, *words)
    assert sorted(runs.rglob("*")) == before


def refused(ended: Ended, *words: str) -> None:
    assert ended.code == 2 and ended.out == "", ended.err
    assert ended.err.startswith("error: ") and len(ended.err.splitlines()) == 1, ended.err
    assert all(word in ended.err for word in words), ended.err


@pytest.fixture
def train(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    def run(task: str, *arguments: object) -> Ended:
        return run_here(task, "--experiments_dir", tmp_path / "runs", *TINY, *arguments, capsys=capsys)

    return run


@pytest.mark.curves
def test_samples_are_measured_while_training(train) -> None:
    folder = train("train_flow", *LEARNING, "--eval_every", "1.3", "--eval_samples", "60", "--tensorboard").folder
    rows = rows_of(folder)
    distances = [float(row["sample_distance"]) for row in rows]
    assert len(distances) > 1 and distances[-1] < distances[0]
    assert all(0 <= float(row["sample_recognised"]) <= 1 for row in rows)
    log = (folder / "training_log.txt").read_text()
    assert "60 samples are measured by convnet_" in log and "warning: 60 images for 128 features of convnet_" in log
    assert log.count("sample distance ") == log.count(", recognised ") == len(rows)
    assert Image.open(folder / "loss_curves.png").width > 2000
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    board = EventAccumulator(str(folder / "tensorboard")).Reload()
    assert [event.value for event in board.Scalars("sample/distance")] == pytest.approx(distances, rel=1e-4)


@pytest.mark.curves
def test_measuring_samples_changes_nothing_else(train) -> None:
    quiet, watched = train("train_flow").folder, train("train_flow", "--eval_samples", "20").folder
    assert weights_hash(quiet) == weights_hash(watched)
    assert not any(column.startswith("sample_") for column in rows_of(quiet)[0])
    assert Image.open(quiet / "loss_curves.png").width < 1500
    unlabelled = train("train_flow", "--eval_samples", "20", "--no-conditional").folder
    assert "sample_distance" in rows_of(unlabelled)[0] and "sample_recognised" not in rows_of(unlabelled)[0]


def test_the_best_checkpoint_is_that_of_the_least_distance(train) -> None:
    """Which is not that of the least loss, with steps that are far too long."""
    words = (*EVERY, "--max_steps", "12", "--ema", "0", "--lr", "0.05", "--eval_samples", "40")
    by = {name: train("train_flow", *words, "--best_by", name).folder for name in ("loss", "distance")}
    found = set()
    for name, column in (("loss", "test_loss"), ("distance", "sample_distance")):
        values = {int(row["step"]): float(row[column]) for row in rows_of(by[name])}
        best = checkpoints.load_checkpoint(checkpoints.resolve_checkpoint(by[name], checkpoints.BEST))[1]["step"]
        assert best == min(values, key=values.__getitem__)
        found.add(best)
        summary = (by[name] / "performance_metrics.txt").read_text()
        assert f"best_{column}: {min(values.values()):.6g}\n" in summary
    assert len(found) == 2 and weights_hash(by["loss"]) == weights_hash(by["distance"])


def test_patience_looks_at_the_distance(train) -> None:
    """Weights that do not move: no sample ever changes."""
    still = ("--lr", "1e-30", "--weight_decay", "0", "--ema", "0")
    words = (*EVERY, "--max_steps", "40", *still, "--patience", "2", "--eval_samples", "10", "--best_by", "distance")
    log = (train("train_flow", *words).folder / "training_log.txt").read_text()
    assert "early stop: no better sample distance in 2 evaluations" in log


def test_a_resumed_run_goes_on_with_its_columns_and_its_best(train) -> None:
    words = (*EVERY, "--lr_schedule", "constant", "--ema", "0", "--eval_samples", "20", "--best_by", "distance")
    whole = train("train_flow", *words).folder
    part = train("train_flow", *words, "--max_steps", "2").folder
    assert train("train_flow", *words, "--resume", part).folder == part
    assert weights_hash(part) == weights_hash(whole)
    for column in ("step", "sample_distance", "sample_recognised"):
        assert [row[column] for row in rows_of(part)] == [row[column] for row in rows_of(whole)]
    assert (part / "checkpoints/best").read_text() == (whole / "checkpoints/best").read_text()
    refused(train("train_flow", "--resume", part, "--eval_samples", "30"), "--eval_samples 30 (was 20)")
    refused(train("train_flow", "--resume", part, "--sampler", "euler"), "--sampler euler (was heun)")


def test_a_run_from_before_these_flags_goes_on(train) -> None:
    folder = train("train_flow").folder
    config = yaml.safe_load((folder / "config.txt").read_text())
    del config["eval_samples"], config["best_by"]
    (folder / "config.txt").write_text(yaml.safe_dump(config))
    assert train("train_flow", "--max_steps", "8", "--resume", folder).folder == folder
    assert rows_of(folder)[-1]["step"] == "8"


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--best_by", "distance"), ("--best_by distance", "--eval_samples")),
        (("--best_by", "beauty"), ("--best_by beauty", "loss, distance")),
        (("--eval_samples", "1"), ("--eval_samples 1",)),
        (("--eval_samples", "-5"), ("--eval_samples -5",)),
    ],
)
def test_training_refuses_in_one_line(train, tmp_path: Path, flags: tuple[str, ...], words: tuple[str, ...]) -> None:
    refused(train("train_flow", *flags), *words)
    assert not list(tmp_path.rglob("status.json"))


def test_images_without_classes_have_nothing_to_be_measured_by(train, tmp_path: Path) -> None:
    refused(train("train_flow", *grey_folder(tmp_path / "grey", 8, 8), "--eval_samples", "4"), "has no classes")
