"""The tour: each of its commands runs, with tiny settings, and its notebook runs as it stands."""

from __future__ import annotations

import json
import re
import shlex
import sys
from pathlib import Path

import pytest
from PIL import Image

from tests.commands.tasks import REPOSITORY, run_here

TOUR = (REPOSITORY / "docs" / "tour.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r'^make (\w+)(?: FOREGROUND=1)? ARGS="([^"]*)"$', TOUR, re.MULTILINE)
# Flags that make a command of the tour quick. They come last, and win.
QUICK = {
    "generate": "--num_samples 6 --steps 2",
    "visualize_guidance": "--steps 2 --samples_per_class 2 --shown 2",
    "interpolate": "--steps 2 --rows 2 --columns 3",
    "inpaint": "--steps 2 --rows 2 --samples 2 --resample 1",
    "evaluate": "--num_images 20",
    "train_flow": "--max_steps 2 --network.width 8 --num_samples 10 --eval_images 8 --no-tensorboard",
}


def test_there_are_ten() -> None:
    assert len(COMMANDS) == TOUR.count("```bash") == len(re.findall(r"^## \d", TOUR, re.MULTILINE)) == 10
    for name in re.findall(r"\((images/[\w.]+)\)", TOUR):
        assert Image.open(REPOSITORY / "docs" / name).width > 300, name


@pytest.mark.parametrize(("task", "words"), COMMANDS)
def test_a_command_runs(task: str, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if task == "study":  # Its real trainings are in test_study.py.
        assert run_here(task, *shlex.split(words), "--show", capsys=capsys).out.startswith("question: ")
        return
    quick = QUICK[task].split()
    if "bayes" in words:
        quick = ["--num_images", "4", "--draws", "2"]
    elif task == "evaluate":
        quick += ["--steps", "2"]
    done = run_here(task, *shlex.split(words), *quick, "--experiments_dir", tmp_path, capsys=capsys)
    assert done.folder.exists()


def test_the_notebook_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    notebook = json.loads((REPOSITORY / "docs" / "tour.ipynb").read_text(encoding="utf-8"))
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert len(cells) > 4 and not any(cell["outputs"] for cell in cells)
    monkeypatch.chdir(REPOSITORY / "docs")  # the folder in which Jupyter starts it
    monkeypatch.setattr(sys, "path", [*sys.path])
    names: dict[str, object] = {}
    for cell in cells:
        *before, last = "".join(cell["source"]).splitlines()
        exec("\n".join(before), names)
        shown = eval(last, names)
        assert (Path(sys.path[0]) / "models").is_dir()
        assert isinstance(shown, Image.Image) or shown == tuple("0123456789")
