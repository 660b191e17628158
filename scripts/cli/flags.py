"""Flags: every default stands here, in dataclasses that tyro turns into a command line.

Networks, spaces and data sets are chosen by name; their constructors' arguments become `--network.*` and its like.
How a command line becomes flags, and flags a config, is in `arguments.py`.
"""

from __future__ import annotations

import dataclasses
import inspect
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, get_type_hints

import docstring_parser
import tyro

from models.autoencoders import autoencoder
from models.diffusion.losses import DISTANCES, WEIGHTINGS
from models.diffusion.noise import COUPLINGS, INITIAL_NOISES
from models.diffusion.noise_schedules import NOISE_SCHEDULES
from models.diffusion.predictions import PREDICTIONS
from models.diffusion.samplers import SAMPLERS
from models.diffusion.times import DENSITIES, GRIDS
from models.evaluation.sample_test import DISTANCE
from models.optim import LR_SCHEDULES, OPTIMIZERS
from models.processes import cores, local_world_size
from models.variants import AUTOENCODERS, DATA_SETS, NETWORKS, SPACES

VARIANTS: dict[str, Callable[[str], Callable[..., Any]]] = {
    "dataset": DATA_SETS.find,
    "network": NETWORKS.find,
    "space": lambda name: SPACES.find(name).fit,
}
# What --best_by takes, and the column of metrics.csv that it names.
BEST_BY = {"loss": "test_loss", "distance": DISTANCE}


def braced(names: Iterable[str]) -> str:
    """How help shows the names of a table, so that a new row shows by itself."""
    return f"{{{','.join(names)}}}"


def one_of(names: Iterable[str]) -> Any:
    return tyro.conf.arg(metavar=braced(names))


ScheduleName = Annotated[str, one_of(NOISE_SCHEDULES)]
SamplerName = Annotated[str, one_of(SAMPLERS)]


def experiments_dir() -> str:
    """Where run folders lie unless a flag says otherwise; the launcher reads the same variable."""
    return os.environ.get("EXPERIMENTS_DIR") or "experiments"


