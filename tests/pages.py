"""Exported pages in a headless Chromium. Tests that use them skip where no Chromium is installed."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

QUIET = "--disable-background-networking --disable-component-update --disable-sync --no-first-run"
FLAGS = ("--no-sandbox", "--disable-gpu", *QUIET.split())


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    path = shutil.which("chromium")
    if path is None:
        pytest.skip("chromium is not installed")
    sync_api = pytest.importorskip("playwright.sync_api")
    with sync_api.sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=path, args=list(FLAGS))
        yield started
        started.close()


class Page:
    """A page in a tab of its own. said: its errors and other lines. requests: the addresses it asked for."""

    def __init__(self, browser: Any, file: Path, **context: Any) -> None:
        self.tab = browser.new_context(**context).new_page()
        self.said: list[str] = []
        self.requests: list[str] = []
        self.tab.on("console", lambda message: self.said.append(message.text))
        self.tab.on("pageerror", lambda error: self.said.append(str(error)))
        self.tab.on("request", lambda request: self.requests.append(request.url))
        self.tab.goto(file.as_uri())

    def wait(self) -> None:
        """Wait until all images of the last setting are there."""
        self.tab.wait_for_selector("body[data-finished]", timeout=60_000)

    def images(self) -> Tensor:
        """Wait for all images, and return their grey levels: (N, H, W)."""
        self.wait()
        return torch.stack([self.pixels(canvas) for canvas in self.tab.query_selector_all("#sheet canvas")])

    def pixels(self, canvas: Any) -> Tensor:
        """Return the grey levels of a canvas: (H, W)."""
        read = "c => [c.height, c.width, ...c.getContext('2d').getImageData(0, 0, c.width, c.height).data]"
        height, width, *values = canvas.evaluate(read)
        return torch.from_numpy(np.array(values, dtype=np.uint8).reshape(height, width, 4)[..., 0])

    def set(self, setting: str, value: object) -> None:
        """Change a setting, as a person does."""
        field = self.tab.locator(f"#{setting}")
        if setting in ("sampler", "steps", "shown"):
            field.select_option(label=str(value))
        else:
            events = "for (const name of ['input', 'change']) e.dispatchEvent(new Event(name))"
            field.evaluate(f"(e, value) => {{ e.value = value; {events} }}", str(value))

    def check_quiet(self) -> None:
        """Check that the page reported nothing and asked for nothing but itself and its worker."""
        assert [line for line in self.said if "getImageData" not in line] == []
        assert all(url.startswith(("file:", "blob:")) for url in self.requests) and len(self.requests) == 2


def check_equal(shown: Tensor, truth: Tensor) -> None:
    """Check that grey levels agree to one level in 99 of 100 pixels."""
    assert shown.shape == truth.shape
    difference = (shown.int() - truth.int()).abs()
    assert (difference <= 1).double().mean() >= 0.99, difference.max()
    assert ((truth > 0) & (truth < 255)).double().mean() > 0.2  # no comparison of clipped pixels
