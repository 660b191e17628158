"""Exports: pages and ONNX give the images of PyTorch, and a folder is a run. What cannot be exported is refused."""

from __future__ import annotations

import copy
import os
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from torch import Tensor, nn

from models import load, sample
from models.autoencoders.autoencoder import Autoencoder, AutoencoderSpec
from models.diffusion.denoiser import with_labels
from models.export.page import PageModel, build_page
from models.generation import Sampling, generate, sampled_denoiser
from models.model import DenoiserSpec, Model, Student
from models.networks.dit import DiT
from models.randomness import image_draw
from models.runs import checkpoints
from models.spaces import Space
from models.spaces.latents import Latents
from models.spaces.pixels import Pixels
from scripts.tasks.interpolation import slerp
from tests.commands.tasks import REPOSITORY, Ended, run_here
from tests.commands.test_bad_input import check_refusal
from tests.models.networks.small import CLASSES, awake
from tests.pages import Page, browser, check_equal

pytestmark = pytest.mark.slow

__all__ = ["browser"]
OLDER_RUNS = REPOSITORY / "tests" / "data" / "older_runs"
SHAPE = (1, 9, 6)  # sizes that patches and levels do not divide
NAMES = ("zero", "</script><b>1</b>", "it's `two`")
SEEDS = (0, 1, 7, 123_456, 2**31, 2**32 + 5, 2**40 - 1, 2**53 - 1)
HEUN = Sampling("heun", 6, guidance_scale=2.0)
CPU = torch.device("cpu")


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A chain on digits: a DiT that predicts noise."""
    return Path(shutil.copytree(OLDER_RUNS / "chain", tmp_path / "runs" / "it's a chain"))


def export(run: Path, capsys: Any, *flags: object) -> Ended:
    return run_here("export", "--run", run, *flags, capsys=capsys)


def model_of(network: nn.Module, space: Space, initial_noise: str = "gaussian") -> Model:
    spec = DenoiserSpec("unet", {}, space, CLASSES, NAMES, "flow", 0, False, "flow", 0.1, initial_noise)
    return spec.model(network.eval().requires_grad_(False), CPU)


def rounded(network: nn.Module) -> nn.Module:
    """A copy of a network with the weights of its page, which have half precision."""
    network = copy.deepcopy(network)
    for parameter in network.parameters():
        parameter.data = parameter.data.half().float()
    return network


def truth(model: Model, seed: int, sampling: Sampling, labels: list[int] | None = None) -> Tensor:
    """The images of a page, drawn by PyTorch: one of each class, or those of the labels."""
    labels = list(range(model.spec.classes)) if labels is None else labels
    drawn = model.spec.model(rounded(model.denoiser.network), CPU)
    (batch,) = generate(drawn, sampling, len(labels), labels, seed, len(labels))
    return batch.images[:, 0]


def truth_between(model: Model, seeds: tuple[int, int], weight: float, sampling: Sampling) -> Tensor:
    """The images of the noise on the arc between two seeds, drawn by PyTorch."""
    count = model.spec.classes
    one, other = (image_draw(seed, range(count), CPU)((count, *SHAPE)) for seed in seeds)
    denoiser = with_labels(sampled_denoiser(model, sampling)[0], torch.arange(count))
    noise, grid = slerp(one, other, torch.full((count,), weight)), sampling.levels(model)
    *_, last = sampling.walk(denoiser, noise, grid, lambda shape: torch.zeros(*shape))
    return model.space.decode(last.noisy)[:, 0]


def check_seeds(page: Page, model: Model, seeds: tuple[int, ...] = SEEDS) -> None:
    shown = []
    for seed in seeds:
        page.set("seed", seed)
        shown.append(page.images())
    check_equal(torch.cat(shown), torch.cat([truth(model, seed, HEUN) for seed in seeds]))
    page.check_quiet()


@pytest.mark.parametrize(("name", "initial_noise"), [("unet", "bernoulli"), ("convnext", "uniform")])
def test_a_page_draws_the_images_of_pytorch(name: str, initial_noise: str, browser: Any, tmp_path: Path) -> None:
    model = model_of(awake(name, SHAPE, CLASSES), Pixels(SHAPE, 0.5), initial_noise)
    file = tmp_path / "a page.html"
    file.write_text(build_page(PageModel(model, "a <b>run</b>", HEUN)), encoding="utf-8")
    page = Page(browser, file)
    check_seeds(page, model)
    if name == "unet":
        check_use(page, model)


def check_use(page: Page, model: Model) -> None:
    """Use a page by keyboard and mouse: names stay text, the steps begin with the noise, settings act, it fits."""
    tab = page.tab
    assert tab.inner_text("h1") == "a <b>run</b>"
    assert tab.locator("#sheet span").all_inner_texts() == list(NAMES)
    tab.focus("#sheet [aria-checked=true]")
    tab.keyboard.press("ArrowRight")
    assert tab.get_attribute("#sheet button:nth-child(2)", "aria-checked") == "true"
    tab.focus("#step")
    tab.keyboard.press("Home")
    assert tab.inner_text("#where") == "step 0 of 6, t = 1.000"
    assert set(page.pixels(tab.query_selector("#noisy")).unique().tolist()) == {0, 255}  # Bernoulli noise
    tab.keyboard.press("End")
    assert torch.equal(page.pixels(tab.query_selector("#noisy")), page.images()[1])
    page.set("seed", 3)
    page.set("guidance", 1)
    page.set("sampler", "DPM-Solver++ (2M)")
    page.set("steps", 5)
    check_equal(page.images(), truth(model, 3, Sampling("dpmpp_2m", 5)))
    flags = "--run 'a <b>run</b>' --sampler dpmpp_2m --steps 5 --seed 3 --num_samples 3"
    assert tab.text_content("#command") == f'make generate ARGS="{flags}"'
    for width in (390, 1400):
        tab.set_viewport_size({"width": width, "height": 800})
        assert tab.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_a_page_of_a_chain(run: Path, browser: Any, capsys: Any) -> None:
    """The real command makes the page. It is guided first, then sampled with fresh noise in every step."""
    file = Path(export(run, capsys).out.strip())
    assert file.parent == run / "exported" and file.stat().st_size < 1e6
    page, model = Page(browser, file), load(run, device="cpu")
    page.set("guidance", 2)
    check_seeds(page, model)
    page.set("guidance", 1)
    page.set("sampler", "ancestral (DDPM)")
    steps = int(page.tab.locator("#steps option:checked").inner_text())
    check_equal(page.images(), truth(model, SEEDS[-1], Sampling("ddpm", steps)))
    for out, words in (
        (file, "is there already"),
        (run / "page.htm", "does not end in .html"),
        (run / "missing" / "page.html", "its folder does not exist"),
    ):
        check_refusal(export(run, capsys, "--out", out), f"--out {out}", words)


class Shrinking(nn.Module):
    """A network that is quick to trace."""

    def forward(self, noisy: Tensor, t: Tensor, label: Tensor) -> Tensor:
        return noisy * t[:, None, None, None] - nn.functional.silu(noisy)


def test_a_page_decodes_latents(browser: Any, tmp_path: Path) -> None:
    torch.manual_seed(0)
    options = {"width": 8, "latent_shape": (2, 3, 2), "patch_size": 2}
    spec = AutoencoderSpec("vae", "conv", options, (1, 11, 7), (), "bernoulli")
    coder = spec.build_network().eval().requires_grad_(False)
    space = Latents(Autoencoder(coder, spec, tmp_path, "", 0), (0.1, -0.2), (1.5, 2.0), 5.0)
    model = model_of(Shrinking(), space)
    (tmp_path / "page.html").write_text(build_page(PageModel(model, "latents", HEUN)), encoding="utf-8")
    for parameter in coder.parameters():
        parameter.data = parameter.data.half().float()
    check_seeds(Page(browser, tmp_path / "page.html"), model, SEEDS[:2])


def student_of(teacher: Model, times: tuple[float, ...]) -> Model:
    spec = replace(teacher.spec, label_drop=0.0, student=Student(times, "its teacher", "", "heun", 1.5))
    return spec.model(Shrinking(), CPU)


def test_a_page_of_a_student(browser: Any, tmp_path: Path) -> None:
    """It has two levels of its own, and no control of a sampler, steps or guidance."""
    model, sampling = student_of(model_of(Shrinking(), Pixels(SHAPE, 0.5)), (1.0, 0.3, 0.0)), Sampling("ddim", 2)
    (tmp_path / "page.html").write_text(build_page(PageModel(model, "student", sampling)), encoding="utf-8")
    page = Page(browser, tmp_path / "page.html")
    check_equal(page.images(), truth(model, 0, sampling))
    for name in ("sampler", "steps", "guidance", "teacher"):
        assert not page.tab.is_visible(f"#{name}")
    assert page.tab.is_visible("#timeline") and page.tab.text_content("#clean-title") == "clean estimate"
    assert page.tab.text_content("#command") == 'make generate ARGS="--run student --seed 0 --num_samples 3"'


def test_a_student_beside_its_teacher(browser: Any, tmp_path: Path) -> None:
    """Both draw the same noise. The images follow a slider between two seeds, and fill a wall."""
    teacher = model_of(awake("convnext", SHAPE, CLASSES), Pixels(SHAPE, 0.5))
    model, one = student_of(teacher, (1.0, 0.0)), Sampling("ddim", 1)
    learned = Sampling("heun", 3, "karras", guidance_scale=1.5, guidance_interval=(0.1, 0.8))
    (tmp_path / "page.html").write_text(
        build_page(PageModel(model, "s", one), PageModel(teacher, "t", learned)), encoding="utf-8"
    )
    page = Page(browser, tmp_path / "page.html")

    def check_both(images: Tensor, taught: Tensor) -> None:
        check_equal(page.images(), images)
        assert (page.pixels(page.tab.query_selector("#teacher")).int() - taught.int()).abs().max() <= 2

    check_both(truth(model, 0, one), truth(teacher, 0, learned)[0])
    assert not page.tab.is_visible("#timeline")
    assert page.tab.inner_text("#clean-title").startswith("student\n1 evaluation, ")
    (batch,) = generate(teacher, learned, 1, [0], 0, 1)
    assert page.tab.inner_text("#teacher-title").startswith(f"teacher\n{batch.nfe:g} evaluations, ")
    page.set("other", 2**40)
    moves = "for (const x of [0.1, 0.9, 0.2, 0.35]) { e.value = x; e.dispatchEvent(new Event('input')) }"
    page.tab.locator("#mix").evaluate(f"e => {{ {moves} }}")
    rounded_teacher = teacher.spec.model(rounded(teacher.denoiser.network), CPU)
    seeds = 0, 2**40
    check_both(truth_between(model, seeds, 0.35, one), truth_between(rounded_teacher, seeds, 0.35, learned)[0])
    page.set("mix", 0)
    page.set("shown", "100 images")
    check_equal(page.images(), truth(model, 0, one, [index % 3 for index in range(100)]))
    page.set("shown", "100 of it's `two`")
    page.tab.click("#sheet button:nth-child(8)")
    check_both(truth(model, 0, one, [2] * 100), truth(teacher, 0, learned, [2] * 8)[7])
    assert "--labels 2 --seed 0 --num_samples 100" in page.tab.text_content("#command")
    page.set("sampler", "Euler (DDIM)")
    page.set("steps", 5)
    page.set("guidance", 1)
    check_both(truth(model, 0, one, [2] * 100), truth(teacher, 0, Sampling("euler", 5), [2] * 8)[7])
    page.check_quiet()


def test_the_page_of_a_student_has_its_teacher_if_it_is_found(
    run: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(DiT, "forward", Shrinking.forward)
    tensors, facts = checkpoints.load_checkpoint(checkpoints.resolve_checkpoint(run))
    student = {
        "times": [1.0, 0.0],
        "teacher": run.name,
        "sha256": facts["sha256"],
        "sampling": "",
        "guidance_scale": 1.0,
    }
    learned = {"weights": "ema", "sampler": "heun", "steps": 3, "grid": "uniform", "guidance_scale": 1.0}
    config = {**facts["config"], **learned, "guidance_interval": [0.0, 1.0]}
    folder = Path(shutil.copytree(run, run.with_name("student")))
    kept = {name: value for name, value in facts.items() if name not in ("format", "sha256", "step")}
    shutil.rmtree(folder / "checkpoints")
    facts = {**kept, "config": config, "denoiser": {**facts["denoiser"], "student": student}}
    checkpoints.save_checkpoint(folder / "checkpoints", 3, tensors, facts, keep=1)
    ended = export(folder, capsys)
    assert f"the teacher {run.name} is in the page too, heun, 3 steps" in ended.err
    assert '"role": "teacher"' in Path(ended.out.strip()).read_text(encoding="utf-8")
    shutil.rmtree(run)
    ended = export(folder, capsys)
    assert "is not found: the page shows the student alone" in ended.err
    assert '"role": "teacher"' not in Path(ended.out.strip()).read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("forward", "words"),
    [
        (lambda self, noisy, t, label=None: noisy.cumsum(2), "--to html: the page cannot compute aten.cumsum; use"),
        (lambda self, noisy, t, label=None: noisy if t.sum() > 1 else -noisy, "--to: torch.export cannot trace the"),
    ],
)
def test_a_network_that_no_page_can_run(
    forward: Any, words: str, run: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(DiT, "forward", forward)
    out = run / "page.html"
    check_refusal(export(run, capsys, "--out", out), words)
    assert not out.exists()


def test_onnx_computes_and_samples_as_pytorch(
    run: Path, capsys: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    folder = export(run, capsys, "--to", "onnx", "--out", tmp_path / "as onnx").folder
    model, generator = load(run, device="cpu"), torch.Generator().manual_seed(0)
    session = onnxruntime.InferenceSession(str(folder / "network.onnx"))
    for count in (1, 3):
        noisy, t = torch.randn(count, 1, 8, 8, generator=generator), torch.rand(count, generator=generator)
        inputs = {"noisy": noisy.numpy(), "t": t.numpy(), "label": np.arange(count)}
        with torch.no_grad():
            expected = model.denoiser.network(noisy, t, torch.arange(count))
        np.testing.assert_allclose(session.run(None, inputs)[0], expected, atol=1e-4)
    (lines,) = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)
    monkeypatch.chdir(folder)
    names: dict[str, Any] = {}
    exec(lines, names)
    noise, sampling = torch.from_numpy(names["sources"][0]).float(), Sampling("heun", 12)
    denoiser = with_labels(sampled_denoiser(model, sampling)[0], torch.arange(10))
    with torch.no_grad():
        *_, last = sampling.walk(denoiser, noise, sampling.levels(model), lambda shape: torch.zeros(*shape))
    written = torch.from_numpy(np.load("images.npy"))
    assert (written.int() - model.space.decode(last.noisy).int()).abs().max() <= 1


def test_onnx_without_its_packages(run: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scripts.tasks.exporting.find_spec", lambda name: None)
    check_refusal(
        export(run, capsys, "--to", "onnx"), "needs the packages onnx and onnxscript", "pip install onnx onnx"
    )


def test_a_folder_is_a_run_with_a_card(run: Path, capsys: Any, tmp_path: Path) -> None:
    """It is readable by everyone, and loading and sampling write nothing."""
    folder = export(run, capsys, "--to", "folder", "--out", tmp_path / "to share").folder
    _, head, body = (folder / "README.md").read_text().split("---\n", 2)
    metadata = yaml.safe_load(head)
    assert metadata["pipeline_tag"] == "unconditional-image-generation" and "diffusion" in metadata["tags"]
    assert run.name in body and "`0`, `1`" in body and "--dataset digits" in body
    before = {path: path.stat().st_mtime_ns for path in [folder, *folder.rglob("*")]}
    assert all(path.stat().st_mode & 0o444 == 0o444 for path in before)
    images = sample(load(folder, device="cpu"), 10, seed=4, steps=4)
    assert torch.equal(images, sample(load(run, device="cpu"), 10, seed=4, steps=4))
    assert {path: path.stat().st_mtime_ns for path in [folder, *folder.rglob("*")]} == before
    check_refusal(export(run, capsys, "--to", "folder", "--out", folder), "exists and is not an empty folder")
    again = run_here("generate", "--run", run, "--export", tmp_path / "again", capsys=capsys).folder
    assert sorted(os.listdir(again)) == sorted(os.listdir(folder))
