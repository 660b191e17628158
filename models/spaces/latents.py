"""Latents as a space: what a trained autoencoder makes of the images, each channel standardised.

The space names its autoencoder by the hash of its checkpoint and carries the mean and deviation of every latent
channel, measured once over the training split, and how far the latents reach: no mean of them lies beyond, so neither
does a true estimate. Where a chain ends in almost pure noise, that is what keeps a small error from growing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Self

import torch
from torch import Tensor

from models.autoencoders.autoencoder import Autoencoder, load_autoencoder
from models.errors import UserError
from models.randomness import StepRandomness
from models.ranges import RESUMABLE
from models.runs import checkpoints
from models.runs.lookup import find_run
from models.spaces import Fitted, ImageRows, Locate, Space, Surroundings
from models.spaces.encoded import FOLDER, Encoded, encode_images, file_name, read_encoded
from models.spaces.pixels import Pixels


@dataclass(frozen=True)
class Latents(Space):
    """autoencoder: frozen. mean, scale: of each latent channel over the training split, posterior noise included.
    reach: the largest standardised latent there; None where it is not known."""

    autoencoder: Autoencoder
    mean: tuple[float, ...]
    scale: tuple[float, ...]
    reach: float | None

    deviation = 1.0
    grey_levels = None

    @property
    def bounds(self) -> tuple[float, float] | None:
        return None if self.reach is None else (-self.reach, self.reach)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(c, h, w) of a latent image."""
        return self.autoencoder.latent_shape

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of the uint8 images."""
        return self.autoencoder.spec.shape

    @property
    def needs(self) -> tuple[Path, ...]:
        """The autoencoder's checkpoint."""
        return (self.autoencoder.path,)

    @classmethod
    def fit(
        cls,
        images: ImageRows,
        flips: bool,
        around: Surroundings,
        *,
        autoencoder: Annotated[str, RESUMABLE] = "latest",
        encoded: Annotated[str, RESUMABLE] = "auto",
    ) -> Fitted:
        """The latents of every image are computed once, or read if `encode_dataset` has done so, and batches cut of
        them.

        Args:
            autoencoder: run of train_vae: its folder, its name or latest, of this data set; or a checkpoint file of it.
            encoded: file of encode_dataset; auto takes one that fits from the autoencoder's run, none encodes anew.

        Raises:
            UserError: no such autoencoder, one for other images, an encoded set of other images or another one's.
        """
        path = find_autoencoder(autoencoder, around.experiments_dir, around.dataset or None)
        model = load_autoencoder(path)
        if model.spec.shape != tuple(images.shape[1:]):
            mine, other = ("x".join(map(str, shape)) for shape in (model.spec.shape, images.shape[1:]))
            raise UserError(f"--autoencoder {autoencoder} is for {mine} images, and {around.dataset} has {other}")
        model.network.to(around.device)
        codes, source = _codes(model, images, flips, around, encoded)
        mean, scale = codes.statistics()
        reach = codes.reach(mean, scale)
        space = cls(model, tuple(mean.tolist()), tuple(scale.tolist()), reach)
        report = [
            f"latents {'x'.join(map(str, space.shape))} of {path}, {source}; deviation of each channel "
            + ", ".join(f"{value:.3g}" for value in space.scale)
            + f"; standardised they reach {reach:.3g}"
        ]
        options = {"autoencoder": str(path), "encoded": encoded}
        return Fitted(space, codes.posterior, codes.mirrored, options, report)

    @classmethod
    def from_facts(cls, facts: Mapping[str, Any], locate: Locate) -> Self:
        """Raises UserError where the autoencoder is not to be found."""
        mean, scale = (tuple(float(each) for each in facts[name]) for name in ("mean", "scale"))
        reach = facts.get("reach")
        return cls(
            load_autoencoder(locate(str(facts["autoencoder"]))), mean, scale, None if reach is None else float(reach)
        )

    def facts(self) -> dict[str, Any]:
        return {"autoencoder": self.autoencoder.sha256, "mean": self.mean, "scale": self.scale, "reach": self.reach}

    def to(self, device: torch.device) -> Self:
        self.autoencoder.network.to(device)
        return self

    def _standardise(self, latents: Tensor) -> Tensor:
        mean, scale = self._statistics(latents)
        return (latents - mean) / scale

    def _statistics(self, like: Tensor) -> tuple[Tensor, Tensor]:
        mean, scale = (_constants(values, like.dtype, like.device) for values in (self.mean, self.scale))
        return mean, scale

    def draw(self, prepared: Tensor, randomness: StepRandomness) -> Tensor:
        """A fresh draw from each image's posterior, (N, 2c, h, w) -> (N, c, h, w)."""
        mean, log_variance = prepared.chunk(2, dim=1)
        noise = randomness.noise(self.shape, "posterior")
        return self._standardise(mean + (log_variance / 2).exp() * noise)

    @torch.no_grad()
    def encode(self, images: Tensor) -> Tensor:
        """uint8 (N, C, H, W) -> the posterior's mean, standardised."""
        return self._standardise(self.autoencoder.encode(Pixels.scale(images))[0])

    @torch.no_grad()
    def decode(self, clean: Tensor) -> Tensor:
        """(N, c, h, w) -> uint8 (N, C, H, W)."""
        mean, scale = self._statistics(clean)
        return Pixels(self.image_shape, 1.0).decode(self.autoencoder.decode(clean * scale + mean))


@lru_cache(maxsize=16)
def _constants(values: tuple[float, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """(c, 1, 1), on its way to the device once: a training step does not wait for such copies."""
    return torch.tensor(values, dtype=dtype, device=device).view(-1, 1, 1)


def find_autoencoder(wanted: str, experiments_dir: Path, dataset: str | None = None) -> Path:
    """The checkpoint file of an autoencoder's run: its last, or the file itself; latest is that of the data set.

    Raises UserError.
    """
    if wanted.endswith(".safetensors"):
        if not Path(wanted).is_file():
            raise UserError(f"--autoencoder {wanted}: no checkpoint is there; name the autoencoder's run or its file")
        return Path(wanted)
    return checkpoints.resolve_checkpoint(find_run(wanted, experiments_dir, "train_vae", dataset))


def _codes(
    model: Autoencoder, images: ImageRows, flips: bool, around: Surroundings, encoded: str
) -> tuple[Encoded, str]:
    """The codes of the training split, and where they come from."""
    file: Path | None = None
    if encoded not in ("auto", "none"):
        file = Path(encoded)
    elif encoded == "auto":
        usual = model.path.parent.parent / FOLDER / file_name(around.dataset, "train")
        file = usual if usual.is_file() else None
    if file is not None:
        try:
            codes = read_encoded(file)
            trouble = codes.trouble(model, around.data_sha256, flips)
            if trouble is None:
                return codes, f"read from {file}"
        except UserError:
            if encoded != "auto":
                raise
            trouble = "damaged"
        if encoded != "auto":
            raise UserError(f"--encoded {file}: {trouble}; encode again with encode_dataset, or leave it out")
        return encode_images(model, images, flips, around.device), f"encoded anew, since {file} is {trouble}"
    return encode_images(model, images, flips, around.device), "encoded now"
