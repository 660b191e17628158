"""MNIST and Fashion-MNIST: torchvision's layout, checks of the contents, downloads, the real files."""

from __future__ import annotations

import gzip
import http.server
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from data import fashion_mnist, mnist
from data.readers import downloads, files, idx
from models.errors import UserError

Contents = dict[str, bytes]
SETS = [(mnist, mnist.MNIST, "MNIST"), (fashion_mnist, fashion_mnist.FashionMNIST, "FashionMNIST")]
TRAIN_IMAGES = "train-images-idx3-ubyte"


@pytest.fixture
def published(
    monkeypatch: pytest.MonkeyPatch, small_mnist: Contents, manifest: Callable[[Contents], dict[str, str]]
) -> Contents:
    """Make the small files the published ones, and every mirror unreachable."""
    for module in (mnist, fashion_mnist):
        monkeypatch.setattr(module, "MD5", manifest(small_mnist))
        monkeypatch.setattr(module, "MIRRORS", ("http://127.0.0.1:1/",))
    return small_mnist


def one_line(error: pytest.ExceptionInfo[UserError]) -> str:
    message = str(error.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize(("module", "kind", "folder"), SETS)
@pytest.mark.parametrize("packed", [False, True])
def test_local_files_raw_or_gzipped(
    module: ModuleType,
    kind: type[Any],
    folder: str,
    packed: bool,
    tmp_path: Path,
    published: Contents,
    gzipped: Callable[[Contents], Contents],
    write_files: Callable[[Path, Contents], None],
) -> None:
    write_files(tmp_path / folder / "raw", gzipped(published) if packed else published)
    loaded = kind().load(tmp_path)
    assert loaded.name == module.__name__.rpartition(".")[2] and loaded.flips is False
    assert len(loaded.class_names) == 10
    assert loaded.train.images.shape == (12, 1, 28, 28) and loaded.train.images.dtype == torch.uint8
    assert loaded.test.images.shape == (10, 1, 28, 28) and loaded.test.labels.dtype == torch.int64
    expected = np.frombuffer(published[TRAIN_IMAGES], np.uint8, offset=16)
    assert np.array_equal(loaded.train.images.numpy().ravel(), expected)
    assert loaded.train.labels.tolist() == [*range(10), 0, 1]
    loaded.train.images[0] = 0  # the memory is writable


@pytest.mark.parametrize("damage", ["short raw", "short gzip", "altered", "noise after gzip", "empty"])
def test_damaged_file_is_named(
    damage: str, tmp_path: Path, published: Contents, write_files: Callable[[Path, Contents], None]
) -> None:
    raw = tmp_path / "MNIST" / "raw"
    write_files(raw, published)
    good, victim = published[TRAIN_IMAGES], raw / TRAIN_IMAGES
    match damage:
        case "short raw":
            victim.write_bytes(good[:-7])
        case "altered":
            victim.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
        case "empty":
            victim.write_bytes(b"")
        case _:
            victim.unlink()
            victim = victim.with_name(f"{victim.name}.gz")
            packed = gzip.compress(good)
            victim.write_bytes(packed[:-9] if damage == "short gzip" else packed + b"noise")
    with pytest.raises(UserError) as error:
        mnist.MNIST().load(tmp_path)
    assert str(victim) in one_line(error) and "delete or replace" in str(error.value)


def test_gzip_bomb_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "MAX_BYTES", 1 << 20)
    bomb = tmp_path / "bomb.gz"
    bomb.write_bytes(gzip.compress(bytes(1 << 24)))
    with pytest.raises(UserError, match=r"bomb\.gz unpacks to more than 1 MiB"):
        files.read_file(bomb)


@pytest.mark.parametrize(
    "contents",
    [
        b"",
        b"\x00\x00",
        b"\x00\x00\x08\x00",
        b"\x00\x00\x08\xff",
        b"\x00\x00\x0d\x01\x00\x00\x00\x00",
        b"\x00\x00\x08\x01\x00\x00\x00\x02\x01",
        b"\x00\x00\x08\x01\x00\x00\x00\x02\x01\x02\x03",
        b"\x00\x00\x08\x03" + b"\xff" * 12,
        b"<html>not found</html>",
    ],
)
def test_what_is_no_idx_file_is_refused_by_name(contents: bytes) -> None:
    with pytest.raises(UserError, match="some/file"):
        idx.parse_idx(contents, "some/file")


def test_offline_names_files_folder_and_way_out(tmp_path: Path, published: Contents) -> None:
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    (raw / TRAIN_IMAGES).write_bytes(published[TRAIN_IMAGES])
    begin = time.monotonic()
    with pytest.raises(UserError) as error:
        mnist.MNIST().load(tmp_path)
    assert time.monotonic() - begin < 60
    message = one_line(error)
    for name in published:
        assert (f"{name}.gz" in message) == (name != TRAIN_IMAGES)
    for hint in (str(raw), "data_root", "DATA_ROOT", "dataset digits"):
        assert hint in message
    assert sorted(path.name for path in raw.iterdir()) == [TRAIN_IMAGES]


