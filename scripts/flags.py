"""Flags: every default stands here, in dataclasses that tyro turns into a command line.

A config is a flat mapping from flag to value. Recipes, --config files and the config of a resumed run are turned
back into arguments and read before the command line's own, so that there is one parser and the last word wins.
Networks and data sets are chosen by name; their constructors' arguments become `--network.*` and `--dataset.*`.
"""

from __future__ import annotations

import dataclasses
import difflib
import inspect
import io
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import redirect_stderr
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar, TypeVar, get_type_hints

import docstring_parser
import tyro

import data
from models import autoencoders, networks, spaces
from models.errors import UserError
from models.initial_noise import COUPLINGS, INITIAL_NOISES
from models.losses import DISTANCES, WEIGHTINGS
from models.noise_schedules import NAMES
from models.optim import LR_SCHEDULES
from models.predictions import PREDICTIONS
from models.run import find_run, read_status, read_yaml
from models.samplers import SAMPLERS
from models.times import DENSITIES, GRIDS
from scripts.recipes import RECIPES

Flags = TypeVar("Flags")
VARIANTS: dict[str, Callable[[str], Callable[..., Any]]] = {
    "dataset": data.find,
    "network": networks.find,
    "space": lambda name: spaces.find(name).fit,
}
NOT_STORED = ("resume", "config", "recipe")


def _one_of(names: Iterable[str]) -> Any:
    """The help shows the names of a table, so that a new row shows by itself."""
    return tyro.conf.arg(metavar=f"{{{','.join(names)}}}")


ScheduleName = Annotated[str, _one_of(NAMES)]
SamplerName = Annotated[str, _one_of(SAMPLERS)]


def experiments_dir() -> str:
    """Where run folders lie unless a flag says otherwise; the launcher reads the same variable."""
    return os.environ.get("EXPERIMENTS_DIR") or "experiments"


@dataclass(frozen=True)
class DataFlags:
    data_root: str | None = None
    """Folder of the data sets, in torchvision's layout. Default: the variable DATA_ROOT, else data/store."""
    conditional: bool = True
    """Train with the labels, if the data set has any."""


@dataclass(frozen=True)
class ProcessFlags:
    noise_schedule: ScheduleName = "cosine"
    """How signal turns into noise; draw them with visualize_schedules."""
    timesteps: int = 1000
    """Length T of the chain; 0 for the continuous form. Chains of every length end in noise."""
    zero_terminal_snr: bool = False
    """Rescale the schedule so that its last step is pure noise (not with prediction eps)."""
    prediction: Annotated[str, _one_of(PREDICTIONS)] = "eps"
    """What the network is asked for."""
    times: Annotated[str, _one_of(DENSITIES)] = "discrete"
    """How training times are drawn: discrete is k/T, log_normal is EDM's."""
    time_mean: float | None = None
    """Mean of logit_normal (default 0; more is noisier) or log_normal (default -1.2)."""
    time_deviation: float | None = None
    """Deviation of logit_normal (default 1) or log_normal (default 1.2)."""
    stratified: bool = True
    """Spread the times of a batch evenly over the density, instead of drawing each by itself."""
    loss: Annotated[str, _one_of(DISTANCES)] = "l2"
    """Distance between the network's output and its target."""
    weighting: Annotated[str, _one_of(WEIGHTINGS)] = "uniform"
    """Weight of the loss by time; variational is the bound's, clipped."""
    weight_limit: float | None = None
    """The clip of variational (default 1), or gamma of min_snr (5) and soft_min_snr (4)."""
    label_drop: float = 0.1
    """Share of labels replaced by "no class", image by image, which guidance needs."""
    initial_noise: Annotated[str, _one_of(INITIAL_NOISES)] = "gaussian"
    """The noise at t = 1, of mean 0 and variance 1; all but the Gaussian ask for deterministic samplers."""
    coupling: Annotated[str, _one_of(COUPLINGS)] = "independent"
    """How noise is dealt out to the images of a batch; optimal is the permutation within each class of least squared
    distance (minibatch optimal transport)."""


