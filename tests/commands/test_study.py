"""Studies: their plan, their results against closed forms, and real ones that are killed, continued and fail."""

from __future__ import annotations

import json
import math
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from models.errors import UserError
from models.report.pictures import Album
from models.report.studies import read_study_page
from scripts.cli.arguments import to_config
from scripts.cli.settings import DEFAULTS, read_training
from scripts.tasks import study_cells
from scripts.tasks.studies import STUDIES, find_study
from scripts.tasks.study_cells import finished_runs, report_of
from scripts.tasks.study_plan import Study, as_axis, as_yaml, read_study
from scripts.tasks.study_results import (
    collect,
    draw_study_pictures,
    draw_study_samples,
    read_reports,
    study_table,
    write_tables,
)
from tests.commands.tasks import REPOSITORY, run_here

READY = {name: study for name, study in STUDIES.items() if isinstance(study, Study)}
# The example of the README, made small.
README = (REPOSITORY / "README.md").read_text(encoding="utf-8")
MINE: dict[str, Any] = yaml.safe_load(re.findall(r"```yaml\n(.*?)```", README, re.DOTALL)[0])
MINE |= {"images": 128, "num_images": 24}
MINE["settings"] |= {"network.width": 8, "sampling.steps": 1}
MINE["grid"] = {"batch_size": [32, 64]}


def test_the_example_of_the_readme_is_a_study(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(re.findall(r"```yaml\n(.*?)```", README, re.DOTALL)[0])
    study = read_study(path)
    study.check()
    assert study == READY["width"] and [training.steps() for training in study.trainings()] == [469] * 4


def write(path: Path, **changes: Any) -> Path:
    path.write_text(yaml.safe_dump({**MINE, **changes}, sort_keys=False))
    return path


# -- the plan ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", READY)
def test_a_ready_study_has_settings_that_the_tasks_take(name: str) -> None:
    READY[name].check()


@pytest.mark.parametrize("name", READY)
def test_a_study_written_as_yaml_is_the_same_study(name: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(as_yaml(READY[name]), sort_keys=False))
    again = read_study(path)
    assert [training.key for training in again.trainings()] == [training.key for training in READY[name].trainings()]
    assert [(cell.name, cell.evaluation) for cell in again.cells] == [
        (cell.name, cell.evaluation) for cell in READY[name].cells
    ]


@pytest.mark.parametrize("name", READY)
def test_a_study_has_the_same_settings_on_a_gpu(name: str) -> None:
    (training, *_) = READY[name].trainings()
    for part in filter(None, (training, training.first)):
        default, options = DEFAULTS[part.task]
        words = [*part.words(), *(("--autoencoder", "first.safetensors") if part.first else ())]
        request = read_training(words, part.task, default, "", options)  # pyright: ignore[reportArgumentType]
        assert to_config(request.on("cuda").flags) == to_config(request.flags)


def test_a_training_that_goes_on_reads_the_data_where_they_are_now(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (training, *_) = read_study(write(tmp_path / "mine.yaml")).trainings()
    run = tmp_path / "runs" / f"20260101_000000-flow-digits-{training.run_name}"
    (run / "checkpoints").mkdir(parents=True)
    monkeypatch.setattr(sys, "orig_argv", sys.orig_argv)
    (run / "checkpoints" / "last").write_text("step_00000001")
    (run / "status.json").write_text('{"state": "interrupted"}')
    calls: list[tuple[object, ...]] = []
    monkeypatch.setattr(study_cells, "run_task", lambda *words: calls.append(words) or run)
    study_cells.measure(training, [], study_cells.Places(tmp_path, "experiments", "moved", "cpu"))
    (words,) = calls
    assert words[1:3] == ("--resume", run) and words[-2:] == ("--data_root", "moved")


def test_the_command_to_go_on_needs_no_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from scripts.study import StudyFlags
    from scripts.tasks.studying import _command

    monkeypatch.delenv("EXPERIMENTS_DIR", raising=False)
    assert "experiments_dir" not in _command(StudyFlags(name="losses"))
    monkeypatch.setenv("EXPERIMENTS_DIR", str(tmp_path))
    assert f"--experiments_dir={tmp_path}" in _command(StudyFlags(name="losses"))


def test_cells_that_differ_in_sampling_share_a_training_and_others_do_not(tmp_path: Path) -> None:
    grid = {"batch_size": [32, 64], "sampling.guidance_scale": [1.0, 2.0, 3.0]}
    study = read_study(write(tmp_path / "mine.yaml", grid=grid))
    trainings = study.trainings()
    assert len(study.cells) == 6 and len(trainings) == 4
    assert [len(cells) for cells in trainings.values()] == [3] * 4
    first, *_ = trainings
    assert first.name == "batch_size 32, seed 0" and first.steps() == 4  # 128 images in batches of 32
    assert [cell.of("sampling.")["guidance_scale"] for cell in trainings[first]] == [1.0, 2.0, 3.0]
    assert len({cell.evaluation for cell in trainings[first]}) == 3


def test_an_autoencoder_is_trained_once_for_the_cells_that_share_it() -> None:
    trainings = list(READY["latents"].trainings())
    assert all(training.first is not None for training in trainings)
    assert len({training.first.key for training in trainings if training.first}) == 12 * 3
    assert trainings[0].first and trainings[0].first.settings == {"kl_weight": 1e-6}
    assert not any(key.startswith("autoencoder.") for training in trainings for key in training.settings)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"grid": {"batchsize": [1, 2]}}, "batch_size"),
        ({"settings": {"sampling.sampler": "hoin"}}, "choose from ddpm, ddim"),
        ({"settings": {"seed": 3}}, "seed is decided by the study"),
        ({"grid": {"batch_size": 32}}, "axis batch_size must be a list"),
        ({"grid": {"batch_size": {"a": {"batch_size": 1}, "b": 2}}}, "axis batch_size must be a list"),
        ({"recipe": "demo_digit"}, "did you mean demo_digits"),
        ({"quesiton": "?"}, "did you mean question?"),
        ({"seeds": [1, 1]}, "each once"),
        ({"images": 0}, "at least 1"),
        ({"num_images": 5}, "must be more than 5"),
        ({"question": ""}, "question is empty"),
        ({"seeds": 3}, "seeds must be a list, not 3"),
        ({"seeds": [0, -1]}, "must be 0 or larger"),
        ({"extractors": []}, "name one or more"),
        ({"recipe": "vae_mnist"}, "trains nothing to sample from"),
        ({"autoencoder": "demo_digits", "autoencoder_images": 9}, "is no recipe of train_vae"),
        ({"grid": {"batch_size": [32, 32]}}, "has a value twice"),
        ({"grid": {"batch_size": {"a": {1: 2}}}}, "setting 1: 2"),
        ({"settings": {"network": {"width": 8}}}, "write settings as flags"),
        ({"grid": {"batch_size": [32], "b": {"c": {"batch_size": 64}}}}, "two axes of the study set batch_size"),
        ({"extractors": ["convnets"]}, "extractors convnets: choose from convnet, resnet, inception"),
        ({"settings": {"sampling.run": "latest"}}, "sampling.run is decided by the study"),
        ({"settings": {"autoencoder.kl_weight": 1}}, "needs an autoencoder"),
        ({"grid": {"batch_size": list(range(1, 103))}}, "204 measurements"),
    ],
)
def test_mistakes_in_a_study_are_one_line_and_make_no_folder(
    changes: dict[str, Any], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path / "mine.yaml", **changes)
    ended = run_here("study", "--name", path, "--experiments_dir", tmp_path / "experiments", capsys=capsys)
    assert ended.code == 2 and message in ended.err and len(ended.err.splitlines()) == 1
    assert not (tmp_path / "experiments").exists()


