"""--logger: another program gets what TensorBoard gets; the old spellings and settings keep working."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import yaml

from tests.commands.tasks import TINY, Ended, run_here

FAKE = """
import json, os, sys
def note(*call):
    with open(os.environ["CALLS"], "a") as file:
        file.write(json.dumps([__name__, *call], default=str) + "\\n")
def init(**options): note("init", options)
def log(values, step): note("log", sorted(values), step)
def Image(pixels): return list(pixels.shape)
def finish(): note("finish")
"""


@pytest.fixture
def run(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    def run(*words: object) -> Ended:
        settings = [word for word in TINY if word != "--no-tensorboard"]
        return run_here("train_flow", *settings, "--experiments_dir", tmp_path / "runs", *words, capsys=capsys)

    return run


@pytest.mark.parametrize("name", ["wandb", "trackio"])
def test_another_board(name: str, run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The package is a stand-in with the interface of the real one."""
    (tmp_path / f"{name}.py").write_text(FAKE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("CALLS", str(tmp_path / "calls"))
    folder = run("--logger", name).folder
    calls = [json.loads(line) for line in (tmp_path / "calls").read_text().splitlines()]
    assert {call[0] for call in calls} == {name}
    (_, first, options), *others, (_, last) = calls
    assert first == "init" and last == "finish"
    assert options["name"] == folder.name and options["config"]["lr"] == 0.001 and options["resume"] == "allow"
    logged = [tag for call in others for tag in call[2]]
    assert {"loss/train", "loss/test", "test_loss/t0", "optimizer/lr", "final/grid"} <= set(logged)
    del sys.modules[name]
    assert all(call[3] <= 6 for call in others) and not (folder / "tensorboard").exists()


def test_a_board_whose_package_is_missing(run, tmp_path: Path) -> None:
    refused = run("--logger", "trackio")
    assert refused.code == 2 and len(refused.err.splitlines()) == 1
    assert "pip install trackio" in refused.err and "--logger tensorboard" in refused.err
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("words", "logger"),
    [((), "tensorboard"), (("--no-tensorboard",), "none"), (("--no_tensorboard", "--tensorboard"), "tensorboard")],
)
def test_the_earlier_spelling(words: tuple[str, ...], logger: str, run) -> None:
    folder = run(*words).folder
    assert yaml.safe_load((folder / "config.txt").read_text())["logger"] == logger
    assert (folder / "tensorboard").exists() == (logger == "tensorboard")


@pytest.mark.parametrize("stored", [True, False])
def test_the_settings_of_an_earlier_run(stored: bool, run, tmp_path: Path) -> None:
    folder = run("--no-tensorboard", "--max_steps", "2").folder
    config = yaml.safe_load((folder / "config.txt").read_text())
    del config["logger"]
    config["tensorboard"] = stored
    (folder / "config.txt").write_text(yaml.safe_dump(config))
    again = run("--resume", folder, "--max_steps", "3")
    assert again.code == 0 and "this version does not have" not in again.err
    assert (folder / "tensorboard").exists() == stored
    other = run("--config", folder / "config.txt", "--max_steps", "2")
    assert other.code == 0 and (other.folder / "tensorboard").exists() == stored
