"""visualize_schedules: one picture of what was asked for, and mistakes in one line."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from tests.commands.tasks import run_here


@pytest.mark.parametrize(
    "flags",
    [
        (),
        ("--timesteps", 0),
        ("--zero_terminal_snr",),
        ("--schedules", "linear", "sigmoid", "--chain_betas", "published", "--timesteps", 50),
    ],
    ids=str,
)
def test_a_picture(flags: tuple[object, ...], tmp_path: Path, capsys) -> None:
    out = tmp_path / "schedules.png"
    assert run_here("visualize_schedules", "--out", out, *flags, capsys=capsys).folder == out
    assert Image.open(out).width > 800


def test_a_vector_picture(tmp_path: Path, capsys) -> None:
    run_here("visualize_schedules", "--out", tmp_path / "schedules.pdf", capsys=capsys)
    assert (tmp_path / "schedules.pdf").read_bytes().startswith(b"%PDF")


@pytest.mark.parametrize(("file_format", "start"), [("pdf", b"%PDF"), ("svg", b"<?xml"), ("png", b"\x89PNG")])
def test_the_format_names_the_file(file_format: str, start: bytes, tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.setenv("EXPERIMENTS_DIR", str(tmp_path / "new"))
    path = run_here("visualize_schedules", "--format", file_format, capsys=capsys).folder
    assert path == tmp_path / "new" / f"noise_schedules.{file_format}" and path.read_bytes().startswith(start)
    ended = run_here("visualize_schedules", "--format", file_format, "--out", tmp_path / "a.PN", capsys=capsys)
    assert ended.code == 2 and f"--out {tmp_path / 'a.PN'}" in ended.err and not (tmp_path / "a.PN").exists()


@pytest.mark.parametrize(
    ("flags", "word"),
    [
        (("--schedules", "cosin"), "cosin"),
        (("--schedules",), "--schedules"),
        (("--timesteps", -1), "-1"),
        (("--chain_betas", "published"), "flow schedule has no betas, only linear"),
    ],
    ids=str,
)
def test_mistakes(flags: tuple[object, ...], word: str, tmp_path: Path, capsys) -> None:
    ended = run_here("visualize_schedules", "--out", tmp_path / "a.png", *flags, capsys=capsys)
    assert ended.code == 2 and word in ended.err and len(ended.err.splitlines()) == 1
    ended = run_here("visualize_schedules", "--out", tmp_path / "absent" / "a.png", capsys=capsys)
    assert ended.code == 2 and "absent" in ended.err
    assert list(tmp_path.iterdir()) == []
