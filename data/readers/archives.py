"""Archives of image files, read in place: zip, tar, and tar compressed by gzip, bzip2 or xz.

Nothing is unpacked to disk. The name of a member is only a key, so it cannot cause access to other files.
"""

import bz2
import gzip
import lzma
import os
import re
import tarfile
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Protocol, TypeVar

from data.readers.formats import is_image
from data.readers.memory import free_memory
from models.errors import UserError
from models.progress import progress

# More than any single image needs. A larger file, or a member that unpacks to more, is refused.
MAX_FILE_BYTES = 256 << 20
# A compressed tar is unpacked into memory as a whole, because it can only be read from its start.
MAX_UNPACKED_BYTES = 4 << 30

_COMPRESSED = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ\0": lzma.open}
_OTHERS = {b"7z\xbc\xaf'\x1c": "7z", b"Rar!\x1a\x07": "rar", b"\x28\xb5\x2f\xfd": "zstd", b"\x04\x22\x4d\x18": "lz4"}
_DAMAGE = (OSError, ValueError, EOFError, OverflowError, zlib.error, lzma.LZMAError, tarfile.TarError)
_TAR_MARK = 257  # Position of the word ustar in a tar archive.
_UNPACK = "unpack it and name the folder"

Member = TypeVar("Member")


class Archive(Protocol):
    """Members of an archive by name. A folder's name ends with a slash."""

    members: dict[str, Any]

    def read(self, name: str) -> bytes:
        """Return the bytes of one member. Raises OSError or ValueError. Safe in threads and in forked processes."""
        ...

    def stamp(self, name: str) -> str:
        """Return the size of a member, and its checksum if one is stored, without reading the member."""
        ...


def open_archive(path: Path) -> Archive:
    """Return the archive at `path`. Raises UserError if it is damaged, unsafe, or of an unsupported format."""
    if not path.is_file():  # for example a pipe, from which reading might never end
        raise UserError(f"{path} is neither a folder nor a file", "name a folder or an archive of images")
    try:
        with path.open("rb") as file:
            start = file.read(_TAR_MARK + 5)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
    kind = next((name for mark, name in _OTHERS.items() if start.startswith(mark)), None)
    if kind or path.suffix.lower() in (".7z", ".rar", ".zst", ".lz4", ".lzh", ".cab"):
        raise UserError(f"{path}: this archive type ({kind or path.suffix[1:]}) is not read, only zip and tar", _UNPACK)
    if start.startswith(b"PK") or path.suffix.lower() == ".zip":
        return _Zip(path)
    unpack = next((opener for mark, opener in _COMPRESSED.items() if start.startswith(mark)), None)
    if unpack is None and start[_TAR_MARK:] != b"ustar" and path.suffix.lower() != ".tar":
        raise UserError(f"{path} is neither a folder nor a zip or tar archive", "name a folder or an archive of images")
    return _Tar(path, unpack)


def check_size(size: int) -> None:
    """Raise ValueError if a file is larger than any image needs."""
    if size > MAX_FILE_BYTES:
        raise ValueError(f"larger than {MAX_FILE_BYTES >> 20} MiB")


class _Zip:
    def __init__(self, path: Path) -> None:
        try:
            self._zip = zipfile.ZipFile(path)
        except (OSError, zipfile.BadZipFile) as error:
            raise UserError(f"cannot read {path} as a zip archive: {error}", "copy or create it again") from None
        self.members = _by_name(path, ((member.filename, member) for member in self._zip.infolist()))
        self._path, self._process = path, os.getpid()

    def stamp(self, name: str) -> str:
        member = self.members[name]
        return f"{member.file_size} {member.CRC:08x}"

    def read(self, name: str) -> bytes:
        if self._process != os.getpid():
            # A forked process shares the file position with its parent, so it opens the file again and keeps the index.
            self._zip.fp, self._process = self._path.open("rb"), os.getpid()
        member = self.members[name]
        check_size(member.file_size)
        try:
            # Read at most the size that the directory states: the member may unpack to more.
            with self._zip.open(member) as file:
                return file.read(member.file_size)
        except (zipfile.BadZipFile, zlib.error, RuntimeError, NotImplementedError, EOFError) as error:
            raise ValueError(str(error)) from None


