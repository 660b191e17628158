"""Runs are found by name, by a part of it, by folder, and as the newest."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from models.errors import UserError
from models.runs import lookup
from models.runs.lookup import find_run, find_runs, results_folder, run_name
from models.runs.status import read_status


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "experiments"


def make(folder: Path, name: str, task: str = "train_ddpm", dataset: str | None = None) -> Path:
    (folder / name).mkdir(parents=True)
    status = {"state": "finished", "task": task, "dataset": dataset}
    (folder / name / "status.json").write_text(json.dumps(status))
    return folder / name


def test_runs_newest_first(folder: Path) -> None:
    assert find_runs(folder) == []
    names = ["20260101_000000-ddpm-mnist", "20260208_143052-flow-mnist", "20251231_235959-ddpm-mnist"]
    for name in names:
        make(folder, name)
    (folder / "20270101_000000-no-run").mkdir()
    (folder / "README.md").write_text("")
    assert [path.name for path in find_runs(folder)] == sorted(names, reverse=True)


def test_a_run_is_found_by_name_by_folder_and_as_latest(folder: Path) -> None:
    older = make(folder, "20260101_000000-ddpm-mnist")
    newer = make(folder, "20260102_000000-flow-mnist", task="train_flow")
    assert find_run("latest", folder) == newer
    assert find_run("latest", folder, "train_ddpm") == older
    assert find_run("latest", folder, ("train_vae", "train_ddpm")) == older
    assert find_run(older.name, folder) == older
    assert find_run(str(newer), Path("/nowhere")) == newer
    with pytest.raises(UserError, match="no run of train_vae"):
        find_run("latest", folder, "train_vae")
    with pytest.raises(UserError, match="no run in "):
        find_run("latest", folder / "empty")
    with pytest.raises(UserError, match=r"no run 'nonsense'.*make status"):
        find_run("nonsense", folder)


def test_a_run_is_found_by_a_part_of_its_name(folder: Path) -> None:
    flow = make(folder, "20260101_000000-flow-emnist-first", task="train_flow")
    vae = make(folder, "20260102_000000-vae-emnist", task="train_vae")
    mnist = make(folder, "20260103_000000-flow-mnist", "train_flow", "mnist")
    for part, run in {"first": flow, "20260102": vae, "vae-": vae, "flow-mnist": mnist, "0103_": mnist}.items():
        assert find_run(part, folder) == run, part
    assert find_run("emnist", folder, "train_vae") == vae  # the one that the task can use
    assert find_run("-flow", folder, "train_flow", "mnist") == mnist
    make(folder, "mnist")
    assert find_run("mnist", folder).name == "mnist"  # a whole name comes before a part of one
    for part, names in {"emnist": (flow, vae), "-flow": (flow, mnist), "2026": (flow, vae, mnist)}.items():
        with pytest.raises(UserError, match=f"{len(names)} runs match '{part}': ") as refused:
            find_run(part, folder)
        assert all(run.name in str(refused.value) for run in names) and "\n" not in str(refused.value)
    for part in ("", "cifar", "emnist-second", "0104"):
        with pytest.raises(UserError, match="no run"):
            find_run(part, folder)


def test_the_error_for_many_matches_stays_short(folder: Path) -> None:
    for day in range(10, 30):
        make(folder, f"202601{day}_000000-flow-mnist")
    with pytest.raises(UserError, match=r"^20 runs match 'flow': 20260129_\S+, .*, \.\.\.; give more") as refused:
        find_run("flow", folder)
    assert len(str(refused.value)) < 250


def test_the_latest_run_on_a_data_set(folder: Path) -> None:
    letters = make(folder, "20260101_000000-flow-emnist", "train_flow", "emnist")
    older = make(folder, "20260102_000000-vae-mnist", "train_vae", "mnist")
    newer = make(folder, "20260103_000000-flow-mnist", "train_flow", "mnist")
    assert find_run("latest:emnist", folder) == letters
    assert find_run("latest:mnist", folder, "train_vae") == older
    assert find_run("latest:mnist", folder) == find_run("latest:mnist", folder, dataset="emnist") == newer
    for name, said in {"latest:cifar10": "no run on cifar10", "latest:emnis": "no run on emnis"}.items():
        with pytest.raises(UserError, match=said):
            find_run(name, folder)
    with pytest.raises(UserError, match="no run of train_vae on emnist"):
        find_run("latest:emnist", folder, "train_vae")


@pytest.fixture
def shipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the shipped models: flows of digits and MNIST, and an autoencoder."""
    monkeypatch.setattr(lookup, "PRETRAINED", tmp_path / "pretrained")
    for name, task in {"digits": "train_flow", "mnist": "train_flow", "mnist-vae": "train_vae"}.items():
        make(tmp_path / "pretrained", name, task, name.removesuffix("-vae"))
    return tmp_path / "pretrained"


def test_a_shipped_model_is_found_by_its_whole_name(folder: Path, shipped: Path) -> None:
    for name in ("digits", "mnist", "mnist-vae"):
        assert find_run(f"pretrained/{name}", folder) == shipped / name
        assert run_name(shipped / name) == f"pretrained/{name}"
        assert results_folder(shipped / name, folder) == folder / "pretrained" / name
    with pytest.raises(UserError, match=r"'pretrained/emnist'.*pretrained/digits, pretrained/mnist, "):
        find_run("pretrained/emnist", folder)
    run = make(folder, "20260101_000000-flow-mnist", "train_flow", "mnist")
    assert run_name(run) == run.name and results_folder(run, folder) == run


def test_a_shipped_model_stands_in_only_where_no_run_matches(folder: Path, shipped: Path) -> None:
    flows, defaults = ("train_ddpm", "train_flow"), {"latest": "mnist", "latest:digits": "digits", "mnist": "mnist"}
    for name, found in defaults.items():
        assert find_run(name, folder, flows, or_shipped=True) == shipped / found
        with pytest.raises(UserError, match="no run"):
            find_run(name, folder, flows)
    assert find_run("latest", folder, "train_vae", or_shipped=True) == shipped / "mnist-vae"
    for name in ("latest:emnist", "mnis", "flow"):
        with pytest.raises(UserError, match="no run"):
            find_run(name, folder, flows, or_shipped=True)
    with pytest.raises(UserError, match=r"'mnist'.*take pretrained/mnist"):
        find_run("mnist", folder)
    run = make(folder, "20260101_000000-flow-mnist", "train_flow", "mnist")
    assert {find_run(name, folder, flows, or_shipped=True) for name in ("latest", "latest:mnist", "mnist")} == {run}
    make(folder, "20260102_000000-flow-mnist", "train_flow", "mnist")
    with pytest.raises(UserError, match="2 runs match 'mnist'"):
        find_run("mnist", folder, flows, or_shipped=True)


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"\xff\xfe"])
def test_a_status_that_cannot_be_read(folder: Path, content: bytes) -> None:
    path = make(folder, "20260101_000000-ddpm-mnist")
    (path / "status.json").write_bytes(content)
    with pytest.raises(UserError, match=r"status\.json") as error:
        read_status(path)
    assert "\n" not in str(error.value)
