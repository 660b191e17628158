"""The page that generates images, in a headless Chromium: the same images as PyTorch, and a page that can be used."""

from __future__ import annotations

import copy
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from models.errors import UserError
from models.export.page import build_page
from models.generation import Sampling, generate
from models.model import DenoiserSpec, Model
from models.spaces.pixels import Pixels
from tests.models.networks.small import CLASSES, awake

SHAPE = (1, 9, 6)  # sizes that patches and levels do not divide
NAMES = ("zero", "</script><b>1</b>", 'it\'s "two"')
SEEDS = (0, 1, 7, 123_456, 2**31, 2**32 + 5, 2**40 - 1, 2**53 - 1)
CPU = torch.device("cpu")


def model_of(network: nn.Module, schedule: str = "flow", timesteps: int = 0, prediction: str = "flow") -> Model:
    spec = DenoiserSpec("unet", {}, Pixels(SHAPE, 0.5), CLASSES, NAMES, schedule, timesteps, False, prediction, 0.1)
    return spec.model(network, CPU)


def rounded(model: Model) -> Model:
    """The model with the weights of its page."""
    network = copy.deepcopy(model.denoiser.network)
    for parameter in network.parameters():
        parameter.data = parameter.data.half().float()
    return model.spec.model(network, CPU)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    path = shutil.which("chromium")
    if path is None:
        pytest.skip("chromium is not installed")
    from playwright.sync_api import sync_playwright

    flags = "--no-sandbox --disable-gpu --disable-background-networking --disable-component-update --disable-sync"
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=path, args=[*flags.split(), "--no-first-run"])
        yield started
        started.close()


class Opened:
    """A page in a tab of its own, and all that it said and asked for."""

    def __init__(self, browser: Any, file: Path, **context: Any) -> None:
        self.tab = browser.new_context(**context).new_page()
        self.said: list[str] = []
        self.requests: list[str] = []
        self.tab.on(
            "console", lambda message: self.said.append(message.text) if "getImageData" not in message.text else None
        )
        self.tab.on("pageerror", lambda error: self.said.append(str(error)))
        self.tab.on("request", lambda request: self.requests.append(request.url))
        self.tab.goto(file.as_uri())
        self.count = 1

    def images(self) -> Tensor:
        """Wait until all images are there, and return them: (N, 9, 6) grey levels."""
        self.tab.wait_for_selector(f'body[data-finished="{self.count}"]', timeout=60_000)
        read = "cells => cells.map(c => [...c.getContext('2d').getImageData(0, 0, c.width, c.height).data])"
        pixels = self.tab.eval_on_selector_all("#sheet canvas", read)
        return torch.tensor(np.array(pixels, dtype=np.uint8).reshape(len(pixels), *SHAPE[1:], 4))[..., 0]

    def set(self, id: str, value: object) -> None:
        """Change a setting, as a person does."""
        field = self.tab.locator(f"#{id}")
        if id in ("sampler", "steps"):
            field.select_option(label=str(value)) if id == "steps" else field.select_option(str(value))
        else:
            field.evaluate("(e, v) => { e.value = v; e.dispatchEvent(new Event('change')) }", str(value))
        self.count += 1


def expected(model: Model, seed: int, sampler: str, steps: int, scale: float) -> Tensor:
    sampling = Sampling(sampler, steps, guidance_scale=scale)
    (batch,) = generate(rounded(model), sampling, CLASSES, list(range(CLASSES)), seed, CLASSES)
    return batch.images[:, 0]


def agree(shown: list[Tensor], truth: list[Tensor]) -> None:
    """One grey level in 99 of 100 pixels."""
    difference = (torch.cat(shown).int() - torch.cat(truth).int()).abs()
    assert (difference <= 1).float().mean() >= 0.99, difference.max()
    inside = (torch.cat(truth) > 0) & (torch.cat(truth) < 255)
    assert inside.float().mean() > 0.5  # not a comparison of clipped pixels


@pytest.mark.parametrize("name", ["unet", "dit", "convnext"])
def test_a_page_draws_the_images_of_pytorch(name: str, browser: Any, tmp_path: Path) -> None:
    model = model_of(awake(name, SHAPE, CLASSES))
    (tmp_path / "page.html").write_text(build_page(model, "a run", 2.0))
    page = Opened(browser, tmp_path / "page.html")
    shown, truth = [], []
    for seed in SEEDS:
        if seed:
            page.set("seed", seed)
        shown.append(page.images())
        truth.append(expected(model, seed, "heun", 6, 2.0))
    agree(shown, truth)
    assert page.said == []
    assert all(url.startswith(("file:", "blob:")) for url in page.requests)
