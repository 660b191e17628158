"""The example of README.md for notebooks, executed as it stands on a tiny run."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from PIL import Image

from tests.commands.tasks import REPOSITORY, TINY, run_here

EXAMPLE = re.compile(r"```python\n(.*?)```", re.DOTALL)


def test_the_example_of_the_readme(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (code,) = EXAMPLE.findall((REPOSITORY / "README.md").read_text(encoding="utf-8"))
    assert "experiments/<run>" in code and len(code.splitlines()) <= 10
    folder = run_here("train_flow", *TINY, "--experiments_dir", tmp_path / "experiments", capsys=capsys).folder
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    exec(code.replace("<run>", folder.name), names)
    images, others = names["images"], names["others"]
    assert isinstance(images, torch.Tensor) and isinstance(others, torch.Tensor)
    assert (images.shape, images.dtype, images.device.type) == ((16, 1, 8, 8), torch.uint8, "cpu")
    assert others.shape == (20, 1, 8, 8) and not others[0].equal(others[10])
    assert Image.open(tmp_path / "threes.png").width > 200
    assert capsys.readouterr().out.startswith("('0', '1',")