def usual_workers() -> int:
    """One core less than this process has, which shares with others of its task, 1 to 4: training keeps one."""
    return max(1, min(4, cores() // local_world_size() - 1))


@dataclass(frozen=True)
class SourceFlags:
    """Where data sets lie, and how they are read."""

    data_root: str | None = None
    """Folder of the data sets, in torchvision's layout. Default: where the run that is taken found its own, else the
    variable DATA_ROOT, else data/store."""
    memory_limit: float | None = None
    """GiB of image files (folder, hf) to hold in memory; more are streamed, 0 streams all. Default: the variable
    MEMORY_LIMIT, else half of what is free, shared among the processes of a machine."""


@dataclass(frozen=True)
class DataFlags(SourceFlags):
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
    prediction: Annotated[str, one_of(PREDICTIONS)] = "eps"
    """What the network is asked for."""
    times: Annotated[str, one_of(DENSITIES)] = "discrete"
    """How training times are drawn: discrete is k/T, log_normal is EDM's."""
    time_mean: float | None = None
    """Mean of logit_normal (default 0; more is noisier) or log_normal (default -1.2)."""
    time_deviation: float | None = None
    """Deviation of logit_normal (default 1) or log_normal (default 1.2)."""
    stratified: bool = True
    """Spread the times of a batch evenly over the density, instead of drawing each by itself."""
    loss: Annotated[str, one_of(DISTANCES)] = "l2"
    """Distance between the network's output and its target."""
    weighting: Annotated[str, one_of(WEIGHTINGS)] = "uniform"
    """Weight of the loss by time; variational is the bound's, clipped."""
    weight_limit: float | None = None
    """The clip of variational (default 1), or gamma of min_snr (5) and soft_min_snr (4)."""
    label_drop: float = 0.1
    """Share of labels replaced by "no class", image by image, which guidance needs."""
    initial_noise: Annotated[str, one_of(INITIAL_NOISES)] = "gaussian"
    """The noise at t = 1, of mean 0 and variance 1; all but the Gaussian ask for deterministic samplers."""
    coupling: Annotated[str, one_of(COUPLINGS)] = "independent"
    """How noise is dealt out to the images of a batch; optimal is the permutation within each class of least squared
    distance (minibatch optimal transport)."""


@dataclass(frozen=True)
class OptimizerFlags:
    batch_size: int = 128
    """Images per optimizer step."""
    accumulate: int = 1
    """Parts in which a batch is computed, to save memory; the result is the same."""
    optimizer: Annotated[str, one_of(OPTIMIZERS)] = "adamw"
    """muon orthogonalises the updates of hidden layers' matrices and filters; adamw has the rest."""
    lr: float = 1e-3
    """Largest learning rate."""
    lr_schedule: Annotated[str, one_of(LR_SCHEDULES)] = "cosine"
    """Learning rate over the budget, whatever sets it."""
    warmup_steps: int = 100
    """Steps over which the learning rate first rises in a line."""
    lr_milestones: tuple[float, ...] = (0.5, 0.75)
    """Shares of the run after which multistep multiplies by gamma."""
    lr_gamma: float = 0.2
    """Factor of multistep."""
    weight_decay: float = 0.01
    """Of matrices and filters, decoupled from the gradient."""
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
    wall_clock: bool = False
    """The minutes are those since the process began: start-up, evaluation, pictures and checkpoints count, up to the
    last step."""
    patience: int = 0
    """Stop early after this many evaluations without a better test loss, or what --best_by says; 0 never."""


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
    """auto, float32 (TF32 on GPUs), bf16 (autocast), or float64 to hold two runs against each other. auto is bf16 on
    GPUs that have it, float32 elsewhere."""
    workers: int = field(default_factory=usual_workers)
    """Processes that decode streamed images (--memory_limit); with 0 the training process does."""
    compile: bool = False
    """Compile the network with torch.compile; takes a minute or two, pays on GPUs and long runs."""
    init_from: str | None = None
    """Begin with the (EMA) weights of another run, where names and shapes match."""
    resume: str | None = None
    """Go on with a run: its folder, its name, or latest. Only budgets and logging may change."""
    config: str | None = None
    """Take settings from a config.txt; flags given beside it win."""
    recipe: str | None = None
    """Take settings from a named recipe of this task; make recipes lists them. Flags given beside it win."""


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
class SampleTestFlags:
    eval_samples: int = 0
    """Measure this many samples at every --eval_every: made by the EMA weights as the sheets are, always from the same
    noise, their Frechet distance from the training images and the share recognised; 0 for none."""
    best_by: Annotated[str, one_of(BEST_BY)] = "loss"
    """What the best checkpoint, and --patience, go by: the test loss, or the distance of --eval_samples."""


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


def _sampler_options() -> type[Any]:
    """Return a dataclass of the options of all samplers, None for their defaults, from the rows of SAMPLERS."""
    owners: dict[str, list[str]] = {}
    for name, row in SAMPLERS.items():
        for option in row.options:
            owners.setdefault(option, []).append(name)
    fields = []
    for option, names in owners.items():
        row = SAMPLERS[names[0]]
        hints = get_type_hints(row.walk, include_extras=True)
        arguments = docstring_parser.parse(inspect.getdoc(row.walk) or "").params
        text = next(
            " ".join((argument.description or "").split()) for argument in arguments if argument.arg_name == option
        )
        text = f"{', '.join(names)}: {text} Default: {row.options[option]}."
        fields.append((option, Annotated[hints[option] | None, tyro.conf.arg(help=text)], None))
    return dataclasses.make_dataclass("SamplerOptions", fields, frozen=True)


SamplerOptions = _sampler_options()


@dataclass(frozen=True)
class SamplerFlags:
    """How `generate` and its kin sample."""

    sampler: SamplerName = "ddim"
    """Any sampler goes with any model."""
    steps: int | None = None
    """Sampling steps: 1..T for a chain. Default: 50, or 12 for heun and midpoint, which call the network twice a step;
    T on shorter chains."""
    grid: Annotated[str, one_of(GRIDS)] = "uniform"
    """How the steps are spread over time."""
    options: tyro.conf.OmitArgPrefixes[SamplerOptions] = field(default_factory=SamplerOptions)  # pyright: ignore
    clip: bool = True
    """Clip the clean estimate to the range of images, or of latents, at every step."""
    guidance_scale: float = 1.0
    """s of u + s * (c - u): 0 unconditional, 1 conditional, more is guided. Elsewhere written s = 1 + w (Ho &
    Salimans), or w * c + (1 - w) * u with s = w."""
    guidance_interval: tuple[float, float] = (0.0, 1.0)
    """Guide only between these two flow times, sigma / (alpha + sigma): 0 clean, 1 noise."""
    guidance_rescale: float = 0.0
    """Share by which guided estimates are brought back to the contrast of unguided ones."""
    autoguidance: str | None = None
    """Guide away from this run or checkpoint file (a weaker model), instead of from the null label."""


@dataclass(frozen=True)
class TrainFlags:
    """Settings of `train_ddpm`, `train_flow` and `train_latent`."""

    variants: ClassVar = VARIANTS

    dataset: Annotated[str, one_of(DATA_SETS.names())] = "digits"
    """A data set; digits is built in, folder is your own images, hf:NAME one of Hugging Face's hub."""
    dataset_options: Annotated[Any, tyro.conf.arg(name="dataset")] = None
    network: Annotated[str, one_of(NETWORKS.names())] = "unet"
    """A network; its options are below, another one's with --network NAME --help."""
    network_options: Annotated[Any, tyro.conf.arg(name="network")] = None
    space: Annotated[str, one_of(SPACES.names())] = "pixels"
    """What the network sees of the images: pixels, or the latents of an autoencoder."""
    space_options: Annotated[Any, tyro.conf.arg(name="space")] = None
    data: tyro.conf.OmitArgPrefixes[DataFlags] = field(default_factory=DataFlags)
    process: tyro.conf.OmitArgPrefixes[ProcessFlags] = field(default_factory=ProcessFlags)
    optimizer: tyro.conf.OmitArgPrefixes[OptimizerFlags] = field(default_factory=OptimizerFlags)
    budget: tyro.conf.OmitArgPrefixes[BudgetFlags] = field(default_factory=BudgetFlags)
    run: tyro.conf.OmitArgPrefixes[RunFlags] = field(default_factory=RunFlags)
    report: tyro.conf.OmitArgPrefixes[ReportFlags] = field(default_factory=ReportFlags)
    sheets: tyro.conf.OmitArgPrefixes[SheetFlags] = field(default_factory=SheetFlags)
    sample_test: tyro.conf.OmitArgPrefixes[SampleTestFlags] = field(default_factory=SampleTestFlags)


FLOW = TrainFlags(
    process=ProcessFlags(noise_schedule="flow", timesteps=0, prediction="flow", times="logit_normal"),
    sheets=SheetFlags(sampler="heun"),
)
LATENT = dataclasses.replace(FLOW, space="latents")
# Latent images are small already: nothing to fold, and room for more channels.
LATENT_OPTIONS = {"network.patch_size": 1, "network.width": 64}


@dataclass(frozen=True)
class AutoencoderLossFlags:
    reconstruction: Annotated[str, one_of(autoencoder.LIKELIHOODS)] = "l2"
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

    variants: ClassVar = {"dataset": DATA_SETS.find, "network": AUTOENCODERS.find}

    kind: Annotated[str, one_of(autoencoder.KINDS)] = "vae"
    """vae has a Gaussian posterior, autoencoder is a plain one."""
    dataset: Annotated[str, one_of(DATA_SETS.names())] = "digits"
    """A data set; digits is built in, folder is your own images, hf:NAME one of Hugging Face's hub."""
    dataset_options: Annotated[Any, tyro.conf.arg(name="dataset")] = None
    network: Annotated[str, one_of(AUTOENCODERS.names())] = "conv"
    """Encoder and decoder; the options are below."""
    network_options: Annotated[Any, tyro.conf.arg(name="network")] = None
    data: tyro.conf.OmitArgPrefixes[SourceFlags] = field(default_factory=SourceFlags)
    likelihood: tyro.conf.OmitArgPrefixes[AutoencoderLossFlags] = field(default_factory=AutoencoderLossFlags)
    optimizer: tyro.conf.OmitArgPrefixes[OptimizerFlags] = field(default_factory=OptimizerFlags)
    budget: tyro.conf.OmitArgPrefixes[BudgetFlags] = field(default_factory=BudgetFlags)
    run: tyro.conf.OmitArgPrefixes[RunFlags] = field(default_factory=RunFlags)
    report: tyro.conf.OmitArgPrefixes[ReportFlags] = field(default_factory=lambda: ReportFlags(eval_images=2048))
    umap: bool = True
    """Map the latents by UMAP, too, at the end of the run, which takes ten seconds or more; PCA takes none."""
