"""The start of a training: what begins before torch is imported, and what is not imported at all."""

from __future__ import annotations

import gc
import json
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from data.emnist import EMNIST
from data.readers import early, files
from models.errors import UserError
from scripts.cli.command import quick_imports
from scripts.cli.flags import FLOW
from scripts.cli.settings import read_training
from scripts.tasks import start_table as tables
from scripts.tasks import starting
from scripts.tasks.starting import start_early
from tests.commands.tasks import REPOSITORY

KINDS = ("images-idx3-ubyte", "labels-idx1-ubyte")
LATE = {"matplotlib", "sklearn", "scipy", "umap", "torchmetrics", "tensorboard"}


def test_a_training_imports_only_what_its_first_step_needs() -> None:
    """torch comes after the flags. Libraries for pictures, measures and streaming come when they are used."""
    code = "import sys, scripts.tasks.starting, scripts.train_flow; print('torch' in sys.modules); "
    code += "import scripts.tasks.denoising, scripts.tasks.autoencoding; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, check=True, capture_output=True, text=True)
    before, after = done.stdout.splitlines()
    assert before == "False" and "torch" in after.split()
    assert not LATE & set(after.split())


def test_nothing_is_collected_while_torch_is_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    for name in ("disable", "freeze", "enable"):
        monkeypatch.setattr(gc, name, lambda name=name: calls.append(name))
    with quick_imports():
        assert calls == []  # torch has been imported
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.delitem(sys.modules, "torch")
    with pytest.raises(ImportError), quick_imports():
        assert calls == ["disable"]
        raise ImportError
    assert calls == ["disable", "freeze", "enable"]


def test_reading_begins_in_a_thread_and_ends_where_it_is_needed() -> None:
    threads: list[threading.Thread] = []

    def read(text: str) -> str:
        threads.append(threading.current_thread())
        if text == "bad":
            raise UserError("damaged")
        return text * 2

    early.begin(read, "ab")
    early.begin(read, "bad")
    assert early.result(read, "ab") == "abab"
    with pytest.raises(UserError, match="damaged"):
        early.result(read, "bad")
    assert threading.main_thread() not in threads
    assert early.result(read, "ab") == "abab" and threads[-1] is threading.main_thread()


@pytest.mark.parametrize("dataset", ["mnist", "fashion_mnist"])
def test_the_files_of_a_data_set_are_read_early(dataset: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files that are missing are downloaded, or refused, when the data are loaded."""
    raw = tmp_path / {"mnist": "MNIST", "fashion_mnist": "FashionMNIST"}[dataset] / "raw"
    raw.mkdir(parents=True)
    (raw / "t10k-labels-idx1-ubyte").write_bytes(b"labels")
    read = []
    monkeypatch.setattr(files, "read_file", lambda path, md5: read.append(path) or b"contents")
    monkeypatch.setattr(early, "_begun", {})
    words = ["--dataset", dataset, "--data_root", str(tmp_path), "--device", "cpu"]
    start_early(read_training(words, "train_flow", FLOW, ""))
    ((_, path, md5),) = early._begun
    assert early.result(files.read_file, path, md5) == b"contents"
    assert read == [raw / "t10k-labels-idx1-ubyte"]


@pytest.mark.parametrize("archived", [False, True])
def test_the_files_of_emnist_are_read_early(archived: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The four files of the split if all are there, else the archive is checked."""
    raw = tmp_path / "EMNIST" / "raw"
    raw.mkdir(parents=True)
    paths = [raw / f"emnist-letters-{part}-{kind}" for part in ("train", "test") for kind in KINDS]
    for path in [paths[0], raw / "gzip.zip"] if archived else [*paths, raw / "gzip.zip"]:
        path.write_bytes(b"x")
    monkeypatch.setattr(early, "_begun", {})
    words = ["--dataset", "emnist", "--dataset.split", "letters", "--data_root", str(tmp_path), "--device", "cpu"]
    start_early(read_training(words, "train_flow", FLOW, ""))
    assert {path for _, path in early._begun} == ({raw / "gzip.zip"} if archived else set(paths))
    with pytest.raises(UserError, match="altered" if archived else "not an idx file"):
        EMNIST(split="letters").load(tmp_path)
    assert len(early._begun) == (0 if archived else 3)  # `load` stops at the first error


@pytest.mark.parametrize(
    ("device", "driver", "started"),
    [("auto", True, "cuda"), ("auto", False, None), ("cuda:1", False, "cuda:1"), ("cpu", True, None)],
)
def test_cuda_starts_early(
    device: str, driver: bool, started: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    used: list[tuple[Any, str]] = []

    def zeros(size: int, device: str) -> None:
        used.append((device, threading.current_thread().name))
        raise RuntimeError("no such device")  # said by the training itself

    monkeypatch.setattr(starting, "GPU_DRIVERS", (str(tmp_path) if driver else str(tmp_path / "none"),))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch, "zeros", zeros)
    before = set(threading.enumerate())
    start_early(read_training(["--device", device], "train_flow", FLOW, ""))
    for thread in set(threading.enumerate()) - before:
        thread.join()
    assert [name for name, _ in used] == ([] if started is None else [started])
    assert "MainThread" not in {thread for _, thread in used}


def test_fonts_are_listed_aside_on_a_fresh_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ran = []
    monkeypatch.setattr(subprocess, "run", lambda command, **_: ran.append(command[-1]))
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setenv("MPLCONFIGDIR", str(tmp_path))
    for expected in (["import matplotlib.font_manager"], []):
        starting._list_fonts.cache_clear()
        ran.clear()
        before = set(threading.enumerate())
        starting._list_fonts()
        for thread in set(threading.enumerate()) - before:
            thread.join()
        assert ran == expected
        (tmp_path / "fontlist-v1.json").touch()


def test_the_table_of_the_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    imports = (
        "import time: 1500000 | 1500000 | torch\nimport time: 250000 | 250000 |   torch.nn\nimport time: 9 | 9 | os"
    )
    marks = json.dumps([("flags", 0.5, 0.25), ("first step", 1.0, 2.0)])
    ended = SimpleNamespace(returncode=0, stdout=f"{tmp_path}/run\n{marks}\n", stderr=imports)
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: ended)
    monkeypatch.setattr("time.perf_counter", lambda: 0.0)
    head, _, _, flags, _, total, listed = tables.start_table(["--recipe", "mnist"], tmp_path)
    assert head.startswith("start of train_flow --recipe mnist: load ")
    assert flags.split() == ["flags", "0.50", "0.25"] and total.split() == ["in", "all", "1.50", "2.25"]
    assert listed.startswith("seconds of imports: torch 1.75, os 0.00")
    ended.returncode, ended.stderr = 2, f"error: no MNIST\n{imports}\n"
    with pytest.raises(UserError, match="exit code 2: error: no MNIST"):
        tables.start_table(["--recipe", "mnist"], tmp_path)
