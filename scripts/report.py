"""Write pages about all runs, for a browser: an index, a page per run, and a comparison of any two."""

if not __package__:
    __import__("cli")  # says what to type, and exits

import sys

from scripts.cli.arguments import parse_flags
from scripts.cli.command import run_command
from scripts.cli.flags import ReportFlags

DESCRIPTION = (
    "Write pages about all runs, from their folders alone: a table, a page per run, and a comparison of any two. "
    "The pages open from a file, without a server or a network. The folder can be copied. Prints the path of the index."
)


def main(argv: list[str]) -> None:
    flags = parse_flags(argv, ReportFlags(), "report", DESCRIPTION)
    from models.report.building import INDEX, count_states
    from scripts.tasks.reporting import open_report

    report = open_report(flags)
    print(count_states(report.update()), file=sys.stderr)
    print(report.out / INDEX)


if __name__ == "__main__":
    run_command(main)
