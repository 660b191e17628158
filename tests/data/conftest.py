"""Fixtures of the tests of `data`: no network, small files in the official layouts, the real data."""

from __future__ import annotations

import gzip
import hashlib
import os
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.data.own_images import png, zipped


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    look_up = socket.getaddrinfo

    def local_only(host: Any, *args: Any, **kwargs: Any) -> Any:
        if host not in ("127.0.0.1", "localhost"):
            raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
        return look_up(host, *args, **kwargs)

    monkeypatch.setattr(socket, "getaddrinfo", local_only)
    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)


@pytest.fixture
def real_root() -> Path:
    """Return the folder of the real data sets. Skips the test if there is none."""
    root = os.environ.get("DATA_ROOT")
    if not root:
        pytest.skip("DATA_ROOT does not name a folder of real data")
    return Path(root).absolute()


@pytest.fixture
def idx_bytes() -> Callable[[np.ndarray], bytes]:
    """Return a function that writes an idx file of uint8 values."""

    def encode(values: np.ndarray) -> bytes:
        header = bytes([0, 0, 8, values.ndim]) + struct.pack(f">{values.ndim}I", *values.shape)
        return header + values.astype(np.uint8).tobytes()

    return encode


@pytest.fixture
def small_mnist(idx_bytes: Callable[[np.ndarray], bytes]) -> dict[str, bytes]:
    """Return the contents of four files like MNIST's, with 12 training and 10 test images of 28×28."""
    random = np.random.default_rng(0)
    contents = {}
    for part, count in (("train", 12), ("t10k", 10)):
        contents[f"{part}-images-idx3-ubyte"] = idx_bytes(random.integers(0, 256, (count, 28, 28)))
        contents[f"{part}-labels-idx1-ubyte"] = idx_bytes(np.arange(count) % 10)
    return contents


@pytest.fixture
def manifest() -> Callable[[dict[str, bytes]], dict[str, str]]:
    """Return a function from contents by name to their MD5 by name."""
    return lambda contents: {name: hashlib.md5(stored).hexdigest() for name, stored in contents.items()}


class Server:
    """Web server on this machine. It sends `files`, half of those in `cut`, and answers 404 for others."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.cut: set[str] = set()
        self.requests: list[str] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                name = self.path.lstrip("/")
                outer.requests.append(name)
                if name not in outer.files:
                    self.send_error(404)
                    return
                body = outer.files[name]
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body[: len(body) // 2] if name in outer.cut else body)

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def server() -> Iterator[Server]:
    running = Server()
    yield running
    running.close()


@pytest.fixture
def gzipped() -> Callable[[dict[str, bytes]], dict[str, bytes]]:
    return lambda contents: {f"{name}.gz": gzip.compress(stored) for name, stored in contents.items()}


@pytest.fixture
def write_files() -> Callable[[Path, dict[str, bytes]], None]:
    def write(folder: Path, contents: dict[str, bytes]) -> None:
        for name, stored in contents.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(stored)

    return write


@pytest.fixture(scope="module")
def forty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a zip of 40 random images of three classes, train and test."""
    top, random = tmp_path_factory.mktemp("forty") / "forty", np.random.default_rng(0)
    for number in range(40):
        part, name = "test" if number % 5 == 0 else "train", "ant cat dog".split()[number % 3]
        png(top / part / name / f"{number:02}.png", random.integers(0, 256, (6, 5, 3)).astype(np.uint8))
    return zipped(top)


@pytest.fixture
def classes(tmp_path: Path) -> Path:
    """Return a folder of the classes dog, cat and ant, ten images each, of values 0.., 100.. and 200.. ."""
    for first, name in ((0, "dog"), (100, "cat"), (200, "ant")):
        for number in range(10):
            png(tmp_path / "mine" / name / f"{number}.png", first + number)
    return tmp_path / "mine"