@dataclass(frozen=True)
class OptimizerFlags:
    batch_size: int = 128
    """Images per optimizer step."""
    accumulate: int = 1
    """Parts in which a batch is computed, to save memory; the result is the same."""
    lr: float = 1e-3
    """Largest learning rate."""
    lr_schedule: Annotated[str, _one_of(LR_SCHEDULES)] = "cosine"
    """Learning rate over the budget, whatever sets it."""
    warmup_steps: int = 100
    """Steps over which the learning rate first rises in a line."""
    lr_milestones: tuple[float, ...] = (0.5, 0.75)
    """Shares of the run after which multistep multiplies by gamma."""
    lr_gamma: float = 0.2
    """Factor of multistep."""
    weight_decay: float = 0.01
    """AdamW's, on matrices and filters."""
    betas: tuple[float, float] = (0.9, 0.99)
    """AdamW's two decay rates."""
    clip: float = 1.0
    """Largest norm of the gradient; 0 for no clipping."""
    ema: float = 0.1
    """Half-life of the weights' moving average, as a share of the run; 0 for none."""


@dataclass(frozen=True)
class BudgetFlags:
    epochs: float | None = None
    """Length of the run in passes over the data. Without any budget: 20."""
    max_steps: int | None = None
    """Length of the run in optimizer steps; whichever budget ends first ends the run."""
    max_minutes: float | None = None
    """Length of the run in minutes of training, compilation included; what evaluation and pictures take on top is
    in the log."""
    patience: int = 0
    """Stop early after this many evaluations without a better test loss; 0 never."""


@dataclass(frozen=True)
class RunFlags:
    experiments_dir: str = field(default_factory=experiments_dir)
    """Folder in which the run folder is made; the variable EXPERIMENTS_DIR sets its default."""
    name: str | None = None
    """A word to end the run folder's name with."""
    seed: int = 0
    """The same seed gives the same run, where steps or epochs and not minutes limit it."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1, mps."""
    precision: str = "auto"
    """auto, float32 (TF32 on GPUs) or bf16 (autocast). auto is bf16 on GPUs that have it, float32 elsewhere."""
    compile: bool = False
    """Compile the network with torch.compile; takes a minute or two, pays on GPUs and long runs."""
    init_from: str | None = None
    """Begin with the (EMA) weights of another run, where names and shapes match."""
    resume: str | None = None
    """Go on with a run: its folder, its name, or latest. Only budgets and logging may change."""
    config: str | None = None
    """Take settings from a config.txt; flags given beside it win."""
    recipe: Annotated[str | None, _one_of(RECIPES)] = None
    """Take settings from a named recipe of scripts/recipes.py; flags given beside it win."""


@dataclass(frozen=True)
class ReportFlags:
    eval_every: float = 1.0
    """Epochs between rows of losses; 0 for one at the end."""
    eval_images: int = 512
    """Test images of the frozen grid on which the test loss is taken (and as many training images)."""
    sample_every: float = 5.0
    """Epochs between sample sheets; 0 for one at the end."""
    checkpoint_every: float = 1.0
    """Epochs between checkpoints; fractions are fine; 0 for one at the end."""
    keep_checkpoints: int = 3
    """How many of the last checkpoints to keep, beside the best; 0 keeps all."""
    tensorboard: bool = True
    """Write the losses for TensorBoard too."""


@dataclass(frozen=True)
class SheetFlags:
    num_samples: int = 80
    """Images on a sample sheet."""
    sampler: SamplerName = "ddim"
    """Sampler of the sheets."""
    steps: int | None = None
    """Sampling steps of the sheets; default as for generate."""
    guidance_scale: float = 1.0
    """Guidance of the sheets; 1 is plain conditional."""


@dataclass(frozen=True)
class ModelFlags:
    """Which trained model a task takes, and what it computes with."""

    run: str = "latest"
    """The run: its folder, its name, or latest."""
    checkpoint: str = "last"
    """last, best, or a checkpoint file, which then needs no run."""
    weights: str = "ema"
    """ema or raw."""
    autoencoder: str | None = None
    """Of a latent run: the run or checkpoint file of its autoencoder. Default: found by its hash among the runs."""
    experiments_dir: str = field(default_factory=experiments_dir)
    """Where runs are looked for by name; the variable EXPERIMENTS_DIR sets its default."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1, mps."""
    precision: str = "auto"
    """auto, float32 (TF32 on GPUs) or bf16 (autocast). auto is bf16 on GPUs that have it, float32 elsewhere."""


