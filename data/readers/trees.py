"""A folder or a zip of image files as one thing: a sorted list of relative names, and their bytes.

Nothing is ever unpacked to disk: a member of a zip is only a key, so its name cannot lead anywhere.
"""

from __future__ import annotations

import hashlib
import os
import zipfile
import zlib
from abc import ABC, abstractmethod
from pathlib import Path, PurePosixPath

from models.errors import UserError

SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")

# More than any single picture needs; a larger file, or a member that unpacks to more, is refused.
MAX_FILE_BYTES = 256 << 20


class Tree(ABC):
    """Images of a folder or zip: `names`, sorted relative POSIX paths, and `read(name)`."""

    def __init__(self, path: Path, names: list[str]) -> None:
        self.path = path
        self.names = sorted(names)

    @abstractmethod
    def read(self, name: str) -> bytes:
        """The bytes of one image file; raises OSError or ValueError if it cannot be read. Safe in threads and in
        forked processes."""

    @abstractmethod
    def stamp(self, name: str) -> str:
        """What is known of a file without reading it, and changes when it does: its size, and its checksum if one is
        stored. Raises OSError."""


class FolderTree(Tree):
    """A folder. Links to folders are followed, each folder once."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, _walk(path))

    def read(self, name: str) -> bytes:
        file = self.path / name
        if file.stat().st_size > MAX_FILE_BYTES:
            raise ValueError(f"larger than {MAX_FILE_BYTES >> 20} MiB")
        return file.read_bytes()

    def stamp(self, name: str) -> str:
        return str((self.path / name).stat().st_size)


class ZipTree(Tree):
    """A zip archive, read in place. UserError if it is no zip, or has a name that points outside itself."""

    def __init__(self, path: Path) -> None:
        try:
            self._zip = zipfile.ZipFile(path)
        except (OSError, zipfile.BadZipFile) as error:
            raise UserError(f"cannot read {path} as a zip archive: {error}") from None
        self._members = {m.filename: m for m in self._zip.infolist() if _is_image(m.filename)}
        for name in self._members:
            if name.startswith("/") or ".." in PurePosixPath(name).parts:
                raise UserError(f"{path}: the member {name!r} points outside the archive: pack it anew")
        self._process = os.getpid()
        super().__init__(path, list(self._members))

    def stamp(self, name: str) -> str:
        member = self._members[name]
        return f"{member.file_size} {member.CRC:08x}"

    def read(self, name: str) -> bytes:
        if self._process != os.getpid():
            # A forked process shares its parent's place in the file: it opens its own, and keeps the directory.
            self._zip.fp, self._process = self.path.open("rb"), os.getpid()
        member = self._members[name]
        if member.file_size > MAX_FILE_BYTES:
            raise ValueError(f"larger than {MAX_FILE_BYTES >> 20} MiB")
        try:
            # Given the size, zipfile unpacks no more than that: the directory's figure may be false.
            with self._zip.open(member) as file:
                return file.read(member.file_size)
        except (zipfile.BadZipFile, zlib.error, RuntimeError, NotImplementedError, EOFError) as error:
            raise ValueError(str(error)) from None


def open_tree(path: Path) -> Tree:
    """The tree at `path`, a folder or a zip archive; UserError if it is neither or holds no image."""
    if path.is_dir():
        tree: Tree = FolderTree(path)
    elif path.is_file():
        tree = ZipTree(path)
    else:
        raise UserError(f"{path} does not exist: name a folder or a zip of images with --dataset.path")
    if not tree.names:
        raise UserError(f"{path} holds no images (looked for {' '.join(SUFFIXES)})")
    return tree


def find_tree(path: str, root: Path) -> Path:
    """A path that is meant from here or, failing that, from the data root. Raises UserError."""
    here = Path(path).expanduser()
    found = here if here.is_absolute() else look_for(path, root)
    if found is None:
        raise UserError(f"{path} is neither in {Path.cwd()} nor in {root}: name a folder or a zip of images")
    return found


def look_for(path: str, root: Path) -> Path | None:
    """What lies at a path from here or, failing that, from the data root; None if nothing does."""
    here = Path(path).expanduser()
    return next((place for place in (here, root / here) if place.exists()), None)


def common_folder(names: list[str]) -> str:
    """The folders, with a closing slash, that all the images are in; empty if there is none."""
    around = ""
    while True:
        tops = {name[len(around) :].partition("/")[:2] for name in names}
        top, slash = next(iter(tops))
        if len(tops) > 1 or not slash:
            return around
        around += f"{top}/"


def check_share(share: float) -> float:
    """The share, if some images are held out by it and some are not; UserError otherwise."""
    if not 0 < share < 1:
        raise UserError(f"--dataset.test_share {share}: give a share between 0 and 1")
    return share


def hold_out(tree: Tree, share: float) -> tuple[list[str], list[str]]:
    """Train and test names, told apart by a hash of each; at least one of both. Raises UserError for one image."""
    if len(tree.names) < 2:
        raise UserError(f"{tree.path} holds one image: at least two are needed, one to train and one to test")
    around = common_folder(tree.names)
    by_hash = sorted(tree.names, key=lambda name: _fraction(name[len(around) :]))
    held = sum(_fraction(name[len(around) :]) < share for name in by_hash)
    held = min(max(held, 1), len(by_hash) - 1)
    return sorted(by_hash[held:]), sorted(by_hash[:held])


def _fraction(name: str) -> float:
    """A number in [0, 1) that depends on the name alone."""
    return int.from_bytes(hashlib.sha256(name.encode(errors="surrogateescape")).digest()[:6]) / 2**48


def _is_image(name: str) -> bool:
    path = PurePosixPath(name)
    hidden = any(part.startswith((".", "__MACOSX")) for part in path.parts if part != "..")
    return path.suffix.lower() in SUFFIXES and not hidden and not name.endswith("/")


def _walk(top: Path) -> list[str]:
    def refuse(error: OSError) -> None:
        raise UserError(f"cannot read the folder {error.filename}: {error.strerror}")

    names, seen = [], set()
    for folder, folders, files in os.walk(top, onerror=refuse, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders.sort()
        names += [(Path(folder) / file).relative_to(top).as_posix() for file in files]
    return [name for name in names if _is_image(name)]
