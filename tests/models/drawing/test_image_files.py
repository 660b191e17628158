"""Image files and animations keep every pixel, grey images as grey, and are written whole or not at all."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from models.drawing import sheets
from models.drawing.image_files import PAGE, animate, replace_each, save_each, save_image
from models.errors import UserError
from tests.models.drawing.pictures import LONG_TITLE, enlarged, pixels, random_images


def read_frames(path: Path) -> tuple[list[np.ndarray], list[int], int]:
    """Return the pixels of each frame, its duration in milliseconds, and the loop count of an animation."""
    frames, durations = [], []
    with Image.open(path) as image:
        for k in range(getattr(image, "n_frames", 1)):
            image.seek(k)
            image.load()
            frames.append(pixels(image))
            durations.append(int(image.info["duration"]))
        return frames, durations, image.info["loop"]


@pytest.mark.parametrize("suffix", [".png", ".webp"])
@pytest.mark.parametrize("channels", [1, 3])
def test_saved_images_are_exact_and_grey_stays_grey(tmp_path: Path, suffix: str, channels: int) -> None:
    sheet = sheets.grid(random_images(4, channels, 8, 8), title="größe")
    save_image(sheet, tmp_path / f"größe{suffix}")
    with Image.open(tmp_path / f"größe{suffix}") as saved:
        shown = pixels(saved)
    assert np.array_equal(shown, pixels(sheet))
    assert channels == 3 or (shown == shown[:, :, :1]).all()


def test_each_image_has_its_own_file(tmp_path: Path) -> None:
    images = random_images(3, 1, 8, 8)
    save_each(images[:2], tmp_path / "new" / "folder", labels=torch.tensor([3, 10]))
    save_each(images[2:], tmp_path / "new" / "folder", labels=[0], first=2, class_names=["T-shirt/top"])
    folder = tmp_path / "new" / "folder"
    names = ["00000_label3.png", "00001_label10.png", "00002_label0_T-shirt-top.png"]
    assert sorted(file.name for file in folder.iterdir()) == names
    for name, image in zip(names, images, strict=True):
        with Image.open(folder / name) as saved:
            assert saved.mode == "L" and np.array_equal(np.asarray(saved), image[0].numpy())
    save_each(random_images(1, 3, 20, 36), tmp_path)
    with Image.open(tmp_path / "00000.png") as saved:
        assert np.array_equal(pixels(saved), enlarged(random_images(1, 3, 20, 36)[0], 1))


def test_images_of_an_earlier_call_are_replaced_and_other_files_stay(tmp_path: Path) -> None:
    replace_each(random_images(3, 1, 8, 8), tmp_path, [0, 1, 2], [])
    (tmp_path / "grid.png").write_text("a sheet")
    replace_each(random_images(1, 1, 8, 8), tmp_path, [5], [])
    assert sorted(file.name for file in tmp_path.iterdir()) == ["00000_label5.png", "grid.png"]


def test_a_failed_write_leaves_the_old_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: Image.Image, file: Path, **options: object) -> None:
        file.write_bytes(b"half")
        raise OSError("No space left on device")

    old = sheets.grid(random_images(1, 1, 8, 8))
    save_image(old, tmp_path / "a.png")
    before = (tmp_path / "a.png").read_bytes()
    monkeypatch.setattr(Image.Image, "save", fail)
    with pytest.raises(OSError, match="No space"):
        save_image(old, tmp_path / "a.png")
    with pytest.raises(OSError, match="No space"):
        animate([old], tmp_path / "a.gif")
    assert [file.name for file in tmp_path.iterdir()] == ["a.png"]
    assert (tmp_path / "a.png").read_bytes() == before


def test_unknown_formats_are_reported(tmp_path: Path) -> None:
    sheet = sheets.grid(random_images(1, 1, 8, 8))
    with pytest.raises(UserError, match=r"a\.bmp.*\.png"):
        save_image(sheet, tmp_path / "a.bmp")
    with pytest.raises(UserError, match=r"film\.mp4.*\.webp"):
        animate([sheet], tmp_path / "film.mp4")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("suffix", [".gif", ".webp"])
@pytest.mark.parametrize("channels", [1, 3])
def test_grey_animations(tmp_path: Path, suffix: str, channels: int) -> None:
    """Every frame is exact, grey and has its duration, also if grey images have three channels."""
    images = [random_images(12, 1, 8, 8)[4 * k : 4 * k + 4].expand(-1, channels, -1, -1) for k in range(3)]
    pages = [sheets.grid(batch, title=f"t = {k}") for k, batch in enumerate(images)]
    animate(pages, tmp_path / f"film{suffix}", fps=5, hold_last=1.5)
    frames, durations, loop = read_frames(tmp_path / f"film{suffix}")
    assert durations == [200, 200, 1500] and loop == 0
    for frame, sheet in zip(frames, pages, strict=True):
        assert np.array_equal(frame, pixels(sheet))


def test_coloured_webp_is_exact(tmp_path: Path) -> None:
    images = [random_images(6, 3, 20, 36)[:3], random_images(6, 3, 20, 36)[3:]]
    animate([sheets.grid(batch) for batch in images], tmp_path / "film.webp", fps=12)
    frames, durations, _ = read_frames(tmp_path / "film.webp")
    assert durations == [80, 1500]
    for frame, batch in zip(frames, images, strict=True):
        assert np.array_equal(frame, pixels(sheets.grid(batch)))


def test_coloured_gif_keeps_greys_neutral(tmp_path: Path) -> None:
    """A sheet of colour noise and a grey ramp has an exact page, and the ramp is grey and close to its levels."""
    ramp = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16).expand(-1, 3, -1, -1)
    noise = random_images(3, 3, 16, 16)
    pages = [sheets.grid(torch.cat([ramp, image[None]]), padding=2, scale=4) for image in noise]
    animate(pages, tmp_path / "film.gif")
    frames, _, _ = read_frames(tmp_path / "film.gif")
    assert len(frames) == 3
    for frame, sheet in zip(frames, pages, strict=True):
        assert (frame[:2] == PAGE).all()
        shown, expected = frame[2:66, 2:66], pixels(sheet)[2:66, 2:66]
        assert abs(shown - expected).max() <= 4
        assert (shown == shown[:, :, :1]).all()


def test_frames_of_several_sizes_share_one_page(tmp_path: Path) -> None:
    images = random_images(4, 1, 8, 8)
    pages = [sheets.grid(images), sheets.grid(images, title=LONG_TITLE)]
    animate(pages, tmp_path / "film.webp")
    frames, _, _ = read_frames(tmp_path / "film.webp")
    small = pixels(pages[0])
    for frame in frames:
        assert frame.shape == pixels(pages[1]).shape
        assert np.array_equal(frame[-small.shape[0] :, : small.shape[1]], small)


@pytest.mark.parametrize("suffix", [".gif", ".webp"])
def test_one_frame(tmp_path: Path, suffix: str) -> None:
    animate([sheets.grid(random_images(1, 1, 8, 8))], tmp_path / f"film{suffix}")
    with Image.open(tmp_path / f"film{suffix}") as image:
        assert np.array_equal(pixels(image), pixels(sheets.grid(random_images(1, 1, 8, 8))))


@pytest.mark.parametrize(("name", "longest"), [("film.webp", 16383), ("film.gif", 65535)])
def test_the_longest_frames_of_each_format_are_written(tmp_path: Path, name: str, longest: int) -> None:
    animate([Image.new("L", (longest, 1))], tmp_path / name)
    with Image.open(tmp_path / name) as image:
        assert image.size == (longest, 1)


def test_impossible_animations_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="more than 0"):
        animate([sheets.grid(random_images(1, 1, 8, 8))], tmp_path / "film.gif", fps=0)
    for name, longest in (("film.webp", 16383), ("film.gif", 65535)):
        with pytest.raises(UserError, match="too large"):
            animate([Image.new("L", (longest + 1, 1))], tmp_path / name)
    with pytest.raises(ValueError, match="at least one frame"):
        animate([], tmp_path / "film.webp")
    assert not list(tmp_path.iterdir())
