"""A leading ~ is the home folder in every flag, variable and config value that names a place."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import yaml

import data
from models.places import expanded
from models.runs.lookup import find_run
from scripts import generate, reconstruct, status, train_classifier, visualize_schedules
from scripts.cli.arguments import leaves, parse_flags, read_ahead, with_settings
from scripts.cli.flags import FLOW, LATENT, AutoencoderFlags, ModelFlags, RunFlags
from scripts.cli.settings import read_training
from tests.commands.tasks import TINY, rows_of, run_here

TASKS: dict[str, tuple[Any, dict[str, str]]] = {
    "train_flow": (FLOW, {"dataset": "folder"}),
    "train_latent": (LATENT, {}),
    "train_vae": (AutoencoderFlags(), {"dataset": "hf"}),
    "generate": (generate.GenerateFlags(), {}),
    "reconstruct": (reconstruct.ReconstructFlags(), {"dataset": "folder"}),
    "train_classifier": (train_classifier.ClassifierFlags(), {}),
    "visualize_schedules": (visualize_schedules.ScheduleFlags(), {}),
}
PLACES = {
    *("data_root", "experiments_dir", "out", "export", "file", "image"),
    *("run", "resume", "init_from", "config", "checkpoint", "autoencoder", "autoguidance"),
    *("dataset.path", "dataset.test_path", "space.autoencoder", "space.encoded"),
}


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path / "a home"))
    (tmp_path / "a home").mkdir()
    return tmp_path / "a home"


def test_what_is_expanded(home: Path) -> None:
    assert expanded("~") == str(home)
    assert expanded("~/runs") == f"{home}/runs"
    assert expanded("~root/runs").endswith("/runs") and "~" not in expanded("~root/runs")
    for text in ("", "runs/~", "./~/runs", "/~", "a~b", "~no-such-user/runs", "latest"):
        assert expanded(text) == text


@pytest.mark.parametrize("task", TASKS)
def test_flags(task: str, home: Path) -> None:
    default, settings = TASKS[task]
    names = [name for name, _, _ in leaves(with_settings(default, settings)[0]) if name in PLACES]
    assert names
    for spelled in (
        [f"--{name}=~/place" for name in names],
        [word for name in names for word in (f"--{name}", "~/place")],
    ):
        flags = parse_flags(spelled, default, task, "", settings)
        values = {name: value for name, value, _ in leaves(flags) if name in names}
        assert values == {name: (f"{home}/place",) if name == "image" else f"{home}/place" for name in names}


def test_flags_that_are_read_ahead(home: Path) -> None:
    assert read_ahead(["--resume=~/run", "--experiments-dir", "~"]) == {
        "resume": f"{home}/run",
        "experiments_dir": str(home),
    }
    for words in (["--dataset", "hf:~/rows"], ["--dataset=hf:~/rows"]):
        flags: Any = parse_flags(words, FLOW, "train_flow", "")
        assert (flags.dataset, flags.dataset_options.path) == ("hf", f"{home}/rows")


def test_config_values(home: Path) -> None:
    (home / "config.txt").write_text(
        "dataset: hf:~/rows\ndata_root: ~/data\nexperiments_dir: ~\nresume: ~/no\nname: a\n"
    )
    (home / "pictures").mkdir()
    (home / "run").mkdir()
    (home / "run" / "status.json").write_text("{}")
    # In YAML, an unquoted ~ alone is null.
    (home / "quoted.txt").write_text(
        'dataset: folder\ndataset.path: "~/pictures"\nexperiments_dir: "~"\ninit_from: ~/run\n'
    )
    flags: Any = read_training(["--config=~/quoted.txt"], "train_flow", FLOW, "").flags
    assert (flags.dataset_options.path, flags.run.init_from) == (f"{home}/pictures", f"{home}/run")
    assert flags.run.experiments_dir == str(home)
    (home / "config.txt").write_text("dataset: hf:~/rows\ndata_root: ~/data\nmemory_limit: ~\n")
    flags = read_training(["--config", "~/config.txt"], "train_flow", FLOW, "").flags
    assert (flags.dataset_options.path, flags.data.data_root) == (f"{home}/rows", f"{home}/data")
    assert flags.data.memory_limit is None


def test_variables(home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("EXPERIMENTS_DIR", "~/runs")
    monkeypatch.setenv("DATA_ROOT", "~/data")
    assert RunFlags().experiments_dir == ModelFlags().experiments_dir == f"{home}/runs"
    assert data.data_root() == home / "data"
    status.main([])
    assert f"no runs in {home}/runs" in capsys.readouterr().err
    status.main(["--experiments_dir=~/others"])
    assert f"no runs in {home}/others" in capsys.readouterr().err


def test_a_run_in_the_home_folder(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    """A run is trained, resumed and sampled, and no folder called ~ is made."""
    monkeypatch.chdir(tmp_path)
    run = run_here("train_flow", *TINY, "--experiments_dir=~/runs", "--max_steps", "2", capsys=capsys).folder
    assert run.parent == home / "runs"
    config = yaml.safe_load((run / "config.txt").read_text())
    assert config["experiments_dir"] == f"{home}/runs"
    # An older version stored the name as it was typed.
    (run / "config.txt").write_text(yaml.safe_dump({**config, "experiments_dir": "~/runs"}))
    resumed = run_here("train_flow", f"--resume=~/runs/{run.name}", "--max_steps=3", capsys=capsys)
    assert resumed.folder == run and rows_of(run)[-1]["step"] == "3"
    assert find_run(f"~/runs/{run.name}", Path("experiments")) == run
    words = (f"--run=~/runs/{run.name}", "--out=~/pictures", "--num_samples=2", "--steps=1")
    assert run_here("generate", *words, capsys=capsys).folder == home / "pictures"
    assert sorted(os.listdir(tmp_path)) == ["a home"]
