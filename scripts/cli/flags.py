"""The flags of the tasks, as dataclasses that tyro turns into a command line.

A default, its range and its help stand once: in the constructor of a variant, in settings of the library
(OptimizerSettings, Budget, ReportSettings), else here. Networks, spaces and data sets are chosen by name; their options
become `--network.*` and the like. This module imports no torch, so that help and typos are quick.
"""

import dataclasses
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Annotated, Any, ClassVar, Literal

import tyro

from models.learning_rate import OptimizerSettings
from models.processes import cores, local_world_size
from models.ranges import RESUMABLE, NonNegative, NonNegativeInt, PositiveInt, Resumable, Share
from models.training.budget import Budget
from models.training.reporting import ReportSettings
from models.variants import AUTOENCODERS, DATA_SETS, NETWORKS, SPACES
from scripts.cli.signatures import Option, names_in, options_of, options_of_function

# How the options of each kind of large variant are read.
VARIANTS: Mapping[str, Callable[[str], Sequence[Option]]] = {
    "dataset": partial(options_of, DATA_SETS),
    "network": partial(options_of, NETWORKS),
    "space": partial(options_of, SPACES, method="fit"),
}
AUTOENCODER_VARIANTS = {"dataset": VARIANTS["dataset"], "network": partial(options_of, AUTOENCODERS)}


def braced(names: Iterable[str]) -> str:
    """Return names as help shows them, {one,other}."""
    return f"{{{','.join(names)}}}"


def one_of(names: Iterable[str]) -> Any:
    """Return the annotation of a flag that names a row of a table or a variant: help lists the names."""
    return tyro.conf.arg(metavar=braced(names))


SAMPLERS_MODULE = "models.diffusion.samplers"
ScheduleName = Annotated[str, one_of(names_in("models.diffusion.noise_schedules", "NOISE_SCHEDULES"))]
SamplerName = Annotated[str, one_of(names_in(SAMPLERS_MODULE, "SAMPLERS"))]
PredictionName = Annotated[str, one_of(names_in("models.diffusion.predictions", "PREDICTIONS"))]
DensityName = Annotated[str, one_of(names_in("models.diffusion.times", "DENSITIES"))]
GridName = Annotated[str, one_of(names_in("models.diffusion.times", "GRIDS"))]
DistanceName = Annotated[str, one_of(names_in("models.diffusion.losses", "DISTANCES"))]
WeightingName = Annotated[str, one_of(names_in("models.diffusion.losses", "WEIGHTINGS"))]
InitialNoiseName = Annotated[str, one_of(names_in("models.diffusion.noise", "INITIAL_NOISES"))]
CouplingName = Annotated[str, one_of(names_in("models.diffusion.noise", "COUPLINGS"))]
LikelihoodName = Annotated[str, one_of(names_in("models.autoencoders.autoencoder", "LIKELIHOODS"))]
KindName = Annotated[str, one_of(names_in("models.autoencoders.autoencoder", "KINDS"))]
DatasetName = Annotated[str, one_of(DATA_SETS.names())]
NetworkName = Annotated[str, one_of(NETWORKS.names())]
SpaceName = Annotated[str, one_of(SPACES.names())]
AutoencoderName = Annotated[str, one_of(AUTOENCODERS.names())]

# Options that may change when a run is resumed, unless samples are measured during the run.
UNLESS_MEASURED = Resumable(unless="eval_samples")


def experiments_dir() -> str:
    """Return the default folder of the run folders. The launcher reads the same variable."""
    return os.environ.get("EXPERIMENTS_DIR") or "experiments"


