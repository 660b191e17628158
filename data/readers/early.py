"""Reading that begins in a thread before its result is needed, for example while torch is being imported."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

Result = TypeVar("Result")
_begun: dict[tuple[Any, ...], Future[Any]] = {}


def begin(read: Callable[..., Any], *arguments: Any) -> None:
    """Call read(*arguments) in a thread. The next `result` with the same arguments returns its result."""
    executor = ThreadPoolExecutor(1)
    _begun[read, *arguments] = executor.submit(read, *arguments)
    executor.shutdown(wait=False)


def result(read: Callable[..., Result], *arguments: Any) -> Result:
    """Return read(*arguments), or raise its error. The call is made now unless it has begun."""
    begun = _begun.pop((read, *arguments), None)
    return read(*arguments) if begun is None else begun.result()
