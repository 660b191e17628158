"""Own images that are refused: damaged or hostile files, impossible layouts and options."""

from __future__ import annotations

import struct
import tracemalloc
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import data
from data.folder import Folder
from data.readers import archives, trees
from models.errors import UserError
from tests.data.own_images import load, png, zipped


def refused(path: Path, **options: Any) -> str:
    with pytest.raises(UserError) as error:
        load(path, **options)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("size", [(), (16,)])
@pytest.mark.parametrize("kind", ["folder", "zip"])
def test_corrupt_images_are_named(size: tuple[int, ...], kind: str, classes: Path) -> None:
    whole = (classes / "cat" / "1.png").read_bytes()
    (classes / "cat" / "1.png").write_bytes(whole[: len(whole) // 2])
    (classes / "dog" / "text.jpg").write_text("not an image")
    (classes / "ant" / "empty.webp").write_bytes(b"")
    message = refused(zipped(classes) if kind == "zip" else classes, size=size, test_share=1e-9)
    assert "cannot be used" in message and "repair or remove" in message
    assert all(name in message for name in ("cat/1.png", "dog/text.jpg", "ant/empty.webp"))
    assert "3 images" in message and "repair or remove" in message and "dataset.size" not in message


def test_many_corrupt_images_are_counted(tmp_path: Path) -> None:
    for number in range(300):
        (tmp_path / f"{number:03}.jpg").write_bytes(b"\xff\xd8\xff nothing")
    message = refused(tmp_path, size=(8,), test_share=1e-9)
    assert "300 images cannot be used" in message and "and 295 more" in message and len(message) < 1000


@pytest.mark.parametrize("format", ["PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM"])
def test_whatever_is_damaged_the_file_is_named(format: str, tmp_path: Path) -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (40, 30, 3)).astype(np.uint8)
    good = tmp_path / "good.png"
    Image.fromarray(pixels).save(good, format)
    whole = good.read_bytes()
    random = np.random.default_rng(2)
    for trial in range(25):
        broken = bytearray(whole[: random.integers(0, len(whole))] if trial % 2 else whole)
        for position in random.integers(0, max(len(broken), 1), 5):
            if position < len(broken):
                broken[position] ^= int(random.integers(1, 256))
        (tmp_path / "bad.png").write_bytes(bytes(broken))
        try:
            load(tmp_path, size=(8,))
        except UserError as error:
            assert "bad.png" in str(error) and "good.png" not in str(error)


def test_images_of_different_size_are_named(classes: Path) -> None:
    png(classes / "cat" / "wide.png", 1, size=(6, 50))
    assert "cat/wide.png (6×50" in (message := refused(classes, test_share=1e-9))
    assert "give all images one size with dataset.size" in message
    assert load(classes, size=(6,)).train.images.shape[1:] == (3, 6, 6)


def test_splits_of_different_size(tmp_path: Path) -> None:
    png(tmp_path / "train" / "1.png", 1, size=(6, 6))
    png(tmp_path / "test" / "1.png", 1, size=(8, 6))
    assert "test/1.png (8×6" in (message := refused(tmp_path)) and "the first image is 6×6" in message
    message = refused(tmp_path / "train", test_path=str(tmp_path / "test"))
    assert "train are 6×6" in message and "test are 8×6; give all images one size with dataset.size" in message


def test_layouts_that_mean_nothing(classes: Path, tmp_path: Path) -> None:
    png(classes / "beside.png", 1)
    assert "beside.png" in refused(classes)
    png(tmp_path / "other" / "train" / "cat" / "1.png", 1)
    png(tmp_path / "other" / "train" / "dog" / "1.png", 1)
    png(tmp_path / "other" / "test" / "cow" / "1.png", 1)
    assert "test/cow/1.png is in none of" in refused(tmp_path / "other")
    png(tmp_path / "other" / "extra" / "1.png", 1)
    assert "extra is not the name of a split" in refused(tmp_path / "other")


def test_a_class_name_of_300_characters(tmp_path: Path, classes: Path) -> None:
    for name in ("x" * 300, "é" * 128, "a\nb", "a\x1b[31m"):
        path = tmp_path / "long.zip"
        with zipfile.ZipFile(path, "w") as archive:
            for folder in ("cat", name):
                archive.write(classes / "cat" / "1.png", f"{folder}/1.png")
        message = refused(path)
        assert "class name" in message and len(message) < 400 and ("300 characters" in message) == (name == "x" * 300)


def test_links_out_of_the_folder(classes: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    png(elsewhere / "1.png", 50)
    (classes / "cat" / "linked.png").symlink_to(elsewhere / "1.png")
    (classes / "more").symlink_to(elsewhere)
    assert load(classes).class_names == ("ant", "cat", "dog", "more")
    (tmp_path / "secret").write_text("no image")
    (classes / "cat" / "secret.png").symlink_to(tmp_path / "secret")
    (classes / "cat" / "gone.png").symlink_to(tmp_path / "gone")
    message = refused(classes)
    assert "2 images" in message and "cat/secret.png" in message and "cat/gone.png" in message
    for target in (tmp_path, Path("/")):
        (classes / "cat" / "up").unlink(missing_ok=True)
        (classes / "cat" / "up").symlink_to(target)
        assert f"cat/up is a link to {target}, which contains {classes}" in refused(classes)


def test_a_link_in_a_zip_is_no_way_out(classes: Path, tmp_path: Path) -> None:
    path = zipped(classes)
    with zipfile.ZipFile(path, "a") as archive:
        link = zipfile.ZipInfo("cat/link.png")
        link.create_system, link.external_attr = 3, 0o120777 << 16
        archive.writestr(link, str(classes / "cat" / "1.png"))
    assert "cat/link.png" in refused(path)


def test_nothing_there(tmp_path: Path) -> None:
    assert "does not exist" in refused(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    assert "holds no images" in refused(tmp_path / "empty")
    (tmp_path / "text.zip").write_text("not a zip")
    assert "as a zip archive" in refused(tmp_path / "text.zip")
    png(tmp_path / "one" / "1.png", 1)
    assert "holds one image" in refused(tmp_path / "one")
    with pytest.raises(UserError, match=r"needs dataset\.path"):
        Folder().load(tmp_path)


@pytest.mark.parametrize(
    "options",
    [{"size": (0,)}, {"size": (8, 8, 8)}, {"size": (5000,)}, {"channels": 2}, {"test_share": 0.0}, {"test_share": 1.0}],
    ids=str,
)
def test_bad_options_are_refused_before_anything_is_read(options: dict[str, Any]) -> None:
    name = next(iter(options))
    with pytest.raises(UserError, match=rf"dataset\.{name} "):
        data.load("folder", options, Path("/nonexistent"))


def test_more_than_the_memory_holds(classes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import psutil

    class Free:
        available = 1000

    monkeypatch.setattr(psutil, "virtual_memory", Free)
    assert "choose a smaller dataset.size" in refused(classes, size=(64,), memory_limit=1)


# Hostile files


def test_image_bombs_are_refused_from_their_header(tmp_path: Path) -> None:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    for name, side in (("bomb", 9000), ("huge", 30000)):
        header = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0))
        stored = b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(1 << 20))) + chunk(b"IEND", b"")
        (tmp_path / f"{name}.png").write_bytes(stored)
    png(tmp_path / "good.png", 1)
    message = refused(tmp_path, size=(8,))
    assert "bomb.png (9000×9000 is more than 64 million pixels)" in message and "huge.png (" in message
    assert "good.png" not in message


