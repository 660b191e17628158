"""Signals that ask a run to stop: remembered at once, obeyed by the loop at its next step."""

from __future__ import annotations

import signal
from types import FrameType
from typing import Any

from models import processes

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interrupted(Exception):
    """The run was asked to stop, and what it needs to go on is saved."""

    def __init__(self, number: int):
        super().__init__(signal.Signals(number).name)
        self.exit_code = 128 + number


class Interrupts:
    """While entered, `signal` holds the first of INT, TERM and HUP that came.

    The handlers of before are then in force again, so that a second Ctrl-C stops at once. Of several processes none
    heeds a second signal, to its end: Slurm and systemd tell each of them, and then torchrun does once more, and kills
    those that take too long. Where HUP was ignored it stays so: that is how nohup keeps a run alive when its terminal
    closes.
    """

    def __init__(self, at_once: bool = False) -> None:
        """at_once: raise Interrupted where the program is, for work that has nothing to save."""
        self.signal: int | None = None
        self.at_once = at_once
        self.told_twice = processes.world_size() > 1
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Interrupts:
        heeded = [n for n in SIGNALS if n != signal.SIGHUP or signal.getsignal(n) != signal.SIG_IGN]
        self._before = {number: signal.signal(number, self._note) for number in heeded}
        return self

    def __exit__(self, *_: object) -> None:
        if self.signal is None or not self.told_twice:
            self._restore()

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.signal = number
        if self.told_twice:
            for each in self._before:
                signal.signal(each, signal.SIG_IGN)
        else:
            self._restore()
        if self.at_once:
            raise Interrupted(number)

    def _restore(self) -> None:
        for number, handler in self._before.items():
            # None stands for a handler that another language installed: it cannot be put back from here.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
