"""Local server of the report. It updates the report when a page is requested, and changes nothing else.

Other people may be logged in on the machine, and pages of other sites may run in the browser. So each address begins
with a secret token, the Host header must name this machine, and files outside the report and the folder of the runs
are not served.
"""

import hmac
import mimetypes
import os
import secrets
import shutil
import threading
import time
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

from models.errors import UserError
from models.report.building import INDEX, Report

HOST = "127.0.0.1"
HOSTS = ("127.0.0.1", "localhost", "[::1]")  # Any port: on the reader's side, an SSH tunnel may use another one.
FRESH_SECONDS = 3.0
TEXT_SUFFIXES = (".txt", ".csv", ".json", ".yaml", ".log", ".md", "")
POLICY = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
# Exported pages in a run, which generate images, may run scripts. They can access nothing, not even this server.
COMPUTING = "default-src 'none'; script-src 'unsafe-inline' 'wasm-unsafe-eval'; worker-src blob:; "
COMPUTING += "style-src 'unsafe-inline'; img-src data: blob:; sandbox allow-scripts; "
# Other files of a run are shown, but no script in them may run.
SANDBOX = "default-src 'none'; style-src 'unsafe-inline'; img-src 'self' data:; sandbox; "
CLOSED = "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"


class ReportServer(ThreadingHTTPServer):
    """Server of a live report. url: the address to open, with the token."""

    daemon_threads = True

    def __init__(self, report: Report, port: int, token: str | None = None):
        """Listen on a port of 127.0.0.1; 0 takes a free one. Raises UserError if the port is taken."""
        self.report, self.token = report, token or secrets.token_urlsafe(16)
        self._lock, self._updated = threading.Lock(), -FRESH_SECONDS
        try:
            super().__init__((HOST, port), _Handler)
        except (OSError, OverflowError) as error:
            raise UserError(f"`port` {port}: {getattr(error, 'strerror', error)}", "name another `port`") from None
        self.url = f"http://{HOST}:{self.server_address[1]}/{self.token}/report/{INDEX}"

    def refresh(self) -> None:
        """Update the report, unless it was updated in the last FRESH_SECONDS."""
        with self._lock:
            if time.monotonic() - self._updated >= FRESH_SECONDS:
                self.report.update()
                self._updated = time.monotonic()

    def find(self, path: str) -> tuple[Path, bool] | None:
        """Return the file at an address, and whether it is part of the report; None if there is no file to show.

        path: /TOKEN/report/... for the report, /TOKEN/... for a file in the folder of the runs.
        """
        token, _, rest = unquote(urlsplit(path).path, errors="surrogateescape").lstrip("/").partition("/")
        if not hmac.compare_digest(os.fsencode(token), self.token.encode()):
            return None
        of_report = rest.startswith("report/")
        root = (self.report.out if of_report else self.report.experiments_dir).resolve()
        try:
            file = (root / rest.removeprefix("report/" if of_report else "")).resolve()
            inside = file.relative_to(root)  # Raises ValueError if it is outside.
            hidden = any(part.startswith(".") for part in inside.parts)
            return None if hidden or not file.is_file() else (file, of_report)
        except (OSError, ValueError, RuntimeError):  # An invalid path, a name that is too long, a loop of links.
            return None


class _Handler(BaseHTTPRequestHandler):
    server: ReportServer  # pyright: ignore[reportIncompatibleVariableOverride]
    server_version, sys_version = "report", ""
    timeout = 30

    def do_GET(self) -> None:
        host = (self.headers.get("Host") or "").lower()
        if host.rpartition(":")[0] not in HOSTS and host not in HOSTS:
            self._refuse(HTTPStatus.FORBIDDEN, "The Host header names another machine.")
            return
        found = self.server.find(self.path)
        if found is not None and found[1] and found[0].suffix == ".html":
            self.server.refresh()
            found = self.server.find(self.path)  # The page of a deleted run is gone by now.
        if found is None:
            self._refuse(HTTPStatus.NOT_FOUND, "There is no such page. Use the whole printed address, with its token.")
            return
        file, of_report = found
        kind = mimetypes.guess_type(file.name)[0] or "application/octet-stream"
        if file.suffix in TEXT_SUFFIXES:
            kind = "text/plain"
        try:
            content = file.open("rb")
        except OSError:
            self._refuse(HTTPStatus.NOT_FOUND, "The file cannot be read.")
            return
        with content:
            size = os.fstat(content.fileno()).st_size
            of_run = COMPUTING if kind == "text/html" else SANDBOX
            self._send_head(HTTPStatus.OK, kind, size, POLICY if of_report else of_run)
            if self.command == "GET":
                shutil.copyfileobj(content, self.wfile)

    do_HEAD = do_GET

    def _refuse(self, status: HTTPStatus, reason: str) -> None:
        content = (reason + "\n").encode()
        self._send_head(status, "text/plain", len(content), SANDBOX)
        if self.command == "GET":
            self.wfile.write(content)

    def _send_head(self, status: HTTPStatus, kind: str, length: int, policy: str) -> None:
        self.send_response(status)
        headers = {
            "Content-Type": f"{kind}; charset=utf-8" if kind.startswith("text/") else kind,
            "Content-Length": str(length),
            "Content-Security-Policy": policy + CLOSED,
            "X-Content-Type-Options": "nosniff",
            "Referrer-Policy": "no-referrer",
            "Cache-Control": "no-store",
        }
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()

    def log_message(self, format: str, *arguments: object) -> None:
        """Write no log of requests, which would hold the token."""
