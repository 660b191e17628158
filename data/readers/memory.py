"""Memory that a process can still allocate: free memory of the machine, within the limits of its container or job."""

from collections.abc import Iterator
from pathlib import Path

MOUNT, MEMBERSHIP = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")


def free_memory() -> int:
    """Return the memory that this process can still allocate, in bytes."""
    import psutil

    return min((psutil.virtual_memory().available, *_left_in_groups(MOUNT, MEMBERSHIP)))


def _left_in_groups(mount: Path, membership: Path) -> Iterator[int]:
    """Yield the bytes left below the limit of each control group of this process (Linux, cgroup v2 or v1)."""
    for root, group, limit, usage, inactive in _hierarchies(mount, membership):
        for folder in (root / group, *(root / parent for parent in Path(group).parents)):
            try:
                allowed, taken = (int((folder / name).read_text()) for name in (limit, usage))
                counts = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
                # The kernel frees inactive file pages when memory is short.
                yield max(0, allowed - taken + int(counts.get(inactive, 0)))
            except (OSError, ValueError):
                continue  # No such file, or "max": this group has no limit.


def _hierarchies(mount: Path, membership: Path) -> Iterator[tuple[Path, str, str, str, str]]:
    """Yield the root of a hierarchy, the group below it, and the names of limit, usage and inactive file pages."""
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
