"""The status file of a run, status.json, and whether its process is still alive."""

import json
import os
import socket
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from models.errors import UserError

STATUS = "status.json"
STALE_SECONDS = 120.0


def utc_now() -> str:
    """Return the date and time in UTC, in ISO format to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def read_status(folder: Path) -> dict[str, Any]:
    """Read a run's status.json. Raises UserError if the file is missing or unreadable."""
    try:
        status = json.loads((folder / STATUS).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{folder} is no run folder: {STATUS} cannot be read ({error})") from None
    if not isinstance(status, dict):
        raise UserError(f"{folder / STATUS} holds no status: expected a JSON object")
    return status


def liveness(status: Mapping[str, Any]) -> str:
    """Return the state of a run, or "dead" if the state is running but the process or the heartbeat has stopped.

    The process is checked on its own host only. A heartbeat has stopped if it is older than STALE_SECONDS.
    """
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
