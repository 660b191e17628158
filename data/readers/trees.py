"""A folder or a zip of image files as a tree: sorted relative names, and the bytes of each file.

Nothing is unpacked to disk. The name of a zip member is only a key, so it cannot cause access to other files.
"""

import hashlib
import os
import zipfile
import zlib
from abc import ABC, abstractmethod
from pathlib import Path, PurePosixPath

from data.readers.digests import Digests, State
from models.errors import UserError
from models.places import expanded

SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")

# More than any single image needs. A larger file, or a zip member that unpacks to more, is refused.
MAX_FILE_BYTES = 256 << 20


class Tree(ABC):
    """Images of a folder or zip. names: sorted relative POSIX paths. key: identifies the tree on this machine."""

    def __init__(self, path: Path, names: list[str]) -> None:
        self.path = path
        self.names = sorted(names)
        self.key = str(path.absolute())
        self.digests = Digests(self)

    @abstractmethod
    def read(self, name: str) -> bytes:
        """Return the bytes of one image file. Raises OSError or ValueError. Safe in threads and in forked processes."""

    @abstractmethod
    def stamp(self, name: str) -> str:
        """Return the size of a file, and its checksum if one is stored, without reading the file. Raises OSError."""

    def state(self, name: str) -> State:
        """Return the state of the file that holds an image, here of the archive. Raises OSError."""
        return State.of(self.path)


class FolderTree(Tree):
    """A folder. Links to folders are followed, each folder once."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, _walk(path))

    def read(self, name: str) -> bytes:
        return read_limited(self.path / name)

    def stamp(self, name: str) -> str:
        return str((self.path / name).stat().st_size)

    def state(self, name: str) -> State:
        return State.of(self.path / name)


class ZipTree(Tree):
    """A zip archive, read in place. Raises UserError if it is no zip archive or a name points outside it."""

    def __init__(self, path: Path) -> None:
        try:
            self._zip = zipfile.ZipFile(path)
        except (OSError, zipfile.BadZipFile) as error:
            raise UserError(f"cannot read {path} as a zip archive: {error}") from None
        self._members = {member.filename: member for member in self._zip.infolist() if _is_image(member.filename)}
        for name in self._members:
            if name.startswith("/") or ".." in PurePosixPath(name).parts:
                raise UserError(f"{path}: the member {name!r} points outside the archive", "create the archive again")
        self._process = os.getpid()
        super().__init__(path, list(self._members))

    def stamp(self, name: str) -> str:
        member = self._members[name]
        return f"{member.file_size} {member.CRC:08x}"

    def read(self, name: str) -> bytes:
        if self._process != os.getpid():
            # A forked process shares the file position with its parent, so it opens the file again and keeps the index.
            self._zip.fp, self._process = self.path.open("rb"), os.getpid()
        member = self._members[name]
        _check_size(member.file_size)
        try:
            # The size limits what zipfile unpacks, because the size in the directory may be false.
            with self._zip.open(member) as file:
                return file.read(member.file_size)
        except (zipfile.BadZipFile, zlib.error, RuntimeError, NotImplementedError, EOFError) as error:
            raise ValueError(str(error)) from None


def read_limited(path: Path) -> bytes:
    """Return the bytes of an image file. Raises OSError, and ValueError for more than MAX_FILE_BYTES."""
    _check_size(path.stat().st_size)
    return path.read_bytes()


def _check_size(size: int) -> None:
    if size > MAX_FILE_BYTES:
        raise ValueError(f"larger than {MAX_FILE_BYTES >> 20} MiB")


def open_tree(path: Path) -> Tree:
    """Return the tree at `path`, a folder or a zip archive. Raises UserError, also if it holds no image."""
    tree = FolderTree(path) if path.is_dir() else ZipTree(path)
    if not tree.names:
        raise UserError(f"{path} holds no images (looked for {' '.join(SUFFIXES)})")
    return tree


def find_tree(option: str, path: str, root: Path) -> Path:
    """Return the folder or zip at `path`, the value of `option`. Raises UserError if there is none."""
    located = look_for(path, root)
    if located is None:
        where = "does not exist" if Path(path).is_absolute() else f"neither in {Path.cwd()} nor in {root}"
        raise UserError(f"`{option}` {path}: {where}", "name a folder or a zip of images")
    return located


def look_for(path: str, root: Path) -> Path | None:
    """Return the path if it exists in the current folder or else in the data root, None if it exists in neither."""
    relative = Path(expanded(path))
    return next((candidate for candidate in (relative, root / relative) if candidate.exists()), None)


def common_folder(names: list[str]) -> str:
    """Return the folder that all images are in, with a closing slash. It is empty if there is none."""
    around = ""
    while True:
        tops = {name[len(around) :].partition("/")[:2] for name in names}
        top, slash = next(iter(tops))
        if len(tops) > 1 or not slash:
            return around
        around += f"{top}/"


def hold_out(tree: Tree, share: float) -> tuple[list[str], list[str]]:
    """Return the names of training and test images, split by a hash of each name. Raises UserError for one image."""
    if len(tree.names) < 2:
        raise UserError(f"{tree.path} holds one image: at least two are needed, one to train and one to test")
    around = common_folder(tree.names)
    fractions = {name: _fraction(name[len(around) :]) for name in tree.names}
    by_hash = sorted(tree.names, key=fractions.__getitem__)
    count = sum(fraction < share for fraction in fractions.values())
    count = min(max(count, 1), len(by_hash) - 1)
    return sorted(by_hash[count:]), sorted(by_hash[:count])


def _fraction(name: str) -> float:
    """Return a number in [0, 1) that depends on the name alone."""
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
