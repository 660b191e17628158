"""Denoising model, its specification, and loading of a model from its checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import safe_open
from torch import Tensor, nn

from models import devices, spaces
from models.diffusion.denoiser import NetworkDenoiser
from models.diffusion.noise_schedules import NoiseSchedule, build_noise_schedule
from models.diffusion.predictions import Prediction, build_prediction
from models.diffusion.recorded import RecordedDenoiser
from models.errors import UserError
from models.runs import checkpoints
from models.runs.lookup import NEEDED, find_run
from models.runs.yaml_files import plain
from models.spaces import Space
from models.variants import NETWORKS

WEIGHTS = ("ema", "raw")


@dataclass(frozen=True)
class Student:
    """Facts about a student: a denoiser that was trained to repeat its teacher's sampling in a few evaluations.

    times: decreasing from 1 to 0. The student knows only the noise levels at these times. teacher: name of the
    teacher's run. sha256: hash of the teacher's checkpoint. sampling: the teacher's sampler in words. guidance_scale:
    guidance of the teacher, which the student imitates.
    """

    times: tuple[float, ...]
    teacher: str
    sha256: str
    sampling: str
    guidance_scale: float

    @property
    def evaluations(self) -> int:
        return len(self.times) - 1

    def describe(self) -> str:
        """Return a description, e.g. "1 evaluation, student of mnist, guidance 1.25 built in"."""
        evaluations = f"{self.evaluations} evaluation{'s' * (self.evaluations > 1)}"
        guidance = f", guidance {self.guidance_scale:g} built in" if self.guidance_scale != 1 else ""
        return f"{evaluations}, student of {self.teacher}{guidance}"

    def check(self, sampling: Mapping[str, Any]) -> None:
        """Raise UserError if a setting differs from what the student has learnt. sampling: fields of `Sampling`."""
        known = {"sampler": "ddim", "steps": self.evaluations, "grid": "uniform", "guidance_scale": 1, "weak": None}
        given = {**{name: sampling[name] for name in known}, "eta": sampling["options"].get("eta") or 0}
        for name, value in given.items():
            if value != known.get(name, 0):
                option = "`autoguidance`" if name == "weak" else f"`{name}` {value}"
                raise UserError(
                    f"{option}: the model's sampling is fixed ({self.describe()})",
                    f"leave out `{'autoguidance' if name == 'weak' else name}`",
                    f"use the teacher: `run {self.teacher}`",
                )


@dataclass(frozen=True)
class DenoiserSpec:
    """Everything that defines a denoiser except its weights, as stored in checkpoints. classes: 0 for unlabelled data.

    network: a variant of `models.networks`. network_options: options of the network's constructor. timesteps: length of
    the chain, 0 for a continuous schedule. label_drop: share of labels dropped in training; 0 rules out classifier-free
    guidance. untrained: labels of the classes without a training image. student: None if the denoiser is no student.
    chain_betas: a key of CHAIN_BETAS. Checkpoints without this key have rescaled betas.
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
    untrained: tuple[int, ...] = ()
    student: Student | None = None
    chain_betas: str = "rescaled"

    @property
    def trained(self) -> list[int]:
        """The labels of the classes with training images."""
        return [label for label in range(self.classes) if label not in self.untrained]

    def build_network(self) -> nn.Module:
        """Return a new network, with initial weights from torch's generator. Raises UserError for wrong options."""
        return NETWORKS.build(self.network, self.space.shape, self.classes, **self.network_options)

    @cached_property
    def _parts(self) -> tuple[NoiseSchedule, Prediction]:
        """Schedule and prediction. Raises UserError if they do not fit together."""
        steps = self.timesteps or None
        schedule = build_noise_schedule(self.noise_schedule, steps, self.zero_terminal_snr, self.chain_betas)
        prediction = build_prediction(self.prediction, self.space.deviation)
        prediction.check(schedule.alpha(torch.ones(())).item())
        return schedule, prediction

    def model(self, network: nn.Module, device: torch.device, autocast: torch.dtype | None = None) -> Model:
        """Return the model with this network. Raises UserError if schedule and prediction do not fit together."""
        schedule, prediction = self._parts
        denoiser = RecordedDenoiser if device.type == "cuda" else NetworkDenoiser
        return Model(denoiser(network, prediction, autocast), schedule, self, device)

    def facts(self) -> dict[str, Any]:
        """Return the specification as plain lists, numbers and strings, for YAML."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        student = values.pop("student")
        described = {} if student is None else {"student": asdict(student)}
        return plain({**values, "space": spaces.to_facts(self.space), **described})

    @classmethod
    def from_facts(cls, facts: Mapping[str, Any], locate: spaces.Locate) -> DenoiserSpec:
        """Return the specification with these `facts`. Raises UserError if they do not describe a denoiser."""
        try:
            space = spaces.from_facts(facts["space"], locate)
            names, untrained = tuple(facts["class_names"]), tuple(facts.get("untrained", ()))
            student = facts.get("student")
            if student is not None:
                student = Student(**{**student, "times": tuple(student["times"])})
            known = {"space": space, "class_names": names, "untrained": untrained, "student": student}
            return cls(**{**facts, **known})
        except (KeyError, TypeError) as error:
            raise UserError(f"the checkpoint does not describe a denoiser ({error})") from None


class Origin(NamedTuple):
    """Origin of a model: the checkpoint file, its step, and the weights ("ema" or "raw")."""

    path: Path
    step: int
    weights: str


@dataclass(frozen=True)
class Model:
    """Denoiser with its noise schedule and specification, on a device. origin: None during training."""

    denoiser: NetworkDenoiser
    noise_schedule: NoiseSchedule
    spec: DenoiserSpec
    device: torch.device
    origin: Origin | None = None

    @property
    def space(self) -> Space:
        return self.spec.space

    @property
    def name(self) -> str:
        """Path of the checkpoint, for messages."""
        return "the model" if self.origin is None else str(self.origin.path)


def require_every_level(model: Model, work: str) -> None:
    """Raise UserError if the model is a student. work: what needs every noise level, for the message."""
    if model.spec.student is not None:
        student = model.spec.student
        raise UserError(
            f"{work}: {model.name} is a student and knows {student.evaluations} noise level"
            f"{'s' * (student.evaluations > 1)}, not all",
            f"use its teacher: `run {student.teacher}`",
        )


def has_raw_weights(path: Path) -> bool:
    """Return whether a checkpoint of a denoiser has the raw weights. Shipped models have EMA weights only."""
    with safe_open(path, "pt") as tensors:
        return any(key.startswith("network.") for key in list(tensors.keys()))


def load_model(
    path: Path, weights: str, device: torch.device, autocast: torch.dtype | None = None, autoencoder: Path | None = None
) -> Model:
    """Load the denoising model of a checkpoint file, in eval mode on the device. Raises UserError.

    weights: "ema" or "raw". autoencoder: file of the autoencoder that decodes latents; None: find it by its hash.
    """
    tensors, facts = checkpoints.load_checkpoint(path)
    if "denoiser" not in facts:
        ways_out = ("use make reconstruct for this autoencoder checkpoint",) if "autoencoder" in facts else ()
        raise UserError(f"{path} is not a denoiser checkpoint", *ways_out)
    spec = DenoiserSpec.from_facts(facts["denoiser"], lambda sha256: locate_autoencoder(sha256, path, autoencoder))
    if autoencoder is not None and not spec.space.needs:
        raise UserError(f"`autoencoder` {autoencoder}: {path} was trained on pixels, which need no autoencoder")
    network = spec.build_network()
    checkpoints.fill_network(network, checkpoints.under("ema" if weights == "ema" else "network", tensors), path)
    network.to(device).eval().requires_grad_(False)
    spec.space.to(device)
    model = spec.model(network, device, autocast)
    return Model(model.denoiser, model.noise_schedule, spec, device, Origin(path, facts["step"], weights))


def load(run: Path | str, checkpoint: str = checkpoints.LAST, weights: str = "ema", device: str = "auto") -> Model:
    """Load the model of a run. Raises UserError.

    run: a run folder, the name of a run in `experiments`, or "pretrained/mnist". checkpoint: "last" or "best".
    weights: "ema" or "raw". device: "auto" takes a GPU if there is one.
    """
    chosen = devices.pick_device(device)
    path = checkpoints.resolve_checkpoint(find_run(str(run), Path("experiments")), checkpoint)
    return load_model(path, weights, chosen, devices.autocast_dtype(devices.pick_precision("auto", chosen)))


def locate_autoencoder(sha256: str, path: Path, given: Path | None = None) -> Path:
    """Return the file of the autoencoder that the checkpoint `path` was trained on. sha256: hash of this autoencoder.

    given: a file that must have this hash. If it is None, the folder NEEDED of the checkpoint's run is searched, then
    all runs in the run's parent folder. Raises UserError.
    """
    if given is not None:
        given_sha256 = checkpoints.load_checkpoint(given)[1]["sha256"]
        if given_sha256 != sha256:
            hashes = f"its hash is {given_sha256[:12]}, but {path} was trained on the autoencoder {sha256[:12]}"
            raise UserError(f"`autoencoder` {given}: {hashes}")
        return given
    run = path.parent.parent
    located = checkpoints.find_by_hash(sha256, [run / NEEDED, *sorted(run.parent.glob("*/checkpoints"))])
    if located is None:
        folders = f"neither in {run / NEEDED} nor among the runs in {run.parent}"
        message = f"{path} was trained on an autoencoder ({sha256[:12]}) that is {folders}"
        raise UserError(message, "name its checkpoint with `autoencoder`")
    return located


LEAST_SHARE = 0.1  # Smallest share of a network's weights that `match_weights` may copy from another run.


def match_weights(network: nn.Module, tensors: Mapping[str, Tensor]) -> str:
    """Copy the tensors whose name and shape match, and return a report. Raises UserError if too few match."""
    state = network.state_dict()
    fitting = {key: value for key, value in tensors.items() if key in state and state[key].shape == value.shape}
    share = sum(map(Tensor.numel, fitting.values())) / sum(map(Tensor.numel, state.values()))
    if share < LEAST_SHARE:
        matched = f"{len(fitting)} of {len(state)} tensors, with {share:.1%} of the weights, match those of that run"
        raise UserError(
            f"`init_from`: only {matched} in name and shape", "choose the `network` and options of that run"
        )
    network.load_state_dict(fitting, strict=False)
    fresh = sorted(state.keys() - fitting.keys())
    report = f"initial weights: {len(fitting)} of {len(state)} tensors matched"
    return report + (f"; newly initialised: {', '.join(fresh[:8])}{' ...' if len(fresh) > 8 else ''}" if fresh else "")