@dataclass(frozen=True)
class SamplerFlags:
    """How `generate` and its kin sample."""

    sampler: SamplerName = "ddim"
    """Any sampler goes with any model."""
    steps: int | None = None
    """Sampling steps: 1..T for a chain. Default: 50, or 12 for heun and midpoint, which call the network twice a step;
    T on shorter chains."""
    grid: Annotated[str, _one_of(GRIDS)] = "uniform"
    """How the steps are spread over time."""
    eta: float | None = None
    """ddim, dpmpp_2m: 0 deterministic (default) to 1 ancestral."""
    variance: str | None = None
    """ddpm: posterior (beta-tilde, default) or beta."""
    diffusion: float | None = None
    """sde: noise level d of the diffusion coefficient d * t (default 0.5). Where time runs from noise to data this
    is d * (1 - t)."""
    order: int | None = None
    """unipc: 1, 2 (default) or 3."""
    clip: bool = True
    """Clip the clean estimate to the range of images at every step."""
    guidance_scale: float = 1.0
    """s of u + s * (c - u): 0 unconditional, 1 conditional, more is guided. Elsewhere written s = 1 + w (Ho &
    Salimans), or w * c + (1 - w) * u with s = w."""
    guidance_interval: tuple[float, float] = (0.0, 1.0)
    """Guide only at times between these two (0 clean, 1 noise)."""
    guidance_rescale: float = 0.0
    """Share by which guided estimates are brought back to the contrast of unguided ones."""
    autoguidance: str | None = None
    """Guide away from this run or checkpoint file (a weaker model), instead of from the null label."""


@dataclass(frozen=True)
class TrainFlags:
    """Settings of `train_ddpm`, `train_flow` and `train_latent`."""

    variants: ClassVar = VARIANTS

    dataset: Annotated[str, _one_of(data.names())] = "digits"
    """A data set; digits is built in, folder is your own images."""
    dataset_options: Annotated[Any, tyro.conf.arg(name="dataset")] = None
    network: Annotated[str, _one_of(networks.names())] = "unet"
    """A network; its options are below, another one's with --network NAME --help."""
    network_options: Annotated[Any, tyro.conf.arg(name="network")] = None
    space: Annotated[str, _one_of(spaces.names())] = "pixels"
    """What the network sees of the images: pixels, or the latents of an autoencoder."""
    space_options: Annotated[Any, tyro.conf.arg(name="space")] = None
    data: tyro.conf.OmitArgPrefixes[DataFlags] = field(default_factory=DataFlags)
    process: tyro.conf.OmitArgPrefixes[ProcessFlags] = field(default_factory=ProcessFlags)
    optimizer: tyro.conf.OmitArgPrefixes[OptimizerFlags] = field(default_factory=OptimizerFlags)
    budget: tyro.conf.OmitArgPrefixes[BudgetFlags] = field(default_factory=BudgetFlags)
    run: tyro.conf.OmitArgPrefixes[RunFlags] = field(default_factory=RunFlags)
    report: tyro.conf.OmitArgPrefixes[ReportFlags] = field(default_factory=ReportFlags)
    sheets: tyro.conf.OmitArgPrefixes[SheetFlags] = field(default_factory=SheetFlags)


FLOW = TrainFlags(
    process=ProcessFlags(noise_schedule="flow", timesteps=0, prediction="flow", times="logit_normal"),
    sheets=SheetFlags(sampler="heun"),
)
LATENT = dataclasses.replace(FLOW, space="latents")
# Latent images are small already: nothing to fold, and room for more channels.
LATENT_NETWORK = {"network": "unet", "network.patch_size": 1, "network.width": 64}


@dataclass(frozen=True)
class LikelihoodFlags:
    reconstruction: Annotated[str, _one_of(autoencoders.LIKELIHOODS)] = "l2"
    """What reconstructions are held against the images with; bernoulli reads pixels as probabilities."""
    kl_weight: float = 1e-6
    """Weight of a vae's KL to the unit Gaussian, in nats per pixel like the reconstruction: about 1e-6 for latent
    diffusion, 1 for the bound on the likelihood, more for a beta-VAE."""
    kl_warmup_steps: int = 0
    """Steps over which that weight rises from 0."""
    free_bits: float = 0.0
    """Nats of each latent unit's KL below which it is not pushed."""


