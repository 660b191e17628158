"""The flags of `distill`: the teacher, and the training of its student."""

from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Literal

import tyro

from models.learning_rate import OptimizerSettings
from models.ranges import RESUMABLE, PositiveInt
from models.training.budget import Budget
from models.training.reporting import ReportSettings
from scripts.cli.flags import GridName, RunFlags, SamplerName, SheetLayout


@dataclass(frozen=True)
class TeacherFlags:
    """A trained model, and the sampler whose map from noise to images the student learns."""

    run: Annotated[str, RESUMABLE] = "latest"
    """Run of the teacher: its folder, its name or a part of it, latest, latest:mnist for the newest on MNIST, or a
    shipped model such as pretrained/mnist. If there is no run, latest is a shipped model."""
    checkpoint: Annotated[str, RESUMABLE] = "last"
    """Checkpoint of the teacher: last, best or a file."""
    weights: str = "ema"
    """Weights of the teacher, from which the student starts: ema or raw."""
    sampler: SamplerName = "heun"
    """Sampler of the teacher. It must add no noise."""
    steps: PositiveInt = 3
    """Sampling steps of the teacher."""
    grid: GridName = "uniform"
    """Spacing of the teacher's steps over time."""
    guidance_scale: float = 1.0
    """Guidance scale of the teacher, which is built into the student."""
    guidance_interval: tuple[float, float] = (0.0, 1.0)
    """Two flow times between which the teacher is guided: 0 is clean, 1 is noise."""
    evaluations: Literal[1, 2, 4] = 1
    """Network evaluations of the student per image."""
    pairs: PositiveInt = 64
    """Batches of the teacher's images that are kept in memory."""
    reuse: PositiveInt = 6
    """Number of training steps on each of the teacher's batches."""


@dataclass(frozen=True)
class StudentFlags:
    """Settings of `distill`. inherited: prefixes of the settings in config.txt that come from the teacher."""

    variants: ClassVar = {}
    inherited: ClassVar = ("dataset", "dataset.", "data_root", "teacher_sha256")

    teacher: tyro.conf.OmitArgPrefixes[TeacherFlags] = field(default_factory=TeacherFlags)
    optimizer: tyro.conf.OmitArgPrefixes[OptimizerSettings] = field(
        default_factory=lambda: OptimizerSettings(optimizer="muon", lr=5e-3)
    )
    budget: tyro.conf.OmitArgPrefixes[Budget] = field(default_factory=Budget)
    run: tyro.conf.OmitArgPrefixes[RunFlags] = field(default_factory=RunFlags)
    report: tyro.conf.OmitArgPrefixes[ReportSettings] = field(default_factory=ReportSettings)
    sheets: tyro.conf.OmitArgPrefixes[SheetLayout] = field(default_factory=SheetLayout)
