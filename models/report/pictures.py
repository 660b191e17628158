"""Pictures of a run, copied into its page's folder within a limit of bytes."""

import os
import re
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from io import BytesIO
from pathlib import Path

from PIL import Image

from models.runs.files import replacing

PNG = b"\x89PNG\r\n\x1a\n"
MOST_BYTES = 2_400_000  # Limit for all pictures of one page.
LARGE_BYTES, SMALLER = 200_000, (1600, 700)  # Larger files are reduced: their longer side gets one of these lengths.
LARGE_FRAME, LARGE_SHEET = 30_000, 60_000  # As LARGE_BYTES, for frames and for sheets, of which a page has many.
MOST_SHEETS, FEWEST_SHEETS, SHEET_BYTES = 24, 4, 600_000  # Limits of the number of training sheets and of their bytes.
THUMBNAIL = (4, 2)  # Columns and rows.
THUMBNAIL_SIDE, SHEET_WIDTH = 64, 200  # Pixels. Longest side of an image in a thumbnail, and of a shrunk sheet.
FRAME_NAME = re.compile(r"\d+_t([0-9.]+)\.png")
SHEET_NAME = re.compile(r"step_(\d+)\.png")


@dataclass(frozen=True)
class Picture:
    """A picture of a page.

    source: file name in the page's folder. path: the file in the run. label: position in a series, or title. reduced:
    whether the page shows a smaller version of the file.
    """

    source: str
    width: int
    height: int
    path: Path
    label: str = ""
    reduced: bool = False


@dataclass
class Album:
    """The pictures of one page. missing: lines about pictures that are not shown, and why."""

    run: Path
    folder: Path
    used: int = 0
    missing: list[str] = field(default_factory=list)
    names: set[str] = field(default_factory=set)

    def add(self, path: Path, label: str = "", large: int = LARGE_BYTES) -> Picture | None:
        """Copy a PNG of the run into the page's folder. Return None if it is missing or damaged.

        Also return None if the page would exceed MOST_BYTES. large: size in bytes above which a file is reduced.
        """
        shown = path.relative_to(self.run).as_posix()
        try:
            stat = path.stat()
            copy = self.folder / safe_name(shown.replace("/", "-"))
            if _is_copy(copy, stat) or _is_copy(copy := copy.with_suffix(".jpg"), stat):
                with Image.open(copy) as image:
                    width, height = image.size
            else:
                copy, width, height = self._copy(path, copy.with_suffix(".png"), stat, large)
            size = copy.stat().st_size
            if copy.name not in self.names and self.used + size > MOST_BYTES:
                self.missing.append(f"{shown}: the page would become too large")
                return None
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            if not isinstance(error, FileNotFoundError):
                self.missing.append(f"{shown}: {error}")
            return None
        self.used += size if copy.name not in self.names else 0
        self.names.add(copy.name)
        return Picture(copy.name, width, height, path, label, copy.suffix == ".jpg")

    def size_of(self, picture: Picture) -> int:
        """Return the size of a picture of the page in bytes."""
        return (self.folder / picture.source).stat().st_size

    def add_all(self, paths: Sequence[Path], labels: Sequence[str] = (), large: int = LARGE_BYTES) -> list[Picture]:
        """Copy several PNGs and return those that can be shown. large: as for `add`."""
        labels = labels or [path.stem.replace("_", " ") for path in paths]
        pictures = (self.add(path, label, large) for path, label in zip(paths, labels, strict=True))
        return [picture for picture in pictures if picture is not None]

    def _copy(self, path: Path, copy: Path, stat: os.stat_result, large: int) -> tuple[Path, int, int]:
        """Return the file that was written, with its width and height."""
        content = path.read_bytes()
        _check_png(content)
        if len(content) > large:
            copy.unlink(missing_ok=True)
            copy = copy.with_suffix(".jpg")
        with Image.open(BytesIO(content)) as image, replacing(copy, flush=False) as temporary:
            width, height = image.size
            if copy.suffix == ".png":
                temporary.write_bytes(content)
            else:
                width, height = _reduce(image, temporary, large)
        os.utime(copy, ns=(stat.st_mtime_ns, stat.st_mtime_ns))
        return copy, width, height

    def thumbnail(self) -> str | None:
        """Write the thumbnail of the run and return its name; None if no picture can be read."""
        singles = sorted((self.run / "final_samples").glob("[0-9]*.png"))[: THUMBNAIL[0] * THUMBNAIL[1]]
        sheets = [*sheets_of(self.run)[-1:], *self.run.glob("latent_space/reconstructions.png")]
        for sources in ([singles] if singles else []) + [[sheet] for sheet in sheets]:
            try:
                return self._write_thumbnail(sources)
            except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
                self.missing.append(f"thumbnail of {sources[0].relative_to(self.run)}: {error}")
        return None

    def _write_thumbnail(self, sources: Sequence[Path]) -> str:
        path, stat = self.folder / "thumbnail.png", sources[0].stat()
        if not _is_copy(path, stat):
            image = _tiled(sources) if len(sources) > 1 else _shrunk(sources[0])
            with replacing(path, flush=False) as temporary:
                image.save(temporary, format="PNG")
            os.utime(path, ns=(stat.st_mtime_ns, stat.st_mtime_ns))
        self.names.add(path.name)
        return path.name


