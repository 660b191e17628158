"""Latents as a space: the codes of a trained autoencoder, each channel standardised.

The space's facts: the mean and standard deviation of each channel over the training split, a bound of the standardised
latents, and the hash of the autoencoder's checkpoint. A clean estimate is a mean of latents and should not exceed
this bound, so samplers may clip the estimate. In early sampling steps, clipping keeps small errors from growing.
"""

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
from models.runs.lookup import find_run, results_folder
from models.runs.status import liveness, read_status
from models.spaces import Fitted, ImageRows, Locate, Space, Surroundings
from models.spaces.encoded import FOLDER, Encoded, encode_images, file_name, read_encoded
from models.spaces.pixels import Pixels


@dataclass(frozen=True)
class Latents(Space):
    """Latents of a frozen autoencoder. reach: bound of the absolute standardised latents, None if unknown.

    mean, scale: mean and standard deviation of each channel, over posterior samples of the training split.
    """

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
        return self.autoencoder.latent_shape

    @property
    def image_shape(self) -> tuple[int, int, int]:
        return self.autoencoder.spec.shape

    @property
    def needs(self) -> tuple[Path, ...]:
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
        """Encode every image once, or read the latents that `encode_dataset` has written.

        Raises UserError if the autoencoder is not found or is for other images, or if the file `encoded` does not fit.

        Args:
            autoencoder: Run of train_vae (folder, name, or latest for the newest run on this data set), or one of its
                checkpoint files.
            encoded: File written by encode_dataset. With auto, a matching file in the autoencoder's run is read if it
                exists. With none, the images are always encoded again.
        """
        path = find_autoencoder(autoencoder, around.experiments_dir, around.dataset or None)
        model = load_autoencoder(path)
        if model.spec.shape != tuple(images.shape[1:]):
            expected, actual = ("x".join(map(str, shape)) for shape in (model.spec.shape, images.shape[1:]))
            message = f"it is for {expected} images, and {around.dataset} has {actual}"
            raise UserError(f"`autoencoder` {autoencoder}: {message}")
        model.network.to(around.device)
        codes, source = _codes(model, images, flips, around, encoded)
        mean, scale = codes.statistics()
        reach = codes.reach(mean, scale)
        space = cls(model, tuple(mean.tolist()), tuple(scale.tolist()), reach)
        report = [
            f"latents {'x'.join(map(str, space.shape))} of {path}, {source}; deviation of each channel "
            + ", ".join(f"{value:.3g}" for value in space.scale)
            + f"; bound of standardised latents {reach:.3g}"
        ]
        options = {"autoencoder": str(path), "encoded": encoded}
        return Fitted(space, codes.posterior, codes.mirrored, options, report)

    @classmethod
    def from_facts(cls, facts: Mapping[str, Any], locate: Locate) -> Self:
        """Rebuild the space. Raises UserError if the autoencoder is not found."""
        mean, scale = (tuple(map(float, facts[name])) for name in ("mean", "scale"))
        reach = None if facts.get("reach") is None else float(facts["reach"])
        return cls(load_autoencoder(locate(str(facts["autoencoder"]))), mean, scale, reach)

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
        """Draw a standardised latent from each image's posterior: (N, 2c, h, w) -> (N, c, h, w)."""
        mean, log_variance = prepared.chunk(2, dim=1)
        noise = randomness.noise(self.shape, "posterior")
        return self._standardise(mean + (log_variance / 2).exp() * noise)

    @torch.no_grad()
    def encode(self, images: Tensor) -> Tensor:
        """Return the standardised means of the posteriors."""
        return self._standardise(self.autoencoder.encode(Pixels.scale(images))[0])

    @torch.no_grad()
    def decode(self, clean: Tensor) -> Tensor:
        mean, scale = self._statistics(clean)
        return Pixels(self.image_shape, 1.0).decode(self.autoencoder.decode(clean * scale + mean))


@lru_cache(maxsize=16)
def _constants(values: tuple[float, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return the values as (c, 1, 1). The cache avoids a copy to the device in every training step."""
    return torch.tensor(values, dtype=dtype, device=device).view(-1, 1, 1)


def find_autoencoder(name: str, experiments_dir: Path, dataset: str | None = None) -> Path:
    """Return the checkpoint file of an autoencoder. Raises UserError if there is none, or if the run is still training.

    name: a checkpoint file, or a run, whose last checkpoint is used. "latest" is the newest run on the data set.
    """
    if name.endswith(".safetensors"):
        if not Path(name).is_file():
            raise UserError(f"`autoencoder` {name}: no such checkpoint", "name the autoencoder's run or checkpoint")
        return Path(name)
    run = find_run(name, experiments_dir, "train_vae", dataset)
    if liveness(read_status(run)) == "running":
        raise UserError(
            f"`autoencoder` {run.name}: is still training",
            "wait until it has ended",
            "name one of its checkpoint files with `autoencoder`",
        )
    return checkpoints.resolve_checkpoint(run)


def _codes(
    model: Autoencoder, images: ImageRows, flips: bool, around: Surroundings, encoded: str
) -> tuple[Encoded, str]:
    """Return the codes of the training split, and their source for the log."""
    auto = encoded == "auto"
    results = results_folder(model.path.parent.parent, around.experiments_dir)
    file = results / FOLDER / file_name(around.dataset, "train") if auto else Path(encoded)
    if encoded == "none" or (auto and not file.is_file()):
        return encode_images(model, images, flips, around.device), "encoded now"
    try:
        codes = read_encoded(file)
        data = around.identify()
        mismatch = codes.mismatch(model, data, flips)
        if mismatch is None and data.contents and not codes.data.contents:
            if not auto:
                return codes, f"read from {file} (only the names and sizes of its images were compared)"
            mismatch = "without a hash of the contents of its images"
        if mismatch is None:
            return codes, f"read from {file}"
    except UserError:
        if not auto:
            raise
        mismatch = "damaged"
    if not auto:
        raise UserError(f"`encoded` {file}: latents {mismatch}", "run encode_dataset again", "leave out `encoded`")
    return encode_images(model, images, flips, around.device), f"encoded anew, since {file} is {mismatch}"
