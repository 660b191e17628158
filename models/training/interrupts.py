"""Signals that stop a run: the handler records a signal, and the training loop stops at the end of a step."""

import signal
from types import FrameType
from typing import Any, Self

from models import processes

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interrupted(Exception):
    """Exception raised when a signal stops the task. Training saves a checkpoint before it raises this."""

    def __init__(self, number: int):
        super().__init__(signal.Signals(number).name)
        self.exit_code = 128 + number


class Interrupts:
    """Context manager that records the first SIGINT, SIGTERM or SIGHUP in its attribute `signal`.

    With one rank, the previous handlers are then restored, so a second Ctrl-C stops at once. With several ranks,
    further signals are ignored, because torchrun, Slurm and systemd all send signals to the ranks. If SIGHUP is ignored
    on entry, as under nohup, it stays ignored.
    """

    def __init__(self, at_once: bool = False) -> None:
        """Create the manager. at_once: raise Interrupted in the signal handler, for work that has nothing to save."""
        self.signal: int | None = None
        self.at_once = at_once
        self.ignore_second = processes.world_size() > 1
        self._handlers: dict[int, Any] = {}

    def __enter__(self) -> Self:
        handled = [n for n in SIGNALS if n != signal.SIGHUP or signal.getsignal(n) != signal.SIG_IGN]
        self._handlers = {number: signal.signal(number, self._record) for number in handled}
        return self

    def __exit__(self, *_: object) -> None:
        if self.signal is None or not self.ignore_second:
            self._restore()

    def _record(self, number: int, frame: FrameType | None) -> None:
        self.signal = number
        if self.ignore_second:
            for other in self._handlers:
                signal.signal(other, signal.SIG_IGN)
        else:
            self._restore()
        if self.at_once:
            raise Interrupted(number)

    def _restore(self) -> None:
        for number, handler in self._handlers.items():
            # None means that the handler was not installed from Python. Python cannot restore it.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
