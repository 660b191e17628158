"""Trains a diffusion model: by default a DDPM, that is eps-prediction on a cosine chain of 1,000 steps."""

from __future__ import annotations

from scripts.cli.command import run_command
from scripts.cli.flags import TrainFlags
from scripts.tasks.denoising import train_denoiser

DESCRIPTION = "Train a diffusion model, by default a DDPM. Prints the run folder."


def main(argv: list[str]) -> None:
    train_denoiser(argv, "train_ddpm", TrainFlags(), DESCRIPTION)


if __name__ == "__main__":
    run_command(main, parallel=True)
