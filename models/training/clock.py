"""The training time of a run, the same in all processes, since learning rate and progress follow it."""

from models import distributed, processes

# Steps and seconds between two agreements of the processes, whichever is less.
AGREE_STEPS = 20
AGREE_SECONDS = 5.0


class SharedClock:
    """Seconds of training so far. seconds: the same in all processes at every step.

    One process counts its own time. Several processes agree on the longest time every few steps. Until the next
    agreement, each step counts the mean time of the steps before the last one, so no step waits for other processes.
    """

    def __init__(self) -> None:
        self.seconds = 0.0
        self._measured = self._agreed = 0.0
        self._step_seconds = 0.0
        self._since = self._steps = 0

    def set(self, seconds: float) -> None:
        """Go on from these seconds, those of a checkpoint."""
        self.seconds = self._measured = self._agreed = seconds

    def advance(self, elapsed: float, signal: int, agree: bool = False) -> int:
        """Count a step, and return the signal that any process has received, 0 for none or if it is not yet known.

        elapsed: seconds of this process. agree: agree now; all processes must ask for it at the same steps.
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
