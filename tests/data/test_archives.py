"""Archives that are read in place: zip and tar. Names that leave the archive, links and huge members are refused."""

from __future__ import annotations

import gzip
import io
import os
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch

from data.readers import archives
from data.readers.trees import open_tree
from models.errors import UserError
from tests.data.own_images import load, png, zipped

KINDS = {"tar": "", "tar.gz": "gz", "tgz": "gz", "tar.bz2": "bz2", "tar.xz": "xz"}


def tarred(folder: Path, kind: str = "tar", prefix: str = "./") -> Path:
    path = folder.with_name(f"{folder.name}.{kind}")
    mode: Any = f"w:{KINDS[kind]}"
    with tarfile.open(path, mode) as archive:
        archive.add(folder, prefix)
    return path


def with_member(folder: Path, kind: str = "tar", **member: object) -> Path:
    """Return a tar of the folder with one more member of these attributes, without its contents."""
    path = folder.with_name(f"more.{kind}")
    mode: Any = f"w:{KINDS[kind]}"
    with tarfile.open(path, mode) as archive:
        archive.add(folder, "./")
        info = tarfile.TarInfo()
        for name, value in member.items():
            setattr(info, name, value)
        archive.addfile(info)
    return path


def refused(path: Path) -> str:
    with pytest.raises(UserError) as error:
        load(path, size=(6,))
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("limit", [0, 1], ids=["streamed", "in memory"])
def test_a_tar_is_read_like_its_folder(kind: str, limit: float, classes: Path, tmp_path: Path) -> None:
    path = tarred(classes, kind)
    before = sorted(tmp_path.rglob("*"))
    loaded, expected = load(path, limit), load(classes, limit)
    assert loaded.class_names == expected.class_names and torch.equal(loaded.train.labels, expected.train.labels)
    assert torch.equal(loaded.train.images[:], expected.train.images[:]) and sorted(tmp_path.rglob("*")) == before


def test_a_forked_process_reads_a_tar(classes: Path) -> None:
    tree = open_tree(tarred(classes))
    child = os.fork()
    if child == 0:
        os._exit(0 if tree.read("cat/1.png") == (classes / "cat/1.png").read_bytes() else 1)
    assert os.waitpid(child, 0)[1] == 0


@pytest.mark.parametrize("name", ["{}", "pets\\{}", ".\\{}"])
def test_backslashes_separate_folders_where_no_slash_is(name: str, classes: Path, tmp_path: Path) -> None:
    path = tmp_path / "windows.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for file in classes.rglob("*.png"):
            info = zipfile.ZipInfo("x")
            info.filename = name.format(str(file.relative_to(classes)).replace("/", "\\"))
            archive.writestr(info, file.read_bytes())
    assert load(path).class_names == ("ant", "cat", "dog")


def test_a_backslash_beside_a_slash_belongs_to_the_name(tmp_path: Path) -> None:
    for name in ("a\\b/1.png", "c/2.png"):
        png(tmp_path / "odd" / name, 1)
    assert load(zipped(tmp_path / "odd")).class_names == ("a\\b", "c")


@pytest.mark.parametrize(
    "name", ["..\\..\\x.png", "cat\\..\\..\\x.png", "\\x.png", "C:\\pets\\x.png", "../x.png", "/x.png"]
)
@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_names_that_leave_the_archive_are_refused(name: str, kind: str, classes: Path) -> None:
    if kind == "tar":
        path = with_member(classes, name=name)
    else:
        path = zipped(classes)
        with zipfile.ZipFile(path, "a") as archive:
            info = zipfile.ZipInfo("x")
            info.filename = name
            archive.writestr(info, b"")
    assert "points outside the archive" in refused(path) and repr(name) in refused(path)


def test_names_that_become_equal_are_refused(classes: Path) -> None:
    path = zipped(classes)
    with zipfile.ZipFile(path, "a") as archive:
        info = zipfile.ZipInfo("x")
        info.filename = "cat\\1.png"
        archive.writestr(info, b"")
    assert "have the same name" in refused(path)


@pytest.mark.parametrize(
    ("type", "word"),
    [(tarfile.SYMTYPE, "link"), (tarfile.LNKTYPE, "link"), (tarfile.CHRTYPE, "device"), (tarfile.FIFOTYPE, "device")],
)
@pytest.mark.parametrize("kind", ["tar", "tgz"])
def test_links_and_devices_are_refused(type: bytes, word: str, kind: str, classes: Path) -> None:
    message = refused(with_member(classes, kind, name="cat/9.png", type=type, linkname="/etc/passwd"))
    assert f"'cat/9.png' is a {word}; unpack it and name the folder" in message


