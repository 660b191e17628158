"""Write pages over all runs, for a browser: an index, a page per run, and a comparison of any two."""

if not __package__:
    __import__("cli")  # says what to type, and exits

import sys
from dataclasses import dataclass, field
from pathlib import Path

from models.places import experiments_dir
from scripts.cli.arguments import parse_flags
from scripts.cli.command import run_command

DESCRIPTION = (
    "Write pages over all runs, from their folders alone: a table, a page per run, and a comparison of any two. They "
    "open from a file, without a server or a network, and the folder can be copied. Prints the path of the index."
)


@dataclass(frozen=True)
class ReportFlags:
    """Settings of `report`."""

    experiments_dir: str = field(default_factory=experiments_dir)
    """Folder of the run folders. The variable EXPERIMENTS_DIR sets its default."""
    out: str | None = None
    """Folder to write: a new one, or that of an earlier report. Default: report/ in --experiments_dir."""


def main(argv: list[str]) -> None:
    flags = parse_flags(argv, ReportFlags(), "report", DESCRIPTION)
    from models.report.building import INDEX, Report, count_states
    from scripts.tasks.reporting import ADVICE

    folder = Path(flags.experiments_dir)
    report = Report(folder, Path(flags.out) if flags.out else folder / "report", ADVICE)
    entries = report.update()
    print(count_states(entries) if entries else f"no runs in {folder}", file=sys.stderr)
    print(report.out / INDEX)


if __name__ == "__main__":
    run_command(main)
