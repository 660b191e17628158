"""Trains a diffusion model: by default a DDPM, that is eps-prediction on a cosine chain of 1,000 steps."""

from __future__ import annotations

from scripts.command import run_command
from scripts.denoising import train_denoiser
from scripts.flags import TrainFlags

DESCRIPTION = "Train a diffusion model, by default a DDPM. Prints the run folder."


def main(argv: list[str]) -> None:
    train_denoiser(argv, "train_ddpm", TrainFlags(), DESCRIPTION)


if __name__ == "__main__":
    run_command(main, parallel=True)
