"""Tests of two runs and their samples that commit e42310d made: they load, generate, evaluate and resume as before.

tests/data/older_runs holds a flow, a chain (DDPM) and a flow trained with Muon, on digits, all trained for moments on a
CPU in float32. Their config.txt and environment.txt have the settings and the commands. Every test works on a copy.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file

import models
from data import ImageData, load
from models.randomness import Draw, derive_seed
from models.runs import checkpoints
from scripts.tasks.samples import read_samples
from tests.commands.tasks import REPOSITORY, TINY, rows_of, run_here, status_of

OLDER_RUNS = REPOSITORY / "tests" / "data" / "older_runs"
SAMPLES = {"flow": "heun-4", "chain": "ddim-4"}
GUIDED = ("--guidance_scale", 2, "--guidance_interval", 0.2, 0.8)
HOW = ("--seed", 5, "--steps", 4, *GUIDED, "--device", "cpu", "--precision", "float32")
# kind of run, its task, its last step, and words of the line for each change of meaning
RESUMED = [
    ("flow", "train_flow", 200, [("frozen grid", "best")]),
    ("chain", "train_ddpm", 100, [("frozen grid", "best"), ("min_snr", "l1")]),
]


@pytest.fixture
def older(tmp_path: Path) -> Path:
    return Path(shutil.copytree(OLDER_RUNS, tmp_path / "runs"))


@pytest.fixture(scope="module")
def digits() -> ImageData:
    return load("digits", {}, Path("unused"))


@pytest.fixture
def noise_of_before(monkeypatch: pytest.MonkeyPatch) -> None:
    """Draw the noise of an image with numpy's generator, as e42310d did. Today's comes from Philox."""

    def image_draw(seed: int, indices: Sequence[int], device: torch.device) -> Draw:
        generators = [np.random.default_rng(derive_seed(seed, "image", index)) for index in indices]
        return lambda shape: torch.stack(
            [torch.from_numpy(generator.standard_normal(shape[1:], dtype=np.float32)) for generator in generators]
        )

    monkeypatch.setattr("models.generation.image_draw", image_draw)


def images_of(folder: Path) -> np.ndarray:
    """Return the images of a samples.npz, (N, H, W, C), as integers that can be subtracted."""
    return np.load(folder / "samples.npz")["arr_0"].astype(int)


def assert_same_images(images: np.ndarray, expected: np.ndarray) -> None:
    """Allow one grey level: the order of float additions depends on the machine."""
    assert images.shape == expected.shape
    assert np.abs(images - expected).max() <= 1


def changes_told(folder: Path, step: int) -> list[str]:
    """Return the lines of the log between the description of the data and the line that says `resumed`."""
    lines = (folder / "training_log.txt").read_text().splitlines()
    end = next(index for index, line in enumerate(lines) if line.startswith(f"resumed at step {step}"))
    start = max(index for index, line in enumerate(lines[:end]) if line.startswith("digits 1x8x8"))
    return lines[start + 1 : end]


def best_of(folder: Path) -> float:
    return yaml.safe_load((folder / "performance_metrics.txt").read_text())["best_test_loss"]


@pytest.mark.usefixtures("noise_of_before")
def test_generate_makes_the_images_of_before(older: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("--run", older / "flow", "--sampler", "heun", "--num_samples", 20, *HOW, "--out", tmp_path / "out")
    made = images_of(run_here("generate", *words, capsys=capsys).folder)
    assert made.std() > 50
    assert_same_images(made, images_of(OLDER_RUNS / "flow/samples/heun-4"))


@pytest.mark.usefixtures("noise_of_before")
def test_the_library_loads_them(older: Path) -> None:
    model = models.load(older / "flow", device="cpu")
    settings = {"sampler": "heun", "steps": 4, "guidance_scale": 2.0, "guidance_interval": (0.2, 0.8)}
    images = models.sample(model, 20, seed=5, **settings)
    assert_same_images(images.permute(0, 2, 3, 1).int().numpy(), images_of(OLDER_RUNS / "flow/samples/heun-4"))
    chain = models.load(older / "chain", "best", weights="raw", device="cpu")
    assert models.sample(chain, 2, steps=2).shape == (2, 1, 8, 8)


@pytest.mark.parametrize("kind", ["flow", "chain"])
def test_evaluate_measures_them(kind: str, older: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("--task", "loss", "--run", older / kind, "--num_images", 20)
    report = json.loads(run_here("evaluate", *words, capsys=capsys).folder.read_text())
    assert report["protocol"]["run"] == kind
    assert 0.1 < report["results"]["test"]["mean"] < 1


@pytest.mark.slow
@pytest.mark.usefixtures("noise_of_before")
@pytest.mark.parametrize(("kind", "task", "step", "told"), RESUMED)
def test_a_resumed_run_tells_each_change_once_and_forgets_its_best(
    kind: str,
    task: str,
    step: int,
    told: list[tuple[str, ...]],
    older: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = older / kind
    ended = run_here(task, "--resume", folder, "--max_steps", step + 6, capsys=capsys)
    assert ended.folder == folder
    assert status_of(folder)["state"] == "finished"
    lines = changes_told(folder, step)
    assert len(lines) == len(told)
    for line, words in zip(lines, told, strict=True):
        assert all(word in line for word in words)
        assert ended.err.splitlines().count(line) == 1
    before, after = (float(row["test_loss"]) for row in rows_of(folder))
    # The later loss is the worse one, so it is the best only if the earlier best is forgotten.
    assert after > before
    assert best_of(folder) == pytest.approx(after, rel=1e-5)
    assert checkpoints.resolve_checkpoint(folder, "best").stem == f"step_{step + 6:08d}"
    if kind == "flow":
        words = ("--run", folder, "--sampler", "heun", "--num_samples", 20, *HOW, "--weights", "raw")
        made = run_here("generate", *words, "--out", tmp_path / "out", capsys=capsys).folder
        assert_same_images(images_of(made), images_of(OLDER_RUNS / "flow/samples/heun-4-resumed-206-raw"))

    assert run_here(task, "--resume", folder, "--max_steps", step + 8, capsys=capsys).folder == folder
    assert changes_told(folder, step + 6) == []
    assert best_of(folder) == pytest.approx(min(after, float(rows_of(folder)[-1]["test_loss"])), rel=1e-5)


def test_a_run_with_muon_is_resumed_as_before(older: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Ten more steps give the weights that e42310d gave. It kept one momentum for each matrix; today's are stacked."""
    folder = older / "muon"
    assert run_here("train_flow", "--resume", folder, "--max_steps", 30, capsys=capsys).folder == folder
    tensors, _ = checkpoints.load_checkpoint(checkpoints.resolve_checkpoint(folder))
    expected = load_file(folder / "network_at_step_30.safetensors")
    before = load_file(OLDER_RUNS / "muon/checkpoints/step_00000020.safetensors")
    for name, weight in expected.items():
        torch.testing.assert_close(tensors[name], weight, rtol=0, atol=1e-5)
    assert max((expected[name] - before[name]).abs().max() for name in expected) > 0.01


