"""The folder that a training run writes: name, status with heartbeat, log and settings. Imports no torch.

A killed run leaves a valid folder, because files are replaced atomically. Its heartbeat stops.
"""

import json
import math
import os
import shutil
import socket
import sys
import threading
from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any, Self

import yaml

from models.errors import UserError
from models.runs.files import write_text
from models.runs.lookup import CONFIG
from models.runs.status import STATUS, liveness, read_status, utc_now

HEARTBEAT_SECONDS = 15.0


def _print(line: str) -> None:
    """Print a line on standard error. A closed terminal must not end the run."""
    with suppress(OSError):
        print(line, file=sys.stderr, flush=True)


class Run:
    """Run folder of this process. On ranks other than 0, the Run is `silent`: it writes only a failure."""

    def __init__(self, folder: Path, status: dict[str, Any], silent: bool = False):
        self.folder = folder
        self.silent = silent
        self._status = status
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._heartbeat_error: OSError | None = None
        self._heartbeat = threading.Thread(target=self._beat, name="heartbeat", daemon=True)

    @classmethod
    def create(cls, experiments_dir: Path, task: str, dataset: str, name: str | None) -> Self:
        """Make the folder `<date>_<time>-<task>-<dataset>[-<name>]`. Raises UserError if it cannot be written."""
        if name and (os.sep in name or name.startswith(".") or len(name) > 100 or not name.isprintable()):
            raise UserError(f"`name` {name!r}: must be at most 100 printable characters, no {os.sep!r}, no leading dot")
        words = [task.removeprefix("train_"), dataset, *([name] if name else [])]
        stem = "-".join([datetime.now().strftime("%Y%m%d_%H%M%S"), *words])
        folder = None
        try:
            folder = _make_folder(experiments_dir, stem)
            run = cls(folder, {"task": task, "dataset": dataset, "started": utc_now()})
            run._begin()
        except OSError as error:
            if folder is not None:
                shutil.rmtree(folder, ignore_errors=True)
            message = f"`experiments_dir` {experiments_dir}: cannot write in it ({error.strerror})"
            raise UserError(message, "name another folder") from None
        return run

    @classmethod
    def attach(cls, folder: Path) -> Self:
        """Return a silent Run for a rank other than 0."""
        return cls(folder, {}, silent=True)

    @classmethod
    def reopen(cls, folder: Path) -> Self:
        """Resume a run that has ended. Raises UserError if it is still running or its folder cannot be written."""
        status = read_status(folder)
        if liveness(status) == "running":
            pid, host = status.get("pid"), status.get("host")
            raise UserError(f"{folder} is still running (pid {pid} on {host})", "stop it first")
        run = cls(folder, status)
        try:
            run._begin()
        except OSError as error:
            raise UserError(f"cannot write in {folder}: {error.strerror}") from None
        return run

    @property
    def task(self) -> str:
        return str(self._status.get("task"))

    def _begin(self) -> None:
        session = os.environ.get("LAUNCH_SESSION")
        self.update(state="running", reason="", pid=os.getpid(), host=socket.gethostname(), session=session)
        self._link_launch_logs()
        self._heartbeat.start()

    def _link_launch_logs(self) -> None:
        """Link the launcher's logs into the run folder, and write the run folder's path for the launcher."""
        record = os.environ.get("LAUNCH_RECORD")
        if record and os.path.isdir(record):
            write_text(Path(record, "folder"), f"{self.folder}\n")
        for variable, name in (("LAUNCH_LOG", "console.log"), ("LAUNCH_MONITOR", "monitor.csv")):
            source = os.environ.get(variable)
            if not source or not os.path.isfile(source):
                continue
            link = self.folder / name
            if os.path.lexists(link):  # Of an earlier session of this run.
                names = (link.with_stem(f"{link.stem}-{number}") for number in range(1, 10_000))
                link.rename(next(path for path in names if not os.path.lexists(path)))
            try:
                link.hardlink_to(source)
            except OSError:
                with suppress(OSError):  # A file system without links: the log stays where the launcher writes it.
                    link.symlink_to(os.path.abspath(source))

    def _beat(self) -> None:
        while not self._stop.wait(HEARTBEAT_SECONDS):
            try:
                self.update()
            except OSError as error:
                self._heartbeat_error = error
                return

    def check(self) -> None:
        """Raise the OSError that stopped the heartbeat, if any: the folder was removed or the disk is full."""
        if self._heartbeat_error is not None:
            raise self._heartbeat_error

    def note(self, **fields: Any) -> None:
        """Set fields of status.json that the next heartbeat writes."""
        with self._lock:
            self._status.update(fields)

    def update(self, **fields: Any) -> None:
        """Write fields to status.json, with a new heartbeat. A state `failed` set by another rank is kept."""
        if self.silent:
            return
        with self._lock:
            if fields.get("state") != "running":  # a resumed run overwrites its failure
                fields |= self._failure() or {}
            self._status.update(fields, heartbeat=utc_now())
            for key, value in self._status.items():
                if isinstance(value, float) and not math.isfinite(value):
                    self._status[key] = None  # JSON has no infinity and no NaN.
            write_text(self.folder / STATUS, json.dumps(self._status, indent=2) + "\n")

    def _failure(self) -> dict[str, Any] | None:
        with suppress(UserError):
            status = read_status(self.folder)
            if status.get("state") == "failed":
                return {"state": "failed", "reason": status.get("reason")}
        return None

    def fail(self, reason: str, trace: str) -> None:
        """Mark the run as failed and append the traceback to the log, unless another rank has already done so."""
        if self._failure() is None:
            if self.silent:
                with suppress(UserError):
                    self._status = read_status(self.folder)
                self.silent = False
            # A full disk or a removed folder may be the cause. Python prints the traceback in any case.
            with suppress(OSError):
                self._append(trace)
        self.end("failed", reason)

    def end(self, state: str, reason: str = "") -> None:
        """Stop the heartbeat and write the state: finished, interrupted or failed."""
        self._stop.set()
        if self._heartbeat.is_alive():
            self._heartbeat.join()
        try:
            self.update(state=state, reason=reason)
        except OSError as error:
            _print(f"cannot mark {self.folder} as {state}: {error}")

    def log(self, line: str) -> None:
        """Append a line to training_log.txt and print it on standard error."""
        if not self.silent:
            _print(line)
            self._append(line)

    def _append(self, line: str) -> None:
        with open(self.folder / "training_log.txt", "a", encoding="utf-8") as file:
            file.write(line + "\n")

    def write_config(self, settings: Mapping[str, Any]) -> None:
        """Write the resolved settings to config.txt."""
        if not self.silent:
            write_text(self.folder / CONFIG, yaml.safe_dump(dict(settings), sort_keys=False, allow_unicode=True))


def _make_folder(experiments_dir: Path, stem: str) -> Path:
    for number in range(1, 1000):
        folder = experiments_dir / (stem if number == 1 else f"{stem}-{number}")
        try:
            folder.mkdir(parents=True)
            return folder
        except FileExistsError:
            if not experiments_dir.is_dir():
                raise
    raise UserError(f"{experiments_dir} holds a thousand runs named {stem}", "start again in a second")
