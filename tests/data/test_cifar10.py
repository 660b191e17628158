"""CIFAR-10, on small files in the official layout, written as Python 2 wrote them, and hostile pickles."""

from __future__ import annotations

import io
import os
import pickle
import struct
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from data import cifar10
from data.readers.inert_pickle import read_batch
from models.errors import UserError

ROWS = 4


def text(value: bytes) -> bytes:
    return b"U" + bytes([len(value)]) + value  # SHORT_BINSTRING


def integer(value: int) -> bytes:
    return b"J" + struct.pack("<i", value)


def python2_batch(images: np.ndarray, labels: list[int]) -> bytes:
    """Return a batch as cPickle of Python 2 wrote it, protocol 2, with byte strings: {'batch_label', 'labels', ...}."""
    values = images.tobytes()
    dtype = b"cnumpy\ndtype\n" + text(b"u1") + b"K\x00K\x01\x87R"
    dtype += b"(K\x03" + text(b"|") + b"NNN" + integer(-1) + integer(-1) + b"K\x00tb"
    array = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85" + text(b"b") + b"\x87R"
    array += b"(K\x01" + integer(images.shape[0]) + integer(images.shape[1]) + b"\x86" + dtype + b"\x89"
    array += b"T" + struct.pack("<i", len(values)) + values + b"tb"
    names = b"".join(text(f"leptodactylus_pentadactylus_s_{n:06}.png".encode()) for n in range(len(labels)))
    stream = b"\x80\x02}(" + text(b"batch_label") + text(b"training batch 1 of 5")
    stream += text(b"labels") + b"](" + b"".join(b"K" + bytes([label]) for label in labels) + b"e"
    stream += text(b"data") + array + text(b"filenames") + b"](" + names + b"e"
    return stream + b"u."


@pytest.fixture
def batches(
    monkeypatch: pytest.MonkeyPatch, manifest: Callable[[dict[str, bytes]], dict[str, str]]
) -> dict[str, bytes]:
    """Make six batches of four images the published ones. A value depends on plane, row and column."""
    contents = {}
    for number, name in enumerate(cifar10.MD5):
        planes = np.arange(3)[:, None, None] * 60 + np.arange(32)[:, None] + np.arange(32) // 16 * 20
        images = np.stack([planes + number for _ in range(ROWS)]).astype(np.uint8).reshape(ROWS, 3072)
        contents[name] = python2_batch(images, [number, 9, 0, number])
    monkeypatch.setattr(cifar10, "MD5", manifest(contents))
    monkeypatch.setattr(cifar10, "URLS", ("http://127.0.0.1:1/cifar-10-python.tar.gz",))
    return contents


def tar_of(contents: dict[str, bytes]) -> bytes:
    memory = io.BytesIO()
    with tarfile.open(fileobj=memory, mode="w:gz") as archive:
        folder = tarfile.TarInfo("cifar-10-batches-py")
        folder.type = tarfile.DIRTYPE
        archive.addfile(folder)
        for name, stored in {**contents, "readme.html": b"<html>"}.items():
            member = tarfile.TarInfo(f"cifar-10-batches-py/{name}")
            member.size = len(stored)
            archive.addfile(member, io.BytesIO(stored))
    return memory.getvalue()


def check(loaded: Any) -> None:
    assert loaded.name == "cifar10" and loaded.flips is True and loaded.class_names[3] == "cat"
    assert loaded.train.images.shape == (5 * ROWS, 3, 32, 32) and loaded.train.images.dtype == torch.uint8
    assert loaded.test.images.shape == (ROWS, 3, 32, 32)
    assert loaded.train.labels.tolist() == [label for n in range(5) for label in (n, 9, 0, n)]
    assert loaded.test.labels.tolist() == [5, 9, 0, 5]
    image = loaded.train.images[2 * ROWS]  # the third batch
    assert [int(image[plane, 7, 20]) for plane in range(3)] == [7 + 20 + 2, 60 + 29, 120 + 29]
    assert int(image[0, 20, 7]) == 20 + 2


def test_the_writer_writes_what_pickle_and_numpy_read() -> None:
    images = np.arange(2 * 3072).reshape(2, 3072).astype(np.uint8)
    batch = pickle.loads(python2_batch(images, [1, 2]), encoding="latin1")
    assert np.array_equal(batch["data"], images) and batch["labels"] == [1, 2]


def test_unpacked_folder(tmp_path: Path, batches: dict[str, bytes], write_files: Any) -> None:
    write_files(tmp_path / "cifar-10-batches-py", batches)
    check(cifar10.CIFAR10().load(tmp_path))