def test_a_run_of_today_is_resumed_without_a_word_on_changes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = (*TINY, "--loss", "l1", "--weighting", "min_snr", "--experiments_dir", tmp_path)
    folder = run_here("train_ddpm", *words, "--max_steps", 4, capsys=capsys).folder
    run_here("train_ddpm", "--resume", folder, "--max_steps", 6, capsys=capsys)
    assert changes_told(folder, 4) == []
    losses = [float(row["test_loss"]) for row in rows_of(folder)]
    assert len(losses) == 2
    assert best_of(folder) == pytest.approx(min(losses), rel=1e-5)
    assert math.isfinite(best_of(folder))


@pytest.mark.parametrize("kind", ["flow", "chain"])
def test_cards_tell_the_unit_of_the_guidance_interval(
    kind: str, older: Path, digits: ImageData, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = older / kind / "samples" / SAMPLES[kind]
    sampler = SAMPLES[kind].partition("-")[0]
    words = ("--run", older / kind, "--sampler", sampler, "--num_samples", 10, *HOW, "--out", tmp_path / "out")
    now = run_here("generate", *words, capsys=capsys).folder
    for folder, unit in ((before, "in the schedule's own t"), (now, "flow time")):
        card = read_samples(folder / "samples.npz", 10, digits).card
        assert card["made_by"] == "generate"
        assert card["guidance_interval"] == [0.2, 0.8]
        assert card["guidance_interval_unit"] == unit


def test_a_student_of_a_run_without_stored_image_counts_is_resumed(
    older: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    common = ("--experiments_dir", older, "--no-tensorboard", "--eval_images", 16, "--num_samples", 10)
    words = ("--run", older / "flow", "--batch_size", 8, *common)
    student = run_here("distill", *words, "--max_steps", 2, capsys=capsys)
    assert student.code == 0, student.err
    again = run_here("distill", "--resume", student.folder, "--max_steps", 3, *common, capsys=capsys)
    assert again.code == 0, again.err
