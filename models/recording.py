"""Record a computation as a CUDA graph, and replay it: one launch instead of thousands.

A small network's step waits for Python, not for the GPU. The graph replays the same kernels at the same addresses. The
computation may therefore use only tensors whose addresses are fixed, and Python numbers that never change.
"""

from collections.abc import Callable, Mapping

import torch

# Number of calls before the recording. During them, libraries choose kernels and the optimizer creates its state.
WARM_UP = 3


class Recorder:
    """A computation that runs as it is for a few calls, is then recorded, and is replayed from then on.

    generators: the generators that the computation draws from, by name. They may be seeded between calls, and then give
    the same numbers as without recording. obstacle: why the computation cannot be recorded, None if it can be. tell:
    takes a line for the log.
    """

    def __init__(
        self,
        computation: Callable[[], object],
        generators: Mapping[str, torch.Generator],
        obstacle: str | None,
        tell: Callable[[str], None],
    ) -> None:
        self.computation, self.generators, self.obstacle, self.tell = computation, generators, obstacle, tell
        self.calls = 0
        self.graph: torch.cuda.CUDAGraph | None = None

    def __call__(self) -> None:
        if self.obstacle is None and self.graph is None:
            self.calls += 1
            if self.calls <= WARM_UP:
                self._run_aside()
                return
            self._record()
        if self.graph is None:
            self.computation()
        else:
            self.graph.replay()

    def _run_aside(self) -> None:
        """Run the computation on a side stream, as the recording does. The default stream cannot be recorded."""
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            self.computation()
        torch.cuda.current_stream().wait_stream(stream)

    def _record(self) -> None:
        graph = torch.cuda.CUDAGraph()
        for generator in self.generators.values():
            graph.register_generator_state(generator)
        try:
            with torch.cuda.graph(graph):
                self.computation()
        except RuntimeError as error:
            self.obstacle = str(error).splitlines()[0]
            self.tell(f"warning: not recorded as a CUDA graph: {self.obstacle}")
        else:
            self.graph = graph
