"""Reading the published files of a data set: raw or gzipped, checked by a hash of the contents, or named as
bad.

A hash of the contents, not of the container, so that files compressed anew are still the data set. Fetching
what is absent is left to `downloads.py`, understanding the bytes to the readers beside this file.
"""

from __future__ import annotations

import gzip
import hashlib
import zlib
from io import BytesIO
from pathlib import Path

from models.errors import UserError

# A gigabyte, more than any file of the data sets here: what unpacks to more is no data set.
MAX_BYTES = 1 << 30


def locate_file(folder: Path, name: str) -> Path | None:
    """The file `name` in `folder`, else `name`.gz, else None."""
    return next((path for path in (folder / name, folder / f"{name}.gz") if path.is_file()), None)


def read_file(path: Path, md5: str | None = None) -> bytes:
    """The contents of a raw or gzipped file, which must have this MD5 if one is given; UserError
    otherwise.
    """
    try:
        stored = path.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
    return unpack(stored, str(path), md5)


def unpack(stored: bytes, place: str, md5: str | None = None) -> bytes:
    """Like `read`, for bytes in memory; `place` names them in messages."""
    contents = _gunzip(stored, place) if stored[:2] == b"\x1f\x8b" else stored
    if md5 is not None and (found := hashlib.md5(contents, usedforsecurity=False).hexdigest()) != md5:
        raise UserError(
            f"{place} is cut short or altered (MD5 of its contents {found}, published {md5}): delete or replace it"
        )
    return contents


def _gunzip(stored: bytes, place: str) -> bytes:
    try:
        with gzip.open(BytesIO(stored)) as file:
            contents = file.read(MAX_BYTES + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{place} is cut short or damaged ({error}): delete or replace it") from None
    if len(contents) > MAX_BYTES:
        raise UserError(f"{place} unpacks to more than {MAX_BYTES >> 20} MiB: not a file of this data set")
    return contents
