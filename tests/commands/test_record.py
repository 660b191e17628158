"""record: the row's figures are those of the files it came from, the budget is the process's, and no row is lost."""

from __future__ import annotations

import json
import os
import shlex
import signal
import statistics
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml

from models.errors import UserError
from models.runs.environment import git_commit
from models.runs.lookup import read_config
from scripts import record
from scripts.tasks.record_table import COLUMNS, EMPTY_TABLE, add_rows, mean_and_deviation, refuse_copies, table_of
from tests.commands.tasks import REPOSITORY, TINY, Ended, run_here, start_child, status_of
from tests.data.own_images import png

pytestmark = pytest.mark.slow

SMALL = ("--network.width", "8", "--network.multipliers", "1", "2", "--num_samples", "10")
FOREIGN = f"| {' | '.join(['theirs'] * len(COLUMNS))} |\n"


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")

    def run(*words: object) -> Ended:
        places = "--experiments_dir", tmp_path / "runs", "--records", tmp_path / "records.md"
        return run_here("record", "--dataset", "digits", "--num_images", 150, *places, *words, capsys=capsys)

    return run


def rows_of(path: Path) -> list[dict[str, str]]:
    lines = path.read_text(encoding="utf-8").split(EMPTY_TABLE)[1].splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines if line.startswith("|")]
    assert all(len(row) == len(COLUMNS) for row in cells)
    return [dict(zip(COLUMNS, row, strict=True)) for row in cells]


def reports_of(runs: list[Path]) -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for run in runs for path in run.glob("evaluation/*/report.json")]


def test_a_record_of_two_seeds_beside_a_foreign_row(run, tmp_path: Path) -> None:
    records, experiments = tmp_path / "records.md", tmp_path / "runs"
    records.write_text(f"Rules.\n\n{EMPTY_TABLE}{FOREIGN}\nThe end.\n")
    began = time.perf_counter()
    ended = run("--minutes", 0.05, "--seeds", 0, 1, "--scales", 1.5, "--steps", 3, "--", *SMALL)
    assert ended.folder == records
    runs = sorted(experiments.glob("2*-flow-digits-record-0.05min-seed?"))
    assert [read_config(each)["seed"] for each in runs] == [0, 1] and time.perf_counter() - began > 6
    figures = [yaml.safe_load((each / "performance_metrics.txt").read_text()) for each in runs]
    reports = reports_of(runs)
    assert records.read_text().startswith("Rules.\n\n| date") and records.read_text().endswith("|\n\nThe end.\n")
    foreign, row = rows_of(records)
    assert set(foreign.values()) == {"theirs"}
    _check_figures(row, figures, reports)
    assert row["entry"].startswith("recipe demo_digits, 0.0") and "1 thread" in row["device"]
    assert row["sampler, NFE"] == "heun 3, 10" and row["guidance"] == "1.5" and row["images, seeds"] == "150, seeds 0 1"
    flags = f"--scales 1.5 --steps=3 --num_images=150 -- {' '.join(SMALL)}"
    assert row["command"] == f"`OMP_NUM_THREADS=1 make record DATASET=digits MINUTES=0.05 SEEDS=\"0 1\" ARGS='{flags}'`"
    assert row["commit"].removesuffix("-dirty") == git_commit().removesuffix("-dirty")


def _check_figures(row: dict[str, str], figures: list[dict[str, Any]], reports: list[dict[str, Any]]) -> None:
    """Every figure of the row is the mean and deviation of those of the two seeds."""
    seconds = [each["training_seconds"] for each in figures]
    assert min(seconds) >= 3
    assert float(row["minutes"]) == pytest.approx(max(seconds) / 60, abs=0.006)  # seconds are rounded to 0.1
    speeds = [each["images_per_second"] for each in figures]
    spent = [each["images"] / each["images_per_second"] for each in figures]
    assert seconds == pytest.approx(spent, abs=0.06, rel=0.06 / min(speeds))  # speeds are rounded to 0.1
    expected = {"images/s": speeds}
    for name in ("convnet_9216d6eb", "resnet_8d7d9004"):
        build = name.split("_")[0]
        results = [report["results"] for report in reports]
        shares = [100 * each[f"recognised_{name}"]["found"]["value"] for each in results]
        expected[f"recognised, {build}"] = shares
        distances = [each[f"fd_{name}"] for each in results]
        expected[f"distance / floor, {build}"] = [each["found"]["value"] / each["floor"]["value"] for each in distances]
    expected["accuracy score"] = [100 * report["results"]["cas"]["found"]["value"] for report in reports]
    for name, values in expected.items():
        mean, deviation = (float(part) for part in row[name].removesuffix(" %").split(" ± "))
        rounding = 0.6 if name == "images/s" else 0.006
        assert mean == pytest.approx(statistics.mean(values), rel=2e-3, abs=rounding), name
        assert deviation == pytest.approx(statistics.stdev(values), rel=2e-3, abs=rounding), name


