"""Train a diffusion model. The default is a DDPM with eps-prediction and a cosine schedule of 1,000 steps."""

if not __package__:
    __import__("cli")  # says what to type, and exits

from scripts.cli.command import quick_imports, run_command
from scripts.cli.flags import TrainFlags
from scripts.cli.settings import read_training
from scripts.tasks.starting import start_early

DESCRIPTION = "Train a diffusion model, by default a DDPM. Prints the run folder."


def main(argv: list[str]) -> None:
    request = read_training(argv, "train_ddpm", TrainFlags(), DESCRIPTION)
    with quick_imports():
        start_early(request)
        from scripts.tasks.denoising import train_denoiser

    train_denoiser(request)


if __name__ == "__main__":
    run_command(main, parallel=True)
