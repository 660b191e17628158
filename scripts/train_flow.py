"""Trains a flow-matching model: by default the straight flow with logit-normal times."""

from __future__ import annotations

from scripts.cli.command import run_command
from scripts.cli.flags import FLOW
from scripts.tasks.denoising import train_denoiser

DESCRIPTION = "Train a flow model on straight lines to noise. Prints the run folder."


def main(argv: list[str]) -> None:
    train_denoiser(argv, "train_flow", FLOW, DESCRIPTION)


if __name__ == "__main__":
    run_command(main, parallel=True)
