"""Runs on padded images and on images with transparency, from training to evaluation."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.commands.tasks import run_here

SMALL = (
    *("--device", "cpu", "--max_steps", 4, "--batch_size", 16, "--network.width", 8, "--network.multipliers", 1),
    *("--network.attention_levels", "--num_samples", 4, "--steps", 2, "--eval_images", 8, "--no-tensorboard"),
)


@pytest.fixture
def clear(tmp_path: Path) -> Path:
    """Return a folder of coloured squares on transparency, two classes."""
    random = np.random.default_rng(0)
    for name, colour in (("cat", (200, 30, 30)), ("dog", (30, 30, 200))):
        (tmp_path / "clear" / name).mkdir(parents=True)
        for number in range(20):
            pixels, left = np.zeros((8, 8, 4), np.uint8), random.integers(0, 4)
            pixels[2:6, left : left + 4] = (*colour, 255)
            Image.fromarray(pixels).save(tmp_path / "clear" / name / f"{number}.png")
    return tmp_path / "clear"


def test_a_run_on_padded_digits_is_generated_from_resumed_and_measured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = ("--experiments_dir", tmp_path)
    trained = run_here("train_flow", *SMALL, *runs, "--dataset.size", 6, "--dataset.pad", 3, capsys=capsys)
    assert trained.code == 0 and "digits 1x12x12" in trained.err
    made = run_here("generate", *runs, "--run", trained.folder, "--num_samples", 4, "--steps", 2, capsys=capsys)
    assert np.load(made.folder / "samples.npz")["arr_0"].shape == (4, 12, 12, 1)
    again = run_here("train_flow", *runs, "--resume", trained.folder, "--max_steps", 6, capsys=capsys)
    assert again.code == 0 and "resumed at step 4" in again.err
    loss = run_here("evaluate", *runs, "--run", trained.folder, "--task", "loss", "--num_images", 8, capsys=capsys)
    assert loss.code == 0
    padded = ("--dataset", "digits", "--dataset.size", 6, "--dataset.pad", 3)
    network = run_here("train_classifier", *padded, "--epochs", 1, "--out", tmp_path / "n.safetensors", capsys=capsys)
    words = ("--num_images", 12, "--draws", 10, "--steps", 2, "--extractors", tmp_path / "n.safetensors")
    measured = run_here("evaluate", *runs, "--run", trained.folder, *words, capsys=capsys)
    assert network.code == 0 and measured.code == 0, network.err + measured.err
    assert (measured.folder / "report.json").is_file()
    assert np.load(measured.folder / "samples.npz")["arr_0"].shape == (12, 12, 12, 1)
    whole = run_here("evaluate", "--samples", made.folder / "samples.npz", "--dataset", "digits", *runs, capsys=capsys)
    assert whole.code == 2 and "12" in whole.err and whole.err.count("\n") == 1


def test_four_channels_are_trained_and_written(clear: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = ("--dataset", "folder", "--dataset.path", clear, "--dataset.channels", 4)
    trained = run_here("train_flow", *SMALL, *data, "--experiments_dir", tmp_path / "runs", capsys=capsys)
    assert trained.code == 0 and "folder 4x8x8" in trained.err
    with Image.open(next((trained.folder / "final_samples").glob("00000_label0*.png"))) as sample:
        assert sample.mode == "RGBA"
    with Image.open(trained.folder / "final_samples" / "grid.png") as sheet:
        assert sheet.mode == "RGB"
