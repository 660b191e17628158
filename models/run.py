"""The experiment folder: its name, status with heartbeat, log, metrics and environment. Imports no torch.

A run killed at any instant leaves a folder that says so: `status.json` is replaced whole, lines are appended
whole, and a heartbeat that stops tells the rest. What is trained and saved is the business of others.
"""

from __future__ import annotations

import csv
import io
import json
import math
import os
import platform
import shlex
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import yaml

from models.errors import UserError
from models.files import replacing

STATUS = "status.json"
CONFIG = "config.txt"
HEARTBEAT_SECONDS = 15.0
STALE_SECONDS = 120.0


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def write_text(path: Path, text: str) -> None:
    """Replaces a text file whole."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def read_status(folder: Path) -> dict[str, Any]:
    """The fields of a run's status.json. Raises UserError where there is none or it cannot be read."""
    try:
        status = json.loads((folder / STATUS).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{folder} is no run folder: {STATUS} cannot be read ({error})") from None
    if not isinstance(status, dict):
        raise UserError(f"{folder / STATUS} holds no status")
    return status


def liveness(status: Mapping[str, Any]) -> str:
    """The state, or "dead": says running, but its process is gone or its heartbeat is older than two minutes."""
    state = str(status.get("state", "unknown"))
    if state != "running":
        return state
    if status.get("host") == socket.gethostname():
        try:
            os.kill(int(status["pid"]), 0)
        except (ProcessLookupError, KeyError, ValueError, TypeError, OverflowError):
            return "dead"
        except PermissionError:
            pass
    try:
        age = datetime.now(UTC) - datetime.fromisoformat(str(status.get("heartbeat")))
    except (ValueError, TypeError):
        return "dead"
    return "dead" if age.total_seconds() > STALE_SECONDS else "running"


def find_runs(experiments_dir: Path) -> list[Path]:
    """The run folders in experiments_dir, newest first (their names begin with the time)."""
    return sorted((path.parent for path in experiments_dir.glob(f"*/{STATUS}")), reverse=True)


def find_run(wanted: str, experiments_dir: Path, task: str | tuple[str, ...] = (), dataset: str | None = None) -> Path:
    """The run that `wanted` names: "latest" (of the task or tasks and data set given), a folder, or a folder's name.

    Raises UserError where there is none.
    """
    tasks = (task,) if isinstance(task, str) else task
    if wanted == "latest":
        for folder in find_runs(experiments_dir):
            status = read_status(folder)
            if (not tasks or status.get("task") in tasks) and dataset in (None, status.get("dataset")):
                return folder
        kind = " ".join(f"of {word}" for word in (" or ".join(tasks), dataset) if word)
        raise UserError(f"no run {kind + ' ' if kind else ''}in {experiments_dir}: train one, or --experiments_dir")
    for folder in (Path(wanted), experiments_dir / wanted):
        if (folder / STATUS).is_file():
            return folder
    raise UserError(f"no run {wanted!r}: neither a run folder nor one in {experiments_dir} (make status lists them)")


def read_config(folder: Path) -> dict[str, Any]:
    """Every setting of a run, by flag. Raises UserError where there is none or it is not YAML."""
    return read_yaml(folder / CONFIG)


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML mapping; nothing in it is executed. Raises UserError."""
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"{path} cannot be read: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict):
        raise UserError(f"{path} holds no settings: expected lines of the form flag: value")
    return content


def environment() -> str:
    """Versions, machine, git commit and command line, as text."""
    packages = ("torch", "torchvision", "numpy", "safetensors", "tyro")
    git = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        commit = subprocess.run(git, capture_output=True, text=True, check=False).stdout.strip() or "unknown"
    except OSError:
        commit = "unknown (git is not installed)"
    lines = [
        f"started: {_now()}",
        f"command: {shlex.join([sys.executable, *sys.argv])}",
        f"folder: {os.getcwd()}",
        f"commit: {commit}",
        f"host: {socket.gethostname()}",
        f"system: {platform.platform()}",
        f"python: {platform.python_version()}",
        *(f"{package}: {metadata.version(package)}" for package in packages),
        f"cpu: {cpu_name()} ({os.cpu_count()} cores)",
    ]
    return "\n".join(lines) + "\n"


def cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def process_age() -> float:
    """Seconds since this process began: the interpreter's start and all imports are among them."""
    import psutil

    began = psutil.Process().create_time()
    if hasattr(time, "CLOCK_BOOTTIME"):  # psutil has it from the boot, whose time of day is known to a second only
        return time.clock_gettime(time.CLOCK_BOOTTIME) - (began - psutil.boot_time())
    return time.time() - began


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


class Metrics:
    """metrics.csv: rows of the same columns, read back and cut at a step when a run is taken up again."""

    def __init__(self, path: Path, columns: Sequence[str]):
        self.path = path
        self.columns = list(columns)
        self.rows: list[dict[str, str]] = []

    def cut_after(self, step: int) -> None:
        """Reads the file and forgets the rows after this step, which are about to be made again."""
        if self.path.is_file():
            with self.path.open(newline="", encoding="utf-8") as file:
                self.rows = [row for row in csv.DictReader(file) if _is_whole(row) and int(row["step"]) <= step]
            write_text(self.path, self._header() + "".join(self._line(row) for row in self.rows))

    def add(self, row: Mapping[str, Any]) -> None:
        """Appends one row; a missing column stays empty."""
        texts = {column: _cell(row.get(column)) for column in self.columns}
        new = not self.path.is_file()
        with self.path.open("a", newline="", encoding="utf-8") as file:
            file.write((self._header() if new else "") + self._line(texts))
        self.rows.append(texts)

    def _header(self) -> str:
        return ",".join(self.columns) + "\n"

    def _line(self, row: Mapping[str, str]) -> str:
        buffer = io.StringIO()
        csv.DictWriter(buffer, self.columns, lineterminator="\n", extrasaction="ignore").writerow(row)
        return buffer.getvalue()


def _is_whole(row: Mapping[str | None, Any]) -> bool:
    """Whether a row was written to its end: a power cut can leave a part of one."""
    return None not in row and None not in row.values() and str(row.get("step")).isdigit()


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.6g}" if isinstance(value, float) else str(value)