def test_a_student_has_what_its_teacher_left_of_the_minutes(
    run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both count, with the time between them. Each scale has a student of its own, which is measured as it is."""
    calls: list[tuple[str, dict[str, str]]] = []
    clock = iter((100.0, 100.0 + 380))

    def run_task(task: str, words: list[str]) -> Path:
        calls.append((task, dict(pairwise(words))))
        folder = tmp_path / str(len(calls))
        folder.mkdir()
        figures = {"images_per_second": 100.0, "parameters": 2_000_000}
        images = 30_000 if task == "train_flow" else 20_000
        (folder / "performance_metrics.txt").write_text(yaml.safe_dump({**figures, "images": images}))
        names = [f"{kind}_{name}" for kind in ("recognised", "fd") for name in ("convnet", "resnet")]
        results = {name: {"found": {"value": 0.5}, "floor": {"value": 0.25}} for name in (*names, "cas")}
        (folder / "report.json").write_text(json.dumps({"samples": {"device": "cpu", "nfe": 1}, "results": results}))
        return folder

    monkeypatch.setattr(record, "run_process", run_task)
    monkeypatch.setattr(record.time, "monotonic", lambda: next(clock))
    words = ("--minutes", 10, "--seeds", 4, "--scales", 1, 1.25, "--student", 0.4, "--steps", 4, "--evaluations", 2)
    assert run(*words).code == 0
    assert [task for task, _ in calls] == ["train_flow", "distill", "evaluate", "distill", "evaluate"]
    assert calls[0][1]["--max_steps"] == calls[0][1]["--epochs"] == "None"  # The recipe's steps do not end it earlier.
    (_, teacher), (_, student), (_, measured), (_, guided), _ = calls
    assert float(teacher["--max_minutes"]) == 6
    assert float(student["--max_minutes"]) == pytest.approx(10 - 380 / 60, abs=1e-3)
    assert (student["--run"], measured["--run"]) == (str(tmp_path / "1"), str(tmp_path / "2"))
    assert (student["--steps"], student["--evaluations"], guided["--guidance_scale"]) == ("4", "2", "1.25")
    assert "--guidance_scale" not in measured and "--sampler" not in measured and "--wall_clock" in student
    rows = rows_of(tmp_path / "records.md")
    assert [row["guidance"] for row in rows] == ["1", "1.25"]
    assert rows[0]["minutes"] == f"{(380 + 200) / 60:.2f}" and rows[0]["images/s"] == f"{50_000 / 580:.0f}"
    assert rows[0]["entry"] == "recipe demo_digits, 2.00 M, student for 40 % of the time"
    assert rows[0]["sampler, NFE"] == "student of heun 4, 1" and "--student=0.4" in rows[0]["command"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--dataset", "digitz"), ("digitz", "did you mean digits")),
        (("--dataset", "folder"), ("no recipe of train_flow", "-- --recipe")),
        (("--minutes", 0), ("--minutes 0",)),
        (("--minutes", "inf"), ("--minutes inf",)),
        (("--minutes", "ten"), ("ten",)),
        (("--seeds", 1, 1), ("--seeds 1 1", "each once")),
        (("--seeds", -1), ("--seeds -1",)),
        (("--scales", 1, 1), ("--scales 1.0 1.0",)),
        (("--sampler", "hoin"), ("hoin", "heun")),
        (("--steps", 0), ("--steps",)),
        (("--student", 1), ("--student 1",)),
        (("--student", 0.4, "--evaluations", 2), ("--evaluations 2", "3 steps", "--steps 4")),
        (("--student", 0.4, "--sampler", "ddpm"), ("--sampler ddpm", "adds noise")),
        (("--student", 0.4, "--", "--noise_schedule", "linear", "--prediction", "eps"), ("predicts the noise",)),
        (("--num_images", 100), ("--num_images 100", "more than 128")),
        (("--num_images", 1000), ("--num_images 1000", "359")),
        (("--records", "absent/records.md"), ("no folder absent",)),
        (("--records", "/proc/records.md"), ("cannot write in /proc", "--records")),
        (("--records", "README.md"), ("README.md", "the columns date, data")),
        (("--minuts", 3), ("--minuts", "did you mean --minutes")),
        (("--", "--lr", -1), ("--lr -1",)),
        (("--", "--network.widht", 3), ("--network.widht", "flags of train_flow")),
        (("--", "--recipe", "vae_mnist"), ("vae_mnist", "train_vae")),
        (("--", "--init_from", "latest"), ("--init_from", "earlier run")),
        (("--", "--no_conditional"), ("--no_conditional",)),
        (("--", "--label_drop", 0, "--guidance_scale", 1), ("label_drop was 0",)),
    ],
    ids=lambda value: " ".join(map(str, value)),
)
def test_mistakes_are_found_before_anything_is_run(words, said, run, tmp_path: Path) -> None:
    ended = run(*words)
    assert ended.code == 2 and ended.out == "" and list(tmp_path.iterdir()) == []
    assert ended.err.startswith("error: ") and len(ended.err.splitlines()) == 1, ended.err
    assert all(word in ended.err for word in said), ended.err


def test_a_data_set_without_feature_networks(run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(record, "pretrained_path", lambda network, sha256: None)
    ended = run("--", "--dataset.pad", 1, "--data_root", "/my data")
    assert ended.code == 2 and list(tmp_path.iterdir()) == []
    command = ended.err.rstrip().partition("train it: make train_classifier ARGS=")[2]
    words = shlex.split(shlex.split(command)[0])
    assert words == ["--dataset=digits", "--dataset.pad=1", "--data_root=/my data", "--network", "convnet"]
    pictures = tmp_path / "my pictures"
    for number in range(60):
        png(pictures / "ant bee cow".split()[number % 3] / f"{number}.png", number, size=(8, 8))
    folder = ("--recipe", "demo_digits", "--dataset.path", pictures, "--dataset.no_crop")
    ended = run("--dataset", "folder", "--", *folder)
    words = shlex.split(shlex.split(ended.err.rstrip().partition("ARGS=")[2])[0])
    assert ended.code == 2 and f"--dataset.path={pictures}" in words and "--dataset.no_crop" in words


def test_a_signal_ends_the_training_first_and_writes_no_row(tmp_path: Path) -> None:
    places = "--experiments_dir", tmp_path / "runs", "--records", tmp_path / "records.md"
    words = ("--dataset", "digits", "--minutes", 30, *places, "--", *TINY, "--max_steps", 10**6)
    process = start_child("record", *words)
    for _ in range(1200):
        begun = [path.parent for path in tmp_path.glob("runs/*/training_log.txt")]
        if begun:
            break
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.05)
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGINT and "Traceback" not in err, err
    status = status_of(begun[0])
    assert status["state"] == "interrupted" and status["reason"] == "SIGINT"
    with pytest.raises(ProcessLookupError):
        os.kill(status["pid"], 0)
    assert not (tmp_path / "records.md").exists() and "no row was written" in err


def test_a_task_that_fails_ends_the_record_with_its_code(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        record.run_process("train_flow", ["--batch_size", "0"])
    printed = capfd.readouterr()
    assert ended.value.code == 2 and printed.out == "" and "train_flow has failed: no row" in printed.err


def test_copies_of_training_images_are_no_record() -> None:
    results = {
        "near_copies_convnet_1234": {"found": {"value": 0.015, "low": 0.01}},
        "near_copies_pixels": {"found": {"value": 0.03, "low": 0.02}},
    }
    refuse_copies([{"results": results}])
    results["near_copies_pixels"]["found"] = {"value": 0.25, "low": 0.21}
    with pytest.raises(UserError, match=r"25.0 % of the images are near copies of .* in pixels, .* allow 2 %: no row"):
        refuse_copies([{"results": results}])


def test_the_deviation_is_over_several_seeds() -> None:
    assert mean_and_deviation([5.0], 2) == "5.00" and mean_and_deviation([1.0, 3.0], 1) == "2.0 ± 1.4"


def test_rows_that_come_at_once_are_all_kept(tmp_path: Path) -> None:
    path = tmp_path / "records.md"
    rows = [FOREIGN.replace("theirs", f"row {k}") for k in range(40)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda row: add_rows(path, [row]), rows))
    assert sorted(path.read_text().splitlines(keepends=True)[2:]) == sorted(rows)
    assert list(tmp_path.iterdir()) == [path]


def test_the_records_of_the_repository_take_rows() -> None:
    table, rest = table_of(REPOSITORY / "experiments" / "records.md")
    assert EMPTY_TABLE in table and "## Rules" in table and rest == ""


def test_a_commit_is_dirty_by_anything_but_the_records(tmp_path: Path) -> None:
    def git(*words: str) -> None:
        who = "-c", "user.name=a", "-c", "user.email=a@b.c"
        subprocess.run(["git", *who, *words], cwd=tmp_path, check=True, capture_output=True)

    (tmp_path / "experiments").mkdir()
    (tmp_path / "experiments" / "records.md").write_text("1")
    git("init")
    git("add", ".")
    git("commit", "-m", "first")
    clean = git_commit(tmp_path)
    (tmp_path / "experiments" / "records.md").write_text("2")
    assert git_commit(tmp_path) == clean and len(clean) == 12
    (tmp_path / "network.py").write_text("new")
    assert git_commit(tmp_path) == f"{clean}-dirty"
