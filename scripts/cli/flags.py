"""The flags of the tasks, as dataclasses that tyro turns into a command line.

Each default, range and help text is defined once: in the constructor of a variant, in settings of the library
(OptimizerSettings, Budget, ReportSettings), or here. Networks, spaces and data sets are chosen by name. Their options
become flags such as `--network.width`. This module imports no torch, so that --help and errors appear at once.
"""

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Annotated, Any, ClassVar, Literal

import tyro
from typing_extensions import Doc

from models.learning_rate import OptimizerSettings
from models.places import experiments_dir
from models.processes import cores, local_world_size
from models.ranges import RESUMABLE, NonNegative, NonNegativeInt, PositiveInt, Resumable, Share
from models.training.budget import Budget
from models.training.reporting import PictureFormat, ReportSettings
from models.variants import AUTOENCODERS, DATA_SETS, NETWORKS, SPACES
from scripts.cli.help import braced
from scripts.cli.signatures import Option, names_in, options_of, options_of_function

# Functions that return the options of a large variant by its name.
VARIANTS: Mapping[str, Callable[[str], Sequence[Option]]] = {
    "dataset": partial(options_of, DATA_SETS),
    "network": partial(options_of, NETWORKS),
    "space": partial(options_of, SPACES, method="fit"),
}
AUTOENCODER_VARIANTS = {"dataset": VARIANTS["dataset"], "network": partial(options_of, AUTOENCODERS)}


def one_of(names: Iterable[str]) -> Any:
    """Return the annotation of a flag whose value is one of `names`. The help lists them."""
    return tyro.conf.arg(metavar=braced(names))


SAMPLERS_MODULE = "models.diffusion.samplers"
ScheduleName = Annotated[str, one_of(names_in("models.diffusion.noise_schedules", "NOISE_SCHEDULES"))]
BetasName = Annotated[str, one_of(names_in("models.diffusion.chains", "CHAIN_BETAS"))]
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
# Classes by name, number or range; see models/class_names.py.
Labels = Annotated[tuple[str, ...] | None, tyro.conf.arg(metavar="[CLASS ...]")]
DatasetName = Annotated[str, one_of(DATA_SETS.names())]
NetworkName = Annotated[str, one_of(NETWORKS.names())]
SpaceName = Annotated[str, one_of(SPACES.names())]
AutoencoderName = Annotated[str, one_of(AUTOENCODERS.names())]

Scale = Annotated[
    PositiveInt | None, Doc("Whole number by which the images of sheets are enlarged. Default: to about 60 pixels.")
]
AnimationFormat = Literal["webp", "gif"]

# Options that may change when a run is resumed, unless samples are measured during the run.
UNLESS_MEASURED = Resumable(unless="eval_samples")