@pytest.mark.parametrize("name", ["cat/9.png", "zeros.bin"])
@pytest.mark.parametrize("kind", ["tar.gz", "tar.xz"])
def test_a_huge_member_is_refused_from_its_header(name: str, kind: str, classes: Path) -> None:
    message = refused(with_member(classes, kind, name=name, size=10 << 30))
    assert "unpacks to more than" in message and message.endswith("unpack it and name the folder")


def test_a_member_that_is_larger_than_any_image_is_refused(classes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "MAX_FILE_BYTES", 1 << 16)
    (classes / "cat" / "9.png").write_bytes(bytes(1 << 17))
    for kind in ("tar", "tar.gz"):
        assert "larger than 0 MiB" in refused(tarred(classes, kind))


def test_headers_cannot_ask_for_much_memory(classes: Path, tmp_path: Path) -> None:
    info = tarfile.TarInfo("././@LongLink")
    info.type, info.size = tarfile.GNUTYPE_LONGNAME, 1 << 32
    path = tmp_path / "long.tar.gz"
    path.write_bytes(gzip.compress(info.tobuf(tarfile.GNU_FORMAT) + bytes(1 << 20)))
    assert "larger than 256 MiB" in refused(path)


@pytest.mark.parametrize("kind", ["tar", "tar.gz", "tar.xz", "zip"])
def test_damaged_archives_are_refused(kind: str, classes: Path, tmp_path: Path) -> None:
    whole = (zipped(classes) if kind == "zip" else tarred(classes, kind)).read_bytes()
    path = tmp_path / f"cut.{kind}"
    path.write_bytes(whole[: len(whole) // 2])
    assert f"cannot read {path} as a" in refused(path)


def test_a_damaged_header_does_not_hide_the_members_behind_it(classes: Path, tmp_path: Path) -> None:
    for format in (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        with tarfile.open(tmp_path / "bad.tar", "w", format=format) as archive:
            archive.add(classes, "./")
        whole = bytearray((tmp_path / "bad.tar").read_bytes())
        whole[whole.rindex(b"./cat/5.png") + 150] ^= 1  # within the checksum
        (tmp_path / "bad.tar").write_bytes(whole)
        assert "as a tar archive: " in refused(tmp_path / "bad.tar")


@pytest.mark.parametrize("kind", ["", "gz"])
def test_an_archive_of_zeros_holds_no_images(kind: str, tmp_path: Path) -> None:
    path = tmp_path / f"zeros.tar{'.' * bool(kind)}{kind}"
    if kind:
        path.write_bytes(gzip.compress(bytes(1 << 22)))
    else:
        with path.open("wb") as file:
            file.truncate(10 << 30)
    assert "holds no images" in refused(path)


@pytest.mark.parametrize(
    ("name", "start", "word"),
    [
        ("a.7z", b"7z\xbc\xaf'\x1c", "7z"),
        ("b.rar", b"Rar!\x1a\x07\x01", "rar"),
        ("c.tar.zst", b"\x28\xb5\x2f\xfd", "zst"),
        ("renamed.zip", b"Rar!\x1a\x07\x00", "rar"),
        ("d.cab", b"MSCF", "cab"),
    ],
)
def test_other_archives_are_refused_with_the_way_out(name: str, start: bytes, word: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(start + bytes(100))
    message = refused(tmp_path / name)
    assert f"({word}" in message and message.endswith("only zip and tar; unpack it and name the folder")


def test_a_file_that_is_no_archive_is_refused(tmp_path: Path) -> None:
    png(tmp_path / "one.png", 1)
    assert "neither a folder nor a zip or tar archive" in refused(tmp_path / "one.png")


def test_pipes_and_devices_are_not_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.zip")
    assert "neither a folder nor a file" in refused(tmp_path / "pipe.zip")
    for name in ("a", "b"):
        png(tmp_path / "mine" / name / "1.png", 1)
    (tmp_path / "mine" / "a" / "zero.png").symlink_to("/dev/zero")
    os.mkfifo(tmp_path / "mine" / "b" / "pipe.png")
    message = refused(tmp_path / "mine")
    assert "a/zero.png (not a regular file)" in message and "b/pipe.png (not a regular file)" in message


def test_what_a_compressed_tar_unpacks_to_is_limited(classes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "MAX_UNPACKED_BYTES", 1 << 14)
    assert "unpacks to more than" in refused(tarred(classes, "tgz"))
    assert load(tarred(classes)).class_names == ("ant", "cat", "dog")


def test_sparse_members_are_refused(classes: Path) -> None:
    header = tarfile.TarInfo("cat/9.png")
    header.size = 0
    header.pax_headers = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": str(10 << 30)}
    path = classes.with_name("sparse.tar")
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as archive:
        header.size = 512
        archive.addfile(header, io.BytesIO(b"1\n0\n512\n" + bytes(504)))
    assert "sparse file" in refused(path)