def test_a_program_in_an_images_clothes_is_not_run(tmp_path: Path) -> None:
    png(tmp_path / "good.png", 1)
    (tmp_path / "page.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n")
    assert "page.png (not an image of a known format)" in refused(tmp_path, size=(8,))


@pytest.mark.parametrize("name", ["../../escaped.png", "/tmp/escaped.png", "cat/../../escaped.png"])
def test_zip_members_cannot_escape(name: str, classes: Path, tmp_path: Path) -> None:
    path = zipped(classes)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(name, (classes / "cat" / "1.png").read_bytes())
    before = sorted(tmp_path.rglob("*"))
    assert "points outside" in refused(path) and name in refused(path)
    assert sorted(tmp_path.rglob("*")) == before


def test_reading_a_zip_writes_nothing(classes: Path, tmp_path: Path) -> None:
    path = zipped(classes)
    before = sorted(tmp_path.rglob("*"))
    stamp = path.stat()
    load(path)
    assert sorted(tmp_path.rglob("*")) == before and path.stat().st_mtime_ns == stamp.st_mtime_ns


def test_zip_bombs_and_false_sizes(classes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "MAX_FILE_BYTES", 1 << 20)
    with zipfile.ZipFile(tmp_path / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.write(classes / "cat" / "1.png", "1.png")
        archive.writestr("2.png", bytes(1 << 24))
    assert "2.png (larger than 1 MiB)" in refused(tmp_path / "bomb.zip", size=(8,), test_share=1e-9)
    stored = bytearray((tmp_path / "bomb.zip").read_bytes())
    stored = stored.replace((1 << 24).to_bytes(4, "little"), (1000).to_bytes(4, "little"))
    (tmp_path / "false.zip").write_bytes(stored)
    tree = trees.open_tree(tmp_path / "false.zip")
    tracemalloc.start()
    with pytest.raises(ValueError):
        tree.read("2.png")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1 << 20


def test_encrypted_zip_is_named(classes: Path, tmp_path: Path) -> None:
    stored = bytearray(zipped(classes).read_bytes())
    for signature, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        start = 0
        while (start := stored.find(signature, start)) >= 0:
            stored[start + offset] |= 1
            start += 4
    (tmp_path / "locked.zip").write_bytes(stored)
    message = refused(tmp_path / "locked.zip", size=(8,))
    assert "encrypted" in message and "30 images" in message


def test_memory_is_bounded_by_the_array(tmp_path: Path) -> None:
    for number in range(100):
        png(tmp_path / f"{number:03}.png", number, size=(128, 128))
    load(tmp_path)
    tracemalloc.start()
    load(tmp_path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 100 * 3 * 128 * 128 * 1.3


# Real images


def test_real_photographs_in_a_zip(real_root: Path) -> None:
    path = real_root / "cifar10-jpeg-test.zip"
    if not path.is_file():
        pytest.skip("no cifar10-jpeg-test.zip in DATA_ROOT")
    loaded = data.load("folder", {"path": path.name, "test_share": 0.2}, real_root)
    assert loaded.class_names[:3] == ("airplane", "automobile", "bird") and len(loaded.class_names) == 10
    assert loaded.train.images.shape[1:] == (3, 32, 32)
    assert len(loaded.train) + len(loaded.test) == 10000 and abs(len(loaded.test) - 2000) < 200
    everything = torch.cat([loaded.train.in_memory(), loaded.test.in_memory()]).float() / 255
    # The widely published means and deviations of CIFAR-10's test images, but for JPEG's losses.
    means, deviations = everything.mean((0, 2, 3)), everything.std((0, 2, 3))
    assert torch.allclose(means, torch.tensor([0.4942, 0.4851, 0.4504]), atol=0.003)
    assert torch.allclose(deviations, torch.tensor([0.2467, 0.2429, 0.2616]), atol=0.006)
