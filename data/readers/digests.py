"""SHA-256 of the image files of a tree, kept in a file so that unchanged image files are not read again."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from models.progress import progress

if TYPE_CHECKING:
    from data.readers.trees import Tree

# A file may change again within the resolution of its timestamps. So a digest is kept only if the file was last changed
# more than this time before it was read.
_SETTLED = 0.1  # seconds
_UNREADABLE = "unreadable"


class State(NamedTuple):
    """Size of a file in bytes, and the times of its last modification and last status change, in nanoseconds."""

    size: int
    modified: int
    changed: int

    @classmethod
    def of(cls, path: Path | str) -> State:
        """Return the state of the file at `path`. Raises OSError."""
        found = os.stat(path)
        return cls(found.st_size, found.st_mtime_ns, found.st_ctime_ns)


class Digests:
    """SHA-256 of the files of a tree. If this process has read a file, the digest is that of the bytes read."""

    def __init__(self, tree: Tree) -> None:
        self._tree = tree
        self._kept: dict[str, tuple[State, str]] = {}
        self._read: dict[str, tuple[State, str]] = {}
        self._settled: set[str] = set()
        self._file: Path | None = None

    def keep_in(self, folder: Path) -> None:
        """Keep the digests in a file of this folder, and load the digests that this file already has."""
        key = hashlib.sha256(self._tree.key.encode(errors="surrogateescape")).hexdigest()[:16]
        self._file = folder / f"{key}.json"
        with suppress(OSError, ValueError, TypeError, AttributeError):  # A missing or damaged file is written anew.
            stored = json.loads(self._file.read_text(encoding="utf-8"))
            self._kept = {name: (State(*map(int, numbers)), str(digest)) for name, (*numbers, digest) in stored.items()}

    def read(self, name: str) -> bytes:
        """Return the bytes of a file, and note their digest. Raises OSError or ValueError. Safe in threads."""
        begun = time.time_ns()
        state = self._tree.state(name)  # before reading, so that a change during reading is noticed the next time
        stored = self._tree.read(name)
        if name in self._settled and self._read[name][0] == state:
            return stored
        self._read[name] = state, hashlib.sha256(stored).hexdigest()
        if state.changed < begun - 1e9 * _SETTLED:
            self._settled.add(name)
        return stored

    def of(self, names: Sequence[str], read: bool) -> list[str] | None:
        """Return the digests of these files. New or changed files are read; with read=False, return None instead."""
        unknown = [name for name in names if name not in self._read and not self._is_kept(name)]
        if unknown and not read:
            return None
        self._read_all(unknown)
        self._save()
        return [self._read.get(name, self._kept.get(name, (None, _UNREADABLE)))[1] for name in names]

    def _is_kept(self, name: str) -> bool:
        try:
            return name in self._kept and self._kept[name][0] == self._tree.state(name)
        except OSError:
            return False

    def _read_all(self, names: Sequence[str]) -> None:
        from data.readers.pictures import BROKEN, in_threads

        def work(rows: slice) -> int:
            for name in names[rows]:
                self._kept.pop(name, None)
                with suppress(*BROKEN):
                    self.read(name)
            return len(names[rows])

        with progress(f"reading {self._tree.path.name}", len(names)) as advance:
            for done in in_threads(work, len(names)):
                advance(done)

    def _save(self) -> None:
        if self._file is None:
            return
        now = self._kept | {name: self._read[name] for name in self._settled}
        if now == self._kept:
            return
        self._kept = now
        temporary = self._file.with_name(f".{self._file.name}.{os.getpid()}.tmp")
        with suppress(OSError):  # If nothing can be written, files are read again the next time.
            self._file.parent.mkdir(parents=True, exist_ok=True)
            rows = {name: [*state, digest] for name, (state, digest) in now.items()}
            temporary.write_text(json.dumps(rows), encoding="utf-8")
            temporary.replace(self._file)
