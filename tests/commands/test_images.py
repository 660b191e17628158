"""Images of every kind through the real commands: colour, grey, not square, from folders and zips, and real MNIST."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.commands.tasks import TINY, run_here, status_of

DATA_ROOT = os.environ.get("DATA_ROOT")


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Two classes of 24 colour pictures, 20 pixels high and 36 wide."""
    rng = np.random.default_rng(0)
    for label, tint in (("red", (255, 80, 80)), ("blue", (80, 80, 255))):
        folder = tmp_path / "pictures" / label
        folder.mkdir(parents=True)
        for index in range(24):
            shade = rng.uniform(0.5, 1.0, (20, 36, 1))
            Image.fromarray((shade * tint).astype(np.uint8)).save(folder / f"{index}.png")
    return tmp_path / "pictures"


def through_everything(tmp_path: Path, capsys, *flags: object) -> np.ndarray:
    """Trains for a moment and generates; the images, uint8 NHWC."""
    words = (*TINY, "--experiments_dir", tmp_path / "runs", *flags)
    run = run_here("train_flow", *words, capsys=capsys).folder
    assert status_of(run)["state"] == "finished"
    words = ("--run", run, "--num_samples", 4, "--steps", 2, "--animate", "--save_images", "--format", "gif")
    folder = run_here("generate", *words, capsys=capsys).folder
    samples = np.load(folder / "samples.npz")["arr_0"]
    single = np.asarray(Image.open(min((folder / "images").iterdir())))
    np.testing.assert_array_equal(single.reshape(samples.shape[1:]), samples[0])
    frame = np.asarray(Image.open(folder / "animation.gif").convert("RGB")).astype(int)
    if samples.shape[-1] == 1:
        assert (np.ptp(frame, axis=-1) == 0).all(), "grey got a tint"
    return samples


def test_colour_and_not_square(pictures: Path, tmp_path: Path, capsys) -> None:
    samples = through_everything(tmp_path, capsys, "--dataset", "folder", "--dataset.path", pictures)
    assert samples.shape == (4, 20, 36, 3)


def test_the_same_in_grey_resized_and_from_a_zip(pictures: Path, tmp_path: Path, capsys) -> None:
    archive = tmp_path / "my pictures.zip"
    with zipfile.ZipFile(archive, "w") as file:
        for path in sorted(pictures.rglob("*.png")):
            file.write(path, path.relative_to(pictures))
    flags = ("--dataset", "folder", "--dataset.path", archive, "--dataset.channels", 1, "--dataset.size", 14)
    assert through_everything(tmp_path, capsys, *flags).shape == (4, 14, 14, 1)


@pytest.mark.parametrize("network", ["unet", "dit"])
def test_every_network(network: str, tmp_path: Path, capsys) -> None:
    words = ("--network", network, "--network.width", 16, "--max_steps", 3, "--batch_size", 8, "--eval_images", 8)
    words = (*words, "--num_samples", 2, "--steps", 2, "--no-tensorboard", "--experiments_dir", tmp_path)
    run = run_here("train_flow", *words, capsys=capsys).folder
    folder = run_here("generate", "--run", run, "--num_samples", 2, "--steps", 2, capsys=capsys).folder
    assert np.load(folder / "samples.npz")["arr_0"].shape == (2, 8, 8, 1)


@pytest.mark.skipif(
    DATA_ROOT is None or not (Path(DATA_ROOT) / "MNIST").is_dir(), reason="no MNIST: DATA_ROOT names no folder of it"
)
def test_the_recipe_on_real_mnist(tmp_path: Path, capsys) -> None:
    flags = ("--recipe", "mnist", "--network.width", 16, "--max_steps", 8)
    assert through_everything(tmp_path, capsys, *flags).shape == (4, 28, 28, 1)
