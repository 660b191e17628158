"""Files that are whole or absent: written beside their place, then renamed over it.

Everything in a run folder that replaces an older version of itself goes through here. What is written is the
caller's business; so is the folder, which must exist.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: Path | str) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success flush it to disk and rename it over `path`.

    If the block raises, the temporary file is removed and `path` is left as it was. Raises OSError as the
    file system does.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_text(path: Path, text: str) -> None:
    """Replaces a text file whole."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