def usual_workers() -> int:
    """Return the default number of decoding workers, 1 to 4: this process's share of the cores, less one to train."""
    return max(1, min(4, cores() // local_world_size() - 1))


@dataclass(frozen=True)
class SourceFlags:
    """Location of the data sets, and how they are read."""

    data_root: Annotated[str | None, RESUMABLE] = None
    """Folder of the data sets in torchvision's layout. Default: the run's, the variable DATA_ROOT, or data/store."""
    memory_limit: Annotated[NonNegative | None, RESUMABLE] = None
    """GiB of image files (folder, hf) to hold in memory. Larger sets are streamed; 0 streams all. Default: MEMORY_LIMIT
    of the environment, else half of the free memory, shared among the processes of a machine."""


@dataclass(frozen=True)
class DataFlags(SourceFlags):
    conditional: bool = True
    """Train with the labels, if the data set has any."""


@dataclass(frozen=True)
class ProcessFlags:
    noise_schedule: ScheduleName = "cosine"
    """How signal turns into noise; visualize_schedules draws the schedules."""
    timesteps: NonNegativeInt = 1000
    """Length T of the chain; 0 for continuous time. A chain of any length ends in noise."""
    zero_terminal_snr: bool = False
    """Rescale the schedule so that the last step is pure noise (not with prediction eps)."""
    prediction: PredictionName = "eps"
    """Quantity that the network predicts."""
    times: DensityName = "discrete"
    """Density of the training times: discrete is k/T, log_normal is EDM's."""
    time_mean: float | None = None
    """Mean of logit_normal (default 0; higher is noisier) or log_normal (default -1.2)."""
    time_deviation: float | None = None
    """Standard deviation of logit_normal (default 1) or log_normal (default 1.2)."""
    stratified: bool = True
    """Spread the times of a batch evenly over the density, instead of drawing them independently."""
    loss: DistanceName = "l2"
    """Distance between the network's output and its target."""
    weighting: WeightingName = "uniform"
    """Weight of the loss by time; variational is the bound's weight, clipped."""
    weight_limit: float | None = None
    """Clip of variational (default 1), or gamma of min_snr (default 5) and soft_min_snr (default 4)."""
    label_drop: Share = 0.1
    """Share of labels replaced by the null label, image by image. Guidance needs it."""
    initial_noise: InitialNoiseName = "gaussian"
    """Distribution of the noise at t = 1, of mean 0 and variance 1. All but gaussian need a deterministic sampler."""
    coupling: CouplingName = "independent"
    """How noise is paired with the images of a batch; optimal is the permutation within each class of least squared
    distance (minibatch optimal transport)."""


@dataclass(frozen=True)
class RunFlags:
    experiments_dir: Annotated[str, RESUMABLE] = field(default_factory=experiments_dir)
    """Folder in which the run folder is made. The variable EXPERIMENTS_DIR sets its default."""
    name: Annotated[str | None, RESUMABLE] = None
    """Last word of the run folder's name."""
    seed: NonNegativeInt = 0
    """Seed of every random number. Runs with the same seed are equal, unless minutes limit them."""
    device: Annotated[str, RESUMABLE] = "auto"
    """auto, cpu, cuda, cuda:1, mps."""
    precision: Literal["auto", "float32", "bf16", "float64"] = "auto"
    """float32 (TF32 on GPUs), bf16 (autocast), or float64 to compare two runs. auto is bf16 on GPUs that have it and
    float32 elsewhere."""
    workers: Annotated[NonNegativeInt, RESUMABLE] = field(default_factory=usual_workers)
    """Processes that decode streamed images (--memory_limit); with 0 the training process decodes them."""
    compile: bool = False
    """Compile the network with torch.compile. It takes a minute or two and pays on GPUs and long runs."""
    init_from: Annotated[str | None, RESUMABLE] = None
    """Begin with the EMA weights of another run, where names and shapes match."""
    resume: str | None = None
    """Resume a run: its folder, its name, or latest. Only budgets, reports, folders and the device may change."""
    config: str | None = None
    """Take settings from a config.txt. Flags on the command line win."""
    recipe: str | None = None
    """Take settings from a named recipe of this task (make recipes lists them). --config and flags win."""


@dataclass(frozen=True)
class SheetFlags:
    num_samples: Annotated[PositiveInt, RESUMABLE] = 80
    """Images on a sample sheet."""
    sampler: Annotated[SamplerName, UNLESS_MEASURED] = "ddim"
    """Sampler of the sample sheets."""
    steps: Annotated[PositiveInt | None, UNLESS_MEASURED] = None
    """Sampling steps of the sample sheets. Default: as for generate."""
    guidance_scale: Annotated[float, UNLESS_MEASURED] = 1.0
    """Guidance scale of the sample sheets; 1 is plain conditional."""


@dataclass(frozen=True)
class SampleTestFlags:
    eval_samples: NonNegativeInt = 0
    """Samples whose Frechet distance from the training images and share recognised are measured at every --eval_every,
    2 or more; 0 for none. They have the EMA weights, the sampler of the sheets, and the same noise each time."""
    best_by: Literal["loss", "distance"] = "loss"
    """Figure that decides on the best checkpoint and --patience: the test loss, or the distance of --eval_samples."""


@dataclass(frozen=True)
class ModelFlags:
    """The trained model, and the device and precision it runs with."""

    run: str = "latest"
    """The run: its folder, its name, or latest."""
    checkpoint: str = "last"
    """last, best, or a checkpoint file; a file needs no --run."""
    weights: str = "ema"
    """ema or raw."""
    autoencoder: str | None = None
    """Run or checkpoint file of the autoencoder of a latent run. Default: the run with the same hash."""
    experiments_dir: str = field(default_factory=experiments_dir)
    """Folder in which runs are found by name. The variable EXPERIMENTS_DIR sets its default."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1, mps."""
    precision: str = "auto"
    """auto, float32 (TF32 on GPUs) or bf16 (autocast). auto is bf16 on GPUs that have it and float32 elsewhere."""


def _sampler_options() -> type[Any]:
    """Return a dataclass of the options of all samplers. Every default is None, for the sampler's own default."""
    owners: dict[Option, list[str]] = {}
    for sampler in names_in(SAMPLERS_MODULE, "SAMPLERS"):
        for option in options_of_function(SAMPLERS_MODULE, sampler):
            owners.setdefault(option, []).append(sampler)
    fields = []
    for option, samplers in owners.items():
        text = f"{', '.join(samplers)}: {option.help} Default: {option.default}."
        fields.append((option.name, Annotated[option.kind | None, tyro.conf.arg(help=text)], None))
    return dataclasses.make_dataclass("SamplerOptions", fields, frozen=True)


SamplerOptions = _sampler_options()


@dataclass(frozen=True)
class SamplerFlags:
    """How a trained model is sampled."""

    sampler: SamplerName = "ddim"
    """Sampler; each works with every model."""
    steps: PositiveInt | None = None
    """Sampling steps, 1..T on a chain. Default: 50, or 12 for heun and midpoint, which call the network twice a step;
    at most T."""
    grid: GridName = "uniform"
    """Spacing of the steps over time."""
    options: tyro.conf.OmitArgPrefixes[SamplerOptions] = field(default_factory=SamplerOptions)  # pyright: ignore
    """Options of certain samplers. Each help text begins with their names."""
    clip: bool = True
    """Clip the clean estimate to the range of images or latents at every step."""
    guidance_scale: float = 1.0
    """s of u + s * (c - u): 0 is unconditional, 1 conditional, more is guided. Ho & Salimans write s = 1 + w."""
    guidance_interval: tuple[float, float] = (0.0, 1.0)
    """Guide only between these two flow times, sigma / (alpha + sigma): 0 is clean, 1 noise."""
    guidance_rescale: Share = 0.0
    """How far the contrast of guided estimates is reduced to that of unguided ones, 0..1."""
    autoguidance: str | None = None
    """Guide away from this run or checkpoint file (a weaker model), instead of from the null label."""


@dataclass(frozen=True)
class ShowFlags:
    """Pictures of a trained model."""

    seed: int = 0
    """Seed of the noise and of the choice of test images."""
    batch_size: PositiveInt = 256
    """Images per batch. It does not change the images."""
    animate: bool = False
    """Also write an animation."""
    format: Literal["png", "pdf", "svg"] = "png"
    """Format of the pictures."""
    animation_format: Literal["webp", "gif"] = "webp"
    """Format of the animation."""
    data: tyro.conf.OmitArgPrefixes[SourceFlags] = field(default_factory=SourceFlags)
    out: str | None = None
    """Folder to write, new or empty. Default: a new one in the run's folder."""


@dataclass(frozen=True)
class TrainFlags:
    """Settings of `train_ddpm`, `train_flow` and `train_latent`."""

    variants: ClassVar = VARIANTS

    dataset: DatasetName = "digits"
    """Data set; digits is built in, folder is your own images, hf:NAME is a set of the Hugging Face hub."""
    dataset_options: Annotated[Any, tyro.conf.arg(name="dataset")] = None
    network: NetworkName = "unet"
    """Network. Its options are below; --network NAME --help shows those of another."""
    network_options: Annotated[Any, tyro.conf.arg(name="network")] = None
    space: SpaceName = "pixels"
    """What the network sees: pixels, or the latents of an autoencoder."""
    space_options: Annotated[Any, tyro.conf.arg(name="space")] = None
    data: tyro.conf.OmitArgPrefixes[DataFlags] = field(default_factory=DataFlags)
    process: tyro.conf.OmitArgPrefixes[ProcessFlags] = field(default_factory=ProcessFlags)
    optimizer: tyro.conf.OmitArgPrefixes[OptimizerSettings] = field(default_factory=OptimizerSettings)
    budget: tyro.conf.OmitArgPrefixes[Budget] = field(default_factory=Budget)
    run: tyro.conf.OmitArgPrefixes[RunFlags] = field(default_factory=RunFlags)
    report: tyro.conf.OmitArgPrefixes[ReportSettings] = field(default_factory=ReportSettings)
    sheets: tyro.conf.OmitArgPrefixes[SheetFlags] = field(default_factory=SheetFlags)
    sample_test: tyro.conf.OmitArgPrefixes[SampleTestFlags] = field(default_factory=SampleTestFlags)


FLOW = TrainFlags(
    process=ProcessFlags(noise_schedule="flow", timesteps=0, prediction="flow", times="logit_normal"),
    sheets=SheetFlags(sampler="heun"),
)
LATENT = dataclasses.replace(FLOW, space="latents")
# Latents are small: their pixels are not folded into channels, and the network can be wider.
LATENT_OPTIONS = {"network.patch_size": 1, "network.width": 64}


@dataclass(frozen=True)
class AutoencoderLossFlags:
    reconstruction: LikelihoodName = "l2"
    """Likelihood of the images given the reconstruction; bernoulli reads pixels as probabilities."""
    kl_weight: NonNegative = 1e-6
    """Weight of a vae's KL to the unit Gaussian, in nats per pixel like the reconstruction: about 1e-6 for latent
    diffusion, 1 for the bound on the likelihood, more for a beta-VAE."""
    kl_warmup_steps: NonNegativeInt = 0
    """Steps over which that weight rises from 0."""
    free_bits: NonNegative = 0.0
    """Nats of each latent unit's KL that are not penalised."""


@dataclass(frozen=True)
class AutoencoderFlags:
    """Settings of `train_vae`."""

    variants: ClassVar = AUTOENCODER_VARIANTS

    kind: KindName = "vae"
    """vae has a Gaussian posterior, autoencoder has none."""
    dataset: DatasetName = "digits"
    """Data set; digits is built in, folder is your own images, hf:NAME is a set of the Hugging Face hub."""
    dataset_options: Annotated[Any, tyro.conf.arg(name="dataset")] = None
    network: AutoencoderName = "conv"
    """Network of encoder and decoder. Its options are below."""
    network_options: Annotated[Any, tyro.conf.arg(name="network")] = None
    data: tyro.conf.OmitArgPrefixes[SourceFlags] = field(default_factory=SourceFlags)
    likelihood: tyro.conf.OmitArgPrefixes[AutoencoderLossFlags] = field(default_factory=AutoencoderLossFlags)
    optimizer: tyro.conf.OmitArgPrefixes[OptimizerSettings] = field(default_factory=OptimizerSettings)
    budget: tyro.conf.OmitArgPrefixes[Budget] = field(default_factory=Budget)
    run: tyro.conf.OmitArgPrefixes[RunFlags] = field(default_factory=RunFlags)
    report: tyro.conf.OmitArgPrefixes[ReportSettings] = field(default_factory=lambda: ReportSettings(eval_images=2048))
    umap: Annotated[bool, RESUMABLE] = True
    """Map the latents by UMAP too at the end of the run. It takes ten seconds or more."""


@dataclass(frozen=True)
class CodingFlags:
    """A trained autoencoder, and the images it sees."""

    variants: ClassVar = {"dataset": lambda name: VARIANTS["dataset"](name) if name else ()}

    run: str = "latest"
    """The run of train_vae: its folder, its name, or latest."""
    checkpoint: str = "last"
    """last, best, or a checkpoint file; a file needs no --run."""
    experiments_dir: str = field(default_factory=experiments_dir)
    """Folder in which runs are found by name. The variable EXPERIMENTS_DIR sets its default."""
    dataset: Annotated[str | None, one_of(DATA_SETS.names())] = None
    """Data set with images of the same shape. Default: the run's own."""
    dataset_options: Annotated[Any, tyro.conf.arg(name="dataset")] = None
    data: tyro.conf.OmitArgPrefixes[SourceFlags] = field(default_factory=SourceFlags)
    device: str = "auto"
    """auto, cpu, cuda, cuda:1, mps."""
    batch_size: PositiveInt = 500
    """Images per batch."""