def test_archive_in_place(tmp_path: Path, batches: dict[str, bytes]) -> None:
    (tmp_path / cifar10.ARCHIVE).write_bytes(tar_of(batches))
    check(cifar10.CIFAR10().load(tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == [cifar10.ARCHIVE]


def test_download(tmp_path: Path, batches: dict[str, bytes], server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cifar10, "URLS", (f"{server.url}{cifar10.ARCHIVE}",))
    server.files[cifar10.ARCHIVE] = tar_of(batches)[:-50]
    with pytest.raises(UserError, match="something else than the published file"):
        cifar10.CIFAR10().load(tmp_path)
    assert list(tmp_path.iterdir()) == []
    server.files[cifar10.ARCHIVE] = tar_of(batches)
    check(cifar10.CIFAR10().load(tmp_path))


def test_offline(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"cifar10: cifar-10-python\.tar\.gz missing in .*DATA_ROOT") as error:
        cifar10.CIFAR10().load(tmp_path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("fault", ["cut short", "one batch missing", "one batch altered", "a link for a batch"])
def test_faulty_archive_is_named(fault: str, tmp_path: Path, batches: dict[str, bytes]) -> None:
    path = tmp_path / cifar10.ARCHIVE
    named = [str(path)]
    match fault:
        case "cut short":
            path.write_bytes(tar_of(batches)[:-200])
        case "one batch missing":
            path.write_bytes(tar_of({name: batches[name] for name in batches if name != "data_batch_3"}))
            named.append("data_batch_3")
        case "one batch altered":
            path.write_bytes(tar_of({**batches, "test_batch": batches["test_batch"][:-1]}))
            named.append("test_batch")
        case _:
            with tarfile.open(path, "w:gz") as archive:
                link = tarfile.TarInfo("cifar-10-batches-py/data_batch_1")
                link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
                archive.addfile(link)
    with pytest.raises(UserError) as error:
        cifar10.CIFAR10().load(tmp_path)
    assert all(name in str(error.value) for name in named) and "delete" in str(error.value)


class Attack:
    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self._path}",)


ATTACKS = {
    "os.system": b"cos\nsystem\nU\x04trueq\x00\x85R.",
    "eval": b"c__builtin__\neval\nU\x011\x85R.",
    "getattr": b"cbuiltins\ngetattr\n.",
    "other names of numpy": b"cnumpy\nload\nU\x01x\x85R.",
    "dotted": b"\x80\x04\x8c\x05numpy\x8c\x0ddtype.__init__\x93.",
    "code registry": b"\x82\x01.",
    "state of a class": b"cnumpy\nndarray\n}U\x01ak\x01sb.",
    "state of a stand-in": b"cnumpy.core.multiarray\n_reconstruct\n)RK\x01b.",
}


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_hostile_pickle_is_refused_and_not_run(
    protocol: int, tmp_path: Path, batches: dict[str, bytes], manifest: Any, write_files: Any, monkeypatch: Any
) -> None:
    trace = tmp_path / "executed"
    batches["data_batch_2"] = pickle.dumps({"data": Attack(trace), "labels": [1]}, protocol=protocol)
    write_files(tmp_path / "cifar-10-batches-py", batches)
    with pytest.raises(UserError, match="data_batch_2 is cut short or altered"):
        cifar10.CIFAR10().load(tmp_path)
    # It is refused even if its hash is right.
    monkeypatch.setattr(cifar10, "MD5", manifest(batches))
    with pytest.raises(UserError, match=r"data_batch_2.*asks for .*system"):
        cifar10.CIFAR10().load(tmp_path)
    assert not trace.exists()


@pytest.mark.parametrize("stream", ATTACKS.values(), ids=ATTACKS)
def test_no_other_name_gets_through(stream: bytes) -> None:
    with pytest.raises(UserError, match="some/batch is not a CIFAR-10 batch"):
        read_batch(stream, "some/batch")


@pytest.mark.parametrize(
    "batch",
    [{}, [], 7, {"data": [1], "labels": [1]}, {"data": "x"}],
    ids=["empty", "list", "number", "no array", "no labels"],
)
def test_a_pickle_of_something_else_is_refused(batch: Any) -> None:
    with pytest.raises(UserError, match="some/batch is not a CIFAR-10 batch"):
        read_batch(pickle.dumps(batch, protocol=2), "some/batch")


def test_wrong_shapes_are_refused() -> None:
    for images in (np.zeros((2, 3071), np.uint8), np.zeros((2, 0), np.uint8)):
        with pytest.raises(UserError, match="is not a CIFAR-10 batch"):
            read_batch(python2_batch(images, [1, 2]), "some/batch")


GOOD = python2_batch(np.zeros((2, 3072), np.uint8), [1, 2])


@settings(deadline=None, max_examples=200)
@given(end=st.integers(0, len(GOOD) - 1))
def test_cut_short_anywhere_it_is_refused(end: int) -> None:
    with pytest.raises(UserError, match="some/batch"):
        read_batch(GOOD[:end], "some/batch")


def test_addresses_and_hashes_are_torchvisions() -> None:
    from torchvision.datasets import CIFAR10

    published = CIFAR10.train_list + CIFAR10.test_list
    theirs = {str(name): str(md5) for name, md5 in published}
    assert theirs == cifar10.MD5
    assert (CIFAR10.url,) == cifar10.URLS and CIFAR10.filename == cifar10.ARCHIVE
    assert CIFAR10.base_folder == cifar10.FOLDER
