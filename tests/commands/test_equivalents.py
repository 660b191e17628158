"""docs/equivalents.md: each command in it is run with tiny settings on tiny data, so that none goes stale."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.commands.tasks import REPOSITORY, run_here, use_tiny_data

pytestmark = pytest.mark.slow

DOCUMENT = REPOSITORY / "docs" / "equivalents.md"
COMMAND = re.compile(r'`make (\w+)(?: ARGS="([^"]*)")?`')
TRAINING = ("--max_steps", "2", "--warmup_steps", "1", "--batch_size", "8", "--eval_images", "8", "--no-tensorboard")
SHEETS = ("--num_samples", "4", "--steps", "2", "--network.width", "8")
TINY = {
    "train_ddpm": (*TRAINING, *SHEETS),
    "train_flow": (*TRAINING, *SHEETS),
    "train_latent": (*TRAINING, *SHEETS),
    "train_vae": (*TRAINING, "--network.width", "8"),
    "generate": ("--num_samples", "4", "--steps", "2"),
    "evaluate": ("--num_images", "8"),
    "train_classifier": ("--epochs", "1"),
    "visualize_guidance": ("--scales", "1", "2", "--steps", "2"),
    "visualize_distribution": ("--method", "pca", "--num_samples", "16", "--steps", "2"),
}


def commands() -> list[tuple[str, str]]:
    """(target, ARGS) of the second column of every row that has a command there."""
    rows = [line.split(" | ") for line in DOCUMENT.read_text(encoding="utf-8").splitlines() if line.startswith("| ")]
    found = [match.groups() for row in rows if (match := COMMAND.search(row[1]))]
    return [(target, arguments or "") for target, arguments in found]


def task_of(target: str) -> list[str]:
    """The task behind a target of the Makefile, and the flags that stand in it."""
    lines = (REPOSITORY / "Makefile").read_text(encoding="utf-8").splitlines()
    recipe = lines[next(index for index, line in enumerate(lines) if line.startswith(f"{target}:")) + 1]
    found = re.search(r'scripts/sh/launch\.sh (.*?)"\$\$\{args', recipe)
    return shlex.split(found.group(1)) if found else []


@pytest.fixture(scope="module", autouse=True)
def small_data() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        use_tiny_data(patch)
        yield


@pytest.fixture(scope="module")
def made() -> dict[str, str]:
    return {}


@pytest.fixture
def places(
    made: dict[str, str], tmp_path_factory: pytest.TempPathFactory, capsys: pytest.CaptureFixture[str]
) -> dict[str, str]:
    """The folders that the document's placeholders stand for, with one run of each kind, made once."""
    if made:
        return made
    at = ("--dataset", "mnist", "--experiments_dir", tmp_path_factory.mktemp("experiments"))
    vae = run_here("train_vae", *at, *TINY["train_vae"], capsys=capsys).folder
    run = run_here("train_ddpm", *at, *TINY["train_ddpm"], capsys=capsys).folder
    latent = run_here("train_latent", *at, "--autoencoder", vae, *TINY["train_latent"], capsys=capsys).folder
    made.update({"<vae run>": str(vae), "<latent run>": str(latent), "<run>": str(run)})
    return made


def test_there_are_commands_for_all_five() -> None:
    assert DOCUMENT.read_text(encoding="utf-8").count("\n## ") == 5
    assert len(commands()) > 50


@pytest.mark.parametrize("target", sorted({target for target, _ in commands()}))
def test_every_command_runs(target: str, places: dict[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    task = task_of(target)
    if not task:
        assert target in ("monitor", "setup", "test")  # They are tested by themselves.
        return
    experiments = str(Path(places["<run>"]).parent)
    for arguments in sorted({arguments for each, arguments in commands() if each == target}):
        for placeholder, folder in places.items():
            arguments = arguments.replace(placeholder, shlex.quote(folder))
        words = shlex.split(arguments)
        words = [experiments if word == "experiments" else word for word in words]
        tiny = ("--max_steps", "3") if "--resume" in words else TINY.get(task[0], ())
        ended = run_here(*task, "--experiments_dir", experiments, *words, *tiny, capsys=capsys)
        assert ended.code == 0, f"make {target} ARGS={arguments!r}: {ended.err}"
