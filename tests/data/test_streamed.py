"""Streamed images: the same batches and hashes as in memory. Broken images are replaced and reported."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import data
from data.batches import Batches
from data.readers import streamed
from data.readers.streamed import Broken, Streamed
from models.errors import UserError
from tests.data.own_images import load, png, zipped

pytestmark = pytest.mark.slow


def both(path: Path, **options: Any) -> tuple[data.ImageData, data.ImageData]:
    """Return the data set streamed, and in memory."""
    return load(path, 0, **options), load(path, 1, **options)


def same(one: Batches, other: Batches, step: int) -> bool:
    return all(torch.equal(*pair) for pair in zip(one.at(step), other.at(step), strict=True))


def reports_of(dataset: data.ImageData) -> list[str]:
    """Return the list that will hold the reports of broken images."""
    lines: list[str] = []
    assert dataset.broken is not None
    dataset.broken.tell_to(lines.append)
    return lines


def spoil(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:40])


@settings(deadline=None, max_examples=40)
@given(
    batch_size=st.integers(1, 50),
    share=st.tuples(st.floats(0, 1), st.floats(0, 1)),
    seed=st.integers(0, 2**40),
    steps=st.lists(st.integers(0, 30), min_size=1, max_size=5),
    flips=st.booleans(),
)
def test_batches_are_those_in_memory(
    forty: Path, batch_size: int, share: tuple[float, float], seed: int, steps: list[int], flips: bool
) -> None:
    first, last = sorted(round(batch_size * fraction) for fraction in share)
    bounds = (first, last) if first < last else None
    stream, memory = (
        Batches(dataset.train, batch_size, seed, flips, share=bounds, workers=0) for dataset in both(forty)
    )
    assert all(same(stream, memory, step) for step in steps)


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("kind", ["folder", "zip"])
def test_workers_decode_the_same_in_and_out_of_turn(kind: str, workers: int, forty: Path, tmp_path: Path) -> None:
    if kind == "folder":
        shutil.unpack_archive(forty, tmp_path)
    stream, memory = both(forty if kind == "zip" else tmp_path)
    ahead, held = Batches(stream.train, 7, 3, True, workers=workers), Batches(memory.train, 7, 3, True)
    assert all(same(ahead, held, step) for step in (0, 1, 2, 3, 40, 41, 5, 0, 1))


def test_rows_are_asked_for_as_of_a_tensor(forty: Path) -> None:
    stream, memory = (dataset.train.images for dataset in both(forty))
    assert isinstance(stream, Streamed) and isinstance(memory, torch.Tensor)
    assert stream.shape == memory.shape and stream.dtype == memory.dtype and len(stream) == len(memory)
    mask = torch.arange(len(memory)) % 3 == 0
    for rows in (slice(None), slice(3, 9), slice(-4, None), [2, 0, 2], torch.tensor([31, 1]), mask, []):
        assert torch.equal(stream[rows], memory[rows])
    with pytest.raises(IndexError):
        stream[[32]]
    assert all(torch.equal(*pair) for pair in zip(stream.split(10), memory.split(10), strict=True))


def test_what_takes_all_images_at_once_is_refused(forty: Path) -> None:
    stream, memory = both(forty)
    assert torch.equal(memory.train.in_memory(), memory.train.images[:])
    with pytest.raises(UserError, match=r"all 32 images of a split .* at once, .* raise memory_limit to 0.001 GiB"):
        stream.train.in_memory()


def test_the_limit_decides(forty: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import psutil

    class Free:
        available = 2 * 40 * 90

    monkeypatch.delenv("MEMORY_LIMIT", raising=False)
    bytes_of_all = 40 * 90 / 2**30
    assert load(forty, bytes_of_all).broken is None and load(forty, bytes_of_all * 0.99).broken is not None
    assert load(forty).broken is None
    monkeypatch.setattr(psutil, "virtual_memory", Free)
    assert load(forty).broken is None
    Free.available -= 2
    assert load(forty).broken is not None
    monkeypatch.setenv("MEMORY_LIMIT", "1")
    assert load(forty).broken is None and load(forty, 0).broken is not None
    for wrong in ("much", "-1"):
        monkeypatch.setenv("MEMORY_LIMIT", wrong)
        with pytest.raises(UserError, match=f"MEMORY_LIMIT={wrong}: must be at least 0 GiB"):
            load(forty)
    for wrong in (-1, float("nan")):
        with pytest.raises(UserError, match=r"memory_limit .*: must be at least 0 GiB"):
            load(forty, wrong)


# Hashes that identify data sets


def test_identity_is_the_same_streamed_and_in_memory_and_needs_no_decoding(forty: Path, tmp_path: Path) -> None:
    for options in ({}, {"size": (4,)}, {"size": (4,), "crop": False}, {"channels": 1}):
        stream, memory = both(forty, **options)
        assert stream.train.sha256 == memory.train.sha256 and stream.test.sha256 == memory.test.sha256
    elsewhere = shutil.copy(forty, tmp_path / "other.zip")
    assert load(Path(elsewhere)).train.sha256 == load(forty).train.sha256


def test_identity_changes_with_names_contents_labels_and_options(classes: Path) -> None:
    def identity(**options: Any) -> str:
        loaded = load(zipped(classes), 0, test_share=1e-9, **options)
        return f"{loaded.train.sha256} {loaded.test.sha256}"

    hashes = [identity(), identity(size=(6, 5)), identity(channels=1), identity(size=(6, 5), crop=False)]
    png(classes / "cat" / "1.png", 99)
    hashes.append(identity())
    (classes / "cat" / "1.png").rename(classes / "cat" / "one.png")
    hashes.append(identity())
    (classes / "ant").rename(classes / "eel")
    hashes.append(identity())
    assert len(set(hashes)) == len(hashes)


# Broken images


@pytest.mark.parametrize("workers", [0, 2])
def test_a_broken_picture_is_replaced_by_the_next_of_its_class_and_told_once(workers: int, classes: Path) -> None:
    good = load(classes, 1)
    names = [f"cat/{number}.png" for number in range(10)]
    stream = load(classes, 0)
    trained = [name for name in stream.train.images.names if name in names]
    spoil(classes / trained[-1])
    spoil(classes / trained[2])
    stream = load(classes, 0)
    lines = reports_of(stream)
    first = stream.train.images.names.index(trained[0])
    expected = good.train.images[:].clone()
    expected[first + 2] = expected[first + 3]
    expected[first + len(trained) - 1] = expected[first]  # around the end of the class
    assert torch.equal(stream.train.images[:], expected)
    batches = Batches(stream.train, len(expected), 0, workers=workers)
    held = Batches(data.Split(expected, stream.train.labels), len(expected), 0)
    assert all(same(batches, held, step) for step in range(3))
    assert len(lines) == 2 and trained[2] in lines[0] and "number 1" in lines[0] and trained[-1] in lines[1]
    with pytest.raises(UserError, match="2 images cannot be used"):
        load(classes, 1)


def test_processes_hear_of_each_others_broken_pictures() -> None:
    reports: list[list[str]] = [[], []]
    records = [Broken("here", 1000) for _ in reports]
    for broken, lines in zip(records, reports, strict=True):
        broken.tell_to(lines.append)
    records[0].note(300, {"a.png": "cut"})
    records[1].note(300, {"b.png": "cut", "a.png": "cut"})
    for _ in range(2):
        for broken in records:
            broken.merge([(one.seen, one.named) for one in records])
    for broken, lines in zip(records, reports, strict=True):
        assert sorted(broken.named) == ["a.png", "b.png"] and len(lines) == 2 and broken.elsewhere == 300
    records[0].note(0, {f"{k}.png": "cut" for k in range(10)})
    records[1].note(0, {f"{k}.png": "cut" for k in range(10, 20)})
    with pytest.raises(UserError, match="22 of the first 600 images cannot be used"):
        records[0].merge([(one.seen, one.named) for one in records])


def test_an_image_of_another_size_counts_as_broken(classes: Path) -> None:
    png(classes / "cat" / "wide.png", 1, size=(6, 50))
    stream = load(classes, 0, test_share=1e-9)
    lines = reports_of(stream)
    assert stream.train.images[:].shape == (30, 3, 6, 5)
    (line,) = lines
    assert "cat/wide.png cannot be used (6×50" in line


@pytest.mark.parametrize("workers", [0, 1])
def test_too_many_broken_pictures_end_the_run(workers: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streamed, "MOST_BROKEN", 4)
    for number in range(40):
        png(tmp_path / f"{number:02}.png", number)
    for number in range(0, 40, 5):
        spoil(tmp_path / f"{number:02}.png")
    batches = Batches(load(tmp_path, 0, test_share=1e-9).train, 8, 0, workers=workers)
    with pytest.raises(UserError, match=r"5 of the first \d+ images cannot be used, such as \d+.png .*repair") as error:
        for step in range(9):
            batches.at(step)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_class_of_broken_pictures_is_refused(workers: int, classes: Path) -> None:
    stream = load(classes, 0)
    for number in range(10):
        spoil(classes / "cat" / f"{number}.png")
    with pytest.raises(UserError, match=r"cat/\d.png is broken .* so are the other images of its class") as error:
        Batches(stream.train, 30, 0, workers=workers).at(0)
    assert "\n" not in str(error.value)


def test_a_link_to_nowhere_is_a_broken_picture(classes: Path) -> None:
    (classes / "cat" / "link.png").symlink_to(classes / "cat" / "nowhere.png")
    dataset = load(classes, 0)
    lines = reports_of(dataset)
    images = torch.cat([dataset.train.images[:], dataset.test.images[:]])
    assert len(images) == len(dataset.train) + len(dataset.test)
    assert len(lines) == 1 and "cat/link.png cannot be used" in lines[0]


def test_pictures_that_vanish_are_broken_ones(classes: Path) -> None:
    stream = load(classes, 0)
    lines = reports_of(stream)
    missing = stream.train.images.names[3]
    (classes / missing).unlink()
    assert len(stream.train.images[[3]]) == 1 and len(lines) == 1 and missing in lines[0]


def test_forked_processes_do_not_move_each_other_in_a_zip(forty: Path) -> None:
    images = load(forty, 0).train.images
    expected = images[:]
    with zipfile.ZipFile(forty) as archive:
        assert len(archive.namelist()) > 40
    children = []
    for _ in range(4):
        child = os.fork()
        if child == 0:
            right = all(torch.equal(images[[row]][0], expected[row]) for _ in range(20) for row in range(len(images)))
            os._exit(0 if right else 1)
        children.append(child)
    assert [os.waitpid(child, 0)[1] for child in children] == [0] * 4


# Worker processes


READ = """
import signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # a background process of a shell ignores it
import data
from data.batches import Batches
from pathlib import Path

