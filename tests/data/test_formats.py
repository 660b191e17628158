"""Formats of image files: what is read, and what is said about the rest."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data.readers import decoding, formats, pictures
from data.readers.trees import open_tree
from models.errors import UserError
from tests.data.own_images import load, png, zipped

# Pillow's formats that are not read: passed to other programs or handlers, without decoder, or without a known range.
NOT_READ = {
    *("EPS", "WMF", "BUFR", "GRIB", "HDF5", "MPEG", "PDF", "FPX", "MIC"),
    *("FITS", "SPIDER", "IPTC", "MCIDAS", "IMT", "XVTHUMB"),
}
WRITTEN = {
    "x.jfif": "JPEG",
    "x.JPE": "JPEG",
    "x.avif": "AVIF",
    "x.tga": "TGA",
    "x.jp2": "JPEG2000",
    "x.pnm": "PPM",
    "x.qoi": "QOI",
    "x.ico": "ICO",
    "x.pcx": "PCX",
    "x.sgi": "SGI",
    "x.dib": "DIB",
    "x.dds": "DDS",
    "x.im": "IM",
    "x.mpo": "MPO",
    "x.apng": "PNG",
    "x.icns": "ICNS",
    "x.blp": "BLP",
}


def test_every_format_of_pillow_is_read_with_all_its_suffixes_or_left_out_on_purpose() -> None:
    Image.init()
    assert set(formats.FORMATS) | NOT_READ >= set(Image.OPEN) and not set(formats.FORMATS) & NOT_READ
    registered = {suffix for suffix, name in Image.registered_extensions().items() if name in formats.FORMATS}
    assert all(formats.is_image(f"x{suffix}") and formats.is_image(f"x{suffix.upper()}") for suffix in registered)
    assert not any(formats.is_image(name) for name in ("x.eps", "x.ps", "x.pdf", "x.wmf", "x.emf", "x.svg", "x"))


def test_formats_without_a_mark_are_those_that_pillow_tries_on_any_file() -> None:
    Image.init()
    assert {name for name, (_, accept) in Image.OPEN.items() if accept is None} - NOT_READ == set(formats.UNMARKED)


@pytest.mark.parametrize("name", WRITTEN)
def test_files_of_many_formats_are_read(name: str, tmp_path: Path) -> None:
    colour = Image.new("RGB", (32, 32), (200, 60, 30))
    image = colour.quantize() if name.endswith(".blp") else colour
    image.save(tmp_path / name, WRITTEN[name])
    png(tmp_path / "y.png", 0, size=(32, 32))
    tree = open_tree(tmp_path)
    assert tree.names == sorted((name, "y.png")) and not tree.note
    pixels = pictures.decode(tree.read(name), pictures.Target(None, 3, True), name)
    assert abs(pixels[:, 16, 16].astype(int) - [200, 60, 30]).max() < 12


@pytest.mark.parametrize(
    ("name", "format"), [("x.gif", "GIF"), ("x.webp", "WEBP"), ("x.apng", "PNG"), ("x.tif", "TIFF")]
)
def test_the_first_frame_of_an_animation_is_read(name: str, format: str, tmp_path: Path) -> None:
    frames = [Image.new("L", (16, 16), value) for value in (50, 200)]
    frames[0].save(tmp_path / name, format, save_all=True, append_images=frames[1:])
    pixels = pictures.decode((tmp_path / name).read_bytes(), pictures.Target(None, 1, True), name)
    assert abs(int(pixels[0, 8, 8]) - 50) < 3


def test_a_damaged_file_is_not_taken_for_a_format_without_a_mark() -> None:
    memory = io.BytesIO()
    Image.new("RGB", (8, 8), 90).save(memory, "TGA")
    assert pictures.decode(memory.getvalue(), pictures.Target(None, 3, True), "x.TGA").max() == 90
    for name in ("x.png", "x", ""):
        with pytest.raises(decoding.BROKEN, match="a known format"):
            pictures.decode(memory.getvalue(), pictures.Target(None, 3, True), name)


@pytest.mark.parametrize("archive", [False, True], ids=["folder", "zip"])
def test_other_files_are_counted_and_folders_without_images_are_named(
    archive: bool, classes: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in (
        "owl/1.heic",
        "owl/2.heic",
        "cat/notes.TXT",
        "cat/README",
        "emu/deep/1.svg",
        "empty/.hidden",
        "Thumbs.db",
    ):
        (classes / name).parent.mkdir(parents=True, exist_ok=True)
        (classes / name).write_bytes(b"?")
    path = zipped(classes) if archive else classes
    assert load(path).class_names == ("ant", "cat", "dog")
    said = capsys.readouterr().err.splitlines()
    assert said == [
        f"{path}: 5 files skipped (2 .heic, 1 .svg, 1 .txt, 1 without a suffix), no image in empty/, emu/, owl/"
    ]


def test_a_folder_of_images_alone_is_read_without_a_word(classes: Path, capsys: pytest.CaptureFixture[str]) -> None:
    load(classes)
    load(classes, 0)
    assert capsys.readouterr().err == ""


def test_many_suffixes_and_folders_make_one_short_line() -> None:
    entries = [f"f{number:03}/x.a{number:03}" for number in range(100)] + ["cat/1.png"]
    images, note = formats.choose_images(entries)
    assert images == ["cat/1.png"]
    assert note == (
        "100 files skipped (1 .a000, 1 .a001, 1 .a002, 1 .a003, 1 .a004, 95 others), "
        "no image in f000/, f001/, f002/, f003/, f004/ and 95 more"
    )


def test_data_without_images_name_what_is_there(tmp_path: Path) -> None:
    (tmp_path / "cat").mkdir()
    for number in range(3):
        (tmp_path / "cat" / f"{number}.heic").write_bytes(b"?")
    with pytest.raises(UserError, match=r"holds no images \(3 files skipped \(3 \.heic\), no image in cat/\); name"):
        load(tmp_path)


def test_a_page_of_instructions_is_never_run(tmp_path: Path) -> None:
    page = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n"
    for name in ("page.eps", "page.png", "page.tga", "page.im"):
        (tmp_path / name).write_bytes(page)
    png(tmp_path / "a.png", np.zeros((4, 4, 3), np.uint8))
    with pytest.raises(UserError, match="3 images cannot be used") as error:
        load(tmp_path, size=(8,))
    assert "page.eps" not in str(error.value)
