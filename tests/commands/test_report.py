"""The report in a browser: from a file, without a network, by keyboard, on a phone, and with hostile names."""

from __future__ import annotations

import shutil
import threading
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest

from models.report.server import ReportServer
from scripts.cli.flags import ReportFlags
from scripts.tasks.reporting import commands, open_report, usual
from tests.commands.tasks import run_here
from tests.models.report.folders import HOSTILE, write_comparison, write_evaluation, write_run
from tests.pages import browser as browser

pytestmark = pytest.mark.slow

HOSTILE_NAME = "20260204_000000-flow-digits-" + HOSTILE.replace("/", "")


@pytest.fixture(scope="module")
def experiments(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four runs: evaluated, evaluated, failed with another seed, and hostile."""
    folder = tmp_path_factory.mktemp("a folder #1") / "experiments"
    for day, distance in ((1, 3.0), (2, 2.0)):
        run = write_run(folder, f"2026020{day}_000000-flow-digits", loss=day, config={"lr": day / 1000})
        write_evaluation(run, "20260210_000000", distance)
    write_run(
        folder,
        "20260203_000000-ddpm-mnist",
        config={"seed": 3},
        state="failed",
        reason="out of memory",
        task="train_ddpm",
        dataset="mnist",
    )
    hostile = write_run(
        folder,
        HOSTILE_NAME,
        config={HOSTILE: HOSTILE, "dataset.path": HOSTILE},
        reason=HOSTILE,
        state="interrupted",
        dataset=HOSTILE,
    )
    write_evaluation(hostile, "20260210_000000", 4.0)
    (hostile / f"{HOSTILE.replace('/', '')}.txt").touch()
    evaluations = (str(folder / f"2026020{day}_000000-flow-digits" / "evaluation" / "one-samples") for day in (2, 1))
    write_comparison(folder, "20260211_000000", *evaluations)
    return folder


@pytest.fixture(scope="module")
def report(experiments: Path) -> Path:
    """The report, copied away alone."""
    made = open_report(ReportFlags(str(experiments)))
    made.update()
    return shutil.copytree(made.out, experiments.parents[1] / "copied" / "report")


class Visit:
    """A page that fails the test if it logs an error, or asks for anything outside the report."""

    def __init__(self, browser: Any, root: Path | str, **options: Any) -> None:
        self.context = browser.new_context(viewport={"width": 1400, "height": 900}, **options)
        self.page = self.context.new_page()
        self.root = root.as_uri() if isinstance(root, Path) else root
        self.faults: list[str] = []
        self.page.on("console", lambda message: self.faults.append(f"{message.type}: {message.text}"))
        self.page.on("pageerror", lambda error: self.faults.append(str(error)))
        self.page.on("requestfailed", self._note_failure)
        self.page.on("request", self._check)

    def _note_failure(self, request: Any) -> None:
        if "ERR_ABORTED" not in (request.failure or ""):  # A click has left the page while its pictures were loading.
            self.faults.append(f"failed: {request.url} {request.failure}")

    def _check(self, request: Any) -> None:
        if not request.url.startswith((f"{self.root}/", "data:,")):
            self.faults.append(f"left the report: {request.url}")

    def __enter__(self) -> Visit:
        return self

    def __exit__(self, *error: object) -> None:
        self.context.close()
        if error[0] is None:
            assert self.faults == []

    def open(self, path: str) -> Any:
        self.page.goto(f"{self.root}/{path}")
        return self.page

    def check_images(self) -> None:
        """Every picture of the page decodes."""
        self.page.evaluate("Promise.all([...document.images].map(image => (image.loading = 'eager', image.decode())))")
        assert self.page.evaluate("[...document.images].every(image => image.naturalWidth > 0)")

    def check_width(self) -> None:
        assert self.page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def shown(page: Any) -> list[str]:
    """The days of the rows that are visible, in their order."""
    rows = page.locator("#runs tbody tr:visible td.run").all()
    return [row.get_attribute("data-value")[6:8] for row in rows]


def test_the_index_sorts_filters_and_chooses(browser: Any, report: Path) -> None:
    with Visit(browser, report) as opened:
        page = opened.open("index.html")
        opened.check_images()
        assert shown(page) == ["04", "03", "02", "01"]
        page.get_by_role("button", name="distance").click()
        assert shown(page) == ["02", "01", "04", "03"]  # unknown distances last
        page.get_by_role("button", name="distance").press("Enter")
        assert shown(page) == ["04", "01", "02", "03"]
        page.get_by_label("State").select_option("failed")
        assert shown(page) == ["03"] and page.get_by_text("1 of 4 runs").is_visible()
        page.reload()
        assert shown(page) == ["03"]
        page.get_by_label("State").select_option("")
        page.get_by_label("Words").fill("OUT memory")
        assert shown(page) == ["03"]
        page.get_by_label("Words").fill("")
        for day in ("01", "04", "02"):
            page.locator(f"tr:has(td.run[data-value^='202602{day}']) input").check()
        assert page.locator("#runs input:checked").count() == 2
        page.get_by_role("link", name="Compare the two chosen runs").click()
        page.wait_for_selector("#comparison section")
        assert page.locator("#comparison ul a").first.inner_text() == HOSTILE_NAME


def test_two_runs_side_by_side(browser: Any, report: Path) -> None:
    with Visit(browser, report) as opened:
        page = opened.open("compare.html?a=20260201_000000-flow-digits&b=20260202_000000-flow-digits")
        page.wait_for_selector("#comparison svg polyline")
        opened.check_images()
        settings = page.locator("section:has(h2:text('Settings that differ')) tbody tr").all_inner_texts()
        assert [row.split() for row in settings] == [["lr", "0.001", "0.002"]]
        assert page.get_by_text("The images come from the same noise: seed 0, shape 1×8×8").is_visible()
        better = page.locator("td.better").all_inner_texts()
        assert better == ["2 [1.8, 2.2]", "-1 [-1.5, -0.5] *"]  # the intervals of the shares overlap
        differences = page.locator("section:has(h2:text('Differences')) th").all_inner_texts()
        assert differences[1:4] == ["B", "A", "A − B [95 %]"]
        assert page.locator(".chart[data-key=loss] polyline").count() == 6
        page.get_by_label("Run B").select_option("20260203_000000-ddpm-mnist")
        page.get_by_text("The noise differs: seed 0 and 3").wait_for()
        assert page.get_by_text("Not evaluated yet: 20260203_000000-ddpm-mnist").is_visible()
        assert page.get_by_text("The losses cannot be compared").is_visible()
        page = opened.open("compare.html?a=../../evil&b=x")
        assert page.get_by_text("Choose two runs.").is_visible()


def test_a_run_by_keyboard(browser: Any, report: Path) -> None:
    with Visit(browser, report) as opened:
        page = opened.open("runs/20260201_000000-flow-digits/index.html")
        opened.check_images()
        for slider, first, last in (
            ("Step of the training", "step 20", "end, step 100"),
            ("Time", "t = 1.00", "t = 0.00"),
        ):
            control = page.get_by_role("slider", name=slider)
            box = page.locator(".slider", has=control)
            assert control.get_attribute("aria-valuetext") == last
            control.press("Home")
            assert control.get_attribute("aria-valuetext") == first
            assert box.locator("figure:visible").count() == 1
        svg = page.locator(".chart[data-key=loss] svg")
        svg.press("Home")
        assert page.locator(".chart[data-key=loss] .position").inner_text() == "at step 10"
        assert page.locator(".chart[data-key=loss] output").all_inner_texts() == ["10", "10", "10"]
        svg.press("ArrowRight")
        svg.hover()
        assert page.locator(".chart[data-key=loss] .cursor").get_attribute("visibility") == "visible"
        tabbed = []
        for _ in range(12):
            page.keyboard.press("Tab")
            tabbed.append(page.evaluate("document.activeElement.tagName"))
        assert "svg" in tabbed


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_hostile_text_stays_text_on_a_phone(browser: Any, report: Path, scheme: str) -> None:
    with Visit(browser, report, color_scheme=scheme) as opened:
        opened.page.set_viewport_size({"width": 390, "height": 800})
        page = opened.open("index.html")
        assert page.locator("p.reason", has_text="<img src=x").first.inner_text() == HOSTILE
        opened.check_width()
        page.get_by_role("link", name=HOSTILE_NAME).last.click()
        assert page.locator("h1").inner_text().startswith(HOSTILE_NAME)
        assert page.title() == HOSTILE_NAME
        opened.check_width()
        identity = unquote(urlsplit(page.url).path).split("/")[-2]
        page = opened.open(f"compare.html?a={identity}&b=20260201_000000-flow-digits")
        page.get_by_role("rowheader", name=HOSTILE, exact=True).wait_for()
        opened.check_width()
        background = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert background == ("rgb(255, 255, 255)" if scheme == "light" else "rgb(20, 23, 28)")
        assert page.evaluate("document.title") == "Two runs side by side"


def test_pages_are_readable_without_scripts(browser: Any, report: Path) -> None:
    with Visit(browser, report, java_script_enabled=False) as opened:
        page = opened.open("index.html")
        assert shown(page) == ["04", "03", "02", "01"] and page.locator("button:visible, input:visible").count() == 0
        page = opened.open("runs/20260201_000000-flow-digits/index.html")
        assert page.locator(".slider figure:visible").count() == 7
        assert page.locator("noscript img, img[src='loss_curves.png']").first.is_visible()
        page = opened.open("compare.html")
        assert page.locator("noscript p").is_visible()


def test_a_served_page_follows_its_run(browser: Any, experiments: Path) -> None:
    served = open_report(ReportFlags(str(experiments)), live=True)
    with ReportServer(served, 0) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            root = server.url.removesuffix("/report/index.html")
            with Visit(browser, root) as opened:
                page = opened.open("report/runs/20260201_000000-flow-digits/index.html")
                opened.check_images()
                page.get_by_role("slider", name="Time").press("Home")
                (experiments / "20260201_000000-flow-digits" / "training_log.txt").write_text("a new line\n")
                page.get_by_text("a new line").wait_for(state="attached", timeout=30_000)
                # The new page makes its sliders in one script and moves them to where they were in the next one.
                moved = page.get_by_role("slider", name="Time").and_(page.locator("[aria-valuetext='t = 1.00']"))
                moved.wait_for(state="attached", timeout=30_000)
                page.get_by_role("link", name="config.txt").click()
                assert "dataset: digits" in page.locator("body").inner_text()
        finally:
            server.shutdown()
            thread.join()
    with Visit(browser, experiments / "report") as opened:
        opened.open("runs/20260201_000000-flow-digits/index.html")
        opened.check_images()


def test_the_command(tmp_path: Path, capsys) -> None:
    write_run(tmp_path, "20260201_000000-flow-digits", pictures=False)
    ended = run_here("report", "--experiments_dir", tmp_path, capsys=capsys)
    assert ended.folder == tmp_path / "report" / "index.html" and "1 run: 1 finished" in ended.err
    assert run_here("report", "--experiments_dir", tmp_path, capsys=capsys).code == 0
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").touch()
    for task in ("report", "serve"):
        refused = run_here(task, "--experiments_dir", tmp_path, "--out", tmp_path / "mine", capsys=capsys)
        assert (refused.code, refused.out) == (2, "") and refused.err.startswith("error: --out ")
        assert len(refused.err.splitlines()) == 1
    refused = run_here("serve", "--experiments_dir", tmp_path, "--port", 70000, capsys=capsys)
    assert refused.code == 2 and "--port 70000" in refused.err


def test_settings_are_compared_with_the_recipe_or_the_defaults() -> None:
    config = {"dataset": "mnist", "network": "unet", "space": "pixels", "lr": 0.1, "network.width": 8, "epochs": 20.0}
    name, settings = usual("train_flow", config, "python -m scripts.train_flow --recipe mnist --lr 0.1")
    assert name == "recipe mnist" and (settings["lr"], settings["max_minutes"], settings["epochs"]) == (5e-3, 10, None)
    assert usual("train_flow", config | {"device": "cuda:1"}, "--recipe mnist")[1]["batch_size"] == 512
    name, settings = usual("train_flow", config | {"network": "dit"}, "python -m scripts.train_flow")
    assert name == "the defaults of train_flow" and settings["epochs"] == 20 and "network.depth" in settings
    assert usual("train_vae", {"dataset": "digits", "network": "conv"}, "it's")[1]["kl_weight"] == 1e-6
    assert usual("distill", {"dataset": "digits"}, "")[1]["optimizer"] == "muon"
    assert usual("train_flow", {**config, "network": "gone"}, "") == ("", {}) == usual("juggle", {}, "")


def test_commands_fit_the_state(tmp_path: Path) -> None:
    (tmp_path / "config.txt").touch()
    words = {
        state: [command.words for command in commands(tmp_path, "train_flow", state, {"max_steps": 100})]
        for state in ("finished", "failed", "dead", "running")
    }
    assert words["finished"][0].startswith("make generate") and words["finished"][1].startswith("make evaluate")
    assert f"--resume {tmp_path} --max_steps 200" in words["finished"][2]
    assert words["failed"][0].startswith("tail") and "--config" in words["failed"][1]
    assert len(words["dead"]) == 1 and "--config" in words["dead"][0]
    assert words["running"][0].startswith("tail -f") and words["running"][1] == "make stop"
    longer = commands(tmp_path, "train_flow", "finished", {"max_steps": 500_000, "patience": 3, "max_minutes": 0.5})[2]
    assert "--max_steps 1000000 --max_minutes 1.0 --patience 6" in longer.words
    assert commands(tmp_path, "study", "unreadable", {}) == []
