"""Encode both splits of a data set with an autoencoder. `train_latent` then reads the latents instead of encoding."""

if not __package__:
    __import__("cli")  # says what to type, and exits

from dataclasses import dataclass, replace

from scripts.cli.command import run_command
from scripts.cli.flags import CodingFlags
from scripts.cli.settings import read_coding
from scripts.cli.terminal import tell

DESCRIPTION = "Encode a data set with an autoencoder. Prints the output folder."


@dataclass(frozen=True)
class EncodeFlags(CodingFlags):
    """Settings of `encode_dataset`."""

    out: str | None = None
    """Output folder. Default: encoded/ in the run, where train_latent finds the latents."""


def main(argv: list[str]) -> None:
    flags = read_coding(argv, EncodeFlags(), "encode_dataset", DESCRIPTION)
    from models.spaces.encoded import FOLDER, encode_images, file_name, write_encoded
    from models.training.interrupts import Interrupts
    from scripts.tasks.autoencoding import dims, load_images, open_autoencoder
    from scripts.tasks.run_data import identity_of
    from scripts.tasks.sampling import folder_in_run

    model, device = open_autoencoder(flags)
    dataset = load_images(flags, model)
    folder = folder_in_run(model.path, flags.experiments_dir, flags.out, FOLDER)
    with Interrupts(at_once=True):
        for name, split, flips in (("train", dataset.train, dataset.flips), ("test", dataset.test, False)):
            codes = replace(
                encode_images(model, split.images, flips, device, flags.batch_size),
                data=identity_of(split),
                autoencoder_sha256=model.sha256,
                words={"dataset": dataset.name, "split": name, "autoencoder": str(model.path)},
            )
            path = folder / file_name(dataset.name, name)
            write_encoded(path, codes, split.labels)
            mirrored = " and their mirror images" if flips else ""
            deviations = ", ".join(f"{value:.3g}" for value in codes.statistics()[1].tolist())
            tell(
                f"{path.name}: {len(split)} {name} images{mirrored} as {dims(model.latent_shape)} latents; "
                f"standard deviation of each channel {deviations}"
            )
    print(folder)


if __name__ == "__main__":
    run_command(main)
