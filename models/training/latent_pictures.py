"""Pictures of an autoencoder's latent space: maps of test images, a slice, interpolations and decoded samples."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from models.autoencoders import AutoencoderNetwork
from models.autoencoders.autoencoder import AutoencoderSpec
from models.autoencoders.loss import unit_kl
from models.class_names import change_title
from models.drawing import sheets
from models.drawing.figure_files import in_formats
from models.drawing.image_files import save_with
from models.drawing.lettering import class_titles
from models.drawing.maps import Cloud, draw_class_map
from models.evaluation.maps import fit_map, principal_axes
from models.randomness import derive_seed
from models.spaces.pixels import Pixels
from models.training.objectives import rows_in_turn

BATCH = 256
FEWEST_MAPPED, FEWEST_UMAP = 3, 50  # Fewest images for a map by PCA, and for a map by UMAP.
NEIGHBOURS = 15
SLICE, SLICE_WIDTH = 13, 3.0  # Images per side of the slice; half of its width in standard deviations.
ROWS, STEPS = 10, 11  # Rows and decoded steps of the interpolations.
DRAWN_ROWS, DRAWN_COLUMNS = 4, 12  # Rows and columns of each kind of samples.


@dataclass(frozen=True)
class Codec:
    """Autoencoder that converts uint8 images on any device to latents on the CPU, and back."""

    network: AutoencoderNetwork
    spec: AutoencoderSpec

    @property
    def _device(self) -> torch.device:
        return next(self.network.parameters()).device

    def encode(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return posterior mean and variance of uint8 images, each (N, c, h, w). A plain autoencoder has variance 0."""
        posteriors = [self.network.encode(Pixels.scale(batch.to(self._device))) for batch in images.split(BATCH)]
        means = torch.cat([mean.cpu() for mean, _ in posteriors]).to(torch.get_default_dtype())
        logs = [log.cpu().to(means.dtype) for _, log in posteriors if log is not None]
        return means, torch.cat(logs).exp() if logs else torch.zeros_like(means)

    def decode(self, latents: Tensor) -> Tensor:
        """Return uint8 images (N, C, H, W). latents: (N, c, h, w)."""
        space = Pixels(self.spec.shape, 1.0)
        outputs = (self.network.decode(batch.to(self._device)) for batch in latents.split(BATCH))
        return torch.cat([space.decode(self.spec.images(output)).cpu() for output in outputs])


@dataclass(frozen=True)
class _Latents:
    """Means and variances (N, c, h, w) of the posteriors of test images. The other fields are for drawing."""

    codec: Codec
    means: Tensor
    variances: Tensor
    folder: Path
    title: str
    scale: int | None
    picture_format: str

    def save(self, picture: Image.Image, name: str) -> None:
        save_with(picture, self.folder / f"{name}.png", self.picture_format)

    def draw_map(self, cloud: Cloud, axes: Sequence[str], name: str, title: str, ticks: bool = True) -> None:
        for path in in_formats(self.folder / f"{name}.png", self.picture_format):
            draw_class_map(cloud, self.codec.spec.class_names, axes, path, title, ticks)


@torch.no_grad()
def draw_latent_space(
    codec: Codec,
    images: Tensor,
    labels: Tensor,
    folder: Path,
    title: str,
    seed: int,
    umap: bool,
    scale: int | None = None,
    picture_format: str = "png",
) -> None:
    """Draw all pictures of the latent space of test images, uint8 (N, C, H, W), into an existing folder.

    title: part of the title of every picture. umap: also draw a UMAP, which takes up to a minute. scale: as in
    `sheets.grid`. picture_format: format in which the pictures are written in addition to PNG.
    """
    latents = _Latents(codec, *codec.encode(images), folder, title, scale, picture_format)
    images, labels = images.cpu(), labels.cpu()
    _draw_maps(latents, labels, derive_seed(seed, "map"), umap)
    _draw_slice(latents)
    if len(images) > 1:
        _draw_interpolations(latents, images, labels)
    _draw_samples(latents, derive_seed(seed, "prior"))


def _draw_maps(latents: _Latents, labels: Tensor, seed: int, umap: bool) -> None:
    """Draw latents of one or two dimensions directly, and latents of more dimensions by PCA and UMAP."""
    flat = latents.means.flatten(1).numpy()
    count, units = flat.shape
    marks = labels.numpy() if latents.codec.spec.class_names else np.full(count, -1)
    shape = "x".join(map(str, latents.means.shape[1:]))
    mapped = f"the {shape} latents of {count:,} test images"
    if units <= 2:
        points = flat if units == 2 else np.concatenate([flat, marks[:, None]], axis=1)
        axes = ("latent 1", "latent 2" if units == 2 else "class")
        latents.draw_map(Cloud(points, marks), axes, "latents", f"{mapped}\n{latents.title}")
        return
    methods = ["pca"] * (count >= FEWEST_MAPPED) + ["umap"] * (umap and count >= FEWEST_UMAP)
    for method in methods:
        chart = fit_map(method, flat, seed % 2**32, NEIGHBOURS)
        heading = f"{method.upper()} of {mapped}\n{latents.title}"
        latents.draw_map(Cloud(chart.points, marks), chart.axes, f"latents_{method}", heading, ticks=method == "pca")


