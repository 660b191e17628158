"""Training from images that stay in their files: the same run as in memory, killed or not, whole pictures or not."""

from __future__ import annotations

import os
import random
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import yaml

from models.runs import checkpoints
from tests.commands.tasks import TINY, TINY_VAE, Ended, run_child, run_here, start_child, status_of, weights_hash
from tests.commands.test_bad_input import check_refusal
from tests.commands.test_interrupts import LONG, wait_for_step
from tests.data.own_images import png, zipped

pytestmark = pytest.mark.slow

STREAMED, HELD = ("--memory_limit", 0), ("--memory_limit", 1)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 60 random images in three classes."""
    top, chance = tmp_path_factory.mktemp("pictures") / "mine", np.random.default_rng(0)
    for number in range(60):
        pixels = chance.integers(0, 256, (8, 8, 3)).astype(np.uint8)
        png(top / "ant cat dog".split()[number % 3] / f"{number:02}.png", pixels)
    return top


@pytest.fixture(scope="module")
def archive(pictures: Path) -> tuple[object, ...]:
    return "--dataset", "folder", "--dataset.path", zipped(pictures), "--dataset.flips"


@pytest.fixture
def train(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    def run(task: str, *arguments: object) -> Ended:
        return run_here(task, "--experiments_dir", tmp_path / "runs", *arguments, capsys=capsys)

    return run


def log_of(folder: Path) -> str:
    return (folder / "training_log.txt").read_text()


@pytest.mark.parametrize("task", ["train_flow", "train_vae"])
def test_a_streamed_run_is_the_run_in_memory(task: str, train, archive) -> None:
    words = (task, *(TINY if task == "train_flow" else TINY_VAE), *archive)
    streamed, held = train(*words, *STREAMED).folder, train(*words, *HELD).folder
    assert weights_hash(streamed) == weights_hash(held)
    assert "streamed from their files" in log_of(streamed) and "streamed from" not in log_of(held)


def test_a_run_may_be_taken_up_either_way(train, archive) -> None:
    words = ("train_flow", *TINY, *archive, "--lr_schedule", "constant", "--ema", "0")
    whole = weights_hash(train(*words, *HELD).folder)
    for before, after in ((STREAMED, HELD), (HELD, STREAMED)):
        part = train(*words, *before, "--max_steps", "3").folder
        assert train(*words, *after, "--workers", "2", "--resume", part).folder == part
        assert weights_hash(part) == whole
        assert "only names and sizes were compared" in log_of(part)


def test_a_killed_streamed_run_is_resumed_exactly(tmp_path: Path, archive) -> None:
    long = (*LONG, "--eval_every", 0)
    words = ("train_flow", *long, *archive, *STREAMED, "--checkpoint_every", "2", "--experiments_dir", tmp_path)
    chance = random.Random(0)
    process = start_child(*words)
    run = wait_for_step(process, tmp_path, 20)
    time.sleep(chance.random() * 0.2)
    process.kill()
    process.communicate()
    assert status_of(run)["state"] == "running"
    assert run_child(*words, "--resume", run).folder == run
    whole = run_child("train_flow", *long, *archive, *HELD, "--experiments_dir", tmp_path / "whole").folder
    assert weights_hash(run) == weights_hash(whole)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["INT", "TERM"])
def test_a_signal_to_all_processes_saves_marks_and_exits(
    number: signal.Signals, code: int, tmp_path: Path, archive
) -> None:
    """As Ctrl-C and schedulers send them: to the workers, too."""
    words = ("train_flow", *LONG, "--max_steps", 100_000, *archive, *STREAMED, "--workers", 2)
    process = start_child(*words, "--experiments_dir", tmp_path, process_group=0)
    run = wait_for_step(process, tmp_path, 4)
    os.killpg(process.pid, number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == code and "Traceback" not in err, err
    assert status_of(run)["state"] == "interrupted" and status_of(run)["reason"] == number.name


def test_latents_of_streamed_images_are_those_in_memory(train, archive) -> None:
    vae = train("train_vae", *TINY_VAE, *archive, *HELD).folder
    words = ("train_latent", *TINY, *archive, "--autoencoder", vae)
    streamed, held = train(*words, *STREAMED).folder, train(*words, *HELD).folder
    assert weights_hash(streamed) == weights_hash(held)
    encoded = train("encode_dataset", "--run", vae, *STREAMED).folder
    stored = train(*words, *HELD).folder
    assert f"read from {encoded}" in log_of(stored) and weights_hash(stored) == weights_hash(held)


def test_broken_pictures_are_told_in_the_log_and_too_many_end_the_run(train, pictures: Path, tmp_path: Path) -> None:
    for count, name in ((1, "one"), (25, "many")):
        chance = np.random.default_rng(1)
        for number in range(60):
            png(tmp_path / name / f"{number:02}.png", chance.integers(0, 256, (8, 8, 3)).astype(np.uint8))
        for number in range(1, 1 + count):
            (tmp_path / name / f"{number:02}.png").write_bytes(b"\x89PNG nothing")
    words = ("train_flow", *TINY, *STREAMED, "--dataset", "folder")
    folder = train(*words, "--dataset.path", tmp_path / "one").folder
    assert log_of(folder).count("01.png cannot be used") == 1 and status_of(folder)["state"] == "finished"
    ended = train(*words, "--dataset.path", tmp_path / "many")
    assert ended.code == 2 and "images cannot be used" in ended.err.splitlines()[-1]


def test_what_needs_all_images_at_once_is_refused_before_anything_is_written(train, archive, tmp_path: Path) -> None:
    run = train("train_flow", *TINY, *archive, *STREAMED).folder
    before = sorted(tmp_path.rglob("*"))
    refused = train("evaluate", "--run", run, "--num_images", 6, "--steps", 2, *STREAMED)
    note, error = refused.err.splitlines()
    assert "only names and sizes were compared" in note
    check_refusal(Ended(refused.code, refused.out, error), "--memory_limit", "streamed")
    assert sorted(tmp_path.rglob("*")) == before
    out = ("--out", tmp_path / "out")
    measured = train("evaluate", "--task", "loss", "--run", run, "--num_images", 5, *STREAMED, *out)
    assert measured.code == 0, measured.err


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--memory_limit", "-1"), ("--memory_limit -1",)),
        (("--memory_limit", "nan"), ("--memory_limit",)),
        (("--workers", "-1"), ("--workers -1",)),
        (("--dataset", "hf:"), ("needs --dataset.path",)),
    ],
    ids=str,
)
def test_flags_that_mean_nothing(flags, words, train) -> None:
    check_refusal(train("train_flow", *TINY, *flags), *words)


def test_a_name_on_the_hub_is_short_for_two_flags() -> None:
    from scripts.cli.arguments import parse_flags, spell_out
    from scripts.cli.flags import FLOW

    assert spell_out(["--dataset", "hf:a/b", "--seed", "1"]) == "--dataset hf --dataset.path a/b --seed 1".split()
    assert spell_out(["--dataset=hf:a/b"]) == "--dataset hf --dataset.path a/b".split()
    assert spell_out(["--name", "hf:a/b"]) == ["--name", "hf:a/b"]
    flags = parse_flags(["--dataset", "hf:a/b", "--dataset.size", "8"], FLOW, "train_flow", "")
    assert flags.dataset == "hf" and flags.dataset_options.path == "a/b" and flags.dataset_options.size == (8,)


def test_hf_trains(train, tmp_path: Path) -> None:
    package = pytest.importorskip("datasets")
    features = package.Features({"image": package.Image(), "label": package.ClassLabel(names=["a", "b"])})
    chance = np.random.default_rng(0)
    rows = [{"image": chance.integers(0, 256, (8, 8, 3)).astype(np.uint8), "label": n % 2} for n in range(60)]
    package.Dataset.from_list(rows, features=features).save_to_disk(tmp_path / "saved")
    words = ("train_flow", *TINY, "--dataset", f"hf:{tmp_path / 'saved'}")
    streamed, held = train(*words, *STREAMED).folder, train(*words, *HELD).folder
    assert weights_hash(streamed) == weights_hash(held)
    assert yaml.safe_load((streamed / "config.txt").read_text())["dataset.path"] == str(tmp_path / "saved")
    assert checkpoints.resolve_checkpoint(streamed).is_file()


def test_the_real_jpegs(train) -> None:
    root = os.environ.get("DATA_ROOT")
    if not root or not (Path(root) / "cifar10-jpeg-test.zip").is_file():
        pytest.skip("DATA_ROOT names no folder with cifar10-jpeg-test.zip")
    words = ("--dataset", "folder", "--dataset.path", "cifar10-jpeg-test.zip", "--dataset.flips", "--data_root", root)
    streamed, held = (train("train_flow", *TINY, *words, *limit).folder for limit in (STREAMED, HELD))
    assert weights_hash(streamed) == weights_hash(held)
