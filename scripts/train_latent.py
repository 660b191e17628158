"""Train a flow or diffusion model in the latents of an autoencoder. The default is the straight flow."""

if not __package__:
    __import__("cli")  # says what to type, and exits

from scripts.cli.command import quick_imports, run_command
from scripts.cli.flags import LATENT, LATENT_OPTIONS
from scripts.cli.settings import read_training
from scripts.tasks.starting import start_early

DESCRIPTION = "Train a flow or diffusion model in latent space. Prints the run folder."


def main(argv: list[str]) -> None:
    request = read_training(argv, "train_latent", LATENT, DESCRIPTION, LATENT_OPTIONS)
    with quick_imports():
        start_early(request)
        from scripts.tasks.denoising import train_denoiser

    train_denoiser(request)


if __name__ == "__main__":
    run_command(main, parallel=True)