def test_a_key_given_twice_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path / "mine.yaml")
    path.write_text(f"{path.read_text()}seeds: [1, 2]\n")
    ended = run_here("study", "--name", path, "--experiments_dir", tmp_path / "experiments", capsys=capsys)
    assert ended.code == 2 and "the key seeds is given twice" in ended.err and len(ended.err.splitlines()) == 1


def test_the_same_settings_are_trained_once_whatever_their_labels(tmp_path: Path) -> None:
    """A reference without settings of its own, and a value that is set already, are the same training."""
    axis = {"as usual": {}, "8": {"network.width": 8}, "16": {"network.width": 16}}
    study = read_study(write(tmp_path / "mine.yaml", grid={"width": axis}, seeds=[0]))
    assert [training.name for training in study.trainings()] == ["width as usual, seed 0", "width 16, seed 0"]
    assert len(next(iter(study.trainings().values()))) == 2


def test_unknown_studies_and_taken_names_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="did you mean losses"):
        find_study("loses")
    with pytest.raises(UserError, match="a ready study is called losses"):
        find_study(str(write(tmp_path / "losses.yaml")))


def test_the_list_and_show(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    listed = run_here("study", capsys=capsys)
    assert listed.code == 0 and [line.split()[0] for line in listed.out.splitlines()] == list(STUDIES)
    shown = run_here("study", "--name", "schedules", "--show", capsys=capsys)
    (tmp_path / "mine.yaml").write_text(shown.out)
    assert read_study(tmp_path / "mine.yaml").cells == READY["schedules"].cells


# -- results ----------------------------------------------------------------------------------------------------------


def made(study: Study, folder: Path, distances: np.ndarray, shares: np.ndarray) -> None:
    """Write runs with reports. distances, shares: (cells, seeds), NaN for a failed run. The floor is 2."""
    for training, cells in study.trainings().items():
        index, column = study.cells.index(cells[0]), study.seeds.index(training.seed)
        failed = math.isnan(distances[index, column])
        run = folder / "runs" / f"20260101_000000-flow-digits-{training.run_name}"
        run.mkdir(parents=True)
        (run / "status.json").write_text(json.dumps({"state": "failed" if failed else "finished"}))
        if failed:
            continue
        report = report_of(run, cells[0])
        report.parent.mkdir(parents=True)
        results = {
            "fd_convnet_0123abcd": {"found": {"value": distances[index, column]}, "floor": {"value": 2.0}},
            "recognised_convnet_0123abcd": {"found": {"value": shares[index, column]}, "floor": {"value": 0.98}},
        }
        report.write_text(json.dumps({"results": results}))
        np.savez(report.with_name("samples.npz"), arr_0=np.zeros((24, 8, 8, 1), np.uint8))


def test_distances_are_compared_by_ratios_and_shares_by_differences(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    study = Study("?", "demo_digits", 64, grid={"lr": as_axis("lr", [0.1, 0.2, 0.3])}, seeds=(0, 1))
    distances = np.array([[4.0, 8.0], [9.0, 14.22222222], [4.1, np.nan]])  # the second is twice the first, in the mean
    made(study, tmp_path, distances, np.array([[0.5, 0.6], [0.7, 0.8], [0.5, 0.5]]))
    fd, recognised = collect(study, read_reports(study, finished_runs(tmp_path)))
    assert fd.ratio and fd.values[0].tolist() == [2.0, 4.0] and fd.floor == 1.0
    assert fd.means[:2] == pytest.approx([math.sqrt(8), 2 * math.sqrt(8)])
    assert fd.comparison.differences[1].value == pytest.approx(math.log(2))  # pyright: ignore[reportOptionalMemberAccess]
    assert recognised.comparison.differences[1].value == pytest.approx(20)  # pyright: ignore[reportOptionalMemberAccess]
    measures, table = write_tables(tmp_path, study, {list(study.trainings())[-1].key: "it burnt"})
    draw_study_pictures(tmp_path, study, measures)
    assert "2.000" in table and "+20.00" in table and "reference" in table
    assert "failed: lr 0.3, seed 1: it burnt" in table and "\n5 of 6 evaluations are done\n" in table
    content = json.loads((tmp_path / "study.json").read_text())
    assert [row["run"] is None for row in content["trainings"]] == [False] * 5 + [True]
    row = content["measures"][0]["rows"][1]
    assert fd.intervals[1] == pytest.approx([fd.means[0] * row["compared"][name] for name in ("low", "high")])
    assert fd.adjusted[:2] == pytest.approx(fd.means[:2])
    assert fd.adjusted[2] ** 2 == pytest.approx(fd.intervals[2].prod()) and fd.adjusted[2] > 1.2 * fd.means[2]
    assert np.isnan(fd.intervals[0]).all() and np.isnan(recognised.intervals).all()  # The seeds agree exactly.
    assert row["compared"]["value"] == pytest.approx(2) and row["values"] == pytest.approx([4.5, 7.11111111])
    page = read_study_page(tmp_path, Album(tmp_path, tmp_path_factory.mktemp("page")))
    assert page.done == 5 and page.question == "?" and page.tables == [(tmp_path.name, f"{table}\n")]
    assert [picture.path.name for picture in page.pictures] == ["plot.png", "samples.png"]
    assert {"plot.png", "samples.png", "table.txt"} <= {path.name for path in tmp_path.iterdir()}


def test_results_in_different_networks_are_different_measures(tmp_path: Path) -> None:
    study = Study("?", "demo_digits", 64, grid={"lr": as_axis("lr", [0.1, 0.2])}, seeds=(0, 1))
    made(study, tmp_path, np.full((2, 2), 4.0), np.full((2, 2), 0.5))
    for training, cells in study.trainings().items():
        report = report_of(finished_runs(tmp_path)[training.key], cells[0])
        if training.seed == 1:
            report.write_text(report.read_text().replace("convnet_0123abcd", "convnet_4567abcd"))
    measures = collect(study, read_reports(study, finished_runs(tmp_path)))
    assert [row.name for row in measures if row.ratio] == ["fd_convnet_0123abcd", "fd_convnet_4567abcd"]
    assert np.isnan(measures[0].values[:, 1]).all() and np.isfinite(measures[0].values[:, 0]).all()


def test_images_of_another_size_are_not_drawn_beside_the_others(tmp_path: Path) -> None:
    study = Study("?", "demo_digits", 64, grid={"lr": as_axis("lr", [0.1, 0.2, 0.3])}, seeds=(0,))
    made(study, tmp_path, np.full((3, 1), 4.0), np.full((3, 1), 0.5))
    last = report_of(finished_runs(tmp_path)[list(study.trainings())[-1].key], study.cells[-1])
    np.savez(last.with_name("samples.npz"), arr_0=np.zeros((24, 12, 12, 1), np.uint8))
    draw_study_samples(study, tmp_path)
    assert (tmp_path / "samples.png").is_file()


def test_the_smallest_ratio_that_could_be_found_is_never_rounded_to_one(tmp_path: Path) -> None:
    study = Study("?", "demo_digits", 64, grid={"lr": as_axis("lr", [0.1, 0.2])}, seeds=(0, 1))
    made(study, tmp_path, np.array([[4.0, 8.0], [4.0001, 8.0003]]), np.full((2, 2), 0.5))
    table = study_table(study, collect(study, read_reports(study, finished_runs(tmp_path))), {})
    assert 1 < float(re.findall(r"4 of 5 studies would find a factor of (\S+) or more", table)[0]) < 1.01


def test_one_seed_has_values_but_no_intervals(tmp_path: Path) -> None:
    study = Study("?", "demo_digits", 64, grid={"lr": as_axis("lr", [0.1, 0.2])}, seeds=(7,))
    made(study, tmp_path, np.array([[4.0], [9.0]]), np.array([[0.5], [0.6]]))
    table = study_table(study, collect(study, read_reports(study, finished_runs(tmp_path))), {})
    assert "2.25" in table and "One seed" in table and "[" not in table and "over seeds" not in table


# -- real studies -----------------------------------------------------------------------------------------------------


def study_process(path: Path, experiments: Path, jobs: int = 1) -> subprocess.Popen[str]:
    words = ["-m", "scripts.study", "--name", str(path), "--experiments_dir", str(experiments), "--jobs", str(jobs)]
    return subprocess.Popen(
        [sys.executable, *words],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def wait_for_line(process: subprocess.Popen[str], words: str) -> None:
    assert process.stderr is not None
    for line in process.stderr:
        if words in line:
            return
    raise AssertionError(f"the study ended without {words!r}")


@pytest.mark.slow
def test_a_killed_study_goes_on_without_repeating_and_ends_like_an_undisturbed_one(tmp_path: Path) -> None:
    path, killed, calm = write(tmp_path / "my study.yaml", seeds=[0]), tmp_path / "killed", tmp_path / "calm"
    process = study_process(path, killed)
    wait_for_line(process, "1 of 2")
    process.send_signal(signal.SIGKILL)
    process.communicate()
    folder = killed / "studies" / "my study"
    done = {run.parent: run.stat().st_mtime_ns for run in folder.glob("runs/*/evaluation/*/report.json")}
    assert len(done) == 1
    deadline = time.monotonic() + 60
    while any("-c from multiprocessing" in line for line in processes_in(folder)) and time.monotonic() < deadline:
        time.sleep(0.2)  # The cells stop by themselves when the study is gone.
    out, err = study_process(path, killed).communicate()
    assert out.strip() == str(folder), err
    assert {run.parent: run.stat().st_mtime_ns for run in folder.glob("runs/*/evaluation/*/report.json")}.items() >= (
        done.items()
    )
    out, err = study_process(path, calm).communicate()
    assert (folder / "table.txt").read_text() == (Path(out.strip()) / "table.txt").read_text(), err


def processes_in(folder: Path) -> list[str]:
    """Command lines of the processes that have a file of a folder open."""
    lines = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            files = [os.readlink(link) for link in (path / "fd").iterdir()]
            if any(name.startswith(str(folder)) for name in files):
                lines.append((path / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace"))
        except OSError:
            continue
    return lines


@pytest.mark.slow
def test_a_cell_that_fails_for_every_seed_is_named_and_the_others_are_kept(tmp_path: Path) -> None:
    settings = {**MINE["settings"], "sampling.guidance_scale": 2.0}
    path = write(tmp_path / "mine.yaml", grid={"label_drop": [0.1, 0.0]}, settings=settings, seeds=[0])
    process = study_process(path, tmp_path, jobs=2)
    _, err = process.communicate()
    assert process.returncode == 2
    last = err.strip().splitlines()[-1]
    assert last.startswith("error: cell label_drop 0.0 failed for every seed: ") and "label_drop" in last.split(":")[-1]
    table = (tmp_path / "studies" / "mine" / "table.txt").read_text()
    assert "failed: label_drop 0.0, seed 0: " in table and "label_drop 0.1" in table
    other = study_process(write(tmp_path / "mine.yaml", question="What else?"), tmp_path)
    _, err = other.communicate()
    assert other.returncode == 2 and "another study of this name" in err and len(err.strip().splitlines()) == 1
