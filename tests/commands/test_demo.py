"""Tests of demo.sh: it trains, generates images with the trained model, and prints the paths of the results."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.commands.fake_repository import FakeRepository, fake_repository

pytestmark = pytest.mark.slow

TRAIN = """
import json, os, sys
print("epoch 1", file=sys.stderr)
open(os.environ["FAKE_OUT"], "w").write(json.dumps(sys.argv[1:]))
if "--fail" in sys.argv:
    sys.exit(3)
print("experiments/a run")
"""
GENERATE = """
import os, pathlib, sys
folder = pathlib.Path(sys.argv[sys.argv.index("--run") + 1]) / "samples"
folder.mkdir(parents=True)
assert "--animate" in sys.argv
for name in ("grid.png", "samples.npz", *([] if "NO_ANIMATION" in os.environ else ["animation.webp"])):
    (folder / name).write_text("x")
print(folder)
"""


@pytest.fixture
def repository(tmp_path: Path) -> Iterator[FakeRepository]:
    with fake_repository(tmp_path) as made:
        (made.root / "scripts" / "train_flow.py").write_text(TRAIN)
        (made.root / "scripts" / "generate.py").write_text(GENERATE)
        yield made


def test_it_ends_with_grid_animation_and_run_folder(repository: FakeRepository) -> None:
    done = repository.run("make", "demo", "ARGS=--max_minutes 1 --name 'a b'")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "grid        experiments/a run/samples/grid.png",
        "animation   experiments/a run/samples/animation.webp",
        "run folder  experiments/a run",
    ]
    given = json.loads(repository.out.read_text())
    assert given == ["--recipe", "demo_digits", "--max_minutes", "1", "--name", "a b"]


def test_a_failure_ends_it_with_the_tasks_code(repository: FakeRepository) -> None:
    done = repository.run("scripts/sh/demo.sh", "--fail")
    assert (done.returncode, done.stdout) == (3, "")


def test_a_missing_picture_is_an_error(repository: FakeRepository) -> None:
    done = repository.run("scripts/sh/demo.sh", NO_ANIMATION="1")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.splitlines()[-1].startswith("error: ")
