"""Model cards of the shipped models, in the form that the Hugging Face hub reads, and the table of all models."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import yaml

from models.evaluation.measure_names import format_measurement, format_value
from models.evaluation.statistics import Measurement
from models.model import Student
from models.places import PRETRAINED
from models.runs.environment import read_starts
from models.runs.lookup import SHIPPED_PREFIX
from models.runs.yaml_files import read_yaml
from scripts.cli.arguments import split_at_dashes

if TYPE_CHECKING:
    from scripts.tasks.shipping import Shipped

RECORD = "## Record"
BEGIN, END = "<!-- models: written by make pretrained -->", "<!-- end of models -->"


class Made(NamedTuple):
    """Facts about the training and the weights of a shipped model.

    commands: make commands that trained and resumed the run. commit, torch, cpu: environment of the training. sha256,
    size: hash and bytes of the checkpoint file. student: facts of a distilled model; None for other models.
    """

    commands: list[str]
    step: int
    seed: int
    batch_size: int
    parameters: int
    minutes: float
    commit: str
    torch: str
    cpu: str
    sha256: str
    size: int
    student: Student | None

    @classmethod
    def of(cls, run: Path, commands: Sequence[str], written: Path, config: Mapping[str, Any]) -> Self:
        """Read the facts of a run. written: the checkpoint of its shipped model."""
        environment = read_starts(run)[-1]
        figures, facts = read_yaml(run / "performance_metrics.txt"), read_yaml(written.with_suffix(".yaml"))
        return cls(
            commands=list(commands),
            step=facts["step"],
            seed=config["seed"],
            batch_size=config["batch_size"],
            parameters=figures["parameters"],
            minutes=figures["training_seconds"] / 60,
            commit=environment.get("commit", "unknown"),
            torch=environment.get("torch", "unknown"),
            cpu=environment.get("cpu", "unknown"),
            sha256=facts["sha256"],
            size=written.stat().st_size,
            student=student_of(facts),
        )


def student_of(facts: Mapping[str, Any]) -> Student | None:
    """Return the `Student` in the facts of a checkpoint; None if the model is not a student."""
    student = facts.get("denoiser", {}).get("student")
    return None if student is None else Student(**student)


def training_command(task: str, words: Sequence[str]) -> str:
    """Return the make command of a training, without --name and --experiments_dir. Absolute paths become file names."""
    words = [Path(word).name if Path(word).is_absolute() else word for word in words]
    for flag in ("--name", "--experiments_dir"):
        if flag in words:
            del words[words.index(flag) : words.index(flag) + 2]
    return f'make {task} ARGS="{shlex.join(words)}"'


def commands_of(run: Path, task: str, table: str) -> list[str]:
    """Return the make commands that trained and resumed a run. table: flags of the model in `shipping.MODELS`."""
    commands = []
    for start in read_starts(run):
        typed = shlex.split(start["command"])
        module, *words = typed[typed.index("-m") + 1 :]
        if module == "scripts.pretrained":  # The run has recorded the command of `pretrained`.
            words = [*shlex.split(table), *split_at_dashes(words)[1]]
        commands.append(training_command(task, words))
    return commands


class Way(NamedTuple):
    """A way to sample a model: its sampler and guidance in words, and as flags and keyword arguments."""

    sampler: str
    guidance: str
    flags: tuple[str, ...]
    arguments: str

    @classmethod
    def of(cls, sampler: str, steps: int, scale: float) -> Self:
        flags = ("--sampler", sampler, "--steps", str(steps), "--guidance_scale", f"{scale:g}")
        return cls(f"{sampler} {steps}", f"{scale:g}", flags, f", guidance_scale={scale:g}")

    @classmethod
    def of_student(cls, student: Student) -> Self:
        """Return the one way to sample a student. It needs no flags."""
        return cls("student", f"{student.guidance_scale:g}, built in", (), "")


class RecordRow(NamedTuple):
    """A row of the record: the report of an evaluation, and how its images were sampled."""

    report: dict[str, Any]
    way: Way

    def measure(self, kind: str, extractor: str) -> tuple[str, dict[str, Any]]:
        """Return the name of a measure in the report, and its row with `found` and `floor`."""
        prefix = f"{kind}_{extractor}_"
        return next(item for item in self.report["results"].items() if item[0].startswith(prefix))

    def interval(self, kind: str, extractor: str) -> str:
        """Return a measure with its interval, e.g. 99.3 % [98.6, 99.7]."""
        name, row = self.measure(kind, extractor)
        return format_measurement(name, Measurement(*(row["found"][key] for key in ("value", "low", "high"))))

    def over_floor(self, extractor: str) -> str:
        _, row = self.measure("fd", extractor)
        return f"{row['found']['value'] / max(row['floor']['value'], 1e-9):.1f}"

    @property
    def score(self) -> str:
        """The classification accuracy score of the samples and, in parentheses, of real images."""
        row = self.report["results"].get("cas")
        if row is None:
            return "not measured"
        return f"{format_value('cas', row['found']['value'])} ({format_value('cas', row['floor']['value'])})"

    @property
    def cells(self) -> list[str]:
        return [
            f"{self.way.sampler}, {self.report['samples']['nfe']:g}",
            self.way.guidance,
            *(self.interval("recognised", extractor) for extractor in ("convnet", "resnet")),
            self.score,
            self.interval("fd", "convnet"),
            *(self.over_floor(extractor) for extractor in ("convnet", "resnet")),
        ]


def markdown_table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = (headings, ["---"] * len(headings), *rows)
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


HEADINGS = (
    *("sampler, NFE", "guidance", "recognised, convnet", "recognised, resnet", "accuracy score (real)"),
    *("distance, convnet", "over floor, convnet", "over floor, resnet"),
)


def card_head(name: str, model: Shipped, made: Made) -> str:
    """Return the first part of the card of a model: what it is, and how it was made."""
    kinds = {"train_vae": "VAE", "train_latent": "latent flow", "distill": "distilled flow"}
    kind, student = kinds.get(model.task, "flow"), made.student
    head = {"license": "mit", "tags": [kind.replace(" ", "-").lower(), "pytorch"], "datasets": [model.data]}
    facts = [
        ("command", ", then ".join(f"`{command}`" for command in made.commands)),
        *([("student", f"{student.describe()}; teacher's SHA-256 {student.sha256}")] if student else []),
        ("commit", made.commit),
        ("seed", str(made.seed)),
        ("steps", f"{made.step:,} of {made.batch_size} images"),
        ("training", f"{made.minutes:.0f} minutes on {made.cpu}; torch {made.torch}"),
        ("data", model.source),
        ("weights", f"{made.parameters:,} parameters, exponential moving average, float16; {made.size / 1e6:.1f} MB"),
        ("SHA-256", made.sha256),
        ("licence", "MIT, as the repository"),
    ]
    return (
        f"---\n{yaml.safe_dump(head, sort_keys=False)}---\n\n# {name}\n\nA {kind} of {model.title}.\n\n"
        f"![samples](samples.png)\n\n## How it was made\n\n{markdown_table(('', ''), facts)}\n"
    )


def read_head(folder: Path) -> str:
    """Return the first part of the card of a shipped model, as `card_head` has written it."""
    text = (folder / "README.md").read_text(encoding="utf-8")
    return text[: text.index(RECORD)]


def card_results(name: str, model: Shipped, rows: Sequence[RecordRow], errors: Mapping[str, Any], way: Way) -> str:
    """Return the second part of the card of a model: its record, and how it is used.

    rows: rows of the record; empty for an autoencoder. errors: reconstruction errors of an autoencoder; empty for other
    models. way: the usual way to sample the model.
    """
    return f"{_errors(errors) if errors else _record(name, rows)}\n## Use\n\n{_use(name, model, way)}"


def _record(name: str, rows: Sequence[RecordRow]) -> str:
    protocol = rows[0].report["protocol"]
    command = shlex.join(["--run", name, *rows[0].way.flags, "--num_images", str(protocol["images"])])
    text = (
        f"{protocol['images']:,} images a row, seed {protocol['seed']}, in the class shares of the training images; "
        f"features of {' and '.join(protocol['extractors'])}. Brackets are 95 % intervals. The distance is the Frechet "
        "distance from the training images; its floor is that of as many real test images. The accuracy score is that "
        "of a classifier trained on the samples, in parentheses on as many real images. This command measures the "
        "first row again:"
    )
    scored = " --classification_accuracy" * ("cas" in rows[0].report["results"])
    flags = f"{command} --extractors convnet resnet{scored}"
    table = markdown_table(HEADINGS, [row.cells for row in rows])
    return f'{RECORD}\n\n{text}\n\n```bash\nmake evaluate ARGS="{flags}"\n```\n\n{table}'


def _errors(errors: Mapping[str, Any]) -> str:
    rows = [
        ("MSE on [-1, 1]", f"{errors['mse']:.5f}"),
        ("PSNR", f"{errors['psnr_db']:.2f} dB"),
        ("SSIM", f"{errors['ssim']:.4f}"),
        ("latents", "x".join(map(str, errors["latent_shape"]))),
    ]
    return f"{RECORD}\n\nReconstructions of all test images:\n\n{markdown_table(('', ''), rows)}"


def _use(name: str, model: Shipped, way: Way) -> str:
    if model.task == "train_vae":
        flags = f'make reconstruct ARGS="--run {name}"\nmake train_latent ARGS="--dataset mnist --autoencoder {name}"'
        return f"```bash\n{flags}\n```\n"
    words = f'make generate ARGS="{shlex.join(["--run", name, *way.flags])}"'
    code = f'from models import load, sample\n\nimages = sample(load("{name}"), 16{way.arguments})'
    return f"```bash\n{words}\n```\n\n```python\n{code}\n```\n"


def index(text: str, models: Mapping[str, Shipped]) -> str:
    """Return the text of models/pretrained/README.md with a new table of the models that have weights."""
    rows = []
    for name, model in models.items():
        files = sorted((PRETRAINED / name / "checkpoints").glob("*.safetensors"))
        if files:
            size = f"{files[-1].stat().st_size / 1e6:.1f} MB"
            rows.append((f"[`{SHIPPED_PREFIX}{name}`]({name}/README.md)", model.title, model.task, size))
    table = markdown_table(("model", "images", "task", "file"), rows)
    begin, end = text.index(BEGIN) + len(BEGIN), text.index(END)
    return f"{text[:begin]}\n{table}{text[end:]}"
