"""What a process that computes sets for itself."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

from tests.commands.tasks import REPOSITORY

COUNT = """
import resource, torch
from models import build
build.prepare_device(torch.device("cpu"))
for _ in range(2):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(5):
        torch.ones(10_000_000)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is not glibc")
def test_what_was_freed_is_had_again_without_page_faults() -> None:
    done = subprocess.run([sys.executable, "-c", COUNT], cwd=REPOSITORY, check=True, capture_output=True, text=True)
    assert int(done.stdout.split()[1]) < 100  # 50,000 pages of 4 KiB if they went back to the kernel