def _draw_slice(latents: _Latents) -> None:
    """Draw decoded points of the plane of two principal components, or of a whole space of 1 or 2 dimensions."""
    flat = latents.means.flatten(1)
    centre, units = flat.mean(0), flat.shape[1]
    if units > 2:
        axes = torch.from_numpy(principal_axes(flat.numpy())[0]).to(flat.dtype)
        where = "plane of their two principal components"
    else:
        axes = torch.eye(units)
        where = "whole plane" if units == 2 else "line"
    deviations = ((flat - centre) @ axes.T).std(0, correction=0)
    columns = torch.linspace(-SLICE_WIDTH, SLICE_WIDTH, SLICE)
    rows = columns.flip(0) if len(axes) == 2 else torch.zeros(1)  # Values grow upwards, as on the maps.
    across, up = torch.meshgrid(columns, rows, indexing="xy")
    offsets = torch.stack([across.flatten(), up.flatten()], dim=1)[:, : len(axes)] * deviations
    decoded = latents.codec.decode((centre + offsets @ axes).reshape(-1, *latents.means.shape[1:]))
    column_titles, row_titles = ([f"{x:+.1f}" if x else "0" for x in values.tolist()] for values in (columns, rows))
    title = f"{latents.title}: decoded latents on the {where}, in standard deviations from the mean"
    row_titles = row_titles if len(rows) > 1 else ()
    sheet = sheets.grid(decoded, scale=latents.scale, title=title, column_titles=column_titles, row_titles=row_titles)
    latents.save(sheet, "decoded_slice")


def _draw_interpolations(latents: _Latents, images: Tensor, labels: Tensor) -> None:
    """Draw decoded points on straight lines between latents of two test images, of different classes if possible."""
    starts = rows_in_turn(labels, ROWS)
    ends = torch.tensor([_partner(labels, start) for start in starts.tolist()])
    shares, means = torch.linspace(0, 1, STEPS).tolist(), latents.means
    decoded = [latents.codec.decode(torch.lerp(means[starts], means[ends], share)) for share in shares]
    frames = [images[starts], *decoded, images[ends]]
    captions = ["image", *(f"{share:.1f}" for share in shares), "image"]
    title = f"{latents.title}: decoded points on straight lines between the latents of two test images"
    names = class_titles(latents.codec.spec.class_names)
    rows = [
        change_title(*(names[k] for k in pair)) for pair in labels[torch.stack([starts, ends], 1)].tolist() if names
    ]
    sheet = sheets.strip(frames, captions, title=title, row_titles=rows, scale=latents.scale)
    latents.save(sheet, "interpolations")


def _partner(labels: Tensor, start: int) -> int:
    """Return the index of the next image of another class, or of the next image if all have the same class."""
    order = torch.arange(1, len(labels)).add(start) % len(labels)
    others = order[labels[order] != labels[start]]
    return int(others[0] if len(others) else order[0])


def _draw_samples(latents: _Latents, seed: int) -> None:
    """Draw decoded samples of a VAE's prior, and of a Gaussian with the mean and variance of each latent unit."""
    means, variances = latents.means, latents.variances
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(DRAWN_ROWS * DRAWN_COLUMNS, *means.shape[1:], generator=generator)
    fitted = means.mean(0) + (means.var(0, correction=0) + variances.mean(0)).sqrt() * noise
    kinds = {"Gaussian fitted\nto the latents": fitted}
    sources = "a Gaussian fitted to each unit of the test latents; a plain autoencoder has no prior"
    if latents.codec.spec.kind == "vae":
        kinds = {"prior:\nunit Gaussian": noise, **kinds}
        kl = unit_kl(means, variances.clamp(min=1e-30).log()).mean().item()
        sources = f"the prior and of a Gaussian fitted to each unit of the test latents (KL {kl:.2f} nats per unit)"
    sheet = sheets.grid(
        latents.codec.decode(torch.cat(list(kinds.values()))),
        columns=DRAWN_COLUMNS,
        scale=latents.scale,
        title=f"{latents.title}: decoded samples of {sources}",
        row_titles=[name if row == 0 else "" for name in kinds for row in range(DRAWN_ROWS)] if len(kinds) > 1 else (),
    )
    latents.save(sheet, "prior_samples")
