"""The report over runs: what it reads, what it shows, its sizes, and that one bad run costs no other its page."""

from __future__ import annotations

import json
import os
import re
import shutil
import time
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from models.errors import UserError
from models.report import pictures
from models.report.best import best_of
from models.report.building import Report
from models.report.pictures import Album, safe_name
from models.report.reading import list_runs, read_columns, read_run
from models.report.views import Advice, Command, Entry
from tests.models.report.folders import HOSTILE, write_comparison, write_evaluation, write_run

OLDER = Path(__file__).resolve().parents[2] / "data" / "older_runs" / "flow"
ADVICE = Advice(
    lambda folder, task, state, config: [Command("go on", f"make {task}")],
    lambda task, config, command: ("the defaults", {"lr": 0.001, "seed": 0}),
)


def build(experiments: Path, **options: Any) -> list[Entry]:
    return Report(experiments, experiments / "report", ADVICE, **options).update()


def page(experiments: Path, entry: Entry) -> str:
    return (experiments / "report" / "runs" / entry.id / "index.html").read_text(encoding="utf-8")


def data(experiments: Path, entry: Entry) -> dict[str, Any]:
    script = (experiments / "report" / "runs" / entry.id / "data.js").read_text(encoding="utf-8")
    assert script.startswith("report.add(") and script.endswith(");\n")
    return json.loads(script[len("report.add(") : -3])


