"""What a process may take of its machine, within what its container or job is allowed: memory and cores."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

MOUNT, MEMBERSHIP = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")


def cores() -> int:
    """How many this process may compute on, hyperthreads counted."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def free_memory() -> int:
    """In bytes."""
    import psutil

    return min((psutil.virtual_memory().available, *_left(MOUNT, MEMBERSHIP)))


def _left(mount: Path, membership: Path) -> Iterator[int]:
    """What each control group of this process, the outermost last, has left below its limit (Linux, cgroup v2 or v1).

    Pages of files that nothing has used lately would be given up, so they count as free.
    """
    for root, group, limit, used, idle in _hierarchies(mount, membership):
        for folder in (root / group, *(root / parent for parent in Path(group).parents)):
            try:
                allowed, taken = (int((folder / name).read_text()) for name in (limit, used))
                counts = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
                yield max(0, allowed - taken + int(counts.get(idle, 0)))
            except (OSError, ValueError):
                continue  # no such file, or "max": no limit here


def _hierarchies(mount: Path, membership: Path) -> Iterator[tuple[Path, str, str, str, str]]:
    """The root, the group below it, and the names of limit, usage and idle file pages."""
    try:
        lines = membership.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        number, controllers, group = line.split(":", 2)
        if number == "0":
            yield mount, group.strip("/"), "memory.max", "memory.current", "inactive_file"
        elif "memory" in controllers.split(","):
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
            yield mount / "memory", group.strip("/"), *names
