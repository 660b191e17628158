"""Pictures show every pixel where it belongs, grey as grey, and every word of their titles."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from models.drawing import pictures
from models.errors import UserError

LONG_TITLE = "20260208_143052-ddpm-mnist · step 12,000 · DDIM, 50 NFE · guidance 1.5 · EMA weights"


def random_images(*shape: int) -> Tensor:
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def pixels(image: Image.Image) -> np.ndarray:
    """(H, W, 3), whatever the mode."""
    return np.asarray(image.convert("RGB")).astype(int)


def enlarged(image: Tensor, scale: int) -> np.ndarray:
    """(C, H, W) as the (H * scale, W * scale, 3) that a sheet must show."""
    large = np.kron(image.numpy(), np.ones((1, scale, scale), np.uint8))
    return np.broadcast_to(large, (3, *large.shape[1:])).transpose(1, 2, 0).astype(int)


def read_frames(path: Path) -> tuple[list[np.ndarray], list[int], int]:
    """(pixels of each frame, milliseconds of each frame, loop count) of an animation."""
    frames, durations = [], []
    with Image.open(path) as image:
        for k in range(getattr(image, "n_frames", 1)):
            image.seek(k)
            image.load()
            frames.append(pixels(image))
            durations.append(int(image.info["duration"]))
        return frames, durations, image.info["loop"]


@pytest.mark.parametrize("shape", [(7, 1, 8, 8), (7, 3, 28, 28), (1, 1, 20, 36), (6, 3, 36, 20), (5, 1, 1, 1)])
@pytest.mark.parametrize("scale", [1, 3])
@pytest.mark.parametrize("padding", [0, 2])
def test_every_pixel_of_a_sheet(shape: tuple[int, int, int, int], scale: int, padding: int) -> None:
    images = random_images(*shape)
    height, width = shape[2] * scale, shape[3] * scale
    sheet = pictures.grid(images, columns=3, padding=padding, scale=scale)
    rows = -(-shape[0] // 3)
    assert sheet.mode == ("L" if shape[1] == 1 else "RGB")
    assert sheet.size == (padding + 3 * (width + padding), padding + rows * (height + padding))
    expected = np.full((sheet.height, sheet.width, 3), pictures.PAGE)
    for k, image in enumerate(images):
        x, y = padding + k % 3 * (width + padding), padding + k // 3 * (height + padding)
        expected[y : y + height, x : x + width] = enlarged(image, scale)
    assert np.array_equal(pixels(sheet), expected)


@pytest.mark.parametrize(("side", "shown"), [(8, 64), (28, 56), (32, 64), (64, 64), (256, 256)])
def test_small_images_are_enlarged(side: int, shown: int) -> None:
    assert pictures.grid(random_images(1, 1, side, side), padding=0).size == (shown, shown)


def test_a_sheet_of_very_many_images_is_not_enlarged_without_bound() -> None:
    assert max(pictures.grid(random_images(10_000, 1, 28, 28), padding=0).size) <= pictures.LONGEST_SHEET


@pytest.mark.parametrize(("count", "columns"), [(1, 1), (2, 2), (3, 3), (7, 3), (10, 5), (20, 5), (64, 8), (200, 20)])
def test_columns_by_default(count: int, columns: int) -> None:
    assert pictures.grid(random_images(count, 1, 4, 4), padding=0, scale=1).width == 4 * columns


def test_titles_leave_the_images_alone() -> None:
    images = random_images(6, 3, 28, 28)
    plain = pictures.grid(images, columns=3)
    titled = pictures.grid(
        images, title="EMA weights", column_titles=["a", "1 2", "größe"], row_titles=["T-shirt", "σ = 0.5"]
    )
    left = titled.width - plain.width
    assert np.array_equal(pixels(titled)[-plain.height :, left:], pixels(plain))


@pytest.mark.parametrize("side", [1, 28, 300])
def test_long_titles_wrap_inside_the_page(side: int) -> None:
    title = f"{LONG_TITLE} · {'x' * 200}\nsecond line"
    sheet = pictures.grid(random_images(1, 1, side, side), title=title)
    shown = pixels(sheet)[: -side * max(1, round(60 / side)) - 4]
    assert (shown[:, -3:] == pictures.PAGE).all() and (shown[-3:] == pictures.PAGE).all()
    lines = pictures._heading(title, side).lines
    assert "".join("".join(lines).split()) == "".join(title.split())
    assert lines[-1] == "second line"


def test_wrapped_titles_are_balanced() -> None:
    lines = pictures._heading(LONG_TITLE, 400).lines
    assert len(lines) == 2 and len(lines[1]) > 30
    assert not lines[1].startswith("·")


def test_long_column_and_row_titles_are_whole() -> None:
    images = random_images(2, 1, 28, 8)
    sheet = pictures.grid(images, scale=1, column_titles=["automobile", "b"], row_titles=["many words " * 20])
    plain = pictures.grid(images, scale=1, column_titles=["b", "b"], row_titles=["c"])
    assert sheet.width > plain.width and sheet.height > 28 * 3
    shown = pixels(sheet)
    assert (shown[0] == pictures.PAGE).all() and (shown[-1] == pictures.PAGE).all()


def test_titles_speak_more_than_ascii() -> None:
    missing = pixels(pictures.grid(random_images(1, 1, 8, 8), title="\U0010ffff"))
    drawn = [pixels(pictures.grid(random_images(1, 1, 8, 8), title=letter)) for letter in "ßéłσЖ→×"]
    for one in drawn:
        assert one.shape != missing.shape or (one != missing).any()
    assert len({one.tobytes() for one in drawn}) == len(drawn)


def test_grey_titles_are_grey() -> None:
    shown = pixels(pictures.grid(random_images(2, 1, 8, 8).expand(-1, 3, -1, -1), title=LONG_TITLE))
    assert (shown == shown[:, :, :1]).all() and shown.min() < 64


@pytest.mark.parametrize(
    "images",
    [torch.zeros(2, 1, 8, 8), random_images(2, 4, 8, 8), random_images(1, 8, 8), random_images(0, 1, 8, 8)],
)
def test_what_is_no_image_is_refused(images: Tensor) -> None:
    with pytest.raises(ValueError, match="uint8"):
        pictures.grid(images)


def test_titles_must_be_as_many_as_columns_and_rows() -> None:
    with pytest.raises(ValueError, match="titles"):
        pictures.grid(random_images(4, 1, 8, 8), columns=2, column_titles=["a", "b", "c"])
    with pytest.raises(ValueError, match="titles"):
        pictures.grid(random_images(4, 1, 8, 8), columns=2, row_titles=["a"])
    with pytest.raises(ValueError, match="captions"):
        pictures.strip([random_images(4, 1, 8, 8)], ["a", "b"])


@pytest.mark.parametrize("channels", [1, 3])
def test_a_strip_has_images_in_rows_and_times_in_columns(channels: int) -> None:
    frames = [random_images(12, channels, 20, 36)[4 * k : 4 * k + 4] for k in range(3)]
    shown = pixels(pictures.strip(frames, ["t = 1", "t = 0.5", "t = 0"], padding=2, scale=2, title="denoising"))
    for time, frame in enumerate(frames):
        for row, image in enumerate(frame):
            y, x = shown.shape[0] - (4 - row) * 42, 2 + time * 74
            assert np.array_equal(shown[y : y + 40, x : x + 72], enlarged(image, 2))
    assert shown.shape[1] == 2 + 3 * 74


@pytest.mark.parametrize("suffix", [".png", ".webp"])
@pytest.mark.parametrize("channels", [1, 3])
def test_saved_images_are_exact_and_grey_stays_grey(tmp_path: Path, suffix: str, channels: int) -> None:
    sheet = pictures.grid(random_images(4, channels, 8, 8), title="größe")
    pictures.save_image(sheet, tmp_path / f"größe{suffix}")
    with Image.open(tmp_path / f"größe{suffix}") as saved:
        shown = pixels(saved)
    assert np.array_equal(shown, pixels(sheet))
    assert channels == 3 or (shown == shown[:, :, :1]).all()


def test_single_images(tmp_path: Path) -> None:
    images = random_images(3, 1, 8, 8)
    pictures.save_each(images[:2], tmp_path / "new" / "folder", labels=torch.tensor([3, 10]))
    pictures.save_each(images[2:], tmp_path / "new" / "folder", labels=[0], first=2)
    folder = tmp_path / "new" / "folder"
    names = ["00000_label3.png", "00001_label10.png", "00002_label0.png"]
    assert sorted(file.name for file in folder.iterdir()) == names
    for name, image in zip(names, images, strict=True):
        with Image.open(folder / name) as saved:
            assert saved.mode == "L" and np.array_equal(np.asarray(saved), image[0].numpy())
    pictures.save_each(random_images(1, 3, 20, 36), tmp_path)
    with Image.open(tmp_path / "00000.png") as saved:
        assert np.array_equal(pixels(saved), enlarged(random_images(1, 3, 20, 36)[0], 1))


def test_a_failed_write_leaves_the_old_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: Image.Image, file: Path, **options: object) -> None:
        file.write_bytes(b"half")
        raise OSError("No space left on device")

    old = pictures.grid(random_images(1, 1, 8, 8))
    pictures.save_image(old, tmp_path / "a.png")
    before = (tmp_path / "a.png").read_bytes()
    monkeypatch.setattr(Image.Image, "save", fail)
    with pytest.raises(OSError, match="No space"):
        pictures.save_image(old, tmp_path / "a.png")
    with pytest.raises(OSError, match="No space"):
        pictures.animate([old], tmp_path / "a.gif")
    assert [file.name for file in tmp_path.iterdir()] == ["a.png"]
    assert (tmp_path / "a.png").read_bytes() == before


def test_unknown_formats_are_the_users_mistake(tmp_path: Path) -> None:
    sheet = pictures.grid(random_images(1, 1, 8, 8))
    with pytest.raises(UserError, match=r"a\.bmp.*\.png"):
        pictures.save_image(sheet, tmp_path / "a.bmp")
    with pytest.raises(UserError, match=r"film\.mp4.*\.webp"):
        pictures.animate([sheet], tmp_path / "film.mp4")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("suffix", [".gif", ".webp"])
@pytest.mark.parametrize("channels", [1, 3])
def test_grey_animations(tmp_path: Path, suffix: str, channels: int) -> None:
    """Every frame at its time, exact and grey, also where grey images come with three channels."""
    images = [random_images(12, 1, 8, 8)[4 * k : 4 * k + 4].expand(-1, channels, -1, -1) for k in range(3)]
    sheets = [pictures.grid(one, title=f"t = {k}") for k, one in enumerate(images)]
    pictures.animate(sheets, tmp_path / f"film{suffix}", fps=5, hold_last=1.5)
    frames, durations, loop = read_frames(tmp_path / f"film{suffix}")
    assert durations == [200, 200, 1500] and loop == 0
    for frame, sheet in zip(frames, sheets, strict=True):
        assert np.array_equal(frame, pixels(sheet))


def test_coloured_webp_is_exact(tmp_path: Path) -> None:
    images = [random_images(6, 3, 20, 36)[:3], random_images(6, 3, 20, 36)[3:]]
    pictures.animate(images, tmp_path / "film.webp", fps=12)
    frames, durations, _ = read_frames(tmp_path / "film.webp")
    assert durations == [80, 1500]
    for frame, one in zip(frames, images, strict=True):
        assert np.array_equal(frame, pixels(pictures.grid(one)))


def test_coloured_gif_keeps_greys_neutral(tmp_path: Path) -> None:
    """A sheet of colour noise and a grey ramp: the page is exact, the ramp grey and near its levels."""
    ramp = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16).expand(-1, 3, -1, -1)
    noise = random_images(3, 3, 16, 16)
    sheets = [pictures.grid(torch.cat([ramp, one[None]]), padding=2, scale=4) for one in noise]
    pictures.animate(sheets, tmp_path / "film.gif")
    frames, _, _ = read_frames(tmp_path / "film.gif")
    assert len(frames) == 3
    for frame, sheet in zip(frames, sheets, strict=True):
        assert (frame[:2] == pictures.PAGE).all()
        shown, expected = frame[2:66, 2:66], pixels(sheet)[2:66, 2:66]
        assert abs(shown - expected).max() <= 4
        assert (shown == shown[:, :, :1]).all()


def test_frames_of_several_sizes_share_one_page(tmp_path: Path) -> None:
    images = random_images(4, 1, 8, 8)
    sheets = [pictures.grid(images), pictures.grid(images, title=LONG_TITLE)]
    pictures.animate(sheets, tmp_path / "film.webp")
    frames, _, _ = read_frames(tmp_path / "film.webp")
    small = pixels(sheets[0])
    for frame in frames:
        assert frame.shape == pixels(sheets[1]).shape
        assert np.array_equal(frame[-small.shape[0] :, : small.shape[1]], small)


@pytest.mark.parametrize("suffix", [".gif", ".webp"])
def test_one_frame(tmp_path: Path, suffix: str) -> None:
    pictures.animate([random_images(1, 1, 8, 8)], tmp_path / f"film{suffix}")
    with Image.open(tmp_path / f"film{suffix}") as image:
        assert np.array_equal(pixels(image), pixels(pictures.grid(random_images(1, 1, 8, 8))))


def test_animations_that_cannot_be(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="more than 0"):
        pictures.animate([random_images(1, 1, 8, 8)], tmp_path / "film.gif", fps=0)
    with pytest.raises(UserError, match="too large"):
        pictures.animate([Image.new("L", (16384, 1))], tmp_path / "film.webp")
    with pytest.raises(ValueError, match="at least one frame"):
        pictures.animate([], tmp_path / "film.webp")
    assert not list(tmp_path.iterdir())


def test_importing_is_cheap() -> None:
    code = "import sys, models.pictures, models.plots; print({'torch', 'matplotlib'} & set(sys.modules))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "set()"
