"""Classes are chosen by name, number or range in every task, and their names stand in messages and file names."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

import data
from scripts.tasks.showing import Shown
from tests.commands.tasks import TINY, Ended, run_here, tiny_classifier
from tests.commands.test_bad_input import check_refusal

NAMES = ("T-shirt/top", "Trouser", "größe", "v1.5 x", "a/b", "a b", "2", "Sneaker", "Bag", "Ankle boot")
FEW = ("--steps", 2)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on the digits, whose classes are then renamed."""
    from scripts import train_flow

    experiments = tmp_path_factory.mktemp("experiments")
    train_flow.main([*TINY, "--sample_every", "0", "--experiments_dir", str(experiments)])
    (folder,) = experiments.iterdir()
    for path in folder.glob("checkpoints/*.yaml"):
        facts = yaml.safe_load(path.read_text())
        facts["denoiser"]["class_names"] = list(NAMES)
        path.write_text(yaml.safe_dump(facts))
    return folder


@pytest.fixture
def task(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    def started(name: str, *words: object) -> Ended:
        out = tmp_path / f"out{len(list(tmp_path.iterdir()))}"
        return run_here(name, "--run", run, *FEW, "--out", out, *words, capsys=capsys)

    return started


def test_generated_classes_have_their_names(task) -> None:
    ended = task("generate", "--labels", "Bag", "0-4", "a b", "2", "--num_samples", 16, "--save_images")
    labels = [8, 0, 1, 6, 3, 4, 5, 6]
    assert np.load(ended.folder / "samples.npz")["arr_1"].tolist() == labels * 2
    assert yaml.safe_load((ended.folder / "config.txt").read_text())["labels"] == labels
    names = [path.name for path in sorted((ended.folder / "images").iterdir())][:8]
    endings = ("8_Bag", "0_T-shirt-top", "1_Trouser", "6_2", "3_v1-5-x", "4_a-b", "5_a-b", "6_2")
    assert names == [f"{k:05d}_label{ending}.png" for k, ending in enumerate(endings)]
    lines = ended.err.splitlines()
    assert "2 is read as the name of class number 6; class number 2 is größe" in lines
    assert "classes: 8 Bag, 0 T-shirt/top, 1 Trouser, 6 2, 3 v1.5 x, 4 a/b, 5 a b" in lines
    assert "read as the name" not in task("generate", "--labels", 3, 9, "größe", "--num_samples", 3).err


def test_labels_are_read_back_from_the_numbers(task, tmp_path: Path, capsys) -> None:
    """The classes of a folder of generated pictures are those of the archive, whatever the names are."""
    made = task("generate", "--save_images", "--num_samples", 40).folder
    network, shared = tiny_classifier(tmp_path), ("--dataset", "digits", "--draws", 10)
    confusions = []
    for samples in (made / "images", made / "samples.npz"):
        words = ("--samples", samples, "--extractors", network, "--out", tmp_path / samples.name)
        folder = run_here("evaluate", *words, *shared, "--experiments_dir", tmp_path, capsys=capsys).folder
        confusions.append(json.loads((folder / "report.json").read_text())["confusion"])
    assert confusions[0] == confusions[1] and np.sum(confusions[0]) == 40


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("inpaint", ("--rows", 2, "--samples", 1, "--resample", 1)),
        ("image_to_image", ("--rows", 2)),
        ("interpolate", ("--rows", 2, "--columns", 2)),
        ("visualize_guidance", ("--scales", 1, "--shown", 1, "--samples_per_class", 1)),
    ],
)
def test_every_task_takes_names(name: str, words: tuple[object, ...], task) -> None:
    ended = task(name, *words, "--labels", "Sneaker", "4-3")
    assert yaml.safe_load((ended.folder / "config.txt").read_text())["labels"] == [7, 4, 3]
    assert "classes: 7 Sneaker, 4 a/b, 3 v1.5 x" in ended.err.splitlines()


TASKS = ("generate", "inpaint", "image_to_image", "interpolate", "visualize_guidance", "evaluate")


@pytest.mark.parametrize("name", TASKS)
@pytest.mark.parametrize(
    ("labels", "words"),
    [
        (("owl",), ("--labels owl", "0 to 9", "T-shirt/top", "Ankle boot")),
        (("Bag", "bga"), ("--labels bga", "did you mean Bag?")),
        (("8-12",), ("--labels 8-12", "no class 10")),
        ((), ("--labels", "one or more")),
    ],
    ids=lambda value: " ".join(value),
)
def test_a_class_that_does_not_exist_is_refused(name: str, labels, words, task, tmp_path: Path) -> None:
    check_refusal(task(name, "--labels", *labels), *words)
    assert list(tmp_path.iterdir()) == []


def test_a_class_named_twice_has_one_row(task) -> None:
    check_refusal(task("visualize_guidance", "--labels", "Bag", 8), "--labels", "twice")


@pytest.fixture(scope="module")
def partly(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run, as if it had seen no image of the classes 0 to 7."""
    folder = Path(shutil.copytree(run, tmp_path_factory.mktemp("partly") / run.name))
    for path in folder.glob("checkpoints/*.yaml"):
        facts = yaml.safe_load(path.read_text())
        facts["denoiser"]["untrained"] = list(range(8))
        path.write_text(yaml.safe_dump(facts))
    return folder


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("inpaint", ("--rows", 3, "--samples", 1, "--resample", 1)),
        ("image_to_image", ("--rows", 3, "--strength", 1)),
        ("interpolate", ("--between", "images", "--rows", 2, "--columns", 2)),
        ("visualize_distribution", ("--method", "pca", "--num_samples", 8)),
    ],
)
def test_test_images_of_a_class_that_was_not_trained_are_left_out(
    name: str, words: tuple[object, ...], partly: Path, tmp_path: Path, capsys, monkeypatch: pytest.MonkeyPatch
) -> None:
    labels: list[int] = []
    for method in ("labels", "generate"):
        original = getattr(Shown, method)

        def watched(self: Shown, chosen: list[int], *rest: Any, original: Callable[..., Any] = original) -> Any:
            labels.extend(chosen)
            return original(self, chosen, *rest)

        monkeypatch.setattr(Shown, method, watched)
    shared = ("--run", partly, *FEW, *words)
    ended = run_here(name, *shared, "--out", tmp_path / "out", capsys=capsys)
    assert ended.code == 0 and set(labels) == {8, 9}
    lines = [line for line in ended.err.splitlines() if "no training image" in line]
    assert len(lines) == 1 and lines[0].startswith("classes left out since") and lines[0].endswith(", Sneaker")
    if name != "visualize_distribution":
        lost = data.load("digits", {}, Path()).test.labels.tolist().index(3)
        refused = run_here(name, *shared, "--images", lost, lost, "--out", tmp_path / "two", capsys=capsys)
        check_refusal(refused, f"--images {lost}", "v1.5 x had no training image")
