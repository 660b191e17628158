"""The server of the report: it answers to the token and to this machine, shows no other file, and is read-only."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.client import HTTPConnection, HTTPResponse
from pathlib import Path

import pytest

from models.errors import UserError
from models.report import server as module
from models.report.building import Report
from models.report.server import ReportServer
from tests.models.report.folders import write_run
from tests.models.report.test_report import ADVICE

RUN = "20260201_000000-flow-digits"


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ReportServer]:
    monkeypatch.setattr(module, "FRESH_SECONDS", 0.0)
    run = write_run(tmp_path / "experiments", RUN, pictures=False)
    (tmp_path / "secret.txt").write_text("secret")
    (tmp_path / "experiments" / ".hidden").write_text("secret")
    (run / "link.txt").symlink_to(tmp_path / "secret.txt")
    (run / "folder").symlink_to(tmp_path)
    (run / "loop").symlink_to(run / "loop")
    (run / "page.html").touch()
    (run / "own.txt").symlink_to(run / "config.txt")
    report = Report(tmp_path / "experiments", tmp_path / "experiments" / "report", ADVICE, live=True)
    with ReportServer(report, 0, token="token") as made:
        made.refresh()
        thread = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield made
        made.shutdown()
        thread.join()


def ask(server: ReportServer, path: str, method: str = "GET", host: str | None = None) -> tuple[int, str, HTTPResponse]:
    connection = HTTPConnection("127.0.0.1", server.server_address[1], timeout=10)
    connection.putrequest(method, path, skip_host=True)
    if host != "":
        connection.putheader("Host", host or f"127.0.0.1:{server.server_address[1]}")
    connection.endheaders()
    answer = connection.getresponse()
    return answer.status, answer.read().decode(), answer


def test_pages_and_files_of_runs_are_served(server: ReportServer) -> None:
    status, content, answer = ask(server, "/token/report/index.html")
    assert status == 200 and RUN in content and "assets/live.js" in content
    assert answer.headers["Content-Security-Policy"].startswith("default-src 'none'; script-src 'self'")
    _, page, _ = ask(server, f"/token/report/runs/{RUN}/index.html")
    assert f'href="../../../{RUN}/config.txt"' in page
    for name in ("config.txt", "own.txt"):
        status, content, answer = ask(server, f"/token/{RUN}/{name}")
        assert status == 200 and "dataset: digits" in content and "sandbox" in answer.headers["Content-Security-Policy"]
        assert answer.headers["Content-Type"] == "text/plain; charset=utf-8"
    policy = ask(server, f"/token/{RUN}/page.html")[2].headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy and "sandbox allow-scripts;" in policy and "connect-src" not in policy
    status, content, answer = ask(server, "/token/report/index.html", "HEAD")
    assert status == 200 and content == "" and int(answer.headers["Content-Length"]) > 1000


ELSEWHERE = (
    "/",
    "/report/index.html",
    "/wrong/report/index.html",
    "/tokens/report/index.html",
    "/token",
    "/token/",
    "/token/report",
    "/token/report/../../../secret.txt",
    "/token/../secret.txt",
    "/token/%2e%2e/secret.txt",
    "/token/..%2fsecret.txt",
    "/token//etc/passwd",
    "/token/report//etc/passwd",
    "/token/%00",
    "/token/.hidden",
    f"/token/{RUN}/link.txt",
    f"/token/{RUN}/folder/secret.txt",
    f"/token/{RUN}/loop",
    f"/token/{RUN}",
    "/token/" + 5000 * "a",
    "/%ff/report/index.html",
)


def test_everything_else_is_refused(server: ReportServer) -> None:
    for path in ELSEWHERE:
        status, content, _ = ask(server, path)
        assert status == 404 and "secret" not in content and "root:" not in content, path


def test_another_host_is_refused(server: ReportServer) -> None:
    for host in ("evil.example", "evil.example:80", "127.0.0.1.evil.example", "", "localhost@evil"):
        assert ask(server, "/token/report/index.html", host=host)[0] == 403, host


def test_a_tunnel_may_have_another_port(server: ReportServer) -> None:
    for host in ("localhost:9999", "127.0.0.1", "[::1]:8010", "LOCALHOST"):
        assert ask(server, "/token/report/index.html", host=host)[0] == 200


def test_it_is_read_only_and_on_this_machine_alone(server: ReportServer) -> None:
    assert server.server_address[0] == "127.0.0.1"
    for method in ("POST", "PUT", "DELETE", "PATCH", "OPTIONS"):
        assert ask(server, f"/token/{RUN}/config.txt", method)[0] == 501


def test_pages_follow_a_run(server: ReportServer, tmp_path: Path) -> None:
    run = tmp_path / "experiments" / RUN
    (run / "training_log.txt").write_text("a new line\n")
    assert "a new line" in ask(server, f"/token/report/runs/{RUN}/index.html")[1]
    (run / "status.json").unlink()
    assert "unreadable" in ask(server, "/token/report/index.html")[1]


def test_a_taken_port_is_refused(server: ReportServer, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="in use"):
        ReportServer(server.report, server.server_address[1])
