"""bench_peers: three loops on one network learn, are measured alike, and leave nothing running."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import psutil
import pytest
import torch

from data import Split
from models.evaluation.sample_test import RECOGNISED
from scripts import bench_peers
from scripts.bench import PILDataset
from scripts.bench_peers import NEEDED, PEERS, Results, Trial, Turn, read_peer_flags
from scripts.tasks.extractors import build_sample_test
from tests.commands.tasks import run_child, run_here

MISSING = [name for name in NEEDED if importlib.util.find_spec(name) is None]


needs_packages = pytest.mark.skipif(bool(MISSING), reason=f"needs {', '.join(MISSING)} of requirements-bench.txt")


@needs_packages
def test_all_three_take_turns_and_leave_nothing_running(tmp_path: Path) -> None:
    words = ("--recipe", "demo_digits", "--minutes", 0.1, "--slice_seconds", 3, "--experiments_dir", tmp_path)
    ended = run_child("bench_peers", *words, "--num_images", 20, "--most_steps", 5, "--", "--network.width", 8)
    assert ended.code == 0 and "Traceback" not in ended.err, ended.err
    told, _, heading, rule, *lines = ended.out.splitlines()
    assert told.startswith("digits, network of ") and "torch 2" in told and "commit" in told
    names = ["ours", "denoising-diffusion-pytorch", "diffusers"]
    assert [cell.split(" (")[0] for cell in heading.split(" | ")[1:]] == names and rule == "|---|---|---|---|"
    rows = {cells[0]: cells[1:] for cells in (line.strip("| ").split(" | ") for line in lines)}
    assert all(float(cell) > 50 for cell in rows["images/s in training"])
    assert all(300 < float(cell.removesuffix(" MB")) < 5000 for cell in rows["peak memory of training"])
    for name in names:
        assert len(re.findall(rf"^\d/2 +{name} ", ended.err, re.MULTILINE)) == 2, ended.err
    assert not [each for each in psutil.process_iter(["cmdline"]) if str(tmp_path) in (each.info["cmdline"] or [])]


@needs_packages
@pytest.mark.parametrize("name", PEERS)
def test_each_loop_learns_and_its_samples_are_what_they_were_asked_for(name: str, tmp_path: Path) -> None:
    """By chance a tenth would be recognised: a loop or a sampler that is put together wrongly stays there."""
    few = ("--recipe", "demo_digits", "--experiments_dir", str(tmp_path), "--num_images", "100")
    torch.manual_seed(0)
    fast = ("--minutes", "1", "--example_lr", "3e-3", "--", "--network.width", "16", "--max_steps", "400")
    _, match = read_peer_flags([*few, *fast])
    peer = PEERS[name](match, tmp_path)
    for _ in range(400):
        peer.step()
    labels = torch.arange(100) % 10
    test = build_sample_test(match.settings, match.dataset)
    drawn = peer.sample(labels, 8)
    assert drawn.images.shape == (100, 1, 8, 8) and drawn.images.dtype == torch.uint8
    assert drawn.nfe == (30 if name == "ours" else 16)
    assert test.measure(drawn.images, labels.tolist())[RECOGNISED] > 0.25


def test_without_the_packages_it_says_how_to_get_them(capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_peers, "NEEDED", ("no_such_package", "diffusers"))
    ended = run_here("bench_peers", capsys=capsys)
    assert ended.code == 2 and ended.out == "" and len(ended.err.splitlines()) == 1
    assert "needs no-such-package: " in ended.err and "install -r requirements-bench.txt" in ended.err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--minutes", 0), "--minutes 0"),
        (("--slice_seconds", "nan"), "--slice_seconds nan"),
        (("--most_steps", 3), "--most_steps 3"),
        (("--num_images", 1), "--eval_samples 1"),
        (("--recipe", "vae_mnist"), "vae_mnist is for train_vae"),
        (("--recipe", "demo_digits", "--", "--no-conditional"), "with labels"),
        (("--recipe", "demo_digits", "--", "--lr", -1), "--lr -1"),
    ],
)
def test_mistakes_are_one_line(words, said: str, capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_peers, "NEEDED", ())
    ended = run_here("bench_peers", *words, capsys=capsys)
    assert ended.code == 2 and ended.out == "" and len(ended.err.splitlines()) == 1 and said in ended.err, ended.err


def test_times_and_prices_are_the_least_that_reach_a_bar() -> None:
    results = Results("ours", [Turn(60, 0.9), Turn(120, 0.96), Turn(180, 0.97)])
    results.trials = [Trial(2, 3, 0.1, 0.9, 5.0), Trial(4, 7, 0.2, 0.96, 2.0), Trial(8, 15, 0.4, 0.97, 1.0)]
    assert results.minutes_to(0.95) == 2.0 and results.minutes_to(0.98) != results.minutes_to(0.98)
    assert results.cheapest(0.95) == results.trials[1] and results.cheapest(0.98) is None


@pytest.mark.parametrize("channels", [1, 3])
def test_images_are_read_one_by_one_as_they_are(channels: int) -> None:
    from torchvision import transforms

    images = torch.randint(0, 256, (4, channels, 8, 6)).to(torch.uint8)
    read = PILDataset(Split(images, torch.arange(4)), [transforms.ToTensor()])
    assert len(read) == 4
    for index in range(4):
        clean, label = read[index]
        assert label == index and torch.equal((clean * 255).round().to(torch.uint8), images[index])
