"""A student is a run like any other; it makes an image in one evaluation, and refuses what only its teacher can."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from models.model import load
from models.runs import checkpoints
from tests.commands.tasks import TINY, TINY_VAE, Ended, rows_of, run_here, status_of, weights_hash

SMALL = (
    *("--batch_size", "16", "--max_steps", "6", "--warmup_steps", "2", "--eval_images", "16"),
    *("--num_samples", "10", "--no-tensorboard", "--eval_every", "0", "--sample_every", "0"),
)
Run = Callable[..., Ended]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with trained teachers: a flow, a chain, one without labels, and one in latents."""
    from scripts import train_ddpm, train_flow, train_latent, train_vae

    folder = tmp_path_factory.mktemp("runs")
    common = ("--experiments_dir", str(folder), "--device", "cpu", "--eval_every", "0", "--sample_every", "0")
    train_flow.main([*TINY, *common, "--name", "teacher", "--lr", "0.003"])
    train_flow.main([*TINY, *common, "--name", "plain", "--no-conditional"])
    train_ddpm.main([*TINY, *common, "--name", "noise", "--timesteps", "20"])
    train_ddpm.main([*TINY, *common, "--name", "chain", "--timesteps", "20", "--prediction", "v"])
    train_vae.main([*TINY_VAE, *common, "--name", "vae"])
    train_latent.main([*TINY, *common, "--name", "latent", "--autoencoder", "vae", "--network.patch_size", "1"])
    return folder


@pytest.fixture
def run(runs: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    def start(task: str, *words: object) -> Ended:
        small = SMALL if task == "distill" else ()
        return run_here(task, "--experiments_dir", runs, *small, *words, capsys=capsys)

    return start


def test_a_student_leaves_a_folder_that_explains_itself(run: Run) -> None:
    folder = run("distill", "--run", "teacher", "--guidance_scale", "1.25", "--name", "student").folder
    config = yaml.safe_load((folder / "config.txt").read_text())
    teacher = next(folder.parent.glob("*-teacher"))
    assert config["run"] == teacher.name and config["dataset"] == "digits" and config["lr"] == 0.003
    facts = yaml.safe_load((teacher / "checkpoints" / "step_00000006.yaml").read_text())
    assert config["teacher_sha256"] == facts["sha256"]
    assert status_of(folder)["state"] == "finished" and status_of(folder)["dataset"] == "digits"
    (row,) = rows_of(folder)
    parts = [float(row[f"test_loss_class{label}"]) for label in range(10)]
    assert float(row["test_loss"]) == pytest.approx(np.average(parts, weights=[2] * 6 + [1] * 4), rel=1e-4)
    for name in ("grid", "with_teacher"):
        assert Image.open(folder / "final_samples" / f"{name}.png").width > 100
    log = (folder / "training_log.txt").read_text()
    assert f"1 evaluation, student of {teacher.name}, guidance 1.25 built in" in log


@pytest.mark.slow
@pytest.mark.parametrize(
    "words",
    [
        ("--run", "teacher", "--evaluations", "2", "--steps", "2"),
        ("--run", "plain", "--reuse", "2", "--pairs", "2"),
        ("--run", "chain", "--sampler", "ddim", "--steps", "4", "--evaluations", "4"),
        ("--run", "latent"),
    ],
)
def test_stopped_and_resumed_equals_uninterrupted(words: tuple[str, ...], run: Run) -> None:
    """The buffer of the teacher's images is not saved, but computed again."""
    whole = run("distill", *words, "--lr_schedule", "constant", "--ema", "0").folder
    part = run("distill", *words, "--lr_schedule", "constant", "--ema", "0", "--max_steps", "4").folder
    assert weights_hash(part) != weights_hash(whole)
    again = run("distill", "--resume", part)
    assert again.folder == part and weights_hash(part) == weights_hash(whole), again.err
    assert "this version does not have" not in again.err
    evaluations = int(dict(zip(words[::2], words[1::2], strict=True)).get("--evaluations", 1))
    made = run("generate", "--run", part, "--num_samples", "12")
    assert f"{evaluations} evaluation" in made.err
    assert yaml.safe_load((made.folder / "config.txt").read_text())["nfe"] == evaluations


def test_another_teacher_of_the_same_name_is_not_resumed_with(run: Run, runs: Path) -> None:
    part = run("distill", "--run", "chain", "--max_steps", "2").folder
    chain, noise = (next(runs.glob(f"*-{name}")) for name in ("chain", "noise"))
    kept = runs.parent / "kept"
    shutil.move(chain / "checkpoints", kept)
    shutil.copytree(noise / "checkpoints", chain / "checkpoints")
    try:
        refused = run("distill", "--resume", part)
    finally:
        shutil.rmtree(chain / "checkpoints")
        shutil.move(kept, chain / "checkpoints")
    assert refused.code == 2 and "but the teacher of this student has" in refused.err
    assert len(refused.err.splitlines()) == 1


def test_the_config_of_a_student_makes_the_same_student(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    first = run("distill", "--run", "chain", "--reuse", "2", "--max_steps", "2").folder
    again = run_here("distill", "--config", first / "config.txt", capsys=capsys)
    assert again.code == 0, again.err
    assert weights_hash(again.folder) == weights_hash(first)


def test_a_student_goes_on_with_a_teacher_that_has_moved_or_was_trained_further(
    run: Run, runs: Path, tmp_path: Path
) -> None:
    chain, moved = next(runs.glob("*-chain")), tmp_path / "elsewhere" / "my teacher"
    shutil.copytree(chain, moved, symlinks=True)
    part = run("distill", "--run", moved, "--max_steps", "2").folder
    assert yaml.safe_load((part / "config.txt").read_text())["run"] == str(moved)
    assert run("distill", "--resume", part, "--max_steps", "3").code == 0
    moved.rename(tmp_path / "other")
    assert run("distill", "--resume", part, "--max_steps", "4").code == 2
    ended = run("distill", "--resume", part, "--run", tmp_path / "other", "--max_steps", "4")
    assert ended.code == 0, ended.err
    (file,) = (tmp_path / "other" / "checkpoints").glob("step_00000006.safetensors")
    ended = run("distill", "--resume", part, "--checkpoint", file, "--max_steps", "5")
    assert ended.code == 0, ended.err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--run teacher --evaluations 3", "--evaluations 3: choose from 1, 2, 4"),
        ("--run teacher --evaluations 2", "set --steps 4"),
        ("--run teacher --sampler ddpm", "adds noise"),
        ("--run plain --guidance_scale 1.5", "trained without labels"),
        ("--run vae", "is not a denoiser checkpoint"),
        ("--run noise", "predicts something else, e.g. v"),
        ("--run nobody", "no run 'nobody'"),
        ("--run student", "is a student itself"),
    ],
)
def test_what_is_no_teacher(words: str, said: str, run: Run, runs: Path) -> None:
    if not list(runs.glob("*-student")):
        run("distill", "--run", "teacher", "--name", "student")
    before = sorted(runs.iterdir())
    refused = run("distill", *words.split())
    assert refused.code == 2 and said in refused.err and len(refused.err.splitlines()) == 1, refused.err
    assert sorted(runs.iterdir()) == before


