"""The tournament of samplers: its candidates, its finalists, and real ones on a shipped model and a student."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from models.drawing.pareto import ParetoPoint
from models.model import load_model
from models.runs.checkpoints import resolve_checkpoint
from models.runs.lookup import find_run
from scripts.tasks import tournament
from scripts.tasks.studies import STUDIES
from scripts.tasks.study_plan import Tournament
from scripts.tasks.tournament_candidates import Result, candidates, choose_finalists, far_off, finalists_table
from tests.commands.tasks import REPOSITORY, run_here


def test_entries_are_the_nearest_counts_that_a_sampler_reaches() -> None:
    model = load_model(resolve_checkpoint(find_run("pretrained/digits", REPOSITORY)), "ema", torch.device("cpu"))
    entrants = Tournament("?", (), (1, 2, 3, 12), ("heun", "midpoint", "ddim"), ("uniform", "flow_time"), (1.0, 1.5))
    found = candidates(entrants, model)
    counts = {
        wanted: {entry.sampler: entry.evaluations for entry in entries if entry.scale == 1}
        for wanted, entries in found.items()
    }
    assert counts == {
        1: {"heun": 1, "midpoint": 2, "ddim": 1},
        2: {"ddim": 2},
        3: {"heun": 3, "ddim": 3},
        12: {"heun": 11, "midpoint": 12, "ddim": 12},
    }
    guided = [entry.nfe for entries in found.values() for entry in entries if entry.scale != 1]
    assert sorted(guided) == [2, 2, 4, 4, 6, 6, 22, 24, 24]


def test_a_long_name_of_a_run_cuts_no_figure_of_the_finalists() -> None:
    run = "20261128_144954-distill-mnist-with-a-name-that-says-much"
    results = [Result("dpmpp_2m_sde", "log_snr", 12, 12, 1.5, 0.1, 4.0, 3.9, 4.1, 1.0, 0.9, 0.8, 5.0)]
    table = finalists_table(run, results, ("convnet", "resnet"))
    assert table.startswith(f"{run}\n") and "…" not in table and max(map(len, table.splitlines())) <= 100
    for word in ("convnet", "resnet", "recogn.", "recall", "4.00", "5.00", "90.00", "80.0"):
        assert word in table.split()


def test_finalists_are_those_that_no_cheaper_one_clearly_beats() -> None:
    def result(sampler: str, evaluations: int, fd: float, scale: float = 1.0) -> Result:
        return Result(sampler, "uniform", evaluations, evaluations, scale, 0.1, fd, 0.95 * fd, 1.05 * fd, 1.0, 0.9)

    results = [result("a", 5, 10), result("b", 5, 10.5), result("c", 5, 16), result("a", 12, 11.5), result("b", 12, 6)]
    guided = result("c", 5, 30, 1.5)
    assert [(row.sampler, row.evaluations) for row in choose_finalists(results)] == [("a", 5), ("b", 5), ("b", 12)]
    assert [row.nfe for row in choose_finalists([*results, guided])] == [5, 5, 10, 12]
    near = [result("a", 5, 3), result("b", 5, 3.2), result("c", 5, 3.1)]
    assert [row.sampler for row in choose_finalists(near)] == ["a", "c"]
    assert far_off(results[:3], []) == {("c", "uniform")} and not far_off(results[:2], [guided])
    assert far_off(results[:2], [result("c", 3, 6)]) == {("a", "uniform"), ("b", "uniform")}
    assert not far_off([result("a", 1, 30), result("b", 2, 3)], [])
    twin = replace(results[0], sampler="d")
    assert [row.sampler for row in choose_finalists([results[0], twin])] == ["a"]


@pytest.mark.slow
def test_a_tournament_keeps_what_it_has_measured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    small = Tournament(
        "?", ("pretrained/digits",), (1, 5), ("heun", "ddim"), ("uniform",), (1.0,), 40, 30, ("convnet",)
    )
    monkeypatch.setitem(STUDIES, "samplers", small)
    words = ("--name", "samplers", "--experiments_dir", tmp_path)
    (folder,) = run_here("study", *words, capsys=capsys).folder.glob("pretrained-digits-*")
    screened, reports = (folder / "screen.csv").read_bytes(), sorted(folder.glob("finals/*/report.json"))
    assert len(screened.splitlines()) == 5 and reports and (folder / "pareto.png").is_file()
    table = (folder / "table.txt").read_text().splitlines()
    assert any(re.fullmatch(r"(heun|ddim) \d, uniform( +[\d.]+){6}", line) for line in table)
    monkeypatch.setattr(tournament, "draw_samples", None)
    monkeypatch.setattr(tournament, "run_task", None)
    run_here("study", *words, capsys=capsys)
    assert (folder / "screen.csv").read_bytes() == screened
    status = run_here("status", "--experiments_dir", tmp_path, capsys=capsys)
    assert "studies/samplers" in status.out and "finished" in status.out
    report = run_here("report", "--experiments_dir", tmp_path, capsys=capsys)
    page = Path(report.out.strip()).parent / "studies" / "samplers" / "index.html"
    assert f"{folder.name}-pareto.png" in page.read_text() and "1, uniform" in page.read_text()


@pytest.mark.slow
def test_students_are_drawn_in_the_picture_of_their_teacher(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    teacher = ("--run", "pretrained/digits", "--steps", 2, "--guidance_scale", 1.5)
    small = ("--evaluations", 2, "--max_steps", 1, "--pairs", 1, "--num_samples", 10, "--experiments_dir", tmp_path)
    student = run_here("distill", *teacher, *small, capsys=capsys).folder
    drawn: list[tuple[Path, list[tuple[str, str, float, bool]]]] = []

    def draw(points: Sequence[ParetoPoint], path: Path, *_: object) -> None:
        drawn.append((path, [(point.label, point.group, point.evaluations, point.student) for point in points]))

    monkeypatch.setattr(tournament, "draw_pareto", draw)
    entries = Tournament("?", (), (1,), ("heun",), ("uniform",), (1.0,), 40, 30, ("convnet",))
    monkeypatch.setitem(STUDIES, "samplers", entries)
    words = ("--runs", "pretrained/digits", student.name, "--experiments_dir", tmp_path)
    run_here("study", "--name", "samplers", *words, capsys=capsys)
    (_, of_student), (path, of_teacher) = drawn
    assert of_student == [("students", "guidance 1.5", 2, True)]
    assert path.parent.name.startswith("pretrained-digits-")
    assert of_teacher == [("heun", "plain", 1, False), *of_student]