def usual_workers() -> int:
    """Return the default number of decoding workers, 1 to 4: this process's share of the cores, minus one."""
    return max(1, min(4, cores() // local_world_size() - 1))


@dataclass(frozen=True)
class SourceFlags:
    """Location of the data sets, and how they are read."""

    data_root: Annotated[str | None, RESUMABLE] = None
    """Folder of the data sets, in torchvision's layout. Default: that of the run if it exists, else DATA_ROOT, else
    data/store."""
    memory_limit: Annotated[NonNegative | None, RESUMABLE] = None
    """Largest set of image files (folder, hf) to hold in memory, in GiB. Larger sets are streamed; 0 streams all.
    Default: the variable MEMORY_LIMIT, else this process's share of half of the free memory."""


@dataclass(frozen=True)
class DataFlags(SourceFlags):
    conditional: bool = True
    """Train with labels if the data set has them."""


@dataclass(frozen=True)
class ProcessFlags:
    noise_schedule: ScheduleName = "cosine"
    """Noise schedule. visualize_schedules draws all of them."""
    timesteps: NonNegativeInt = 1000
    """Length T of the chain; 0 for continuous time."""
    chain_betas: BetasName = "rescaled"
    """Betas of a linear, quadratic or sigmoid chain. rescaled: fitted to T, so that every chain ends in almost
    pure noise. published: from 1e-4 to 0.02 for every T, so that a short chain keeps some signal."""
    zero_terminal_snr: bool = False
    """Rescale the schedule so that the last step is pure noise. Not possible with prediction eps."""
    prediction: PredictionName = "eps"
    """Quantity that the network predicts."""
    times: DensityName = "discrete"
    """Distribution of the training times. discrete: k/T. log_normal: as in EDM."""
    time_mean: float | None = None
    """Mean of logit_normal (default 0) or log_normal (default -1.2). Higher means more noise."""
    time_deviation: float | None = None
    """Standard deviation of logit_normal (default 1) or log_normal (default 1.2)."""
    stratified: bool = True
    """Draw the times of a batch by stratified sampling, instead of independently."""
    loss: DistanceName = "l2"
    """Distance between the network's output and its target."""
    weighting: WeightingName = "uniform"
    """Weight of the loss as a function of time. variational: the weight in the variational bound, clipped."""
    weight_limit: float | None = None
    """Upper limit of variational weights (default 1), or gamma of min_snr (default 5) and soft_min_snr (default 4)."""
    label_drop: Share = 0.1
    """Probability that an image's label is replaced by the null label. Guidance needs it above 0."""
    initial_noise: InitialNoiseName = "gaussian"
    """Distribution of the noise at t = 1, with mean 0 and variance 1. All but gaussian need a deterministic sampler."""
    coupling: CouplingName = "independent"
    """Pairing of noise and images in a batch. optimal: minibatch optimal transport within each class."""


@dataclass(frozen=True)
class RunFlags:
    experiments_dir: Annotated[str, RESUMABLE] = field(default_factory=experiments_dir)
    """Folder in which the run folder is made. The variable EXPERIMENTS_DIR sets its default."""
    name: Annotated[str | None, RESUMABLE] = None
    """Suffix of the run folder's name."""
    seed: NonNegativeInt = 0
    """Seed of all random numbers. Runs with the same seed are equal, unless --max_minutes ends them."""
    device: Annotated[str, RESUMABLE] = "auto"
    """auto, cpu, cuda, cuda:1, mps."""
    precision: Literal["auto", "float32", "bf16", "float64"] = "auto"
    """float32 (TF32 on GPUs), bf16 (autocast) or float64. auto: bf16 on GPUs that support it, else float32."""
    workers: Annotated[NonNegativeInt, RESUMABLE] = field(default_factory=usual_workers)
    """Processes that decode streamed images (see --memory_limit). With 0, the training process decodes them."""
    compile: Literal["auto", "on", "off"] = "auto"
    """Compile the network with torch.compile, which takes 0.5 to 2 minutes. auto: compile on a GPU if --max_minutes is
    at least 10. --compile without a value means on."""
    graph: Annotated[Literal["auto", "on", "off"], RESUMABLE] = "auto"
    """Record the training step as a CUDA graph and replay it in one launch. auto: with one GPU, if possible."""
    init_from: str | None = None
    """Run whose EMA weights initialise the network, where names and shapes match."""
    resume: str | None = None
    """Run to resume, named as for generate --run. Only the budget, reports, sample sheets, paths, --device,
    --accumulate, --graph, --workers and --memory_limit may change."""
    changed_data: bool = False
    """With --resume: accept that images were added, removed or replaced. The classes must be the same."""
    config: str | None = None
    """File config.txt to take settings from. Flags on the command line override it."""
    recipe: str | None = None
    """Recipe of this task to take settings from (see make recipes). --config and flags override it."""


@dataclass(frozen=True)
class SheetLayout:
    num_samples: Annotated[PositiveInt, RESUMABLE] = 80
    """Images on a sample sheet."""
    columns: Annotated[PositiveInt | None, RESUMABLE] = None
    """Images in a row of a sample sheet. Default: chosen so that each class has columns of its own, if that fits."""
    scale: Annotated[Scale, RESUMABLE] = None


@dataclass(frozen=True)
class SheetFlags(SheetLayout):
    sampler: Annotated[SamplerName | None, UNLESS_MEASURED] = None
    """Sampler of the sample sheets. Default: as for generate."""
    steps: Annotated[PositiveInt | None, UNLESS_MEASURED] = None
    """Sampling steps of the sample sheets. Default: as for generate."""
    guidance_scale: Annotated[float, UNLESS_MEASURED] = 1.0
    """Guidance scale of the sample sheets; 1 is conditional without guidance."""


@dataclass(frozen=True)
class SampleTestFlags:
    eval_samples: NonNegativeInt = 0
    """Samples to generate and measure at each evaluation (see --eval_every): 2 or more, or 0 for none. The measures are
    the Frechet distance from the training images and the share whose class a classifier recognises. Samples use the EMA
    weights, the sheets' sampler and the same noise each time."""
    best_by: Literal["loss", "distance"] = "loss"
    """Criterion for the best checkpoint and --patience: the test loss, or the Frechet distance of --eval_samples."""


@dataclass(frozen=True)
class RunChoice:
    """The trained model."""

    run: str = "latest"
    """Run: its folder, its name or a part of it, latest, latest:mnist for the newest run on MNIST, or pretrained/mnist
    for a model that comes with the repository."""
    checkpoint: str = "last"
    """last, best, or a checkpoint file; a file needs no --run."""
    weights: Annotated[str, one_of(("ema", "raw"))] = "ema"
    """EMA or raw weights."""
    autoencoder: str | None = None
    """For a latent run: run or checkpoint file of its autoencoder. Default: the file with the hash that the latent run
    has recorded."""
    experiments_dir: str = field(default_factory=experiments_dir)
    """Folder in which runs are found by name. The variable EXPERIMENTS_DIR sets its default."""


@dataclass(frozen=True)
class ModelFlags(RunChoice):
    """The trained model, its device and its precision."""

    device: str = "auto"
    """auto, cpu, cuda, cuda:1, mps."""
    precision: Literal["auto", "float32", "bf16"] = "auto"
    """float32 (TF32 on GPUs) or bf16 (autocast). auto: bf16 on GPUs that support it, else float32."""


def _sampler_options() -> type[Any]:
    """Return a dataclass with the options of all samplers. Every default is None, which means the sampler's default."""
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
    """Settings for sampling a trained model."""

    sampler: SamplerName | None = None
    """Sampler; each works with every schedule and prediction. Default: heun with 3 steps for a flow, ddpm with 12 for a
    chain, ddim with 50 for other models, edits, interpolation, animations and sample folders."""
    steps: PositiveInt | None = None
    """Sampling steps, at most T on a chain. Default if --sampler is given: 50, or 12 for heun and midpoint. A student
    has its own number."""
    grid: GridName = "uniform"
    """Spacing of the steps over time."""
    options: tyro.conf.OmitArgPrefixes[SamplerOptions] = field(default_factory=SamplerOptions)  # pyright: ignore
    """Options that only some samplers have. Each help text begins with the names of these samplers."""
    clip: bool = True
    """Clip the clean estimate to the range of images or latents at every step."""
    guidance_scale: float = 1.0
    """Scale s in u + s * (c - u): 0 is unconditional, 1 conditional, above 1 guided. Ho & Salimans write s = 1 + w."""
    guidance_interval: tuple[float, float] = (0.0, 1.0)
    """Two flow times, sigma / (alpha + sigma), between which guidance is applied: 0 is clean, 1 is noise."""
    guidance_rescale: Share = 0.0
    """Rescaling of guided clean estimates to the standard deviation of conditional ones: 0 is none, 1 is full."""
    autoguidance: str | None = None
    """Run or checkpoint file of a weaker model, whose estimate replaces the unconditional one in guidance."""


@dataclass(frozen=True)
class ShowFlags:
    """Settings of the tasks that draw pictures with a trained model."""

    seed: int = 0
    """Seed of the noise and of the choice of test images."""
    batch_size: PositiveInt = 256
    """Images per batch. It does not change the result."""
    animate: bool = False
    """Also write an animation."""
    format: PictureFormat = "png"
    """Format of the pictures."""
    animation_format: AnimationFormat = "webp"
    """Format of the animation."""
    data: tyro.conf.OmitArgPrefixes[SourceFlags] = field(default_factory=SourceFlags)
    out: str | None = None
    """Folder to write, new or empty. Default: a new one in the run's folder."""


@dataclass(frozen=True)
class StripFlags(ShowFlags):
    """Settings of the tasks whose pictures are sheets of images."""

    scale: Scale = None


@dataclass(frozen=True)
class TrainFlags:
    """Settings of `train_ddpm`, `train_flow` and `train_latent`."""

    variants: ClassVar = VARIANTS

    dataset: DatasetName = "digits"
    """Data set. digits: built in. folder: your own images. hf:NAME: a data set of the Hugging Face hub."""
    dataset_options: Annotated[Any, tyro.conf.arg(name="dataset")] = None
    network: NetworkName = "unet"
    """Network. Its options are below. --network NAME --help shows the options of another network."""
    network_options: Annotated[Any, tyro.conf.arg(name="network")] = None
    space: SpaceName = "pixels"
    """Space in which the network works: pixels, or the latents of an autoencoder."""
    space_options: Annotated[Any, tyro.conf.arg(name="space")] = None
    data: tyro.conf.OmitArgPrefixes[DataFlags] = field(default_factory=DataFlags)
    process: tyro.conf.OmitArgPrefixes[ProcessFlags] = field(default_factory=ProcessFlags)
    optimizer: tyro.conf.OmitArgPrefixes[OptimizerSettings] = field(default_factory=OptimizerSettings)
    budget: tyro.conf.OmitArgPrefixes[Budget] = field(default_factory=Budget)
    run: tyro.conf.OmitArgPrefixes[RunFlags] = field(default_factory=RunFlags)
    report: tyro.conf.OmitArgPrefixes[ReportSettings] = field(default_factory=ReportSettings)
    sheets: tyro.conf.OmitArgPrefixes[SheetFlags] = field(default_factory=SheetFlags)
    sample_test: tyro.conf.OmitArgPrefixes[SampleTestFlags] = field(default_factory=SampleTestFlags)


FLOW = TrainFlags(process=ProcessFlags(noise_schedule="flow", timesteps=0, prediction="flow", times="logit_normal"))
LATENT = dataclasses.replace(FLOW, space="latents")
# Latents are small, so patches are not folded into channels (patch_size 1), and the network can be wider.
LATENT_OPTIONS = {"network.patch_size": 1, "network.width": 64}


@dataclass(frozen=True)
class AutoencoderLossFlags:
    reconstruction: LikelihoodName = "l2"
    """Likelihood of the images given the reconstruction. bernoulli treats pixels as probabilities."""
    kl_weight: NonNegative = 1e-6
    """Weight of a vae's KL divergence from the unit Gaussian. Both loss terms are in nats per dimension. About 1e-6 for
    latent diffusion, 1 for the likelihood bound, above 1 for a beta-VAE."""
    kl_warmup_steps: NonNegativeInt = 0
    """Steps over which the KL weight rises from 0."""
    free_bits: NonNegative = 0.0
    """KL per latent unit, in nats, up to which the unit is not penalised."""


@dataclass(frozen=True)
class AutoencoderFlags:
    """Settings of `train_vae`."""

    variants: ClassVar = AUTOENCODER_VARIANTS

    kind: KindName = "vae"
    """vae: Gaussian posterior. autoencoder: no posterior."""
    dataset: DatasetName = "digits"
    """Data set. digits: built in. folder: your own images. hf:NAME: a data set of the Hugging Face hub."""
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
    """Also draw a UMAP of the latents at the end. It takes up to a minute, and is left out if the training took less
    than a minute."""
    scale: Annotated[Scale, RESUMABLE] = None


@dataclass(frozen=True)
class CodingFlags:
    """A trained autoencoder, and the images to encode."""

    variants: ClassVar = {"dataset": lambda name: VARIANTS["dataset"](name) if name else ()}

    run: str = "latest"
    """Run of train_vae: its folder, its name or a part of it, latest, latest:mnist for the newest run on MNIST, or
    pretrained/mnist-vae."""
    checkpoint: str = "last"
    """last, best, or a checkpoint file; a file needs no --run."""
    experiments_dir: str = field(default_factory=experiments_dir)
    """Folder in which runs are found by name. The variable EXPERIMENTS_DIR sets its default."""
    dataset: Annotated[str | None, one_of(DATA_SETS.names())] = None
    """Data set, with images of the shape that the autoencoder takes. Default: the run's data set."""
    dataset_options: Annotated[Any, tyro.conf.arg(name="dataset")] = None
    data: tyro.conf.OmitArgPrefixes[SourceFlags] = field(default_factory=SourceFlags)
    device: str = "auto"
    """auto, cpu, cuda, cuda:1, mps."""
    batch_size: PositiveInt = 500
    """Images per batch."""


@dataclass(frozen=True)
class ReportFlags:
    """Settings of `report`."""

    experiments_dir: str = field(default_factory=experiments_dir)
    """Folder of the run folders. The variable EXPERIMENTS_DIR sets its default."""
    out: str | None = None
    """Folder to write: a new one, or that of an earlier report. Default: report/ in --experiments_dir."""