def test_a_teacher_that_is_still_training_is_refused(run: Run, runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from scripts.tasks import distilling

    monkeypatch.setattr(distilling, "liveness", lambda status: "running")
    refused = run("distill", "--run", "teacher")
    assert refused.code == 2 and "is still training" in refused.err and len(refused.err.splitlines()) == 1


@pytest.mark.parametrize(
    ("task", "words"),
    [
        ("generate", "--steps 3"),
        ("generate", "--sampler heun"),
        ("generate", "--guidance_scale 2"),
        ("generate", "--eta 1"),
        ("evaluate", "--task likelihood"),
        ("evaluate", "--task bayes"),
        ("evaluate", "--task loss"),
        ("inpaint", ""),
        ("image_to_image", ""),
        ("visualize_guidance", ""),
        ("interpolate", "--between images"),
    ],
)
def test_what_only_the_teacher_can(task: str, words: str, run: Run, runs: Path) -> None:
    student = next(iter(runs.glob("*-student")), None) or run("distill", "--run", "teacher", "--name", "student").folder
    refused = run(task, "--run", student, *words.split())
    assert refused.code == 2 and len(refused.err.splitlines()) == 1, refused.err
    assert next(runs.glob("*-teacher")).name in refused.err


def test_a_student_is_no_weaker_model(run: Run, runs: Path) -> None:
    student = next(iter(runs.glob("*-student")), None) or run("distill", "--run", "teacher", "--name", "student").folder
    refused = run("generate", "--run", "teacher", "--autoguidance", student, "--guidance_scale", 2)
    assert refused.code == 2 and len(refused.err.splitlines()) == 1, refused.err
    assert f"use its teacher: --autoguidance {next(runs.glob('*-teacher')).name}" in refused.err


def test_a_student_is_measured_and_interpolated(run: Run, runs: Path) -> None:
    student = run("distill", "--run", "teacher", "--name", "another").folder
    images = load(student, device="cpu")
    assert images.spec.student is not None and images.spec.student.evaluations == 1
    measured = run("evaluate", "--run", student, "--num_images", "40", "--extractors", "convnet")
    assert measured.code == 0 and "NFE 1" in measured.err, measured.err
    words = ("--num_images", "40", "--extractors", "convnet", "--every_checkpoint")
    table = (run("evaluate", "--run", student, *words).folder / "table.txt").read_text()
    assert "recognised" in table and "noise_loss" not in table
    assert run("interpolate", "--run", student, "--between", "noises", "--rows", "2").code == 0
    samples = student / "final_samples"
    measured = run("evaluate", "--samples", samples, "--extractors", "convnet")
    assert measured.code == 0, measured.err
    assert "10 images" in (measured.folder / "report.txt").read_text() and "with_teacher.png is a sheet" in measured.err
    assert checkpoints.load_newest(student)[1]["denoiser"]["label_drop"] == 0
