"""The flags of each evaluation. scripts/evaluate.py lists the evaluations."""

from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal

import tyro

from models.evaluation.method_settings import (
    BayesOdeSettings,
    DenoisingSettings,
    DensitySettings,
    GaussiansSettings,
    VlbSettings,
)
from models.places import experiments_dir
from models.ranges import NonNegativeInt, PositiveInt, Range
from models.variants import DATA_SETS
from scripts.cli.flags import CodingFlags, Labels, ModelFlags, PictureFormat, SamplerFlags, SourceFlags, one_of


@dataclass(frozen=True)
class SamplesFlags:
    """Settings of `evaluate --task samples`."""

    variants: ClassVar = CodingFlags.variants

    task: str = "samples"
    """This task. Other tasks: bayes (the model's accuracy as a classifier), loss (the error of the estimated noise as
    a function of t), likelihood (the bits per dimension of test images). --task NAME --help lists the flags of a task.
    --compare A B compares two evaluations of samples. --every_checkpoint measures all checkpoints of a run."""
    model: tyro.conf.OmitArgPrefixes[ModelFlags] = field(default_factory=ModelFlags)
    samples: str | None = None
    """Existing images to measure, so that none are generated: a samples.npz, or a folder or zip of pictures."""
    dataset: Annotated[str | None, one_of(DATA_SETS.names())] = None
    """Data set to compare --samples with. Default: the data of the run that generated them, if that run exists."""
    dataset_options: Annotated[Any, tyro.conf.arg(name="dataset")] = None
    data: tyro.conf.OmitArgPrefixes[SourceFlags] = field(default_factory=SourceFlags)
    num_images: NonNegativeInt | None = None
    """Number of images. Default (and 0): the number of test images, or all images of --samples."""
    labels: Labels = None
    """Classes to generate, by name, number or range; the images take them in turn. Default: all classes, in the same
    proportions as in the training images."""
    sampling: tyro.conf.OmitArgPrefixes[SamplerFlags] = field(default_factory=SamplerFlags)
    extractors: tuple[str, ...] | None = None
    """Feature networks for the comparison: convnet, resnet (both trained on the data set), inception, or a .safetensors
    file of train_classifier. Default: convnet, or none if the data set has no classes."""
    inception_weights: str | None = None
    """File of torch-fidelity's weights for inception. Default: they are downloaded."""
    k: PositiveInt = 5
    """Number of nearest neighbours for precision, recall, density and coverage."""
    draws: Annotated[int, Range(10)] = 100
    """Number of bootstrap resamples for the intervals."""
    extrapolate: bool = False
    """Also extrapolate the Frechet distance to infinitely many images, by a linear fit in 1 / n."""
    classification_accuracy: bool = False
    """Also measure the classification accuracy score of a classifier trained on the samples. Takes a minute or more."""
    seed: int = 0
    """Seed. The noise of an image depends only on seed and index. With equal seeds, --compare pairs the images."""
    batch_size: PositiveInt = 256
    """Images per batch. It does not change the result."""
    format: PictureFormat = "png"
    """Format of the pictures."""
    out: str | None = None
    """Folder to write, new or empty. Default: a new one in evaluation/ in the run, or beside --samples."""


@dataclass(frozen=True)
class _ReportFlags:
    """Common flags of the evaluations that write one report about images of the run's data set."""

    task: str = ""
    model: tyro.conf.OmitArgPrefixes[ModelFlags] = field(default_factory=ModelFlags)
    data: tyro.conf.OmitArgPrefixes[SourceFlags] = field(default_factory=SourceFlags)
    num_images: NonNegativeInt | None = None
    seed: int = 0
    """Seed. Random numbers of an image depend only on the seed and the image's index, not on the batch size."""
    batch_size: PositiveInt = 256
    """Images per batch."""
    out: str | None = None
    """Folder for the report. Default: evaluation/ in the run."""


