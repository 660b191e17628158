"""The experiment folder: its name, status with heartbeat, log, metrics and environment. Imports no torch.

A run killed at any instant leaves a folder that says so: `status.json` is replaced whole, lines are appended
whole, and a heartbeat that stops tells the rest. What is trained and saved is the business of others.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import socket
import sys
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any

import yaml

from models.errors import UserError
from models.runs.files import write_text
from models.runs.lookup import CONFIG
from models.runs.status import STATUS, _now, liveness, read_status

HEARTBEAT_SECONDS = 15.0


def _tell(line: str) -> None:
    """To standard error, as long as somebody is there: a closed terminal must not end the run."""
    with suppress(OSError):
        print(line, file=sys.stderr, flush=True)


class Run:
    """One run folder being written by this process. Of several processes the first writes it; in the others it is
    `silent`, and all that it ever writes is why it fails."""

    def __init__(self, folder: Path, status: dict[str, Any], silent: bool = False):
        self.folder = folder
        self.silent = silent
        self.echo: Callable[[str], None] = _tell
        self._status = status
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._trouble: OSError | None = None
        self._heart = threading.Thread(target=self._beat, name="heartbeat", daemon=True)

    @classmethod
    def create(cls, experiments_dir: Path, task: str, dataset: str, name: str | None) -> Run:
        """Makes a new folder `<date>_<time>-<task>-<dataset>[-<name>]`. Raises UserError if it cannot be written."""
        words = [task.removeprefix("train_"), dataset, *([name] if name else [])]
        if name and (os.sep in name or name.startswith(".") or len(name) > 100 or not name.isprintable()):
            raise UserError(f"--name {name!r}: a folder's name of up to 100 printable characters without {os.sep!r}")
        stem = "-".join([datetime.now().strftime("%Y%m%d_%H%M%S"), *words])
        for attempt in range(1, 1000):
            folder = experiments_dir / (stem if attempt == 1 else f"{stem}-{attempt}")
            try:
                folder.mkdir(parents=True)
                break
            except FileExistsError:
                if not experiments_dir.is_dir():
                    raise UserError(f"{experiments_dir} is no folder: --experiments_dir") from None
            except OSError as error:
                raise UserError(f"cannot write in {experiments_dir}: {error.strerror}; --experiments_dir") from None
        else:
            raise UserError(f"{experiments_dir} holds a thousand runs of this second")
        run = cls(folder, {"task": task, "dataset": dataset, "started": _now()})
        try:
            run._begin()
        except OSError as error:
            shutil.rmtree(folder, ignore_errors=True)
            raise UserError(f"cannot write in {experiments_dir}: {error.strerror}; --experiments_dir") from None
        return run

    @classmethod
    def accompany(cls, folder: Path) -> Run:
        """The same run in its other processes."""
        return cls(folder, {}, silent=True)

    @classmethod
    def reopen(cls, folder: Path) -> Run:
        """Takes up an ended run. Raises UserError while another process still runs it or it cannot be written."""
        status = read_status(folder)
        if liveness(status) == "running":
            raise UserError(
                f"{folder} is still running (pid {status.get('pid')} on {status.get('host')}): stop it first"
            )
        run = cls(folder, status)
        try:
            run._begin()
        except OSError as error:
            raise UserError(f"cannot write in {folder}: {error.strerror}") from None
        return run

    def _begin(self) -> None:
        self.update(
            state="running",
            reason="",
            pid=os.getpid(),
            host=socket.gethostname(),
            session=os.environ.get("LAUNCH_SESSION"),
        )
        self._link_launch_logs()
        self._heart.start()

    def _link_launch_logs(self) -> None:
        """What the launcher writes about the run appears in its folder: console.log and monitor.csv."""
        for variable, name in (("LAUNCH_LOG", "console.log"), ("LAUNCH_MONITOR", "monitor.csv")):
            source = os.environ.get(variable)
            if not source or not os.path.isfile(source):
                continue
            place = self.folder / name
            place.unlink(missing_ok=True)
            try:
                place.hardlink_to(source)
            except OSError:
                place.symlink_to(os.path.abspath(source))

    def _beat(self) -> None:
        while not self._stop.wait(HEARTBEAT_SECONDS):
            try:
                self.update()
            except OSError as error:
                self._trouble = error
                return

    def check(self) -> None:
        """Raises the OSError that stopped the heartbeat, if one did: the folder is gone or its disk full."""
        if self._trouble is not None:
            raise self._trouble

    def note(self, **fields: Any) -> None:
        """Sets fields that the next heartbeat writes; costs nothing."""
        with self._lock:
            self._status.update(fields)

    def update(self, **fields: Any) -> None:
        """Sets fields of status.json and the heartbeat; that another process has marked the folder failed, it keeps."""
        if self.silent:
            return
        with self._lock:
            # JSON has no words for what is not finite.
            plain = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in fields.items()}
            if plain.get("state") != "running":  # which a run says as it begins, perhaps after a failure
                plain |= self._failure() or {}
            self._status.update(plain, heartbeat=_now())
            write_text(self.folder / STATUS, json.dumps(self._status, indent=2) + "\n")

    def _failure(self) -> dict[str, Any] | None:
        """What the folder says of a failure."""
        with suppress(UserError):
            told = read_status(self.folder)
            if told.get("state") == "failed":
                return {"state": "failed", "reason": told.get("reason")}
        return None

    def fail(self, reason: str, trace: str) -> None:
        """Marks the folder failed, with the traceback in the log. Of several processes the first to say so is heard."""
        if self._failure() is None:
            if self.silent:
                with suppress(UserError):
                    self._status = read_status(self.folder)
                self.silent = False
            # A full disk or a removed folder is often the very reason. Who watches sees Python print the traceback.
            with suppress(OSError):
                self._append(trace)
        self.end("failed", reason)

    def end(self, state: str, reason: str = "") -> None:
        """Stops the heartbeat and marks the folder finished, interrupted or failed, if it is still there."""
        self._stop.set()
        if self._heart.is_alive():
            self._heart.join()
        try:
            self.update(state=state, reason=reason)
        except OSError as error:
            self.echo(f"cannot mark {self.folder} {state}: {error}")

    def log(self, line: str) -> None:
        """One line to training_log.txt and to the person who watches."""
        if self.silent:
            return
        self.echo(line)
        self._append(line)

    def _append(self, line: str) -> None:
        with open(self.folder / "training_log.txt", "a", encoding="utf-8") as file:
            file.write(line + "\n")

    def write_config(self, settings: Mapping[str, Any]) -> None:
        if not self.silent:
            write_text(self.folder / CONFIG, yaml.safe_dump(dict(settings), sort_keys=False, allow_unicode=True))
