"""A small repository around the real scripts: the same shell and make, but tasks that cost nothing.

It has an environment that counts as installed, and keeps its screen and tmux sessions apart from everybody's.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FOREIGN = (
    "MAKEFLAGS",
    "MFLAGS",
    "MAKELEVEL",
    "RAW_ARGS",
    "FOREGROUND",
    "STY",
    "TMUX",
    "EXPERIMENTS_DIR",
    "GPUS",
    "PROCS",
)

# Writes down its arguments, then does what FAKE says: nothing, fail with a code, or serve as a run that waits for
# one signal, takes a moment over it, and counts what came.
TASK = """
import json, os, signal, sys, time
from pathlib import Path

def main():
    words = os.environ.get("FAKE", "dump").split()
    Path(os.environ["FAKE_OUT"]).write_text(json.dumps(sys.argv[1:]))
    if words[0] == "die":
        print("error: no such flag: --bath_size", file=sys.stderr)
        sys.exit(int(words[1]))
    if words[0] == "serve":
        serve(Path(os.environ.get("EXPERIMENTS_DIR", "experiments")) / f"run-{os.getpid()}")

def serve(folder):
    received = []
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda number, frame: received.append(number))
    folder.mkdir(parents=True)
    os.link(os.environ["LAUNCH_LOG"], folder / "console.log")
    print("serving, terminal:", sys.stderr.isatty(), file=sys.stderr, flush=True)
    deadline = time.monotonic() + 60
    while not received and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(0.7)
    (folder / "signals").write_text(" ".join(str(int(number)) for number in received))
    sys.exit(128 + received[0])

if __name__ == "__main__":
    main()
"""


class FakeRepository:
    """Runs the real scripts in `root` with the environment `env`; what tasks were given appears in `out`."""

    def __init__(self, root: Path, sockets: Path):
        self.root = root
        self.out = root / "argv.json"
        self.experiments = root / "experiments"
        self.launch = self.experiments / ".launch"
        self.sockets = sockets
        self.env = {name: value for name, value in os.environ.items() if name not in FOREIGN}
        self.env |= {"SCREENDIR": str(sockets), "TMUX_TMPDIR": str(sockets), "FAKE_OUT": str(self.out)}
        self._fill()

    def _fill(self) -> None:
        (self.root / "scripts" / "sh").mkdir(parents=True)
        for script in (ROOT / "scripts" / "sh").glob("*.sh"):
            shutil.copy(script, self.root / "scripts" / "sh")
        shutil.copy(ROOT / "Makefile", self.root)
        for task in ("fake", "train_ddpm", "train_flow", "generate", "record"):
            (self.root / "scripts" / f"{task}.py").write_text(TASK)
        for name in ("requirements.txt", "requirements-dev.txt"):
            (self.root / name).write_text("")
        (self.root / ".venv" / "bin").mkdir(parents=True)
        (self.root / ".venv" / "bin" / "python").symlink_to(sys.executable)
        stamp = f"Python {platform.python_version()} {hashlib.sha256(b'').hexdigest()}\n"
        (self.root / ".venv" / "installed").write_text(stamp)

    def run(self, *command: str, **env: str) -> subprocess.CompletedProcess[str]:
        """A command in the repository, with no input and at most a minute."""
        return subprocess.run(
            command,
            cwd=self.root,
            env=self.env | env,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def serve(self, **env: str) -> str:
        """Launches a run that waits for a signal; returns the name of its session."""
        done = self.run("scripts/sh/launch.sh", "fake", FAKE="serve", **env)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def run_folder(self, session: str) -> Path:
        return self.experiments / f"run-{self.field(session, 'pid')}"

    def field(self, session: str, name: str) -> str:
        """A field of the launcher's record of a session."""
        return (self.launch / session / name).read_text().strip()

    def screens(self) -> list[str]:
        """The ids of all living screen sessions in this repository's socket folder."""
        listing = self.run("screen", "-ls").stdout
        return [line.split()[0] for line in listing.splitlines() if line.startswith("\t")]

    def close(self) -> None:
        """Ends what a failed test has left: only sessions in this repository's own socket folder."""
        if shutil.which("screen"):
            for screen in self.screens():
                self.run("screen", "-S", screen, "-X", "quit")
        for socket in self.sockets.glob("tmux-*/*"):
            self.run("tmux", "-S", str(socket), "kill-server")
        shutil.rmtree(self.sockets, ignore_errors=True)


@contextmanager
def fake_repository(parent: Path) -> Iterator[FakeRepository]:
    """A fresh repository in a folder whose name needs quoting. Socket paths are short: the system limits them."""
    repository = FakeRepository(parent / "a repo $HOME 100%", Path(tempfile.mkdtemp(prefix="sockets-")))
    try:
        yield repository
    finally:
        repository.close()


def path_without(folder: Path, *missing: str) -> str:
    """A PATH with everything on this machine but the missing programs."""
    folder.mkdir()
    for place in os.environ["PATH"].split(os.pathsep):
        for program in Path(place).glob("*"):
            wanted = not any(program.match(pattern) for pattern in missing)
            if wanted and not (folder / program.name).is_symlink():
                (folder / program.name).symlink_to(program)
    return str(folder)


def eventually(holds: Callable[[], object], seconds: float = 10.0) -> bool:
    """True as soon as it holds, False if it does not within the time."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if holds():
            return True
        time.sleep(0.1)
    return bool(holds())