def sheets_of(run: Path, most: int = MOST_SHEETS) -> list[Path]:
    """Return the sheets that a run drew during training, in order; at most `most`, evenly spaced."""
    sheets = sorted(path for path in run.glob("epoch_samples/*.png") if SHEET_NAME.fullmatch(path.name))
    if len(sheets) <= most:
        return sheets
    return [sheets[round(k * (len(sheets) - 1) / (most - 1))] for k in range(most)]


def sheet_label(path: Path) -> str:
    """Return "step 1,200" for a sheet of the training."""
    match = SHEET_NAME.fullmatch(path.name)
    return f"step {int(match[1]):,}" if match else path.stem


def frames_of(folder: Path) -> list[tuple[str, Path]]:
    """Return the frames of the reverse process in a folder, each with its time, e.g. "t = 0.70"."""
    frames = ((FRAME_NAME.fullmatch(path.name), path) for path in sorted(folder.glob("*.png")))
    return [(f"t = {match[1]}", path) for match, path in frames if match]


def safe_name(text: str) -> str:
    """Return a file name of letters, digits, ".", "_" and "-" for any text. Different texts have different names."""
    if re.fullmatch(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,119}", text):
        return text
    stem, dot, suffix = text.rpartition(".")
    ending = f".{suffix}" if dot and re.fullmatch("[a-z]{1,4}", suffix) else ""
    plain = re.sub(r"[^A-Za-z0-9_-]+", "-", stem if ending else text).strip("-")[:90]
    return f"{plain or 'run'}-{sha256(text.encode(errors='surrogateescape')).hexdigest()[:8]}{ending}"


def _is_copy(copy: Path, stat: os.stat_result) -> bool:
    """Return whether `copy` was made from a picture with this `stat`: their modification times are then equal."""
    try:
        return copy.stat().st_mtime_ns == stat.st_mtime_ns
    except OSError:
        return False


def _check_png(content: bytes) -> None:
    """Raise ValueError if a PNG is cut short or damaged. Checking the checksums is faster than decoding."""
    position = len(PNG)
    if not content.startswith(PNG):
        raise ValueError("not a PNG file")
    while position + 12 <= len(content):
        length, kind = struct.unpack(">I4s", content[position : position + 8])
        end = position + 8 + length
        if zlib.crc32(content[position + 4 : end]) != int.from_bytes(content[end : end + 4]):
            break
        if kind == b"IEND":
            return
        position = end + 4
    raise ValueError("the file is cut short or damaged")


def _reduce(picture: Image.Image, path: Path, large: int) -> tuple[int, int]:
    """Write a picture as JPEG and return its width and height. Writing WebP would take ten times as long.

    The sizes in SMALLER are tried in turn, until the file has at most `large` bytes.
    """
    if picture.mode not in ("L", "RGB"):
        picture = picture.convert("L" if picture.mode == "1" else "RGB")
    for side in SMALLER:
        picture.thumbnail((side, side))
        picture.save(path, format="JPEG", quality=80)
        if path.stat().st_size <= large or max(picture.size) <= SMALLER[-1]:
            break
    return picture.size


def _tiled(paths: Sequence[Path]) -> Image.Image:
    """Return one picture of small images in rows. Images larger than THUMBNAIL_SIDE are reduced."""
    images = []
    for path in paths:
        with Image.open(path) as image:
            images.append(image.convert("RGB"))
        images[-1].thumbnail((THUMBNAIL_SIDE, THUMBNAIL_SIDE))
    width, height = (max(sides) for sides in zip(*(image.size for image in images), strict=True))
    columns = min(THUMBNAIL[0], len(images))
    rows = -(-len(images) // columns)
    page = Image.new("RGB", (columns * width, rows * height), (240, 240, 240))
    for k, image in enumerate(images):
        page.paste(image, (k % columns * width, k // columns * height))
    return page


def _shrunk(path: Path) -> Image.Image:
    with Image.open(path) as image:
        image.draft("RGB", (SHEET_WIDTH, SHEET_WIDTH))
        small = image.convert("RGB")
    small.thumbnail((SHEET_WIDTH, SHEET_WIDTH))
    return small