@dataclass(frozen=True)
class AutoencoderFlags:
    """Settings of `train_vae`."""

    variants: ClassVar = {"dataset": data.find, "network": autoencoders.find_network}

    kind: Annotated[str, _one_of(autoencoders.KINDS)] = "vae"
    """vae has a Gaussian posterior, autoencoder is a plain one."""
    dataset: Annotated[str, _one_of(data.names())] = "digits"
    """A data set; digits is built in, folder is your own images."""
    dataset_options: Annotated[Any, tyro.conf.arg(name="dataset")] = None
    network: Annotated[str, _one_of(autoencoders.NETWORKS)] = "conv"
    """Encoder and decoder; the options are below."""
    network_options: Annotated[Any, tyro.conf.arg(name="network")] = None
    data_root: str | None = None
    """Folder of the data sets, in torchvision's layout. Default: the variable DATA_ROOT, else data/store."""
    likelihood: tyro.conf.OmitArgPrefixes[LikelihoodFlags] = field(default_factory=LikelihoodFlags)
    optimizer: tyro.conf.OmitArgPrefixes[OptimizerFlags] = field(default_factory=OptimizerFlags)
    budget: tyro.conf.OmitArgPrefixes[BudgetFlags] = field(default_factory=BudgetFlags)
    run: tyro.conf.OmitArgPrefixes[RunFlags] = field(default_factory=RunFlags)
    report: tyro.conf.OmitArgPrefixes[ReportFlags] = field(default_factory=lambda: ReportFlags(eval_images=2048))


def default_steps(sampler: str, timesteps: int) -> int:
    """Sampling steps where none are asked for, on a chain of that length (0: continuous)."""
    wanted = 12 if sampler in ("heun", "midpoint") else 50
    return min(wanted, timesteps) if timesteps > 0 else wanted


def _options_class(name: str, constructor: Callable[..., Any]) -> type:
    """A dataclass of a constructor's keyword-only arguments, with its types, defaults and docstring."""
    function = constructor.__init__ if isinstance(constructor, type) else constructor
    documented = inspect.getdoc(function) or ""
    texts = {
        param.arg_name: param.description or ""
        for source in (inspect.getdoc(constructor) or "", documented)
        for param in docstring_parser.parse(source).params
    }
    hints = get_type_hints(function)
    fields = []
    for parameter in inspect.signature(constructor).parameters.values():
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY:
            text = " ".join(texts.get(parameter.name, "").split())
            short = [f"--{parameter.name}"] if name == "space" else None  # e.g. --autoencoder, as one would say it
            kind = Annotated[hints[parameter.name], tyro.conf.arg(help=text, aliases=short)]
            fields.append((parameter.name, kind, field(default=parameter.default)))
    return dataclasses.make_dataclass(f"{name.capitalize()}Options", fields, frozen=True)


def _with_options(cls: type[Flags], chosen: Mapping[str, str]) -> type[Flags]:
    """The flags with the options of the chosen variants filled in."""
    fields = []
    for word, name in chosen.items():
        options = _options_class(word, cls.variants[word](name))  # type: ignore[attr-defined]
        kind = Annotated[options, tyro.conf.arg(name=word)]
        fields.append((f"{word}_options", kind, field(default_factory=options)))
    return dataclasses.make_dataclass(cls.__name__, fields, bases=(cls,), frozen=True)  # type: ignore[return-value]


def parse(argv: Sequence[str], default: Flags, prog: str, description: str) -> Flags:
    """Flags from arguments, over a default instance. Raises UserError in one line; prints help and exits 0 on -h."""
    cls = type(default)
    words = getattr(cls, "variants", {})
    chosen = {word: last_value(argv, word) or getattr(default, word) for word in words}
    cls = _with_options(cls, chosen)
    known = {f.name: getattr(default, f.name) for f in dataclasses.fields(default)}  # type: ignore[arg-type]
    values = {key: value for key, value in known.items() if not key.endswith("_options")}
    printed = io.StringIO()
    try:
        with redirect_stderr(printed):
            return tyro.cli(cls, args=list(argv), default=cls(**values), prog=prog, description=description)
    except SystemExit as error:
        if not error.code:
            raise
        raise UserError(_one_line(printed.getvalue(), prog)) from None


def last_value(argv: Sequence[str], flag: str) -> str | None:
    """The value of the last `--flag value` or `--flag=value`."""
    found = None
    for index, word in enumerate(argv):
        if word == f"--{flag}" and index + 1 < len(argv):
            found = argv[index + 1]
        elif word.startswith(f"--{flag}="):
            found = word.split("=", 1)[1]
    return found


