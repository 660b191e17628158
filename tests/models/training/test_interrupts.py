"""The first signal is recorded; the previous handlers act on a second one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from models import processes
from models.training.interrupts import SIGNALS, Interrupted, Interrupts

REPOSITORY = Path(__file__).parents[3]


@pytest.fixture(autouse=True)
def _default_handlers() -> Iterator[None]:
    """Use default handlers in each test, and restore those of the test runner."""
    before = {number: signal.getsignal(number) for number in SIGNALS}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_is_recorded_and_the_previous_handlers_return(number: signal.Signals) -> None:
    before = {n: signal.getsignal(n) for n in SIGNALS}
    with Interrupts() as interrupts:
        assert interrupts.signal is None
        assert all(signal.getsignal(n) != before[n] for n in SIGNALS)
        os.kill(os.getpid(), number)
        assert interrupts.signal == number
        assert {n: signal.getsignal(n) for n in SIGNALS} == before
    assert {n: signal.getsignal(n) for n in SIGNALS} == before


def test_the_second_ctrl_c_stops_at_once() -> None:
    with Interrupts() as interrupts:
        os.kill(os.getpid(), signal.SIGINT)
        assert interrupts.signal == signal.SIGINT
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_several_ranks_ignore_a_second_signal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "world_size", lambda: 2)
    with Interrupts() as interrupts:
        for number in (signal.SIGTERM, signal.SIGTERM, signal.SIGINT):
            os.kill(os.getpid(), number)
        assert interrupts.signal == signal.SIGTERM
    os.kill(os.getpid(), signal.SIGTERM)  # ignored until the process ends
    with Interrupts():
        pass
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_IGN


def test_handlers_return_without_a_signal_and_after_a_failure() -> None:
    before = [signal.getsignal(number) for number in SIGNALS]
    with Interrupts():
        pass
    assert [signal.getsignal(number) for number in SIGNALS] == before
    with pytest.raises(RuntimeError), Interrupts():
        raise RuntimeError
    assert [signal.getsignal(number) for number in SIGNALS] == before


def test_an_ignored_sighup_stays_ignored() -> None:
    """A run under nohup ignores SIGHUP and still stops on SIGINT and SIGTERM."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with Interrupts() as interrupts:
        os.kill(os.getpid(), signal.SIGHUP)
        assert interrupts.signal is None
        os.kill(os.getpid(), signal.SIGTERM)
        assert interrupts.signal == signal.SIGTERM
    assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN


@pytest.mark.parametrize(
    ("number", "code", "name"),
    [(signal.SIGINT, 130, "SIGINT"), (signal.SIGTERM, 143, "SIGTERM"), (signal.SIGHUP, 129, "SIGHUP")],
)
def test_exit_codes(number: int, code: int, name: str) -> None:
    error = Interrupted(number)
    assert error.exit_code == code
    assert str(error) == name


LOOP = """
import signal, sys, time
from models.training.interrupts import Interrupts
for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
    signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
with Interrupts() as interrupts:
    print("ready", flush=True)
    while interrupts.signal is None:
        time.sleep(0.01)
    print("saving", flush=True)
    time.sleep(30 if sys.argv[1] == "slow" else 0)
sys.exit(128 + interrupts.signal)
"""


def start(speed: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", LOOP, speed]
    process = subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


@pytest.mark.parametrize("number", SIGNALS)
def test_a_real_process_saves_and_ends_with_its_code(number: signal.Signals) -> None:
    process = start("quick")
    process.send_signal(number)
    assert process.communicate(timeout=20)[0] == "saving\n"
    assert process.returncode == 128 + number


def test_a_real_process_ends_at_once_on_the_second_signal() -> None:
    process = start("slow")
    process.send_signal(signal.SIGTERM)
    assert process.stdout is not None
    assert process.stdout.readline() == "saving\n"
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=20)
    assert process.returncode == -signal.SIGTERM
