"""A folder or an archive of image files as a tree: sorted relative names, and the bytes of each file."""

import os
import re
import stat
from abc import ABC, abstractmethod
from pathlib import Path, PurePosixPath

from data.readers.archives import check_size, open_archive
from data.readers.digests import Digests, State
from data.readers.formats import choose_images
from models.errors import UserError
from models.places import expanded

# Folders and files of Synology, QNAP, NetApp, Windows, macOS, Linux, Android and Python, in lower case.
_SYSTEM = frozenset(
    (
        *("@eadir", "@tmp", "@synoresource", "@recycle", "@recently-snapshot", "@transcode", "@appstore", "@database"),
        *("#recycle", "#snapshot", "~snapshot", "$recycle.bin", "recycler", "recycled", "system volume information"),
        *("msocache", "network trash folder", "temporary items", "thevolumesettingsfolder", "lost+found", "lost.dir"),
        *("__pycache__", "thumbs.db", "desktop.ini"),
    )
)
_CHECKED_DISK = re.compile(r"found\.\d{3}", re.IGNORECASE)


class Tree(ABC):
    """Images of a folder or archive. names: sorted relative POSIX paths. note: text about the other files.

    key: identifies the tree on this machine.
    """

    def __init__(self, path: Path, names: list[str], note: str = "") -> None:
        self.path = path
        self.names, self.note = sorted(names), note
        self.key = str(path.absolute())
        self.digests = Digests(self)

    @abstractmethod
    def read(self, name: str) -> bytes:
        """Return the bytes of one image file. Raises OSError or ValueError. Safe in threads and in forked processes."""

    @abstractmethod
    def stamp(self, name: str) -> str:
        """Return the size of a file, and its checksum if one is stored, without reading the file. Raises OSError."""

    def state(self, name: str) -> State:
        """Return the state of the file that holds an image: the image file or the archive. Raises OSError."""
        return State.of(self.path)


class FolderTree(Tree):
    """Tree of a folder. Links to folders are followed, but no folder is read twice."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, *_choose(_walk(path)))

    def read(self, name: str) -> bytes:
        return read_limited(self.path / name)

    def stamp(self, name: str) -> str:
        return str((self.path / name).stat().st_size)

    def state(self, name: str) -> State:
        return State.of(self.path / name)


class ArchiveTree(Tree):
    """Tree of a zip or tar archive, which is read in place. Raises UserError if it is damaged or unsafe."""

    def __init__(self, path: Path) -> None:
        self._archive = open_archive(path)
        super().__init__(path, *_choose(list(self._archive.members)))

    def read(self, name: str) -> bytes:
        return self._archive.read(name)

    def stamp(self, name: str) -> str:
        return self._archive.stamp(name)


def read_limited(path: Path) -> bytes:
    """Return the bytes of an image file. Raises OSError, and ValueError for a device or more than MAX_FILE_BYTES."""
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise ValueError("not a regular file")
    check_size(status.st_size)
    return path.read_bytes()


def open_tree(path: Path) -> Tree:
    """Return the tree at `path`, a folder or an archive. Raises UserError if it cannot be read or holds no image."""
    tree = FolderTree(path) if path.is_dir() else ArchiveTree(path)
    if not tree.names:
        rest = f" ({tree.note})" if tree.note else ""
        raise UserError(f"{path} holds no images{rest}", "name a folder or archive of images, such as PNG or JPEG")
    return tree


def find_tree(option: str, path: str, root: Path) -> Path:
    """Return the folder or archive at `path`, the value of `option`. Raises UserError if there is none."""
    located = look_for(path, root)
    if located is None:
        where = "does not exist" if Path(path).is_absolute() else f"neither in {Path.cwd()} nor in {root}"
        raise UserError(f"`{option}` {path}: {where}", "name a folder or an archive (zip, tar) of images")
    return located


def look_for(path: str, root: Path) -> Path | None:
    """Return the path if it exists in the current folder or else in the data root, None if it exists in neither."""
    relative = Path(expanded(path))
    return next((candidate for candidate in (relative, root / relative) if candidate.exists()), None)


def _choose(entries: list[str]) -> tuple[list[str], str]:
    return choose_images(name for name in entries if not any(map(_is_hidden, PurePosixPath(name).parts)))


def _is_hidden(part: str) -> bool:
    """Return whether a file or folder is hidden, or made by an operating system, an archiver or an appliance."""
    return part.startswith((".", "__MACOSX")) or part.lower() in _SYSTEM or _CHECKED_DISK.fullmatch(part) is not None


def _walk(top: Path) -> list[str]:
    def refuse(error: OSError) -> None:
        raise UserError(f"cannot read the folder {error.filename}: {error.strerror}")

    names, seen, around = [], set(), os.path.realpath(top)
    for folder, folders, files in os.walk(top, onerror=refuse, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        if around.startswith(os.path.join(real, "")):
            raise UserError(f"{folder} is a link to {real}, which contains {top}", "remove the link")
        folders[:] = sorted(part for part in folders if not _is_hidden(part))
        below = Path(folder).relative_to(top)
        names += [f"{below.as_posix()}/"] if below.parts else []
        names += [(below / file).as_posix() for file in files]
    return names
