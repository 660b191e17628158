"""Serve the pages of `report` on this machine, and keep them up to date while runs train."""

if not __package__:
    __import__("cli")  # says what to type, and exits

import sys
from dataclasses import dataclass
from typing import Annotated

from models.ranges import Range
from scripts.cli.arguments import parse_flags
from scripts.cli.command import run_command
from scripts.cli.flags import ReportFlags

DESCRIPTION = (
    "Serve the pages of make report on 127.0.0.1, until Ctrl-C. They are updated while runs train. Prints the address "
    "to open. The address has a secret token, since other people may use the same machine."
)


@dataclass(frozen=True)
class ServeFlags(ReportFlags):
    """Settings of `serve`."""

    port: Annotated[int, Range(0, 65535)] = 8010
    """Port to listen on; 0 takes a free one. From another machine: ssh -L 8010:127.0.0.1:8010 SERVER."""


def main(argv: list[str]) -> None:
    flags = parse_flags(argv, ServeFlags(), "serve", DESCRIPTION)
    from models.report.server import ReportServer
    from scripts.tasks.reporting import open_report

    with ReportServer(open_report(flags, live=True), flags.port) as server:
        server.refresh()
        print(server.url, flush=True)
        port = server.server_address[1]
        print(f"read-only, until Ctrl-C. From another machine: ssh -L {port}:127.0.0.1:{port} SERVER", file=sys.stderr)
        server.serve_forever()


if __name__ == "__main__":
    run_command(main)