def _one_line(box: str, prog: str) -> str:
    """tyro's box of an error as one line: what is wrong, and the flag it may have meant.

    The box has a title, then the message, then hints, with rules between them; drawn in ASCII where need be.
    """
    plain = re.sub(r"\x1b\[[0-9;]*m", "", box)  # on a terminal it is coloured
    rows = [line.strip(" │╭╮╰╯") for line in plain.splitlines()]
    parts: list[list[str]] = [[]]
    for row in [row for row in rows if row][1:]:
        if set(row) <= {"─", "-"}:
            parts.append([])
        else:
            parts[-1].append(row)
    message, *hints = [part for part in parts if part]
    text = " ".join(message).split(" Got errors:")[0]
    flag = next((row.split()[0] for hint in hints for row in hint if row.startswith("--")), "").rstrip(",")
    if not flag or not text.startswith("Unrecognized"):
        return f"{text} (--help lists the flags of {prog})"
    return f"{text}; did you mean --{flag[2:].replace('-', '_')}? (--help lists the flags of {prog})"


def to_config(flags: Any) -> dict[str, Any]:
    """Flags as a flat mapping from flag to plain value, without those that only say where settings came from."""
    config: dict[str, Any] = {}
    for each in dataclasses.fields(flags):
        value = getattr(flags, each.name)
        if each.name.endswith("_options"):
            word = each.name.removesuffix("_options")
            options = dataclasses.asdict(value) if value is not None else {}
            config.update({f"{word}.{key}": _plain(option) for key, option in options.items()})
        elif dataclasses.is_dataclass(value):
            config.update(to_config(value))
        elif each.name not in NOT_STORED:
            config[each.name] = _plain(value)
    return config


def _plain(value: Any) -> Any:
    if isinstance(value, Path):
        return str(value)
    return list(value) if isinstance(value, tuple) else value


def to_arguments(config: Mapping[str, Any]) -> list[str]:
    """A flat mapping as the arguments that give it."""
    arguments: list[str] = []
    for key, value in config.items():
        if isinstance(value, bool):
            prefix, _, last = key.rpartition(".")
            name = last if value else f"no-{last}"
            arguments.append(f"--{prefix}.{name}" if prefix else f"--{name}")
        elif isinstance(value, (list, tuple)):
            arguments += [f"--{key}", *(str(each) for each in value)]
        else:
            arguments.append(f"--{key}={value}")
    return arguments


def _fitting(config: Mapping[str, Any], argv: Sequence[str]) -> dict[str, Any]:
    """The settings without the options of a network or data set that the command line exchanges for another."""
    exchanged = {word for word in VARIANTS if last_value(argv, word) not in (None, config.get(word))}
    return {key: value for key, value in config.items() if key.split(".")[0] not in exchanged}


def run_to_resume(argv: Sequence[str], task: str) -> Path | None:
    """The run that --resume names, if it is given; with latest, the newest of this task and of the data set asked for.

    Read before all other flags, since the run's own settings decide how those are to be understood.
    """
    wanted = last_value(argv, "resume")
    if wanted is None:
        return None
    place = Path(last_value(argv, "experiments_dir") or experiments_dir())
    folder = find_run(wanted, place, task, last_value(gather(argv), "dataset"))
    other = read_status(folder).get("task")
    if other != task:
        raise UserError(f"{folder} is a run of {other}, not of {task}: resume it with {other}")
    return folder


def gather(argv: Sequence[str], base: Mapping[str, Any] | None = None) -> list[str]:
    """The arguments of the named recipe and config file, if any, before the command line's own; base: before all."""
    before = to_arguments(_fitting(base or {}, argv))
    recipe, config = last_value(argv, "recipe"), last_value(argv, "config")
    if recipe is not None:
        if recipe not in RECIPES:
            close = difflib.get_close_matches(recipe, RECIPES, 1)
            hint = f"; did you mean {close[0]}?" if close else ""
            raise UserError(f"unknown recipe {recipe!r}: choose from {', '.join(RECIPES)}{hint}")
        before += to_arguments(_fitting(RECIPES[recipe], argv))
    if config is not None:
        before += to_arguments(_fitting(read_yaml(Path(config)), argv))
    return [*before, *argv]
