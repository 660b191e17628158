"""bench: measures what it says it measures, of the network that the flags ask for."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.commands.tasks import run_here

pytestmark = pytest.mark.slow

SMALL = ("--", "--network.width", "8", "--network.multipliers", "1", "1", "--batch_size", "8")


def test_the_tables_are_those_asked_for_of_the_network_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "bench.txt"
    words = ("--tables", "training", "sampling", "--rounds", 2, "--device", "cpu", "--out", out)
    ended = run_here("bench", *words, *SMALL, capsys=capsys)
    assert ended.folder == out and ended.err == out.read_text() + "\n"
    text = out.read_text()
    assert "one step of unet of 0.0" in text and "batch 8, 2 interleaved rounds of 12 steps, cpu" in text
    times = re.findall(r"^(.+?) +([0-9.]+) s +([0-9.]+) images/s +([0-9.]+) x bare step$", text, re.MULTILINE)
    assert [name for name, *_ in times] == ["our loop", "bare step", "eager PIL loop"]
    for _, seconds, speed, _ in times:
        assert float(seconds) * float(speed) == pytest.approx(8, rel=0.1)
    assert times[1][3] == "1.000"
    nfe = {name: int(nfe) for name, nfe in re.findall(r"^(\w+) +10 +(\d+) +[0-9.]+$", text, re.MULTILINE)}
    assert nfe["euler"] == nfe["dpmpp_2m"] == 10 and nfe["heun"] == 19 and nfe["midpoint"] == 20


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--tables", "trainings"), ("trainings", "training")),
        (("--tables",), ("--tables", "training")),
        (("--rounds", 0), ("--rounds 0",)),
        (("--out", "/proc/none/bench.txt"), ("cannot write in /proc/none", "another folder with --out")),
        (("--", "--lr", -1), ("--lr -1",)),
        (("--", "--network.widht", 3), ("--network.widht",)),
        (("--", "--init_from", "latest"), ("--init_from", "earlier run")),
    ],
    ids=lambda value: " ".join(map(str, value)),
)
def test_mistakes_are_one_line(words, said, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ended = run_here("bench", "--out", tmp_path / "bench.txt", *words, capsys=capsys)
    assert ended.code == 2 and ended.out == "" and list(tmp_path.iterdir()) == []
    assert ended.err.startswith("error: ") and len(ended.err.splitlines()) == 1, ended.err
    assert all(word in ended.err for word in said), ended.err