@dataclass(frozen=True)
class BayesFlags(_ReportFlags):
    """Settings of `evaluate --task bayes`."""

    task: str = "bayes"
    """This task."""
    num_images: NonNegativeInt | None = None
    """Number of images; 0 for all. Default: 1000, or all if there are fewer."""
    split: Literal["test", "train"] = "test"
    """Split of the data set."""
    first_image: NonNegativeInt = 0
    """Index of the first image in the split."""
    method: Literal["auto", "denoising", "likelihood", "gaussians"] = "auto"
    """denoising (fast): the class whose label gives the least denoising error. likelihood (slow): the density by the
    probability-flow ODE. gaussians: one Gaussian per class, in the latents of an autoencoder. auto: gaussians for an
    autoencoder run, denoising for others."""
    errors: tyro.conf.OmitArgPrefixes[DenoisingSettings] = field(default_factory=DenoisingSettings)
    ode: tyro.conf.OmitArgPrefixes[BayesOdeSettings] = field(default_factory=BayesOdeSettings)
    gaussians: tyro.conf.OmitArgPrefixes[GaussiansSettings] = field(default_factory=GaussiansSettings)
    prior: Literal["uniform", "train"] = "uniform"
    """Class prior p(y): uniform, or the class shares of the training split."""


@dataclass(frozen=True)
class LikelihoodFlags(_ReportFlags):
    """Settings of `evaluate --task likelihood`."""

    task: str = "likelihood"
    """This task."""
    num_images: NonNegativeInt | None = None
    """Number of images, evenly spaced over the split; 0 for all. Default: 500, or all if there are fewer."""
    split: Literal["test", "train"] = "test"
    """Split of the data set."""
    method: Literal["auto", "vlb", "ode"] = "auto"
    """vlb: the variational bound of a chain. ode: the density of dequantised images by the probability-flow ODE. Both
    are upper bounds on the bits. auto: vlb for a chain, ode for a continuous schedule."""
    vlb: tyro.conf.OmitArgPrefixes[VlbSettings] = field(default_factory=VlbSettings)
    ode: tyro.conf.OmitArgPrefixes[DensitySettings] = field(default_factory=DensitySettings)


@dataclass(frozen=True)
class NoiseLossFlags(_ReportFlags):
    """Settings of `evaluate --task loss`."""

    task: str = "loss"
    """This task."""
    num_images: NonNegativeInt | None = None
    """Number of test images, evenly spaced over the split, and of training images; 0 for as many as both splits have.
    Default: 1000, or as many as both splits have if that is fewer."""
    format: PictureFormat = "png"
    """Format of the picture."""


@dataclass(frozen=True)
class CompareFlags:
    """Settings of `evaluate --compare`."""

    compare: tuple[str, str] = ("", "")
    """Two evaluations: folders with a report.json, or runs. For a run, its latest evaluation is taken."""
    experiments_dir: str = field(default_factory=experiments_dir)
    """Folder in which runs are found by name. The variable EXPERIMENTS_DIR sets its default."""
    out: str | None = None
    """File to write, .json. A .txt is written beside it. Default: a new file in comparisons/ in --experiments_dir."""


@dataclass(frozen=True)
class CheckpointsFlags:
    """Settings of `evaluate --every_checkpoint`."""

    every_checkpoint: bool = True
    """This task."""
    model: tyro.conf.OmitArgPrefixes[ModelFlags] = field(default_factory=ModelFlags)
    data: tyro.conf.OmitArgPrefixes[SourceFlags] = field(default_factory=SourceFlags)
    num_images: Annotated[int, Range(2)] | None = None
    """Images to generate per checkpoint, and number of test images for the loss and for the floor (the same measures of
    real images). Default: 1000, or the number of test images if that is smaller."""
    sampling: tyro.conf.OmitArgPrefixes[SamplerFlags] = field(default_factory=SamplerFlags)
    extractors: tuple[str, ...] = ("convnet",)
    """Feature networks: convnet, resnet (both trained on the data set), inception, or a file of train_classifier."""
    inception_weights: str | None = None
    """File of torch-fidelity's weights for inception. Default: they are downloaded."""
    draws: Annotated[int, Range(10)] = 100
    """Number of bootstrap resamples for the intervals."""
    seed: int = 0
    """Seed of the images, and of the times and noise of the loss. All checkpoints use the same seed."""
    batch_size: PositiveInt = 256
    """Images per batch. It does not change the result."""
    format: PictureFormat = "png"
    """Format of the picture."""
    out: str | None = None
    """Folder to write, new or empty. Default: a new one in the run's evaluation/."""