def size_of(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def test_an_older_run_has_a_page(tmp_path: Path) -> None:
    shutil.copytree(OLDER, tmp_path / "20261127_214003-flow-digits-flow")
    (entry,) = build(tmp_path)
    assert (entry.state, entry.kind, entry.dataset, entry.step, entry.loss) == (
        "finished",
        "flow",
        "digits",
        200,
        "flow l2",
    )
    assert entry.test_loss == pytest.approx(0.985102) and entry.seconds == 16.09
    shown = page(tmp_path, entry)
    assert "Flow on digits (1×8×8), unet of 14,036 parameters, 200 steps of 16 images in 16.1s of training" in shown
    charts = {chart["key"]: chart for chart in data(tmp_path, entry)["charts"]}
    by_t = {series["name"]: series["y"] for series in charts["by_t"]["series"]}
    assert by_t["test, last"][:2] == [1.243, 1.2944] and len(by_t["train, last"]) == 10


def test_settings_that_differ_come_first_and_commands_are_shown(tmp_path: Path) -> None:
    write_run(tmp_path, "20260208_143052-flow-digits")
    (entry,) = build(tmp_path)
    shown = page(tmp_path, entry)
    differing, _, same = shown.partition("Different from the defaults")[2].partition("</table>")
    assert re.findall(r'<th scope="row">([\w.]+)</th><td>([^<]*)</td><td class="quiet">([^<]*)', differing) == [
        ("lr", "0.003", "0.001")
    ]
    assert '<th scope="row">seed</th>' in same
    assert "<code>make train_flow</code>" in shown


def test_the_reverse_process_is_shown_frame_by_frame(tmp_path: Path) -> None:
    write_run(tmp_path, "20260208_143052-flow-digits")
    (entry,) = build(tmp_path)
    shown = page(tmp_path, entry)
    labels = re.findall(r'data-label="([^"]+)"', shown)
    assert labels == ["step 20", "step 40", "step 60", "end, step 100", "t = 1.00", "t = 0.50", "t = 0.00"]
    sources = re.findall(r'<img src="([^"]+)"', shown)
    assert (
        sources.count("denoising_steps-noisy-00_t1.00.png") == 1
        and sources.count("denoising_steps-clean_estimate-01_t0.00.png") == 1
    )
    assert all((tmp_path / "report" / "runs" / entry.id / source).is_file() for source in sources)


def test_broken_runs_cost_no_other_run_its_page(tmp_path: Path) -> None:
    write_run(tmp_path, "20260201_000000-flow-digits")
    without_status = write_run(tmp_path, "20260202_000000-flow-digits")
    (without_status / "status.json").unlink()
    cut = write_run(tmp_path, "20260203_000000-flow-digits")
    for path in (cut / "final_samples").glob("*.png"):
        path.write_bytes(path.read_bytes()[:60])
    (cut / "config.txt").write_text("lr: [1\n")
    (cut / "metrics.csv").write_bytes(b"step,train_loss,test_loss\n10,1,\xff\n20,nan,1e999\n30,0.5")
    (cut / "monitor.csv").write_text("time,cpu_percent\nnever,many\n")
    evaluation = write_evaluation(cut, "20260203_000001", 2.0)
    (evaluation / "report.json").write_text("[1, 2")
    strange = write_run(tmp_path, "20260204_000000-flow-digits", step="many", loss=True, heartbeat=[], progress={})
    (strange / "config.txt").write_text("1: {2: [3]}\ndataset: [a, b]\nnull: null\nkind: !!binary aGVsbG8=\n")
    (tmp_path / "20260205_000000-flow-digits").mkdir()
    (tmp_path / "20260205_000000-flow-digits" / "training_log.txt").touch()
    (tmp_path / "no run").mkdir()
    no_text = write_run(tmp_path, "20260206_000000-flow-digits", rows=1, loss=0.0)
    no_text.rename(os.fsdecode(os.fsencode(no_text) + b"-\xff"))
    entries = {entry.name[:8]: entry for entry in build(tmp_path)}
    assert [(day, entry.state) for day, entry in entries.items()] == [
        ("20260206", "finished"),
        ("20260205", "unreadable"),
        ("20260204", "finished"),
        ("20260203", "finished"),
        ("20260202", "unreadable"),
        ("20260201", "finished"),
    ]
    assert entries["20260202"].reason == "status.json is missing"
    assert entries["20260202"].kind == "flow" and entries["20260202"].test_loss == 0.5
    shown = page(tmp_path, entries["20260203"])
    for note in (
        "config.txt cannot be read",
        "report.json cannot be read",
        "final_samples/grid.png: the file is cut short",
    ):
        assert note in shown
    assert entries["20260203"].train_loss == 1.0 and entries["20260203"].thumbnail == "thumbnail.png"  # of a sheet
    assert 'class="thumbnail pixels"' in (tmp_path / "report" / "index.html").read_text()


def test_a_page_that_cannot_be_made_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    write_run(tmp_path, "20260201_000000-flow-digits")
    write_run(tmp_path, "20260202_000000-flow-digits", state="failed")

    def commands(folder: Path, task: str, state: str, config: Any) -> list[Command]:
        if state == "failed":
            raise ZeroDivisionError("a mistake of ours")
        return []

    report = Report(tmp_path, tmp_path / "report", Advice(commands, ADVICE.usual))
    assert [(entry.state, entry.reason) for entry in report.update()] == [
        ("unreadable", "its page cannot be made: ZeroDivisionError: a mistake of ours"),
        ("finished", ""),
    ]
    assert "ZeroDivisionError" in capsys.readouterr().err


def test_text_of_a_run_stays_text(tmp_path: Path) -> None:
    write_run(
        tmp_path,
        f"20260201_000000-flow-{HOSTILE.replace('/', '')}",
        config={HOSTILE: HOSTILE},
        reason=HOSTILE,
        state="failed",
    )
    (entry,) = build(tmp_path)
    for path in (tmp_path / "report").rglob("*.*"):
        if path.suffix in (".html", ".js") and path.parent.name != "assets":
            content = path.read_text(encoding="utf-8")
            assert "<img src=x" not in content and content.count("</script>") == content.count("<script src=")
    assert data(tmp_path, entry)["settings"][HOSTILE] == HOSTILE
    assert re.fullmatch(r"[A-Za-z0-9._-]+", entry.id)


def test_ids_are_safe_and_differ() -> None:
    names = ["a", "a b", "a-b", "a/b", "..", ".a", "ü", "", "x" * 300, "x" * 301, "a b.png", "a?b.png", "\udcff"]
    ids = [safe_name(name) for name in names]
    assert len(set(ids)) == len(ids)
    assert all(re.fullmatch(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,119}", made) for made in ids)
    assert safe_name("20260208_143052-flow-mnist") == "20260208_143052-flow-mnist" and safe_name("a b.png").endswith(
        ".png"
    )


def test_exported_pages_are_linked_at_the_top(tmp_path: Path) -> None:
    run = write_run(tmp_path, "20260201_000000-flow-digits", pictures=False)
    (run / "exported").mkdir()
    (run / "exported" / "generate & try.html").touch()
    (entry,) = build(tmp_path)
    link = f'<a href="../../../{run.name}/exported/generate%20%26%20try.html">Try it: generate &amp; try.html</a>'
    assert link in page(tmp_path, entry).partition("<h1>")[0]


def test_a_monitor_with_several_gpus_and_a_zone(tmp_path: Path) -> None:
    (tmp_path / "monitor.csv").write_text("time,cpu_percent,gpu\n2026-02-08T14:00:00Z,1,0\n2026-02-08T14:00:05Z,2,0\n")
    assert read_columns(tmp_path / "monitor.csv") == {"time": [0.0, 5.0], "cpu_percent": [1.0, 2.0], "gpu": [0.0, 0.0]}


def test_the_best_run_is_named_among_those_that_compare(tmp_path: Path) -> None:
    for day, distance, images in ((1, 3.0, 200), (2, 2.0, 200), (3, 1.0, 50), (4, None, 0)):
        run = write_run(tmp_path, f"2026020{day}_000000-flow-digits", loss=day)
        if distance:
            write_evaluation(run, "20260210_000000", distance, images)
    worse = write_evaluation(tmp_path / "20260202_000000-flow-digits", "20260211_000000", 9.0)
    (best,) = best_of(build(tmp_path))
    assert best.entry.name == "20260202_000000-flow-digits"
    assert best.reason.startswith("distance 2 times that of real images, 90.00 % [85.00, 94.00] recognised")
    assert best.caution == "2 of 4 runs are not measured with the same protocol"
    write_evaluation(tmp_path / "20260201_000000-flow-digits", "20260211_000000", 2.1)
    shutil.rmtree(worse)
    (best,) = best_of(build(tmp_path))
    assert "overlaps that of 20260201_000000-flow-digits" in best.caution


def test_evaluations_on_renamed_files_compare(tmp_path: Path) -> None:
    for day in (1, 2):
        report = write_evaluation(write_run(tmp_path, f"2026020{day}_000000-flow-digits"), "20260210_000000", day)
        content = json.loads((report / "report.json").read_text())
        hashes = {"reference_sha256": str(day), "reference_contents": "the same"}
        content["protocol"] |= {"reference": "train split", **hashes}
        (report / "report.json").write_text(json.dumps(content))
    (best,) = best_of(build(tmp_path))
    assert best.entry.name == "20260201_000000-flow-digits" and "protocol" not in best.caution
    assert set(best.entry.measured[0].protocol) == {"version", "images", "dataset", "reference", "reference_contents"}


def test_a_smaller_evaluation_does_not_hide_the_one_that_compares(tmp_path: Path) -> None:
    for day, distance in ((1, 2.0), (2, 3.0)):
        run = write_run(tmp_path, f"2026020{day}_000000-flow-digits")
        write_evaluation(run, "20260210_000000", distance, 200)
    write_evaluation(run, "20260211_000000", 1.0, 50)  # A distance of few images is smaller over its floor.
    (best,) = best_of(build(tmp_path))
    assert best.entry.name == "20260201_000000-flow-digits" and "protocol" not in best.caution


def test_without_evaluations_the_lowest_test_loss_counts_among_equal_losses_and_data(tmp_path: Path) -> None:
    write_run(tmp_path, "20260201_000000-flow-digits", loss=0.4)
    write_run(tmp_path, "20260202_000000-flow-digits", loss=0.3)
    write_run(tmp_path, "20260203_000000-flow-digits", loss=0.1, config={"loss": "l1"})
    write_run(tmp_path, "20260204_000000-flow-digits", loss=0.2, config={"dataset.size": 4})
    best = [one for one in best_of(build(tmp_path)) if "of 2 runs" in one.reason]
    assert [one.entry.name for one in best] == ["20260202_000000-flow-digits"]
    assert best[0].reason == "lowest test loss, 0.3, of 2 runs with the loss flow l2"


def test_only_changed_runs_are_written_again(tmp_path: Path) -> None:
    first, second = (write_run(tmp_path, f"2026020{day}_000000-flow-digits") for day in (1, 2))
    report = Report(tmp_path, tmp_path / "report", ADVICE, live=True)
    report.update()
    pages = {run.name: tmp_path / "report" / "runs" / run.name / "index.html" for run in (first, second)}
    for path in pages.values():
        path.write_text("as before")
    (second / "training_log.txt").write_text("another line")
    report.update()
    assert pages[first.name].read_text() == "as before" and "another line" in pages[second.name].read_text()
    shutil.rmtree(first)
    assert [entry.name for entry in report.update()] == [second.name] and not pages[first.name].parent.exists()


def test_pictures_stay_within_their_limits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = write_run(tmp_path, "20260201_000000-flow-digits")
    noise = Image.effect_noise((900, 900), 20)
    noise.save(run / "forward_noising.png")
    assert (run / "forward_noising.png").stat().st_size > pictures.LARGE_BYTES
    folder = tmp_path / "page"
    folder.mkdir()
    album = Album(run, folder)
    picture = album.add(run / "forward_noising.png")
    assert picture is not None and picture.reduced and (folder / picture.source).stat().st_size <= pictures.LARGE_BYTES
    monkeypatch.setattr(pictures, "MOST_BYTES", album.used + 100)
    assert album.add(run / "loss_curves.png") is None
    assert album.missing == ["loss_curves.png: the page would become too large"]


def test_comparisons_are_shown_with_marks_where_intervals_exclude_zero(tmp_path: Path, capsys) -> None:
    names = ["20260208_143052-flow-digits", "20260209_000000-flow-digits", "20260210_000000-flow-digits"]
    report = Report(tmp_path, tmp_path / "report", ADVICE)
    for name in names:
        write_run(tmp_path, name)
    report.update()
    elsewhere = "/other/place/experiments"  # The runs may have been copied here since.
    evaluations = [f"{elsewhere}/{name}/evaluation/20260211_000000-samples" for name in names]
    write_comparison(tmp_path, "20260212_000000", *evaluations[:2])
    write_comparison(tmp_path, "20260213_000000", evaluations[0], "/tmp/<b>alone", low=0.5)
    (tmp_path / "comparisons" / "20260214_000000.json").write_text('{"one": 3}')
    entries = {entry.name: entry for entry in report.update()}
    assert "20260214_000000.json: cannot be read" in capsys.readouterr().err
    found = [data(tmp_path, entries[name])["comparisons"] for name in names]
    assert [[row["runs"] for row in rows] for rows in found] == [[[names[0], ""], names[:2]], [names[:2]], []]
    rows = {row["label"]: row for row in found[1][0]["differences"]}
    assert (rows["fd in convnet"]["difference"], rows["fd in convnet"]["clear"]) == ("-1 [-1.5, -0.5]", True)
    recognised = rows["recognised in convnet"]
    assert (recognised["difference"], recognised["clear"]) == ("5.00 % [-1.00, 11.00]", False)
    assert [rows[name]["difference"] for name in ("kd in convnet", "grey_mean")] == ["-", "1"]
    shown = page(tmp_path, entries[names[0]])
    assert shown.count('<td class="figure better">-1 [-1.5, -0.5] *</td>') == 1
    assert shown.count('<td class="figure">-1 [-1.5, 0.5]</td>') == 1  # 0 is in this interval
    assert "<b>alone" not in shown
    assert "Comparisons" not in page(tmp_path, entries[names[2]])


def test_a_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").touch()
    for place in (tmp_path / "mine", tmp_path / "mine" / "letter.txt"):
        with pytest.raises(UserError, match="exists and is not a report"):
            Report(tmp_path, place, ADVICE)
    assert sorted(path.name for path in (tmp_path / "mine").iterdir()) == ["letter.txt"]


def test_no_runs_and_a_thousand(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no such folder"):
        build(tmp_path / "none")
    assert not (tmp_path / "none").exists()
    (tmp_path / "none").mkdir()
    assert build(tmp_path / "none") == []
    assert "make demo" in (tmp_path / "none" / "report" / "index.html").read_text()
    run = write_run(tmp_path, "20260201_000000-flow-digits-a-name-of-usual-length", rows=60)
    write_evaluation(run, "20260210_000000", 3.0)
    report = Report(tmp_path, tmp_path / "report", ADVICE)
    started = time.process_time()
    for _ in range(10):
        report._entries.clear()
        report.update()
        shutil.rmtree(tmp_path / "report" / "runs" / run.name)
    assert time.process_time() - started < 3.0  # 50 runs take 5 s on an idle core, and more on a busy one.
    (entry,) = report.update()
    monkey = [entry] * 1000
    report._write(
        tmp_path / "index.html",
        "index.html",
        {"entries": monkey, "studies": [], "counts": "", "experiments": "", "written": None, "root": "", "best": []},
    )
    assert (tmp_path / "index.html").stat().st_size < 3_000_000


def test_reading_leaves_the_runs_as_they_are(tmp_path: Path) -> None:
    run = write_run(tmp_path, "20260201_000000-flow-digits")
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    build(tmp_path)
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*")} == before
    assert list_runs(tmp_path) == [run] and read_run(run).notes == []
    assert size_of(tmp_path / "report" / "runs" / run.name) < 3_000_000
