"""Published files of a data set, raw or gzipped, checked by a hash of their uncompressed contents."""

import gzip
import hashlib
import zlib
from io import BytesIO
from pathlib import Path

from models.errors import UserError

# One GiB, more than any published file of the data sets here.
MAX_BYTES = 1 << 30


def locate_file(folder: Path, name: str) -> Path | None:
    """Return the path of `name` or `name`.gz in `folder`, None if neither is there."""
    return next((path for path in (folder / name, folder / f"{name}.gz") if path.is_file()), None)


def read_file(path: Path, md5: str | None = None) -> bytes:
    """Return the contents of a raw or gzipped file. Raises UserError if it cannot be read or its MD5 differs."""
    try:
        stored = path.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
    return unpack(stored, str(path), md5)


def unpack(stored: bytes, source: str, md5: str | None = None) -> bytes:
    """Unpack the bytes of a raw or gzipped file, and check them as `read_file` does. source: file name."""
    contents = _gunzip(stored, source) if stored[:2] == b"\x1f\x8b" else stored
    if md5 is not None and (actual := hashlib.md5(contents, usedforsecurity=False).hexdigest()) != md5:
        raise UserError(
            f"{source} is cut short or altered (MD5 of its contents {actual}, published {md5})", "delete or replace it"
        )
    return contents


def _gunzip(stored: bytes, source: str) -> bytes:
    try:
        with gzip.open(BytesIO(stored)) as file:
            contents = file.read(MAX_BYTES + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{source} is cut short or damaged ({error})", "delete or replace it") from None
    if len(contents) > MAX_BYTES:
        raise UserError(f"{source} unpacks to more than {MAX_BYTES >> 20} MiB: not a file of this data set")
    return contents