class _Tar:
    """Tar archive. Images of a compressed archive are held in memory. Images of a plain archive stay in the file."""

    def __init__(self, path: Path, unpack: Any) -> None:
        self._path, self._held = path, None if unpack is None else {}
        limit = path.stat().st_size if unpack is None else min(MAX_UNPACKED_BYTES, free_memory() // 2)
        try:
            with (unpack or open)(path, "rb") as file, progress(f"reading {path.name}", None) as advance:
                bounded = _Bounded(file, path, limit)
                members = []
                for member in _members(path, bounded):
                    if self._held is not None and member.isreg():
                        bounded.check(member.offset_data + member.size)
                        if is_image(member.name):
                            check_size(member.size)
                            bounded.seek(member.offset_data)
                            self._held[member.offset] = bounded.read(member.size)
                    members.append((f"{member.name}/" if member.isdir() else member.name, member))
                    advance(1)
        except _DAMAGE as error:
            raise UserError(f"cannot read {path} as a tar archive: {error}", _UNPACK) from None
        self.members = _by_name(path, members)

    def stamp(self, name: str) -> str:
        return str(self.members[name].size)

    def read(self, name: str) -> bytes:
        member = self.members[name]
        if self._held is not None:
            return self._held[member.offset]
        check_size(member.size)
        with self._path.open("rb") as file:
            file.seek(member.offset_data)
            return file.read(member.size)


class _Bounded:
    """Reader of a decompressed tar that refuses to go beyond `limit`, or to read more than MAX_FILE_BYTES at once."""

    def __init__(self, file: Any, path: Path, limit: int) -> None:
        self._file, self._path, self._limit = file, path, limit
        self.tell = file.tell

    def read(self, size: int) -> bytes:
        check_size(size)
        return self._file.read(size)

    def seek(self, offset: int) -> int:
        self.check(offset)
        return self._file.seek(offset)

    def check(self, offset: int) -> None:
        """Raise UserError if the archive reaches beyond the limit."""
        if offset > self._limit:
            raise UserError(f"{self._path} unpacks to more than {self._limit / 2**30:.1f} GiB", _UNPACK)


def _members(path: Path, file: _Bounded) -> Iterator[tarfile.TarInfo]:
    """Yield the files and folders of a tar archive. Raises UserError for links and devices, ValueError for damage."""
    with tarfile.open(fileobj=file, mode="r:") as archive:  # pyright: ignore
        for member in archive:
            if not (member.isreg() or member.isdir()) or member.issparse():
                kind = "link" if member.islnk() or member.issym() else "sparse file" if member.issparse() else "device"
                raise UserError(f"{path}: the member {member.name!r} is a {kind}", _UNPACK)
            yield member
        # tarfile takes a damaged header for the end of the archive. The true end is a block of zeros.
        file.seek(archive.offset)
        if file.read(tarfile.BLOCKSIZE).strip(b"\0"):
            raise ValueError(f"damaged at byte {archive.offset}")


def _by_name(path: Path, members: Iterable[tuple[str, Member]]) -> dict[str, Member]:
    """Return the members by normalised name. The last member with a name replaces earlier ones, as in unpacking.

    Raises UserError for names that point outside the archive, and for different names that become equal.
    """
    stored, by_name = {}, {}
    for name, member in members:
        normalised = _normalised(path, name)
        if stored.setdefault(normalised, name) != name and not name.endswith("/"):
            raise UserError(f"{path}: the members {stored[normalised]!r} and {name!r} have the same name", _UNPACK)
        by_name[normalised] = member
    return by_name


def _normalised(path: Path, name: str) -> str:
    """Return the name of a member as a relative POSIX path. Raises UserError if it points outside the archive.

    In a name without slashes, backslashes separate folders: some programs for Windows write such names.
    """
    posix = name if "/" in name else name.replace("\\", "/")
    if posix.startswith("/") or ".." in posix.split("/") or re.match(r"[A-Za-z]:[/\\]", posix):
        raise UserError(f"{path}: the member {name!r} points outside the archive", "create the archive again")
    parts = [part for part in posix.split("/") if part not in ("", ".")]
    return "/".join(parts) + ("/" if posix.endswith("/") else "")
