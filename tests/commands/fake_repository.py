"""A temporary repository with the real Makefile and shell scripts, and with fake tasks that cost nothing.

Its environment counts as installed. Its screen and tmux sessions use a socket folder of their own.
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
# Variables of the surrounding shell that would change the outcome.
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
    "PYTHON",
    "TORCH_BACKEND",
    "LAUNCH_WAIT",
)

# Writes its arguments to FAKE_OUT after FAKE_DELAY seconds. Then it does what FAKE says: exit ("dump"), fail with a
# code ("die 7"), or behave like a run ("serve"), which waits for a signal, takes a moment to end, and records all
# signals that it has received. With "mistake", it only refuses its flags.
TASK = """
import json, os, signal, sys, time
from pathlib import Path

def main():
    words = os.environ.get("FAKE", "dump").split()
    time.sleep(float(os.environ.get("FAKE_DELAY", 0)))
    if words[0] == "mistake":
        print("error: no such flag: --bath_size", file=sys.stderr)
        sys.exit(2)
    print("started", file=sys.stderr)
    Path(os.environ["FAKE_OUT"]).write_text(json.dumps(sys.argv[1:]))
    if words[0] == "die":
        print("error: no such flag: --bath_size", file=sys.stderr, flush=True)
        sys.exit(int(words[1]))
    if words[0] == "serve":
        serve(Path(os.environ.get("EXPERIMENTS_DIR", "experiments")) / f"run-{os.getpid()}")

def serve(folder):
    received = []
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda number, frame: received.append(number))
    folder.mkdir(parents=True)
    os.link(os.environ["LAUNCH_LOG"], folder / "console.log")
    Path(os.environ["LAUNCH_RECORD"], "folder").write_text(str(folder))
    print("serving, terminal:", sys.stderr.isatty(), file=sys.stderr, flush=True)
    deadline = time.monotonic() + 180
    while not received and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(0.7)
    (folder / "signals").write_text(" ".join(str(int(number)) for number in received))
    sys.exit(128 + received[0])

if __name__ == "__main__":
    main()
"""


class FakeRepository:
    """Repository in `root`, whose scripts run with the environment `env`. Tasks write their arguments to `out`."""

    def __init__(self, root: Path, sockets: Path):
        self.root = root
        self.out = root / "argv.json"
        self.experiments = root / "experiments"
        self.launch = self.experiments / ".launch"
        self.sockets = sockets
        self.env = {name: value for name, value in os.environ.items() if name not in FOREIGN}
        self.env |= {"SCREENDIR": str(sockets), "TMUX_TMPDIR": str(sockets), "FAKE_OUT": str(self.out)}
        self.env["LAUNCH_WAIT"] = "60"
        self._fill()

    def _fill(self) -> None:
        (self.root / "scripts" / "sh").mkdir(parents=True)
        for script in (ROOT / "scripts" / "sh").glob("*.sh"):
            shutil.copy(script, self.root / "scripts" / "sh")
        shutil.copy(ROOT / "Makefile", self.root)
        for task in ("fake", "train_ddpm", "train_flow", "generate", "record", "visualize_schedules"):
            (self.root / "scripts" / f"{task}.py").write_text(TASK)
        for name in ("requirements.txt", "requirements-dev.txt"):
            (self.root / name).touch()
        (self.root / ".venv" / "bin").mkdir(parents=True)
        (self.root / ".venv" / "bin" / "python").symlink_to(sys.executable)
        empty = hashlib.sha256(b"").hexdigest()
        stamp = f"Python {platform.python_version()}\nrequirements.txt {empty}\nrequirements-dev.txt {empty}\n"
        (self.root / ".venv" / "installed").write_text(stamp)

    def run(self, *command: str, **env: str) -> subprocess.CompletedProcess[str]:
        """Run a command in the repository, without input and for at most three minutes."""
        return subprocess.run(
            command,
            cwd=self.root,
            env=self.env | env,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=180,
            check=False,
        )

    def serve(self, **env: str) -> str:
        """Launch a run that waits for a signal, and return the name of its session."""
        done = self.run("scripts/sh/launch.sh", "fake", FAKE="serve", **env)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def run_folder(self, session: str) -> Path:
        return self.experiments / f"run-{self.field(session, 'pid')}"

    def field(self, session: str, name: str) -> str:
        """Return a field of a session's record."""
        return (self.launch / session / name).read_text().strip()

    def screens(self) -> list[str]:
        """Return the ids of all running screen sessions in this repository's socket folder."""
        listing = self.run("screen", "-ls").stdout
        return [line.split()[0] for line in listing.splitlines() if line.startswith("\t")]

    def close(self) -> None:
        """End the sessions in this repository's socket folder, which a failed test may have left."""
        if shutil.which("screen"):
            for screen in self.screens():
                self.run("screen", "-S", screen, "-X", "quit")
        for socket in self.sockets.glob("tmux-*/*"):
            self.run("tmux", "-S", str(socket), "kill-server")
        shutil.rmtree(self.sockets, ignore_errors=True)


@contextmanager
def fake_repository(parent: Path) -> Iterator[FakeRepository]:
    """Create a repository in a folder whose name needs quoting.

    The socket folder lies elsewhere, since the system limits the length of socket paths.
    """
    repository = FakeRepository(parent / "a repo $HOME 100%", Path(tempfile.mkdtemp(prefix="sockets-")))
    try:
        yield repository
    finally:
        repository.close()


def path_without(folder: Path, *missing: str) -> str:
    """Return a PATH with all programs of this machine except the missing ones. folder: is filled with links."""
    folder.mkdir()
    for directory in os.environ["PATH"].split(os.pathsep):
        for program in Path(directory).glob("*"):
            hidden = any(program.match(pattern) for pattern in missing)
            if not hidden and not (folder / program.name).is_symlink():
                (folder / program.name).symlink_to(program)
    return str(folder)


def eventually(holds: Callable[[], object], seconds: float = 60.0) -> bool:
    """Return True as soon as the condition holds, or False if it does not hold in time."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if holds():
            return True
        time.sleep(0.1)
    return bool(holds())
