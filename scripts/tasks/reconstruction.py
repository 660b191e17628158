"""The work of `reconstruct`: write errors, latent statistics, and a picture of originals and reconstructions."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch
import yaml
from torch import Tensor

from data import Split
from models import devices
from models.autoencoders.autoencoder import Autoencoder
from models.drawing import image_files, sheets
from models.evaluation.fidelity import Fidelity, fidelity
from models.progress import progress
from models.runs.files import write_text
from models.spaces import ImageRows
from models.spaces.pixels import Pixels
from scripts.cli.arguments import to_config
from scripts.cli.terminal import tell
from scripts.tasks.autoencoding import dims, load_images, open_autoencoder, read_images
from scripts.tasks.run_data import split_hash
from scripts.tasks.sampling import name_of, new_folder

if TYPE_CHECKING:
    from scripts.reconstruct import ReconstructFlags

RANGE = "uint8 reconstructions through the posterior's mean; pixels scaled to [-1, 1], data range 2"


def reconstruct(flags: ReconstructFlags) -> None:
    """Write the picture, errors and latent statistics into a folder, and print the folder's name. Raises UserError."""
    model, device = open_autoencoder(flags, flags.weights)
    source, split = _images(flags, model)
    _, height, width = model.spec.shape
    sheets.check_scale(flags.scale, (height, 2 * width), flags.width, flags.height)
    with new_folder(flags.out, model.path, flags.experiments_dir, "reconstructions", source.split()[0]) as folder:
        reconstructed = _reconstruct(model, split.images, flags.batch_size, device)
        pairs = zip(split.images.split(500), reconstructed.images.split(500), strict=True)
        at = devices.measuring_device(device)
        result = fidelity((images.to(at), others.to(at)) for images, others in pairs)
        title = (
            f"{name_of(model.path)}, step {model.step}, {flags.weights} weights: {source} images, each with its "
            f"reconstruction on the right. All {len(split):,}: {_line(result)}"
        )
        rows = torch.linspace(0, len(split) - 1, min(flags.height * flags.width, len(split))).long()
        sheet = sheets.pairs(split.images[rows], reconstructed.images[rows], flags.width, title, flags.scale)
        image_files.save_image(sheet, folder / f"reconstructions.{flags.format}")
        report = _report(model, flags, source, split, result, reconstructed)
        write_text(folder / "metrics.json", json.dumps(report, indent=2) + "\n")
        write_text(folder / "metrics.txt", _table(report))
        write_text(folder / "config.txt", yaml.safe_dump(to_config(flags), sort_keys=False))
    tell(f"{len(split)} {source} images: {_line(result)}")


def _images(flags: ReconstructFlags, model: Autoencoder) -> tuple[str, Split]:
    """Return the name of the images to reconstruct, and the images."""
    if flags.image:
        images = read_images(flags.image, model.spec.shape, vars(flags.dataset_options))
        return "given", Split(images, torch.zeros(len(images), dtype=torch.long))
    dataset = load_images(flags, model)
    return f"{dataset.name} test", dataset.test


@dataclass(frozen=True)
class _Reconstructed:
    """Reconstructions. images: uint8 (N, C, H, W); latents: the posterior means (N, c, h, w)."""

    images: Tensor
    latents: Tensor


@torch.no_grad()
def _reconstruct(model: Autoencoder, images: ImageRows, batch_size: int, device: torch.device) -> _Reconstructed:
    space = Pixels(model.spec.shape, 1.0)

    def parts() -> Iterator[tuple[Tensor, Tensor]]:
        with progress("reconstructing images", len(images)) as advance:
            for part in images.split(batch_size):
                mean, _ = model.encode(space.encode(part.to(device)))
                yield space.decode(model.decode(mean)).cpu(), mean.cpu()
                advance(len(part))

    return _Reconstructed(*(torch.cat(batches) for batches in zip(*parts(), strict=True)))


def _line(result: Fidelity) -> str:
    return f"MSE {result.mse:.5f} and L1 {result.l1:.5f} on [-1, 1], PSNR {result.psnr:.2f} dB, SSIM {result.ssim:.4f}"


def _report(
    model: Autoencoder, flags: ReconstructFlags, source: str, split: Split, result: Fidelity, output: _Reconstructed
) -> dict[str, Any]:
    latents = output.latents.double()
    channels = latents.transpose(0, 1).flatten(1)
    measured = asdict(result)
    measured["psnr_db"] = psnr if math.isfinite(psnr := measured.pop("psnr")) else None
    return {
        "run": name_of(model.path),
        "checkpoint": model.path.name,
        "checkpoint_sha256": model.sha256,
        "step": model.step,
        "weights": flags.weights,
        "source": source,
        "images_sha256": split_hash(split),
        "taken_on": RANGE,
        **measured,
        "latent_shape": list(model.latent_shape),
        "latent_mean": latents.mean().item(),
        "latent_deviation": latents.std(correction=0).item(),
        "latent_channel_means": channels.mean(1).tolist(),
        "latent_channel_deviations": channels.std(1, correction=0).tolist(),
    }


def _table(report: dict[str, Any]) -> str:
    def cell(value: Any) -> str:
        if isinstance(value, list):
            return dims(value) if isinstance(value[0], int) else "  ".join(f"{number:.4g}" for number in value)
        return f"{value:.6g}" if isinstance(value, float) else str(value)

    width = max(map(len, report))
    return "".join(f"{key:<{width}}  {cell(value)}\n" for key, value in report.items())
