"""Image formats that are read, with the suffixes of their files, and the choice of images among other files.

This file imports no Pillow, because the listing of a folder needs none.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import PurePosixPath

from models.class_names import shorten_names

# Formats that Pillow decodes itself, by Pillow's names. Formats that Pillow passes to another program or to a handler
# are left out (EPS, WMF, BUFR, GRIB, HDF5, MPEG), and so are measurements without a known range (FITS, SPIDER, IPTC).
FORMATS = {
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif", ".mpo"),
    "PNG": (".png", ".apng"),
    "WEBP": (".webp",),
    "GIF": (".gif",),
    "BMP": (".bmp",),
    "TIFF": (".tif", ".tiff"),
    "PPM": (".pbm", ".pgm", ".ppm", ".pnm", ".pfm"),
    "AVIF": (".avif", ".avifs"),
    "JPEG2000": (".jp2", ".j2k", ".jpc", ".jpf", ".jpx", ".j2c"),
    "QOI": (".qoi",),
    "PSD": (".psd",),
    "DIB": (".dib",),
    "ICO": (".ico",),
    "CUR": (".cur",),
    "ICNS": (".icns",),
    "PCX": (".pcx",),
    "DCX": (".dcx",),
    "SGI": (".sgi", ".rgb", ".rgba", ".bw"),
    "SUN": (".ras",),
    "DDS": (".dds",),
    "BLP": (".blp",),
    "FTEX": (".ftc", ".ftu"),
    "FLI": (".fli", ".flc"),
    "GBR": (".gbr",),
    "MSP": (".msp",),
    "PIXAR": (".pxr",),
    "XBM": (".xbm",),
    "XPM": (".xpm",),
    "TGA": (".tga", ".icb", ".vda", ".vst"),
    "IM": (".im",),
    "PCD": (".pcd",),
}
# Files of these formats have no magic number, so a damaged file of another format could be mistaken for one of them.
UNMARKED = ("TGA", "IM", "PCD")
_SUFFIXES = frozenset(suffix for suffixes in FORMATS.values() for suffix in suffixes)
_MOST_NAMED = 5


def is_image(name: str) -> bool:
    """Return whether a file has the suffix of a format in FORMATS."""
    return PurePosixPath(name).suffix.lower() in _SUFFIXES and not name.endswith("/")


def choose_images(entries: Iterable[str]) -> tuple[list[str], str]:
    """Return the images among the entries of a folder or archive, and a note about the rest, empty if there is none.

    entries: names of files, and names of folders with a closing slash. The note counts the other files by suffix, and
    names the folders without an image.
    """
    entries = list(entries)
    images = [name for name in entries if is_image(name)]
    others = [name for name in entries if not is_image(name) and not name.endswith("/")]
    filled = {folder for name in images for folder in _folders(name)}
    # If nested folders have no image, only the outermost folder is named.
    without = {next((folder for folder in _folders(name) if folder not in filled), "") for name in entries} - {""}
    parts = []
    if others:
        parts.append(f"{number_of(len(others), 'file')} skipped ({count_by_suffix(others)})")
    if without:
        parts.append(f"no image in {shorten_names(sorted(without), _MOST_NAMED, longest=255)}")
    return images, ", ".join(parts)


def count_by_suffix(names: Iterable[str]) -> str:
    """Return the number of files of each suffix, the commonest first, such as "12 .heic, 3 .txt"."""
    counts = Counter(PurePosixPath(name).suffix.lower() or "without a suffix" for name in names)
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    rest = sum(count for _, count in ordered[_MOST_NAMED:])
    common = [f"{count} {suffix}" for suffix, count in ordered[:_MOST_NAMED]]
    return ", ".join([*common, *([f"{rest} others"] if rest else [])])


def number_of(count: int, noun: str) -> str:
    """Return a count with its noun, such as "1 file" or "2 files"."""
    return f"{count} {noun}{'' if count == 1 else 's'}"


def _folders(name: str) -> Iterator[str]:
    """Yield the folders around a file from the outermost to the innermost, each with a closing slash."""
    parts = name.split("/")[:-1]
    return ("/".join(parts[: depth + 1]) + "/" for depth in range(len(parts)))
