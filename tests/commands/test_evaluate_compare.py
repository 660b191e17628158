"""evaluate --compare: two evaluations side by side where their protocols agree, and a refusal where they do not."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch

from models.evaluation.measure_names import is_share
from tests.commands.tasks import TINY, Ended, run_here, tiny_classifier

COUNT = 40
USUAL = ("--draws", 20, "--num_images", COUNT)


def run_of(experiments: Path, name: str) -> Path:
    return next(experiments.glob(f"*-{name}"))


@pytest.fixture(scope="module")
def experiments(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs with one evaluation each, and two more: of fewer images, and of images from other noise."""
    from scripts import evaluate, train_flow

    folder = tmp_path_factory.mktemp("runs")
    network = tiny_classifier(folder / "network")
    once = ("--eval_every", "0", "--checkpoint_every", "0", "--sample_every", "0", "--experiments_dir", folder)
    for name, steps in (("short", 4), ("long", 60)):
        train_flow.main([*map(str, (*TINY, *once, "--max_steps", steps, "--lr", "3e-3", "--name", name))])
    usual = ("--extractors", network, "--steps", 3, "--experiments_dir", folder, *USUAL)
    for name, words in (
        ("short", ()),
        ("long", ()),
        ("long", ("--num_images", 20, "--out", folder / "fewer")),
        ("long", ("--seed", 7, "--out", folder / "reseeded")),
    ):
        evaluate.main([*map(str, ("--run", run_of(folder, name), *usual, *words))])
    return folder


@pytest.fixture
def compare(experiments: Path, capsys: pytest.CaptureFixture[str]):
    def run(*words: object) -> Ended:
        return run_here("evaluate", "--compare", *words, "--experiments_dir", experiments, capsys=capsys)

    return run


def comparison_of(ended: Ended) -> dict[str, Any]:
    return json.loads(ended.folder.read_text())


@pytest.mark.slow
def test_two_runs_are_paired_by_their_noise(experiments: Path, compare) -> None:
    ended = compare(run_of(experiments, "short"), run_of(experiments, "long"))
    found = comparison_of(ended)
    assert ended.err.count("covariance is singular") == 2 and "warning about A: " in ended.err
    assert found["paired"] and ended.folder.parent == experiments / "comparisons"
    (distance,) = (row for name, row in found["differences"].items() if name.startswith("fd_convnet"))
    assert distance["value"] == distance["other"] - distance["one"]
    assert distance["low"] < distance["value"] < distance["high"]
    text = ended.folder.with_suffix(".txt").read_text()
    assert "paired by seed and label" in text and "checkpoint_sha256" in text and text.strip() in ended.err


def test_pairs_are_closer_than_strangers(experiments: Path, compare) -> None:
    """Of one model under one noise nothing differs; under another noise everything may."""
    same = comparison_of(compare(run_of(experiments, "long"), run_of(experiments, "long")))
    other = comparison_of(compare(run_of(experiments, "long"), experiments / "reseeded"))
    assert same["paired"] and not other["paired"]
    for name, row in same["differences"].items():
        difference = other["differences"][name]
        assert row["value"] == 0, name
        if row["low"] is not None:
            assert row["low"] <= 0 <= row["high"], name
            assert row["high"] - row["low"] <= difference["high"] - difference["low"], name


def test_other_protocols_are_refused_and_the_difference_named(experiments: Path, compare) -> None:
    ended = compare(run_of(experiments, "long"), experiments / "fewer")
    assert ended.code == 2 and ended.out == "" and len(ended.err.splitlines()) == 1
    assert "cannot be compared" in ended.err and f"images {COUNT} and 20" in ended.err


def test_mistakes_are_one_line(experiments: Path, compare, tmp_path: Path) -> None:
    long = run_of(experiments, "long")
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "report.json").write_text('{"task": "checkpoints"}')
    assert "only reports of samples" in compare(long, broken).err
    for content in ("[1, 2]", "{", '{"task": "samples", "protocol": {}, "samples": {}, "results": 3}'):
        (broken / "report.json").write_text(content)
        ended = compare(long, broken)
        assert ended.code == 2 and len(ended.err.splitlines()) == 1, ended.err
        assert "is not a report of evaluate" in ended.err
    (tmp_path / "notes.txt").write_text("mine")
    places = (tmp_path, tmp_path / "notes.json", "/proc/none/c.json")
    for words in ((long, experiments / "nowhere"), (long,), *((long, long, "--out", place) for place in places)):
        ended = compare(*words)
        assert ended.code == 2 and ended.out == "" and len(ended.err.splitlines()) == 1, ended.err


