"""The latent space of an autoencoder in pictures: where test images lie in it, what lies between them and beyond.

All is drawn from the posterior's means of test images. Which run it is stands in the title that the caller gives.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from models.autoencoders import AutoencoderNetwork
from models.autoencoders.autoencoder import AutoencoderSpec
from models.autoencoders.loss import unit_kl
from models.drawing import pictures
from models.drawing.figures import Cloud, class_map
from models.evaluation.maps import fit_map, principal_axes
from models.randomness import derive_seed
from models.spaces.pixels import Pixels

BATCH = 256
FEWEST_MAPPED, FEWEST_UMAP = 3, 50  # Images below which a map says nothing.
NEIGHBOURS = 15
SLICE, SLICE_WIDTH = 13, 3.0  # Images on a side of the decoded slice; its half width in deviations.
ROWS, STEPS = 8, 11  # Of the interpolations.
DRAWN_ROWS, DRAWN_COLUMNS = 4, 12  # Of each kind of samples.


@dataclass(frozen=True)
class Codec:
    """A network and what it is, between uint8 images on any device and latents on the CPU."""

    network: AutoencoderNetwork
    spec: AutoencoderSpec

    @property
    def _device(self) -> torch.device:
        return next(self.network.parameters()).device

    def encode(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """(N, C, H, W) -> mean and variance of the posterior, (N, c, h, w) each; variance 0 where there is none."""
        found = [self.network.encode(Pixels.scale(part.to(self._device))) for part in images.split(BATCH)]
        means = torch.cat([mean.float().cpu() for mean, _ in found])
        logs = [log.float().cpu() for _, log in found if log is not None]
        return means, torch.cat(logs).exp() if logs else torch.zeros_like(means)

    def decode(self, latents: Tensor) -> Tensor:
        """(N, c, h, w) -> uint8 (N, C, H, W)."""
        space = Pixels(self.spec.shape, 1.0)
        parts = (self.network.decode(part.to(self._device)) for part in latents.split(BATCH))
        return torch.cat([space.decode(self.spec.images(part)).cpu() for part in parts])


@torch.no_grad()
def draw_latent_space(
    codec: Codec,
    images: Tensor,
    labels: Tensor,
    class_names: Sequence[str],
    folder: Path,
    title: str,
    seed: int,
    umap: bool,
) -> None:
    """Writes every picture of the latent space into a folder that is there.

    images: test images, uint8 (N, C, H, W); labels: (N,). umap: draw that map, too, where PCA draws one.
    """
    means, variances = codec.encode(images)
    images, labels = images.cpu(), labels.cpu()
    _draw_maps(means, labels if class_names else None, class_names, folder, title, derive_seed(seed, "map"), umap)
    _draw_slice(codec, means, folder / "decoded_slice.png", title)
    if len(images) > 1:
        _draw_interpolations(codec, images, means, labels, folder / "interpolations.png", title)
    _draw_samples(codec, means, variances, folder / "prior_samples.png", title, derive_seed(seed, "prior"))


def _draw_maps(
    means: Tensor,
    labels: Tensor | None,
    class_names: Sequence[str],
    folder: Path,
    title: str,
    seed: int,
    umap: bool,
) -> None:
    """The latents themselves where two numbers are all of them; otherwise by PCA and UMAP."""
    flat = means.flatten(1).numpy()
    count, units = flat.shape
    marks = np.full(count, -1) if labels is None else labels.numpy()
    words = f"{title}: {'x'.join(map(str, means.shape[1:]))} latents of {count:,} test images"
    if units <= 2:
        points = flat if units == 2 else np.concatenate([flat, marks[:, None]], axis=1)
        axes = ("latent 1", "latent 2" if units == 2 else "class")
        class_map(Cloud(points, marks), class_names, axes, folder / "latents.png", words)
        return
    methods = ["pca"] * (count >= FEWEST_MAPPED) + ["umap"] * (umap and count >= FEWEST_UMAP)
    for method in methods:
        found = fit_map(method, flat, seed % 2**32, NEIGHBOURS)
        path, named = folder / f"latents_{method}.png", f"{words}, by {method.upper()}"
        class_map(Cloud(found.points, marks), class_names, found.axes, path, named, ticks=method == "pca")


def _draw_slice(codec: Codec, means: Tensor, path: Path, title: str) -> None:
    """Decoded points of a plane through the mean of the latents: all there is, or along the two widest directions."""
    flat = means.flatten(1)
    centre, units = flat.mean(0), flat.shape[1]
    if units > 2:
        axes = torch.from_numpy(principal_axes((flat - centre).numpy())[0]).float()
        words = "the plane of the two widest directions through their mean, in deviations"
    else:
        axes = torch.eye(units)
        words = (
            "the whole plane, in deviations from the mean" if units == 2 else "the line, in deviations from the mean"
        )
    deviations = ((flat - centre) @ axes.T).std(0, correction=0)
    reach = torch.linspace(-SLICE_WIDTH, SLICE_WIDTH, SLICE)
    rows = reach.flip(0) if len(axes) == 2 else torch.zeros(1)  # up is more, as on the maps
    across, up = (each.flatten() for each in torch.meshgrid(reach, rows, indexing="xy"))
    steps = torch.stack([across, up], dim=1)[:, : len(axes)] * deviations
    decoded = codec.decode((centre + steps @ axes).reshape(-1, *means.shape[1:]))
    sheet = pictures.grid(
        decoded,
        columns=SLICE,
        title=f"{title}: decoded latents on {words}",
        column_titles=[f"{value:+.1f}" if value else "0" for value in reach.tolist()],
        row_titles=[f"{value:+.1f}" if value else "0" for value in rows.tolist()] if len(rows) > 1 else (),
    )
    pictures.save_image(sheet, path)


def _draw_interpolations(codec: Codec, images: Tensor, means: Tensor, labels: Tensor, path: Path, title: str) -> None:
    """Straight lines between the latents of test images, of different classes where there are some."""
    starts = torch.linspace(0, len(images) - 1, min(ROWS, len(images))).long()
    ends = torch.tensor([_partner(labels, int(start)) for start in starts])
    shares = torch.linspace(0, 1, STEPS)
    decoded = [codec.decode(torch.lerp(means[starts], means[ends], share)) for share in shares.tolist()]
    frames = [images[starts], *decoded, images[ends]]
    captions = ["image", *(f"{share:.1f}" for share in shares.tolist()), "image"]
    words = f"{title}: decoded points of straight lines between the latents of two test images"
    pictures.save_image(pictures.strip(frames, captions, title=words), path)


def _partner(labels: Tensor, start: int) -> int:
    """The next image of another class, or the next one where there is none."""
    order = torch.arange(1, len(labels)).add(start) % len(labels)
    others = order[labels[order] != labels[start]]
    return int(others[0] if len(others) else order[0])


def _draw_samples(codec: Codec, means: Tensor, variances: Tensor, path: Path, title: str, seed: int) -> None:
    """Decoded draws from the prior, and from the Gaussian that the latents really have, unit by unit.

    A plain autoencoder has no prior; a VAE with a small KL weight has one that its latents do not keep to.
    """
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(DRAWN_ROWS * DRAWN_COLUMNS, *means.shape[1:], generator=generator)
    fitted = means.mean(0) + (means.var(0, correction=0) + variances.mean(0)).sqrt() * noise
    kinds = {"Gaussian fitted\nto the latents": fitted}
    words = "draws of a Gaussian fitted to the test latents, unit by unit; a plain autoencoder has no prior"
    if codec.spec.kind == "vae":
        kinds = {"prior:\nunit Gaussian": noise, **kinds}
        kl = unit_kl(means, variances.clamp(min=1e-30).log()).mean().item()
        words = (
            "draws of the prior, and of a Gaussian fitted to the test latents, unit by unit "
            f"(KL {kl:.2f} nats per unit)"
        )
    decoded = codec.decode(torch.cat(list(kinds.values())))
    row_titles = [name if row == 0 else "" for name in kinds for row in range(DRAWN_ROWS)]
    sheet = pictures.grid(
        decoded,
        columns=DRAWN_COLUMNS,
        title=f"{title}: decoded {words}",
        row_titles=row_titles if len(kinds) > 1 else (),
    )
    pictures.save_image(sheet, path)
