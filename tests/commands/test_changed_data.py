"""Data that moved or changed since a run was trained: what differs is said, with a way out that works."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from data.readers import layouts
from data.readers.layouts import _fraction
from models.runs import checkpoints
from scripts.tasks.run_data import LISTING
from tests.commands.tasks import TINY, Ended, run_here
from tests.data.own_images import png

Train = Callable[..., Ended]


@pytest.fixture
def train(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Train:
    def run(*words: object, task: str = "train_flow") -> Ended:
        return run_here(task, *words, "--experiments_dir", tmp_path / "runs", capsys=capsys)

    return run


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Return a folder of two classes, ten images each."""
    for kind in "ab":
        for number in range(10):
            pixels = np.random.default_rng(number).integers(0, 255, (8, 8, 3)).astype(np.uint8)
            png(tmp_path / "data" / "pictures" / kind / f"{number}.png", pixels)
    return tmp_path / "data" / "pictures"


def new_run(train: Train, pictures: Path, *words: object) -> Path:
    return train("--dataset", "folder", "--dataset.path", pictures, "--dataset.test_share", "0.3", *TINY, *words).folder


def facts_of(run: Path) -> dict[str, Any]:
    return yaml.safe_load(checkpoints.resolve_checkpoint(run).with_suffix(".yaml").read_text())


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_what_differs_is_said_and_nothing_is_written(train: Train, pictures: Path) -> None:
    run = new_run(train, pictures)
    assert "2 classes (a, b)" in (run / "training_log.txt").read_text().splitlines()[0]
    data = facts_of(run)["data"]
    then, kept = sum(data["classes"].values()), data["classes"]["a"]
    assert data["train"] == then and data["test"] == 20 - then > 1
    before = contents(run)

    def refusal() -> str:
        ended = train("--resume", run, "--max_steps", "8")
        assert ended.code == 2 and ended.err.count("\n") == 1 and contents(run) == before
        assert "name the original with --dataset.path" in ended.err and f"--init_from {run.name}" in ended.err
        return ended.err

    new = next(name for name in (f"a/new{number}.png" for number in range(99)) if _fraction(name) >= 0.3)
    shutil.copy(pictures / "a" / "1.png", pictures / new)
    line = refusal()
    counts = "{} training and {} test images"
    assert f"{counts.format(then + 1, 20 - then)} now, {counts.format(then, 20 - then)} then" in line
    assert f"a has {kept + 1} training images now, {kept} then" in line and "--changed_data" in line
    assert f"the first file that differs is {new}, which is new" in line
    (pictures / new).unlink()

    shutil.copytree(pictures / "a", pictures / "c")
    assert "classes a, b, c now, a, b then" in (line := refusal()) and "--changed_data" not in line
    assert "c/0.png, which is new" in line
    assert "classes a, b, c now" in train("--resume", run, "--max_steps", "8", "--changed_data").err
    shutil.rmtree(pictures / "c")

    (pictures / "a").rename(pictures / "aa")
    assert "classes aa, b now, a, b then" in (line := refusal()) and "a/0.png, which is gone" in line
    (pictures / "aa").rename(pictures / "a")

    name = next(name for name in (f"b/{number}.png" for number in range(10)) if _fraction(name) >= 0.3)
    stored = (pictures / name).read_bytes()
    png(pictures / name, 7, size=(8, 8))
    assert f"{name}, which is of the size" in refusal()
    (pictures / name).unlink()
    assert f"{name}, which is gone" in refusal()
    (pictures / name).write_bytes(stored)
    assert train("--resume", run, "--max_steps", "8").code == 0


def test_a_run_goes_on_with_more_images_if_it_is_told_to(train: Train, pictures: Path) -> None:
    run = new_run(train, pictures)
    space = facts_of(run)["denoiser"]["space"]
    for number in range(8):
        png(pictures / "a" / f"white{number}.png", 255, size=(8, 8))
    assert train("--resume", run, "--max_steps", "8", "--changed_data").code == 0
    log = (run / "training_log.txt").read_text()
    assert "the data changed: " in log and "which is new" in log and "resumed at step 6" in log
    facts = facts_of(run)
    assert facts["step"] == 8 and facts["denoiser"]["space"] == space and facts["data"]["classes"]["a"] > 9
    assert "changed_data" not in (run / "config.txt").read_text()
    assert train("--resume", run, "--max_steps", "10").code == 0  # the new images are now those of the run
    assert "--changed_data is only for a resumed run; name the run with --resume" in train("--changed_data").err


def test_an_autoencoder_goes_on_with_more_images(train: Train, pictures: Path) -> None:
    words = ("--network.width", "8", "--network.latent_shape", "2", "4", "4", "--batch_size", "8", "--no-umap")
    small = ("--max_steps", "3", "--eval_images", "8", "--no-tensorboard")
    run = train("--dataset", "folder", "--dataset.path", pictures, *words, *small, task="train_vae").folder
    (pictures / "a" / "1.png").unlink()
    assert "a/1.png, which is gone" in train("--resume", run, "--max_steps", "5", task="train_vae").err
    assert train("--resume", run, "--max_steps", "5", "--changed_data", task="train_vae").code == 0


