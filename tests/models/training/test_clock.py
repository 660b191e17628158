"""The clock of several processes: the same seconds in all at every step, close to those of the slowest."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from random import Random

import pytest

from models import distributed, processes
from models.training.clock import AGREE_SECONDS, AGREE_STEPS, SharedClock

RANKS = 2


class Meeting:
    """Stand-in for `max_over_ranks` between threads. meetings: how often the ranks have met."""

    def __init__(self) -> None:
        self.barrier = threading.Barrier(RANKS, timeout=60)
        self.values: dict[int, Sequence[float]] = {}
        self.meetings = 0

    def max_over_ranks(self, *values: float) -> list[float]:
        self.values[threading.get_ident()] = values
        self.barrier.wait()
        maxima = [max(column) for column in zip(*self.values.values(), strict=True)]
        if self.barrier.wait() == 0:
            self.meetings += 1
        return maxima


@pytest.fixture
def meeting(monkeypatch: pytest.MonkeyPatch) -> Meeting:
    made = Meeting()
    monkeypatch.setattr(distributed, "max_over_ranks", made.max_over_ranks)
    monkeypatch.setattr(processes, "world_size", lambda: RANKS)
    return made


def run_ranks(work: Callable[[int], list[float]]) -> list[list[float]]:
    with ThreadPoolExecutor(RANKS) as pool:
        return list(pool.map(work, range(RANKS)))


@pytest.mark.parametrize("step_seconds", [0.01, 0.4, 30.0])
def test_one_slow_rank_and_equal_seconds(step_seconds: float, meeting: Meeting) -> None:
    steps = 100

    def rank(number: int) -> list[float]:
        clock, random, seconds = SharedClock(), Random(number), []
        for step in range(steps):
            clock.advance(step_seconds * (1 + number) * random.uniform(0.5, 1.5), 0, agree=step == steps - 1)
            seconds.append(clock.seconds)
        return seconds

    one, other = run_ranks(rank)
    assert one == other
    slowest, random = 0.0, Random(1)
    for seconds in one:
        slowest += step_seconds * 2 * random.uniform(0.5, 1.5)
        assert abs(seconds - slowest) < max(AGREE_SECONDS, 3 * step_seconds)
    assert one[-1] == pytest.approx(slowest, rel=0.05)  # at first the other rank may be slower
    between = max(1, min(AGREE_STEPS, int(AGREE_SECONDS / (2 * step_seconds))))
    assert steps / between / 2 < meeting.meetings < 3 * steps / between + 2


def test_a_signal_of_one_rank_reaches_all_at_the_same_step(meeting: Meeting) -> None:
    def rank(number: int) -> list[float]:
        clock = SharedClock()
        for step in range(100):
            if signal := clock.advance(0.01, 15 if number == 1 and step >= 5 else 0):
                return [step, signal]
        return []

    one, other = run_ranks(rank)
    assert one == other and one[0] <= 5 + AGREE_STEPS and one[1] == 15


def test_one_process_counts_its_own_seconds() -> None:
    clock = SharedClock()
    clock.set(3.0)
    assert clock.advance(0.5, 0) == 0 and clock.seconds == 3.5
    assert clock.advance(0.25, 2) == 2 and clock.seconds == 3.75