batches = Batches(data.load("folder", {"path": sys.argv[1]}, Path(), 0).train, 4, 0, workers=2)
batches.at(0)
print("read", flush=True)
for step in range(1, 10**9):
    time.sleep(0.02)
    batches.at(step)
"""


class Reader:
    """Process that reads without end, in a process group of its own, with two workers."""

    def __init__(self, path: Path) -> None:
        command = [sys.executable, "-W", "ignore", "-c", READ, str(path)]
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(
            command, cwd=Path(data.__file__).parents[1], stdout=pipe, stderr=pipe, text=True, process_group=0
        )
        assert self.process.stdout is not None and self.process.stdout.readline() == "read\n"
        self.workers = psutil.Process(self.process.pid).children()
        assert len(self.workers) == 2

    def ended(self) -> tuple[int, str]:
        """Return exit code and standard error, after the process and its workers have ended."""
        _, errors = self.process.communicate(timeout=120)
        _, alive = psutil.wait_procs(self.workers, timeout=60)
        assert not alive
        return self.process.returncode, errors


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT], ids=["KILL", "TERM", "INT"])
def test_workers_end_with_their_parent(number: signal.Signals, forty: Path) -> None:
    reader = Reader(forty)
    reader.process.send_signal(number)
    assert reader.ended()[0] == -number


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere TERM ends a worker whoever sends it")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP], ids=["TERM", "INT", "HUP"])
def test_workers_leave_signals_to_their_parent(number: signal.Signals, forty: Path) -> None:
    reader = Reader(forty)
    for worker in reader.workers:
        worker.send_signal(number)
    time.sleep(0.3)
    assert reader.process.poll() is None and all(worker.is_running() for worker in reader.workers)
    reader.process.kill()
    reader.ended()


def test_a_worker_that_dies_ends_the_run_with_a_traceback(forty: Path) -> None:
    reader = Reader(forty)
    reader.workers[0].kill()
    code, errors = reader.ended()
    assert code == 1 and "Traceback" in errors
    # The loader meets one of these.
    signs = "killed by signal: Killed", "exited unexpectedly", "Connection reset by peer"
    assert any(sign in errors for sign in signs)


def test_a_workers_own_mistake_is_shown_with_its_traceback(forty: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise ZeroDivisionError("a mistake")

    batches = Batches(load(forty, 0).train, 4, 0, workers=1)
    monkeypatch.setattr(Streamed, "decode", fail)
    with pytest.raises(ZeroDivisionError, match=r"(?s)worker process 0.*test_streamed\.py.*a mistake"):
        batches.at(0)


def test_workers_end_when_the_batches_are_no_longer_needed(forty: Path) -> None:
    batches = Batches(load(forty, 0).train, 4, 0, workers=2)
    before = psutil.Process().children()
    batches.at(0)
    workers = [child for child in psutil.Process().children() if child not in before]
    assert len(workers) == 2
    del batches
    assert not psutil.wait_procs(workers, timeout=60)[1]


def test_global_randomness_is_left_alone(forty: Path) -> None:
    before = torch.get_rng_state()
    Batches(load(forty, 0).train, 4, 0, workers=1).at(0)
    assert torch.equal(torch.get_rng_state(), before)