def edited_report(experiments: Path, folder: Path, edit: Callable[[dict[str, Any]], object]) -> Path:
    """Copy the evaluation of the long run into `folder` and edit its report."""
    (evaluation,) = run_of(experiments, "long").glob("evaluation/*")
    shutil.copytree(evaluation, folder)
    report = json.loads((folder / "report.json").read_text())
    edit(report)
    (folder / "report.json").write_text(json.dumps(report))
    return folder


@pytest.mark.parametrize("keys", [("value", "low", "high"), ("low", "high"), ("high",)])
@pytest.mark.parametrize("kind", ["fd_convnet", "recognised", "grey_mean"])
def test_values_that_are_undefined_are_shown_as_such(
    kind: str, keys: tuple[str, ...], experiments: Path, compare, tmp_path: Path
) -> None:
    def edit(report: dict[str, Any]) -> None:
        for name, row in report["results"].items():
            if name.startswith(kind):
                row["found"].update(dict.fromkeys(keys))

    edited = edited_report(experiments, tmp_path / "edited", edit)
    for pair in ((run_of(experiments, "long"), edited), (edited, edited)):
        ended = compare(*pair)
        rows = {name: row for name, row in comparison_of(ended)["differences"].items() if name.startswith(kind)}
        assert rows and all((row["value"] is None) == ("value" in keys) for row in rows.values())
        assert (" -  " in ended.err) == ("value" in keys) and "None" not in ended.err


@pytest.mark.parametrize("number", [float("nan"), float("inf"), 10**400, [1], "3"])
def test_values_that_are_no_numbers_are_refused(number: object, experiments: Path, compare, tmp_path: Path) -> None:
    def edit(report: dict[str, Any]) -> None:
        next(iter(report["results"].values()))["found"]["value"] = number

    edited = edited_report(experiments, tmp_path / "edited", edit)
    ended = compare(run_of(experiments, "long"), edited)
    assert ended.code == 2 and "is not a report of evaluate" in ended.err and len(ended.err.splitlines()) == 1


def test_measures_without_a_name_are_refused(experiments: Path, compare, tmp_path: Path) -> None:
    def edit(report: dict[str, Any]) -> None:
        report["results"]["beauty"] = next(iter(report["results"].values()))

    ended = compare(run_of(experiments, "long"), edited_report(experiments, tmp_path / "edited", edit))
    assert ended.code == 2 and "beauty is no measure" in ended.err


@pytest.mark.parametrize("part", ["reference", "floor"])
def test_real_images_are_compared_by_their_contents_where_both_reports_know_them(
    part: str, experiments: Path, compare, tmp_path: Path
) -> None:
    def report_with(name: str, sha256: str, contents: str | None) -> Path:
        def edit(report: dict[str, Any]) -> None:
            hashes = {f"{part}_sha256": sha256, f"{part}_contents": contents}
            report["protocol"].update({key: value for key, value in hashes.items() if value is not None})

        return edited_report(experiments, tmp_path / name, edit)

    one, moved = report_with("one", "names", "contents"), report_with("moved", "other names", "contents")
    edited, older = report_with("edited", "names", "other contents"), report_with("older", "names", None)
    assert compare(one, moved).code == compare(one, older).code == compare(older, edited).code == 0
    for pair, word in (((one, edited), f"{part}_contents"), ((older, moved), f"{part}_sha256")):
        ended = compare(*pair)
        assert ended.code == 2 and f"{word} " in ended.err and len(ended.err.splitlines()) == 1


def test_numbers_that_are_none_are_refused(experiments: Path, compare, tmp_path: Path) -> None:
    """A report that was edited by hand is told from one that can be compared."""
    long = run_of(experiments, "long")
    (folder,) = long.glob("evaluation/*")
    report = json.loads((folder / "report.json").read_text())
    edited = tmp_path / "edited"
    edited.mkdir()
    name = next(iter(report["results"]))
    report["results"][name]["found"] = "high"
    (edited / "report.json").write_text(json.dumps(report))
    ended = compare(long, edited)
    assert ended.code == 2 and "is not a report of evaluate" in ended.err and len(ended.err.splitlines()) == 1
    (edited / "report.json").write_text((folder / "report.json").read_text())
    safetensors.torch.save_file({}, edited / "resampled.safetensors")
    found = comparison_of(compare(long, edited))
    for name, row in found["differences"].items():
        assert (row["low"] is None) != is_share(name) or name.startswith("class_shares"), name
