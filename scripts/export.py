"""Export a trained run: an ONNX file, a folder to share, or one HTML file that generates images in any browser."""

if not __package__:
    __import__("cli")  # says what to type, and exits

from dataclasses import dataclass, field
from typing import Literal

import tyro

from scripts.cli.command import quick_imports, run_command
from scripts.cli.flags import RunChoice
from scripts.cli.settings import read_flags

DESCRIPTION = "Export a trained run for use elsewhere. Prints the file or folder."


@dataclass(frozen=True)
class ExportFlags:
    """Settings of `export`."""

    to: Literal["html", "onnx", "folder"] = "html"
    """html: one file that generates images in any browser, offline. onnx: the network for ONNX runtimes, with a script
    that samples from it. folder: the run with one checkpoint and a model card, for this repository or a model hub."""
    model: tyro.conf.OmitArgPrefixes[RunChoice] = field(default_factory=RunChoice)
    out: str | None = None
    """File (html) or folder to write, which must be new. Default: a new one in exported/ in the run."""


def main(argv: list[str]) -> None:
    flags = read_flags(argv, ExportFlags(), "export", DESCRIPTION)
    with quick_imports():
        from scripts.tasks.exporting import export
    export(flags)


if __name__ == "__main__":
    run_command(main)
