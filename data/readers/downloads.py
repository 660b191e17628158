"""Downloads of published files that are missing. A file is checked before it gets its final name.

Without a network, a download fails within seconds.
"""

import http.client
import os
import queue
import sys
import threading
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import urlsplit

from models.errors import UserError
from models.progress import progress

# Time limits: from the name lookup to the response headers, and for each pause of the server after the headers.
ANSWER_SECONDS = 6.0
SILENCE_SECONDS = 30.0
_CHUNK = 1 << 18


def fetch_missing(
    name: str, folder: Path, urls: Mapping[str, Sequence[str]], check: Callable[[Path, str], object]
) -> None:
    """Download the files that are the keys of `urls` into `folder`.

    name: the data set. check(path, file): raises UserError unless the file at `path` is the published `file`.
    Raises UserError, which lists the missing files, if a download fails.
    """
    missing = list(urls)
    for file, addresses in urls.items():
        reason = _fetch(addresses, folder / file, lambda path, file=file: check(path, file))
        if reason is not None:
            raise UserError(
                f"{name}: {', '.join(missing)} missing in {folder}, and the download failed ({reason})",
                "put them there",
                "name the folder that has them with `data_root` or DATA_ROOT",
                "use `dataset digits`, which needs no files",
            )
        missing.remove(file)


def _fetch(addresses: Sequence[str], target: Path, check: Callable[[Path], object]) -> str | None:
    """Download a file. Return None on success, else the reason for the failure."""
    reasons = []
    part = target.with_name(f".{target.name}.{os.getpid()}.part")
    for url in addresses:
        host = urlsplit(url).hostname
        try:
            _download(url, part)
            check(part)
            part.replace(target)
            return None
        except (OSError, http.client.HTTPException) as error:
            reasons.append(f"{host}: {' '.join(str(error).split()) or type(error).__name__}")
        except UserError:
            reasons.append(f"{host}: it sent something else than the published file")
        finally:
            with suppress(FileNotFoundError, NotADirectoryError):
                part.unlink()
    return "; ".join(reasons)


def _download(url: str, path: Path) -> None:
    with _open(url) as response:
        path.parent.mkdir(parents=True, exist_ok=True)  # after the answer: a failed request leaves no folder behind
        with path.open("wb") as file:
            _save(response, file, url)
            file.flush()
            os.fsync(file.fileno())


def _save(response: Any, file: BinaryIO, url: str) -> None:
    length = response.headers.get("Content-Length")
    total = int(length) if length and length.isdigit() else None
    if not sys.stderr.isatty():
        print(f"downloading {url}", file=sys.stderr, flush=True)
    with progress(f"downloading {url}", total, unit="bytes") as advance:
        while chunk := response.read(_CHUNK):
            file.write(chunk)
            advance(len(chunk))
    if total is not None and file.tell() != total:
        raise ConnectionError(f"connection lost after {file.tell()} of {total} bytes")


def _open(url: str) -> Any:
    request = urllib.request.Request(url, headers={"User-Agent": "python-urllib"})
    return answer_of(lambda: urllib.request.urlopen(request, timeout=SILENCE_SECONDS))


def answer_of(ask: Callable[[], Any]) -> Any:
    """Return what `ask` returns, or raise what it raises. Raises TimeoutError after ANSWER_SECONDS."""
    # Timeouts of libraries cover neither the name lookup nor a host with many addresses. The wait below covers both.
    answers: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def put_answer() -> None:
        try:
            answers.put(ask())
        except Exception as error:
            answers.put(error)

    threading.Thread(target=put_answer, daemon=True).start()
    try:
        answer = answers.get(timeout=ANSWER_SECONDS)
    except queue.Empty:
        raise TimeoutError(f"no answer in {ANSWER_SECONDS:g} s") from None
    if isinstance(answer, Exception):
        raise answer
    return answer
