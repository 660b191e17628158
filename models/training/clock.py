"""Training time of a run. It must be the same in all processes, because learning rate and progress depend on it."""

from models import distributed, processes

# The processes agree on the time after this many steps or seconds, whichever comes first.
AGREE_STEPS = 20
AGREE_SECONDS = 5.0


class SharedClock:
    """Clock that counts the seconds of training. seconds: the same in all processes at every step.

    A single process counts its own time. Several processes agree on the longest time every few steps. At the
    other steps, the clock adds the mean step time between the last two agreements, so these steps wait for no process.
    """

    def __init__(self) -> None:
        self.seconds = 0.0
        self._measured = self._agreed = 0.0
        self._step_seconds = 0.0
        self._since = self._steps = 0

    def set(self, seconds: float) -> None:
        """Set the training time, for example to that of a checkpoint."""
        self.seconds = self._measured = self._agreed = seconds

    def advance(self, elapsed: float, signal: int, agree: bool = False) -> int:
        """Count a step. Return the number of a signal that some process has received, 0 if none is known yet.

        elapsed: seconds of the step in this process. signal: number of the signal that this process has received, or 0.
        agree: whether the processes must agree on the time at this step. All processes must pass the same value.
        """
        self._measured += elapsed
        self._since += 1
        if processes.world_size() == 1:
            self.seconds = self._measured
            return signal
        if self._since < self._steps and not agree:
            self.seconds += self._step_seconds
            return 0
        received, seconds = distributed.max_over_ranks(signal, self._measured)
        self._step_seconds = (seconds - self._agreed) / self._since
        self._steps = max(1, min(AGREE_STEPS, int(AGREE_SECONDS / max(self._step_seconds, 1e-9))))
        self._since = 0
        self.set(seconds)
        return int(received)
