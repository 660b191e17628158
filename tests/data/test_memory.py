"""Free memory within the limits of a container or a cluster job, read from files like the kernel's."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest

from data.readers import memory

MIB = 2**20


def group(folder: Path, limit: object, usage: int, inactive: int, version: int) -> None:
    names = ("memory.max", "memory.current", "inactive_file")
    if version == 1:
        names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / names[0]).write_text(f"{limit}\n")
    (folder / names[1]).write_text(f"{usage}\n")
    (folder / "memory.stat").write_text(f"anon 5\n{names[2]} {inactive}\n")


@pytest.fixture
def free(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def of(membership: str) -> int:
        (tmp_path / "membership").write_text(membership)
        monkeypatch.setattr(memory, "MOUNT", tmp_path / "mount")
        monkeypatch.setattr(memory, "MEMBERSHIP", tmp_path / "membership")
        return memory.free_memory()

    return of


@pytest.mark.parametrize("version", [1, 2])
def test_the_least_that_any_group_leaves(free, tmp_path: Path, version: int) -> None:
    root = tmp_path / "mount" / ("memory" if version == 1 else "")
    group(root / "slurm" / "job_7", 100 * MIB, 60 * MIB, 10 * MIB, version)
    group(root / "slurm", 55 * MIB, 40 * MIB, 0, version)
    line = "4:cpuset,memory:" if version == 1 else "0::"
    assert free(f"7:pids:/elsewhere\n{line}/slurm/job_7\n") == 15 * MIB
    group(root / "slurm", "max", 40 * MIB, 0, version)
    assert free(f"{line}/slurm/job_7\n") == 50 * MIB
    group(root, 30 * MIB, 31 * MIB, 0, version)
    assert free(f"{line}/slurm/job_7\n") == 0


def test_without_a_limit_it_is_what_the_machine_has(free, tmp_path: Path) -> None:
    group(tmp_path / "mount" / "user.slice", "max", 40 * MIB, 0, 2)
    for membership in ("0::/user.slice\n", "0::/\n", "3:pids:/\n", ""):
        assert abs(free(membership) - psutil.virtual_memory().available) < 2**30
