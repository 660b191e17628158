"""From a config or a checkpoint to objects; the only place that assembles a denoiser.

`DenoiserSpec` is all that a denoiser is besides its weights. It is stored in every checkpoint, so that sampling
rebuilds from the checkpoint alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from models import spaces
from models.diffusion.denoiser import NetworkDenoiser
from models.diffusion.noise_schedules import build_noise_schedule
from models.diffusion.predictions import build_prediction
from models.errors import UserError
from models.runs import checkpoints, yaml_files
from models.runs.lookup import NEEDED
from models.spaces import Space
from models.variants import NETWORKS


@dataclass(frozen=True)
class DenoiserSpec:
    """network: a name of the room `models.networks` with its constructor's options. classes: 0 for unlabelled data.

    timesteps: length of the chain, 0 for a continuous schedule. label_drop: share of labels dropped in training,
    without which there is no unconditional half to guide by.
    """

    network: str
    network_options: dict[str, Any]
    space: Space
    classes: int
    class_names: tuple[str, ...]
    noise_schedule: str
    timesteps: int
    zero_terminal_snr: bool
    prediction: str
    label_drop: float
    initial_noise: str = "gaussian"

    def build_network(self) -> nn.Module:
        """A fresh network; its initial weights come from torch's generator. Raises UserError for bad options."""
        return NETWORKS.find(self.network)(self.space.shape, self.classes, **self.network_options)

    def denoiser(self, network: nn.Module, autocast: torch.dtype | None = None) -> NetworkDenoiser:
        """Raises UserError for a schedule and prediction that do not go together."""
        schedule = build_noise_schedule(self.noise_schedule, self.timesteps or None, self.zero_terminal_snr)
        return NetworkDenoiser(network, schedule, build_prediction(self.prediction, self.space.deviation), autocast)

    def facts(self) -> dict[str, Any]:
        """As plain lists, numbers and words, for YAML."""
        values = {each.name: getattr(self, each.name) for each in fields(self)}
        return yaml_files.plain({**values, "space": spaces.to_facts(self.space)})

    @classmethod
    def from_facts(cls, facts: Mapping[str, Any], locate: spaces.Locate) -> DenoiserSpec:
        """Raises UserError for facts that are not those of a denoiser, or a space that cannot be made again."""
        try:
            space = spaces.from_facts(facts["space"], locate)
            return cls(**{**facts, "space": space, "class_names": tuple(facts["class_names"])})
        except (KeyError, TypeError) as error:
            raise UserError(f"the checkpoint describes no denoiser ({error})") from None


@dataclass(frozen=True)
class Model:
    """A trained denoiser with what it is and where it comes from."""

    denoiser: NetworkDenoiser
    spec: DenoiserSpec
    step: int
    path: Path
    weights: str

    @property
    def space(self) -> Space:
        return self.spec.space


WEIGHTS = ("ema", "raw")


def load_denoiser(
    path: Path,
    weights: str,
    device: torch.device,
    autocast: torch.dtype | None = None,
    autoencoder: Path | None = None,
) -> Model:
    """The denoiser of a checkpoint, in eval mode on the device. weights: "ema" or "raw". Raises UserError.

    autoencoder: the checkpoint file to decode with, where the space has one; None finds it by its hash.
    """
    tensors, facts = checkpoints.load_checkpoint(path)
    if "denoiser" not in facts:
        hint = ": it is an autoencoder's, which reconstruct takes" if "autoencoder" in facts else ""
        raise UserError(f"{path} is no denoiser's checkpoint{hint}")
    spec = DenoiserSpec.from_facts(facts["denoiser"], lambda sha256: locate_autoencoder(sha256, path, autoencoder))
    if autoencoder is not None and not spec.space.needs:
        raise UserError(f"--autoencoder {autoencoder}: {path} was trained on pixels and takes none")
    network = spec.build_network()
    prefix = "ema" if weights == "ema" else "network"
    checkpoints.fill_network(network, checkpoints.under(prefix, tensors), path)
    network.to(device).eval().requires_grad_(False)
    spec.space.to(device)
    return Model(spec.denoiser(network, autocast), spec, facts["step"], path, weights)


def locate_autoencoder(sha256: str, path: Path, given: Path | None = None) -> Path:
    """The checkpoint of that hash that the checkpoint `path` was trained upon.

    given: the file it is said to be; otherwise looked for in the run's own folder NEEDED and among the runs beside
    it. Raises UserError where there is none, or another.
    """
    if given is not None:
        found = checkpoints.load_checkpoint(given)[1]["sha256"]
        if found != sha256:
            raise UserError(
                f"--autoencoder {given} is another ({found[:12]}) than {path} was trained on ({sha256[:12]})"
            )
        return given
    run = path.parent.parent
    found = checkpoints.find_by_hash(sha256, [run / NEEDED, *sorted(run.parent.glob("*/checkpoints"))])
    if found is None:
        raise UserError(
            f"{path} was trained on an autoencoder ({sha256[:12]}) that is neither in {run / NEEDED} nor among "
            f"the runs in {run.parent}: name its checkpoint with --autoencoder"
        )
    return found


def match_weights(network: nn.Module, tensors: Mapping[str, Tensor]) -> str:
    """Copies every tensor whose name and shape agree, and says in one line what matched and what did not."""
    mine = network.state_dict()
    fitting = {key: value for key, value in tensors.items() if key in mine and mine[key].shape == value.shape}
    if not fitting:
        raise UserError("--init_from: no tensor of that run has the name and shape of one of this network")
    network.load_state_dict(fitting, strict=False)
    fresh = sorted(mine.keys() - fitting.keys())
    report = f"initial weights: {len(fitting)} of {len(mine)} tensors matched"
    return report + (f"; fresh: {', '.join(fresh[:8])}{' ...' if len(fresh) > 8 else ''}" if fresh else "")
