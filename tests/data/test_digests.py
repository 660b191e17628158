"""Hashes of the contents of image files: what changes them, what does not, and which files are read for them."""

from __future__ import annotations

import json
import os
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import data
from data.images import ImageData
from data.readers import digests
from data.readers.trees import Tree
from tests.data.own_images import zipped


@pytest.fixture(autouse=True)
def _no_settling(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files that a test has just written count as unchanged."""
    monkeypatch.setattr(digests, "_SETTLED", -3600)


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Twelve pictures of two classes, BMP so that equal sizes in pixels are equal sizes in bytes."""
    for number in range(12):
        path = tmp_path / "pictures" / "ab"[number % 2] / f"{number:02}.bmp"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((5, 6, 3), number, np.uint8)).save(path)
    return tmp_path / "pictures"


@pytest.fixture(autouse=True)
def _no_look_at_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """Some streamed images are decoded at the start, which reads all files of a small set."""
    monkeypatch.setattr("data.readers.streamed.look_at_some", lambda images: [])


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files that are read."""
    names: list[str] = []
    for tree in Tree.__subclasses__():
        monkeypatch.setattr(
            tree, "read", lambda self, name, read=tree.read: names.append(name) or read(self, name), raising=True
        )
    return names


def load(path: Path, limit: float = 0, **options: object) -> ImageData:
    kept = path.parent / ".contents"
    return data.load("folder", {"path": str(path), "size": (5, 6), **options}, Path("/nonexistent"), limit, kept)


def hashes(path: Path, limit: float = 0, **options: object) -> tuple[str | None, str | None]:
    loaded = load(path, limit, **options)
    return loaded.train.contents(), loaded.test.contents()


def edit(path: Path) -> None:
    """Invert a picture in place: its name and its size stay."""
    before = path.stat().st_size
    Image.fromarray(255 - np.array(Image.open(path))).save(path)
    assert path.stat().st_size == before


def swap(folder: Path) -> None:
    one, other = sorted((folder / "a").iterdir())[:2]
    first, second = one.read_bytes(), other.read_bytes()
    one.write_bytes(second)
    other.write_bytes(first)


def edit_and_keep_the_time(path: Path) -> None:
    """Edit a picture, then restore its modification time as `cp -p` and `rsync -t` do."""
    times = path.stat()
    edit(path)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


@pytest.mark.parametrize(
    "change",
    [
        lambda folder: edit(folder / "a" / "00.bmp"),
        lambda folder: [edit(path) for path in folder.rglob("*.bmp")],
        lambda folder: edit_and_keep_the_time(folder / "b" / "01.bmp"),
        swap,
    ],
    ids=["one", "all", "time restored", "swapped"],
)
@pytest.mark.parametrize("limit", [0, 1], ids=["streamed", "in memory"])
def test_pictures_edited_at_the_same_name_and_size_change_the_hash(
    limit: float, change: Callable[[Path], object], pictures: Path
) -> None:
    before, listed = hashes(pictures, limit), load(pictures, limit).train.sha256
    assert hashes(pictures, limit) == before
    change(pictures)
    assert hashes(pictures, limit) != before and load(pictures, limit).train.sha256 == listed
    assert hashes(pictures, 1 - limit) == hashes(pictures, limit)


def test_a_member_of_an_archive_that_was_edited_changes_the_hash(pictures: Path) -> None:
    before = hashes(zipped(pictures))
    assert hashes(zipped(pictures), 1) == before
    edit(pictures / "a" / "02.bmp")
    assert hashes(zipped(pictures)) != before


def test_only_files_whose_state_has_changed_are_read_again(pictures: Path, reads: list[str]) -> None:
    first = hashes(pictures)
    assert sorted(reads) == sorted(path.relative_to(pictures).as_posix() for path in pictures.rglob("*.bmp"))
    reads.clear()
    assert hashes(pictures) == first and reads == []
    os.utime(pictures / "a" / "04.bmp")  # another time, the same contents
    assert hashes(pictures) == first and reads == ["a/04.bmp"]
    reads.clear()
    edit(pictures / "b" / "05.bmp")
    shutil.copy(pictures / "a" / "00.bmp", pictures / "a" / "99.bmp")
    assert hashes(pictures) != first and sorted(reads) == ["a/99.bmp", "b/05.bmp"]


def test_an_unchanged_archive_is_not_read_again(pictures: Path, reads: list[str]) -> None:
    archive = zipped(pictures)
    first = hashes(archive)
    reads.clear()
    assert hashes(archive) == first and reads == []


def test_images_in_memory_are_hashed_as_they_were_read(pictures: Path, reads: list[str]) -> None:
    loaded = load(pictures, 1)
    assert len(reads) == 12 and not (pictures.parent / ".contents").exists()
    edit(pictures / "a" / "00.bmp")
    assert (loaded.train.contents(), loaded.test.contents()) != hashes(pictures)
    assert len(reads) == 2 * 12


def test_without_reading_contents_are_known_only_if_nothing_has_changed(pictures: Path) -> None:
    assert load(pictures).train.contents(read=False) is None
    known = hashes(pictures)
    loaded = load(pictures)
    assert (loaded.train.contents(read=False), loaded.test.contents(read=False)) == known
    for path in pictures.rglob("*.bmp"):
        os.utime(path)
    assert load(pictures).train.contents(read=False) is None


def test_contents_decide_and_neither_names_nor_the_kind_of_tree(pictures: Path, tmp_path: Path) -> None:
    first = hashes(pictures)
    assert hashes(zipped(pictures)) == first
    moved = Path(shutil.copytree(pictures, tmp_path / "moved" / "elsewhere"))
    assert hashes(moved) == first
    assert hashes(pictures, channels=1) != first and hashes(pictures, size=(3,)) != first


def test_files_that_changed_a_moment_ago_are_not_kept(
    pictures: Path, reads: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(digests, "_SETTLED", 3600)
    first = hashes(pictures)
    reads.clear()
    assert hashes(pictures) == first and len(reads) == 12


@pytest.mark.parametrize(
    "text", ["", "[]", '{"a/00.bmp": 3}', '{"a/00.bmp": [1, 2]}', '{"a/00.bmp": ["x", 2, 3, "d"]}']
)
def test_a_damaged_file_of_hashes_is_written_anew(text: str, pictures: Path) -> None:
    first = hashes(pictures)
    (file,) = (pictures.parent / ".contents").iterdir()
    file.write_text(text)
    assert hashes(pictures) == first and len(json.loads(file.read_text())) == 12


def test_nothing_is_kept_where_nothing_can_be_written(pictures: Path) -> None:
    first = hashes(pictures)
    shutil.rmtree(pictures.parent / ".contents")
    (pictures.parent / ".contents").write_text("a file")
    assert hashes(pictures) == first


def test_a_broken_picture_has_a_hash_and_its_repair_changes_it(pictures: Path) -> None:
    broken = pictures / "a" / "00.bmp"
    stored = broken.read_bytes()
    broken.unlink()
    broken.symlink_to("nowhere")
    first = hashes(pictures)
    assert all(first)
    broken.unlink()
    broken.write_bytes(stored)
    assert hashes(pictures) != first


def test_archives_that_differ_in_compression_alone_hold_the_same(pictures: Path) -> None:
    first = hashes(zipped(pictures))
    stored = pictures.with_name("stored.zip")
    with zipfile.ZipFile(stored, "w", zipfile.ZIP_STORED) as archive:
        for file in pictures.rglob("*.bmp"):
            archive.write(file, file.relative_to(pictures))
    assert hashes(stored) == first
