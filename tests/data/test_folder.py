"""Images of one's own: layouts, splits, classes, sizes, colours, and files that are damaged or hostile."""

from __future__ import annotations

import io
import struct
import tracemalloc
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from data import DataError
from data.folder import Folder, _fraction, _hold_out
from data.sources import pictures, trees


def png(path: Path, value: int | np.ndarray, size: tuple[int, int] = (6, 5), **kwargs: Any) -> None:
    """A PNG of (height, width) filled with one value, or of the array."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.full((*size, 3), value, np.uint8) if isinstance(value, int) else value
    Image.fromarray(pixels).save(path, **kwargs)


def zipped(folder: Path, prefix: str = "") -> Path:
    path = folder.with_name(f"{folder.name}.zip")
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(folder.rglob("*"), reverse=True):
            archive.write(file, f"{prefix}{file.relative_to(folder)}")
    return path


def load(path: Path, **options: Any) -> Any:
    return Folder(path=str(path), **options).load(Path("/nonexistent"))


def values(split: Any) -> list[int]:
    return split.images[:, 0, 0, 0].tolist()


@pytest.fixture
def classes(tmp_path: Path) -> Path:
    """dog, cat and ant with ten images each, of values 0.., 100.., 200.. ."""
    for first, name in ((0, "dog"), (100, "cat"), (200, "ant")):
        for number in range(10):
            png(tmp_path / "mine" / name / f"{number}.png", first + number)
    return tmp_path / "mine"


@pytest.mark.parametrize("kind", ["folder", "zip", "zip around a folder"])
def test_class_folders(kind: str, classes: Path) -> None:
    path = classes if kind == "folder" else zipped(classes, "" if kind == "zip" else "outer/mine/")
    loaded = load(path)
    assert loaded.name == "folder" and loaded.class_names == ("ant", "cat", "dog") and loaded.flips is False
    assert loaded.train.images.shape[1:] == (3, 6, 5) and loaded.train.images.dtype == torch.uint8
    both = values(loaded.train) + values(loaded.test)
    assert sorted(both) == sorted([*range(10), *range(100, 110), *range(200, 210)])
    labels = loaded.train.labels.tolist() + loaded.test.labels.tolist()
    assert labels == [2 - value // 100 for value in both]
    reference = load(classes)
    assert values(loaded.test) == values(reference.test) and values(loaded.train) == values(reference.train)


@pytest.mark.parametrize("kind", ["folder", "zip", "zip around a folder"])
def test_plain_images_are_unlabelled(kind: str, tmp_path: Path) -> None:
    for number in range(20):
        png(tmp_path / "plain" / f"{number:02}.png", number)
    path = tmp_path / "plain"
    if kind != "folder":
        path = zipped(path, "" if kind == "zip" else "plain/")
    loaded = load(path)
    assert loaded.class_names == ()
    assert sorted(values(loaded.train) + values(loaded.test)) == list(range(20))
    assert not loaded.train.labels.any() and loaded.train.labels.dtype == torch.int64


@pytest.mark.parametrize("test_name", ["test", "val"])
@pytest.mark.parametrize("kind", ["folder", "zip"])
def test_official_splits_are_used(test_name: str, kind: str, tmp_path: Path) -> None:
    root = tmp_path / "mine"
    png(root / "train" / "b" / "1.png", 1)
    png(root / "train" / "a" / "deeper" / "2.png", 2)
    png(root / test_name / "b" / "3.png", 3)
    loaded = load(zipped(root) if kind == "zip" else root)
    assert loaded.class_names == ("a", "b")
    assert (values(loaded.train), loaded.train.labels.tolist()) == ([2, 1], [0, 1])
    assert (values(loaded.test), loaded.test.labels.tolist()) == ([3], [1])


def test_unlabelled_official_splits(tmp_path: Path) -> None:
    png(tmp_path / "train" / "1.png", 1)
    png(tmp_path / "test" / "2.png", 2)
    loaded = load(tmp_path)
    assert loaded.class_names == () and values(loaded.train) == [1] and values(loaded.test) == [2]


def test_test_images_elsewhere(classes: Path, tmp_path: Path) -> None:
    png(tmp_path / "other" / "test" / "cat" / "1.png", 7)
    loaded = load(classes, test_path=str(tmp_path / "other"))
    assert len(loaded.train) == 30 and values(loaded.test) == [7] and loaded.test.labels.tolist() == [1]


def test_a_folder_called_train_may_be_a_class(tmp_path: Path) -> None:
    for number in range(4):
        png(tmp_path / "train" / f"{number}.png", number)
        png(tmp_path / "plane" / f"{number}.png", number)
    assert load(tmp_path).class_names == ("plane", "train")


def test_hidden_and_other_files_are_passed_over(classes: Path) -> None:
    png(classes / ".cache" / "1.png", 1)
    png(classes / "__MACOSX" / "cat" / "1.png", 1)
    (classes / "cat" / "._1.png").write_bytes(b"resource fork")
    (classes / "README.txt").write_text("about")
    assert load(classes).class_names == ("ant", "cat", "dog")
    assert load(zipped(classes)).class_names == ("ant", "cat", "dog")


class Names(trees.Tree):
    def read(self, name: str) -> bytes:
        raise NotImplementedError


NAMES = st.sets(st.text("abc0123.", min_size=1, max_size=6), min_size=2, max_size=30)


@settings(deadline=None, max_examples=100)
@given(names=NAMES, others=NAMES, share=st.floats(0.01, 0.99))
def test_held_out_images_stay_held_out_when_others_come(names: set[str], others: set[str], share: float) -> None:
    train, test = _hold_out(Names(Path("some"), list(names)), share)
    assert train and test and sorted(train + test) == sorted(names)
    more_train, more_test = _hold_out(Names(Path("some"), list(names | others)), share)
    natural = {name for name in names | others if _fraction(name) < share}
    if natural & names and names - natural:  # else one image stands in, so that neither split is empty
        assert set(test) == natural & names and set(more_test) == natural
        assert set(train) <= set(more_train)


def test_hold_out_share_and_stability(tmp_path: Path) -> None:
    fractions = [_fraction(f"cat/{number}.png") for number in range(20000)]
    assert abs(np.mean(fractions) - 0.5) < 0.01 and abs(np.mean(np.array(fractions) < 0.1) - 0.1) < 0.01
    for number in range(60):
        png(tmp_path / f"{number:03}.png", number)
    before = load(tmp_path, test_share=0.3)
    for number in range(60, 120):
        png(tmp_path / f"{number:03}.png", number)
    after = load(tmp_path, test_share=0.3)
    assert set(values(before.test)) == {value for value in values(after.test) if value < 60}


@pytest.mark.parametrize("share", [1e-9, 1 - 1e-9])
def test_neither_split_is_empty(share: float, tmp_path: Path) -> None:
    png(tmp_path / "1.png", 1)
    png(tmp_path / "2.png", 2)
    loaded = load(tmp_path, test_share=share)
    assert len(loaded.train) == len(loaded.test) == 1


def test_relative_paths_are_found_here_or_in_the_data_root(
    classes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert len(Folder(path="mine").load(tmp_path).train) > 0
    monkeypatch.chdir(tmp_path)
    assert len(Folder(path="mine").load(Path("/nonexistent")).train) > 0
    with pytest.raises(DataError, match=r"yours is neither in .* nor in /data"):
        Folder(path="yours").load(Path("/data"))


def test_links_are_followed_but_not_round_in_circles(classes: Path, tmp_path: Path) -> None:
    linked = tmp_path / "linked"
    linked.mkdir()
    for name in ("ant", "cat"):
        (linked / name).symlink_to(classes / name)
    (linked / "cat" / "circle").symlink_to(linked)
    loaded = load(linked)
    assert loaded.class_names == ("ant", "cat") and len(loaded.train) + len(loaded.test) == 20


# Sizes and colours


def decode(image: Image.Image, **options: Any) -> np.ndarray:
    memory = io.BytesIO()
    image.save(memory, options.pop("format", "PNG"), **options.pop("save", {}))
    target = pictures.Target(options.pop("size", None), options.pop("channels", 3), options.pop("crop", True))
    return pictures.decode(memory.getvalue(), target)


@pytest.mark.parametrize("size", [(8, 8), (28, 28), (32, 32), (20, 36), (36, 20)])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("crop", [True, False])
def test_any_size(size: tuple[int, int], channels: int, crop: bool) -> None:
    for source in ((50, 31), (7, 64), (20, 36)):
        image = decode(Image.new("RGB", source, (200, 200, 200)), size=size, channels=channels, crop=crop)
        assert image.shape == (channels, *size) and image.dtype == np.uint8 and (image == 200).all()


def test_crop_keeps_the_centre_and_squeezing_keeps_everything() -> None:
    pixels = np.zeros((40, 80, 3), np.uint8)
    pixels[:, 20:60] = 255
    image = Image.fromarray(pixels)
    cut = decode(image, size=(10, 10), crop=True)  # the filter sees a little beyond the edges
    assert (cut > 230).all() and (cut[:, :, 1:-1] > 250).all()
    squeezed = decode(image, size=(10, 10), crop=False)[0].astype(int)
    assert (squeezed[:, 0] < 20).all() and (squeezed[:, 4:6] > 235).all() and (squeezed[:, -1] < 20).all()


def test_own_size_changes_no_pixel() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (9, 13, 3)).astype(np.uint8)
    assert np.array_equal(decode(Image.fromarray(pixels)).transpose(1, 2, 0), pixels)
    assert np.array_equal(decode(Image.fromarray(pixels), size=(9, 13)).transpose(1, 2, 0), pixels)


def test_shrinking_is_antialiased() -> None:
    board = (np.indices((64, 64)).sum(0) % 2 * 255).astype(np.uint8)
    small = decode(Image.fromarray(board), size=(8, 8), channels=1).astype(int)
    assert (abs(small - 127.5) < 4).all()


def test_a_large_jpeg_decoded_small_looks_like_one_decoded_whole() -> None:
    random = np.random.default_rng(0)
    smooth = Image.fromarray(random.integers(0, 256, (12, 9, 3)).astype(np.uint8)).resize((900, 1200))
    quick = decode(smooth, format="JPEG", save={"quality": 95}, size=(32, 24)).astype(float)
    whole = decode(smooth, size=(32, 24)).astype(float)
    assert abs(quick - whole).mean() < 2


def test_colours() -> None:
    red = Image.new("RGB", (2, 2), (255, 0, 0))
    assert decode(red)[:, 0, 0].tolist() == [255, 0, 0]
    assert decode(red, channels=1).shape == (1, 2, 2) and decode(red, channels=1)[0, 0, 0] == 76  # ITU-R 601
    assert decode(Image.new("L", (2, 2), 9))[:, 0, 0].tolist() == [9, 9, 9]
    assert decode(Image.new("1", (2, 2), 1), channels=1)[0, 0, 0] == 255
    assert decode(Image.new("RGBA", (2, 2), (0, 0, 0, 0)))[:, 0, 0].tolist() == [255, 255, 255]
    assert decode(Image.new("LA", (2, 2), (0, 0)), channels=1)[0, 0, 0] == 255
    half = decode(Image.new("RGBA", (2, 2), (255, 0, 0, 128)))[:, 0, 0].tolist()
    assert half[0] == 255 and abs(half[1] - 127) <= 1
    palette = Image.new("P", (2, 2), 0)
    palette.putpalette([10, 20, 30])
    assert decode(palette)[:, 0, 0].tolist() == [10, 20, 30]
    cmyk = decode(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), format="JPEG")
    assert abs(cmyk[:, 4, 4].astype(int) - [255, 0, 0]).max() < 10


def test_sixteen_bits_are_scaled_not_clipped() -> None:
    deep = Image.fromarray(np.array([[0, 257, 32896, 65535]], np.uint16))
    assert decode(deep, channels=1)[0, 0].tolist() == [0, 1, 128, 255]


def test_exif_orientation_is_applied() -> None:
    pixels = np.zeros((16, 32, 3), np.uint8)
    pixels[:8, :16] = 255  # top left
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise by a quarter
    turned = decode(Image.fromarray(pixels), format="JPEG", save={"exif": exif, "quality": 95})
    assert turned.shape == (3, 32, 16)
    assert turned[0, 4, 12] > 200 and turned[0, 4, 4] < 50 and turned[0, 28, 12] < 50


def test_of_a_film_the_first_frame(tmp_path: Path) -> None:
    frames = [Image.new("L", (4, 4), value) for value in (50, 200)]
    frames[0].save(tmp_path / "film.gif", save_all=True, append_images=frames[1:])
    stored = (tmp_path / "film.gif").read_bytes()
    assert pictures.decode(stored, pictures.Target(None, 1, True))[0, 0, 0] == 50


# Mistakes


def refused(path: Path, **options: Any) -> str:
    with pytest.raises(DataError) as error:
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
    assert "3 images" in message


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
        except DataError as error:
            assert "bad.png" in str(error) and "good.png" not in str(error)


def test_images_of_different_size_are_named(classes: Path) -> None:
    png(classes / "cat" / "wide.png", 1, size=(6, 50))
    assert "cat/wide.png (6×50" in (message := refused(classes, test_share=1e-9))
    assert "--dataset.size" in message
    assert load(classes, size=(6,)).train.images.shape[1:] == (3, 6, 6)


def test_splits_of_different_size(tmp_path: Path) -> None:
    png(tmp_path / "train" / "1.png", 1, size=(6, 6))
    png(tmp_path / "test" / "1.png", 1, size=(8, 6))
    assert "test/1.png (8×6" in (message := refused(tmp_path)) and "train/1.png is 6×6" in message
    message = refused(tmp_path / "train", test_path=str(tmp_path / "test"))
    assert "train are 6×6" in message and "test 8×6: choose a --dataset.size" in message


def test_layouts_that_mean_nothing(classes: Path, tmp_path: Path) -> None:
    png(classes / "beside.png", 1)
    assert "beside.png" in refused(classes)
    png(tmp_path / "other" / "train" / "cat" / "1.png", 1)
    png(tmp_path / "other" / "train" / "dog" / "1.png", 1)
    png(tmp_path / "other" / "test" / "cow" / "1.png", 1)
    assert "test/cow/1.png is in none of" in refused(tmp_path / "other")
    png(tmp_path / "other" / "extra" / "1.png", 1)
    assert "also extra" in refused(tmp_path / "other")


def test_nothing_there(tmp_path: Path) -> None:
    assert "does not exist" in refused(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    assert "holds no images" in refused(tmp_path / "empty")
    (tmp_path / "text.zip").write_text("not a zip")
    assert "as a zip archive" in refused(tmp_path / "text.zip")
    png(tmp_path / "one" / "1.png", 1)
    assert "holds one image" in refused(tmp_path / "one")
    with pytest.raises(DataError, match=r"needs --dataset\.path"):
        Folder().load(tmp_path)


@pytest.mark.parametrize(
    "options",
    [{"size": (0,)}, {"size": (8, 8, 8)}, {"size": (5000,)}, {"channels": 2}, {"test_share": 0.0}, {"test_share": 1.0}],
    ids=str,
)
def test_bad_options_are_refused_before_anything_is_read(options: dict[str, Any]) -> None:
    name = next(iter(options))
    with pytest.raises(DataError, match=rf"--dataset\.{name}"):
        Folder(**options)


def test_more_than_the_memory_holds(classes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import psutil

    class Free:
        available = 1000

    monkeypatch.setattr(psutil, "virtual_memory", Free)
    assert "choose a smaller --dataset.size" in refused(classes, size=(64,))


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
    assert "page.png (cannot identify image file" in refused(tmp_path, size=(8,))


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
    monkeypatch.setattr(trees, "MAX_FILE_BYTES", 1 << 20)
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
    loaded = Folder(path=path.name, test_share=0.2).load(real_root)
    assert loaded.class_names[:3] == ("airplane", "automobile", "bird") and len(loaded.class_names) == 10
    assert loaded.train.images.shape[1:] == (3, 32, 32)
    assert len(loaded.train) + len(loaded.test) == 10000 and abs(len(loaded.test) - 2000) < 200
    everything = torch.cat([loaded.train.images, loaded.test.images]).float() / 255
    # The widely published means and deviations of CIFAR-10's test images, but for JPEG's losses.
    means, deviations = everything.mean((0, 2, 3)), everything.std((0, 2, 3))
    assert torch.allclose(means, torch.tensor([0.4942, 0.4851, 0.4504]), atol=0.003)
    assert torch.allclose(deviations, torch.tensor([0.2467, 0.2429, 0.2616]), atol=0.006)
