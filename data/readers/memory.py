"""How much memory a process may still take: what the machine has free, within what its container or job is allowed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

MOUNT, MEMBERSHIP = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")


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