def test_without_a_name_server_nothing_is_left_behind(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"ossci-datasets.*name resolution"):
        mnist.MNIST().load(tmp_path / "root")
    assert list(tmp_path.iterdir()) == []


def test_a_silent_server_is_given_up(tmp_path: Path, published: Contents, monkeypatch: pytest.MonkeyPatch) -> None:
    release = threading.Event()

    class Silent(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            release.wait(120)

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Silent)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(mnist, "MIRRORS", (f"http://127.0.0.1:{server.server_address[1]}/",))
    monkeypatch.setattr(downloads, "ANSWER_SECONDS", 0.3)
    begin = time.monotonic()
    try:
        with pytest.raises(UserError, match=r"no answer in 0\.3 s"):
            mnist.MNIST().load(tmp_path)
        assert time.monotonic() - begin < 60
    finally:
        release.set()
        server.shutdown()
        server.server_close()


def test_download_from_the_mirror_that_works(
    tmp_path: Path,
    published: Contents,
    gzipped: Callable[[Contents], Contents],
    server: Any,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    server.files = gzipped(published)
    monkeypatch.setattr(mnist, "MIRRORS", (f"{server.url}gone/", server.url))
    first = mnist.MNIST().load(tmp_path)
    raw = tmp_path / "MNIST" / "raw"
    assert sorted(path.name for path in raw.iterdir()) == sorted(server.files)
    out, err = capfd.readouterr()
    assert out == "" and "\r" not in err and "\x1b" not in err
    assert err.count("downloading ") == len(err.splitlines()) == 4
    monkeypatch.setattr(idx, "fetch_missing", None)  # not called if all files are there
    second = mnist.MNIST().load(tmp_path)
    assert torch.equal(first.train.in_memory(), second.train.in_memory())


@pytest.mark.parametrize("fault", ["cut", "altered"])
def test_a_faulty_download_leaves_nothing(
    fault: str,
    tmp_path: Path,
    published: Contents,
    gzipped: Callable[[Contents], Contents],
    server: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    server.files = gzipped(published)
    name = f"{TRAIN_IMAGES}.gz"
    if fault == "cut":
        server.cut.add(name)
    else:
        server.files[name] = gzip.compress(b"<html>log in first</html>")
    monkeypatch.setattr(mnist, "MIRRORS", (server.url,))
    with pytest.raises(UserError) as error:
        mnist.MNIST().load(tmp_path)
    assert name in one_line(error)
    assert ("connection lost" if fault == "cut" else "something else than the published file") in str(error.value)
    assert list((tmp_path / "MNIST" / "raw").iterdir()) == []


def test_a_root_that_cannot_be_written(
    tmp_path: Path,
    published: Contents,
    gzipped: Callable[[Contents], Contents],
    server: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    server.files = gzipped(published)
    monkeypatch.setattr(mnist, "MIRRORS", (server.url,))
    root = tmp_path / "file"
    root.write_text("not a folder")
    with pytest.raises(UserError) as error:
        mnist.MNIST().load(root)
    assert str(root) in one_line(error) and "Not a directory" in str(error.value)


def test_mirrors_and_classes_are_torchvisions() -> None:
    from torchvision import datasets

    assert list(mnist.MIRRORS) == datasets.MNIST.mirrors
    assert list(fashion_mnist.MIRRORS) == datasets.FashionMNIST.mirrors
    assert list(fashion_mnist.CLASS_NAMES) == datasets.FashionMNIST.classes
    assert [f"{name}.gz" for name in mnist.MD5] == [name for name, _ in datasets.MNIST.resources]


@pytest.mark.parametrize(
    ("kind", "folder", "first_labels", "mean", "deviation"),
    [
        (mnist.MNIST, "MNIST", [5, 0, 4, 1, 9], 0.1307, 0.3081),
        (fashion_mnist.FashionMNIST, "FashionMNIST", [9, 0, 0, 3, 0], 0.2860, 0.3530),
    ],
)
def test_real_files(
    kind: type[Any], folder: str, first_labels: list[int], mean: float, deviation: float, real_root: Path
) -> None:
    if not (real_root / folder / "raw").is_dir():
        pytest.skip(f"no {folder} in DATA_ROOT")
    loaded = kind().load(real_root)
    assert loaded.train.images.shape == (60000, 1, 28, 28) and loaded.test.images.shape == (10000, 1, 28, 28)
    assert loaded.train.labels[:5].tolist() == first_labels
    values = loaded.train.images.numpy() / np.float32(255)
    assert abs(values.mean() - mean) < 1e-4 and abs(values.std() - deviation) < 1e-4  # widely published
