"""Train an autoencoder: a VAE with a Gaussian posterior, or a plain autoencoder."""

if not __package__:
    __import__("cli")  # says what to type, and exits

from scripts.cli.command import quick_imports, run_command
from scripts.cli.flags import AutoencoderFlags
from scripts.cli.settings import read_training
from scripts.tasks.starting import start_early

DESCRIPTION = "Train an autoencoder, for latent diffusion or other uses. Prints the run folder."


def main(argv: list[str]) -> None:
    request = read_training(argv, "train_vae", AutoencoderFlags(), DESCRIPTION)
    with quick_imports():
        start_early(request)
        from scripts.tasks.autoencoding import prepare_autoencoder
        from scripts.tasks.training import run_training

    run_training(request, prepare_autoencoder)


if __name__ == "__main__":
    run_command(main, parallel=True)