def test_data_that_moved(
    train: Train, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DATA_ROOT", raising=False)  # a folder there would be taken for the moved one
    run = new_run(train, pictures)
    moved = tmp_path / "other" / "pictures"
    moved.parent.mkdir()
    pictures.rename(moved)
    lost = train("--resume", run, "--max_steps", "8")
    assert lost.code == 2 and f"are not in {pictures};" in lost.err
    assert "with --dataset.path or" in lost.err and "with --data_root" in lost.err
    assert train("--resume", run, "--max_steps", "8", "--dataset.path", moved).code == 0
    for number, root in enumerate((moved.parent, tmp_path / "other")):
        assert train("--resume", run, "--max_steps", str(10 + number), "--data_root", root).code == 0
    moved.rename(tmp_path / "renamed")

    def loss(root: Path) -> Ended:
        words = ("--task", "loss", "--run", run, "--num_images", "2", "--data_root", root)
        return run_here("evaluate", *words, "--experiments_dir", tmp_path / "runs", capsys=capsys)

    assert "not in" in (lost := loss(tmp_path / "empty")).err and "--data_root" in lost.err
    assert "dataset.path" not in lost.err.partition("are not in")[2]  # evaluate has no such flag
    assert loss(tmp_path / "renamed").code == 0
    bare = train("--resume", run, "--max_steps", "12", "--data_root", run / "checkpoints")
    assert f"are not in {moved};" in bare.err and "with --data_root" in bare.err
    shutil.copy(tmp_path / "renamed" / "a" / "1.png", tmp_path / "renamed" / "a" / "new.png")
    changed = loss(tmp_path / "renamed")
    assert changed.code == 2 and "a/new.png, which is new" in changed.err and changed.err.count("\n") == 1


@pytest.mark.slow
@pytest.mark.parametrize("conditional", ["--conditional", "--no-conditional"])
def test_a_run_of_before_keeps_its_order_of_classes(
    conditional: str, train: Train, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pictures = tmp_path / "numbers"
    for kind in range(12):
        for number in range(3):
            png(pictures / str(kind) / f"{number}.png", 20 * kind + number, size=(8, 8))
    with monkeypatch.context() as before:
        before.setattr(layouts, "class_order", lambda names, path, known=(): tuple(sorted(names)))
        run = new_run(train, pictures, conditional)
    path = checkpoints.resolve_checkpoint(run).with_suffix(".yaml")
    facts = facts_of(run)
    facts["data"] = {key: facts["data"][key] for key in ("name", "sha256")}
    del facts["denoiser"]["untrained"]
    path.write_text(yaml.safe_dump(facts))
    (run / LISTING).unlink()
    assert train("--resume", run, "--max_steps", "8").code == 0
    names = facts_of(run)["denoiser"]["class_names"]
    assert names == (sorted(map(str, range(12))) if conditional == "--conditional" else [])
    words = ("--task", "loss", "--run", run, "--num_images", "2", "--experiments_dir", tmp_path / "runs")
    assert run_here("evaluate", *words, capsys=capsys).code == 0
    name = next(name for name in (f"{kind}/1.png" for kind in range(12)) if _fraction(name) >= 0.3)
    (pictures / name).unlink()
    ended = train("--resume", run, "--max_steps", "9")
    assert ended.code == 2 and f"{name}, which is gone" in ended.err
    fresh = new_run(train, pictures)
    assert facts_of(fresh)["denoiser"]["class_names"] == list(map(str, range(12)))


@pytest.mark.slow
@pytest.mark.parametrize("conditional", ["--conditional", "--no-conditional"])
def test_a_run_of_before_keeps_text_order_and_its_hold_out(
    conditional: str, train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names, pictures = ["c1", "c2", "c10"], tmp_path / "rare"
    for shade, kind in enumerate(names):  # One image each: the oldest hold-out would differ.
        png(pictures / kind / "only.png", 20 * shade, size=(8, 8))
    with monkeypatch.context() as before:
        before.setattr(layouts, "class_order", lambda names, path, known=(): tuple(sorted(names)))
        run = new_run(train, pictures, conditional)
    resumed = train("--resume", run, "--max_steps", "8")
    assert resumed.code == 0, resumed.err
    assert list(facts_of(run)["data"]["classes"]) == sorted(names)
    assert list(facts_of(new_run(train, pictures))["data"]["classes"]) == names


def test_a_class_without_a_training_image_is_not_generated(
    train: Train, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pictures = tmp_path / "rare"
    for kind in "abc":
        png(pictures / kind / "only.png", 9, size=(8, 8))
    ended = train("--dataset", "folder", "--dataset.path", pictures, *TINY)
    assert "warning" not in ended.err and ended.err.count("class without any training image") == 1
    run = ended.folder
    (lost,) = facts_of(run)["denoiser"]["untrained"]
    name = facts_of(run)["denoiser"]["class_names"][lost]
    assert f"class without any training image: {name}" in (run / "training_log.txt").read_text()

    def generate(*words: object) -> Ended:
        words = ("--run", run, "--steps", "2", "--save_images", "--num_samples", "4", *words)
        return run_here("generate", *words, "--experiments_dir", tmp_path / "runs", capsys=capsys)

    refused = generate("--labels", lost)
    assert refused.code == 2 and re.search(rf"--labels {lost}.*{name} had no training image", refused.err)
    drawn = [path.name for path in (run / "final_samples").glob("*_label*.png")]
    assert len(drawn) == 10 and not any(f"_label{lost}" in file for file in drawn)
    ended = generate()
    assert f"no training image of them: {name}" in ended.err
    files = [path.name for path in (ended.folder / "images").iterdir()]
    assert len(files) == 4 and not any(f"_label{lost}" in file for file in files)
