"""Compare our loop with the example loops of two libraries: speed, memory, training time, sampling time.

Each loop is a contender and trains in its own process. The contenders take turns of a few seconds, so that other load
on the machine slows all of them equally. Measuring samples between the turns does not count as training time.
"""

if not __package__:
    __import__("cli")  # says what to type, and exits

import importlib.util
import math
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from importlib import metadata
from multiprocessing.connection import Connection
from operator import attrgetter
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import torch

from models import devices
from models.devices import peak_memory
from models.errors import UserError
from models.evaluation.sample_test import DISTANCE, RECOGNISED, SampleTest
from models.places import experiments_dir
from models.progress import progress
from models.ranges import Positive
from models.runs.environment import git_commit
from models.training.interrupts import Interrupts
from scripts.cli.arguments import parse_flags, split_at_dashes
from scripts.cli.command import run_command
from scripts.cli.flags import SampleTestFlags
from scripts.cli.terminal import tell
from scripts.tasks.denoising import build_spec, fit_space
from scripts.tasks.extractors import build_sample_test
from scripts.tasks.measuring import settings_to_measure
from scripts.tasks.peers import EXAMPLE_LR, PEERS, Match, Ours
from scripts.tasks.training import load_data

DESCRIPTION = """Compare our training loop with those of two libraries. Prints a table.

Flags after -- are for train_flow, as in: -- --network.width 48"""
NEEDED = ("denoising_diffusion_pytorch", "ema_pytorch", "diffusers")
BARS = (0.95, 0.98)


@dataclass(frozen=True)
class PeerFlags:
    """Settings of `bench_peers`."""

    recipe: str = "mnist"
    """Recipe of train_flow. All loops share its data, network and batch size. Other settings are for our loop only."""
    minutes: Positive = 10.0
    """Training minutes per contender."""
    slice_seconds: Positive = 15.0
    """Training seconds per turn. Samples are measured after each turn."""
    num_images: int = 500
    """Number of samples to generate for each measurement."""
    guidance_scale: Positive = 1.5
    """Guidance scale of all samples; 1 is no guidance."""
    example_lr: Positive = EXAMPLE_LR
    """Learning rate of the two libraries. The default is from their examples. Our loop uses the recipe's rate."""
    most_steps: int = 1000
    """Largest number of sampling steps to try. With 1000 steps, the libraries use their DDPM samplers."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1, mps."""
    data_root: str | None = None
    """Folder of the data sets, in torchvision's layout. Default: the variable DATA_ROOT, else data/store."""
    experiments_dir: str = field(default_factory=experiments_dir)
    """Folder with the cached classifiers and features. The variable EXPERIMENTS_DIR sets its default."""


class Turn(NamedTuple):
    """State after a turn: total training seconds so far, and share of samples that are classified as their label."""

    seconds: float
    recognised: float


class Trial(NamedTuple):
    """Cost and quality of samples. nfe, seconds: per image. recognised: as in Turn. distance: Frechet distance."""

    steps: int
    nfe: float
    seconds: float
    recognised: float
    distance: float


@dataclass
class Results:
    """Measurements of one contender. seconds, images: training totals. memory: peak bytes. trials: after training."""

    name: str
    turns: list[Turn] = field(default_factory=list)
    trials: list[Trial] = field(default_factory=list)
    seconds: float = 0.0
    images: int = 0
    memory: int = 0

    def minutes_to(self, bar: float) -> float:
        return min((turn.seconds / 60 for turn in self.turns if turn.recognised >= bar), default=math.nan)

    def cheapest(self, bar: float) -> Trial | None:
        reaching = [trial for trial in self.trials if trial.recognised >= bar]
        return min(reaching, key=attrgetter("seconds"), default=None)


class Contender:
    """Handle of a child process that trains and samples on request."""

    def __init__(self, name: str, argv: Sequence[str], folder: str):
        context = multiprocessing.get_context("spawn")
        self.link, child_link = context.Pipe()
        self.results = Results(name)
        self.process = context.Process(target=serve, args=(child_link, name, argv, folder), name=name)
        self.process.start()
        child_link.close()
        self.answer()

    def ask(self, *words: Any) -> Any:
        self.link.send(words)
        return self.answer()

    def answer(self) -> Any:
        try:
            return self.link.recv()
        except EOFError:
            raise RuntimeError(f"the process of {self.results.name} has ended") from None


def main(argv: list[str]) -> None:
    flags, match = read_peer_flags(argv)
    contenders: list[Contender] = []
    os.environ["TQDM_DISABLE"] = "1"  # Turns off the libraries' progress bars in the child processes.
    with TemporaryDirectory() as folder, Interrupts(at_once=True), progress("measuring", None, bar=False):
        try:
            for name in PEERS:
                contenders.append(Contender(name, argv, folder))
            measured = replace(match.settings, sample_test=SampleTestFlags(eval_samples=flags.num_images))
            test = build_sample_test(measured, match.dataset)
            compete(flags, match, contenders, test)
            for contender in contenders:
                try_samplers(flags, match, contender, test)
        finally:
            for contender in contenders:
                contender.process.terminate()
                contender.process.join()
    print(peers_table(flags, match, [contender.results for contender in contenders], test))


def read_peer_flags(argv: Sequence[str]) -> tuple[PeerFlags, Match]:
    """Return the flags and the settings that the contenders share. Every process calls this. Raises UserError."""
    argv, further = split_at_dashes(argv)
    flags = parse_flags(argv, PeerFlags(), "bench_peers", DESCRIPTION)
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        install = ".venv/bin/python -m pip install -r requirements-bench.txt"
        raise UserError(f"bench_peers needs {', '.join(missing).replace('_', '-')}: {install}")
    fewest = max(peer.steps_to_try[0] for peer in PEERS.values())
    if flags.most_steps < fewest:
        raise UserError(f"`most_steps` {flags.most_steps}: must be at least {fewest}")
    return flags, _match(flags, further)


def _match(flags: PeerFlags, further: Sequence[str]) -> Match:
    forced = ["--no-tensorboard", "--eval_samples", str(flags.num_images)]
    forced += ["--device", flags.device, "--experiments_dir", flags.experiments_dir]
    forced += [] if flags.data_root is None else ["--data_root", flags.data_root]
    settings = settings_to_measure(["--recipe", flags.recipe, *further, *forced])
    dataset = load_data(settings, settings.run.experiments_dir)
    spec = build_spec(settings, dataset, fit_space(settings, dataset).space)
    if settings.space != "pixels" or spec.classes == 0 or spec.label_drop == 0:
        raise UserError("the contenders are compared in pixels, with labels and with `label_drop` above 0")
    settings = replace(settings, sample_test=SampleTestFlags())  # This task measures samples itself; our loop does not.
    return Match(settings, dataset, spec, flags.minutes, flags.guidance_scale, flags.example_lr)


# -- the process of a contender ---------------------------------------------------------------------------------------


def serve(link: Connection, name: str, argv: Sequence[str], folder: str) -> None:
    """Answer the requests ("train", seconds) and ("sample", labels, steps) until the parent closes the link."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # The parent handles SIGINT and terminates this process.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # A regular exit also ends the workers of a DataLoader.
    # DataLoader workers start with the platform's default method. With "spawn", each would take seconds to start.
    multiprocessing.set_start_method(multiprocessing.get_all_start_methods()[0], force=True)
    torch.manual_seed(0)
    _, match = read_peer_flags(argv)
    devices.prepare_device(match.device, match.settings.run.precision)
    devices.keep_freed_memory(match.device)
    peer = PEERS[name](match, Path(folder) / name)
    link.send("ready")
    while True:
        try:
            task, *words = link.recv()
        except EOFError:
            return
        link.send(_train(peer, match.device, *words) if task == "train" else _sample(peer, match.device, *words))


def _train(peer: Any, device: torch.device, seconds: float) -> tuple[int, float, int]:
    """Train for one turn. Return the number of steps, the seconds, and the peak memory in bytes."""
    steps, started = 0, time.perf_counter()
    while time.perf_counter() - started < seconds:
        peer.step()
        steps += 1
    _wait_for(device)
    return steps, time.perf_counter() - started, peak_memory(device)


def _sample(peer: Any, device: torch.device, labels: torch.Tensor, steps: int) -> tuple[Any, float, float]:
    """Draw samples. Return the images as an array, the NFE, and the seconds per image."""
    started = time.perf_counter()
    drawn = peer.sample(labels, steps)
    _wait_for(device)
    return drawn.images.numpy(), drawn.nfe, (time.perf_counter() - started) / len(labels)


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


# -- the match --------------------------------------------------------------------------------------------------------


def compete(flags: PeerFlags, match: Match, contenders: Sequence[Contender], test: SampleTest) -> None:
    """Train the contenders in turns until each has used its minutes. The order rotates each round."""
    size = match.settings.optimizer.batch_size
    rounds = math.ceil(flags.minutes * 60 / flags.slice_seconds)
    for index in range(rounds):
        first = index % len(contenders)
        for contender in [*contenders[first:], *contenders[:first]]:
            results, name = contender.results, contender.results.name
            if (left := flags.minutes * 60 - results.seconds) <= 0:
                continue
            steps, spent, memory = contender.ask("train", min(flags.slice_seconds, left))
            results.seconds += spent
            results.images += steps * size
            results.memory = results.memory or memory  # Peak of the first turn, before any sampling.
            trials = [try_steps(flags, match, contender, steps, test) for steps in PEERS[name].steps_on_the_way]
            results.turns.append(Turn(results.seconds, max(trial.recognised for trial in trials)))
            tell(f"{index + 1}/{rounds}  {name:<28} {results.seconds:6.1f} s  {results.turns[-1].recognised:.1%}")


def try_samplers(flags: PeerFlags, match: Match, contender: Contender, test: SampleTest) -> None:
    """Measure samples of the trained network with increasing numbers of sampling steps."""
    results = contender.results
    for steps in PEERS[results.name].steps_to_try:
        if steps <= flags.most_steps:
            trial = try_steps(flags, match, contender, steps, test)
            results.trials.append(trial)
            tell(f"{results.name}: {_describe(trial)}, {trial.seconds:.4f} s per image")


def try_steps(flags: PeerFlags, match: Match, contender: Contender, steps: int, test: SampleTest) -> Trial:
    labels = torch.arange(flags.num_images) % match.spec.classes
    images, nfe, seconds = contender.ask("sample", labels, steps)
    figures = test.measure(torch.from_numpy(images), labels.tolist())
    return Trial(steps, nfe, seconds, figures[RECOGNISED], figures[DISTANCE])


# -- the table --------------------------------------------------------------------------------------------------------


def peers_table(flags: PeerFlags, match: Match, results: Sequence[Results], test: SampleTest) -> str:
    """Return Markdown: a caption that describes the measurement, and a table with one column per contender."""
    peers = [PEERS[result.name] for result in results]
    rows: dict[str, list[str]] = {
        "": [f"{peer.name} ({peer.package} {metadata.version(peer.package)})" for peer in peers],
        "precision": [match.settings.run.precision if peer is Ours else "float32" for peer in peers],
        "sampler": [peer.sampler for peer in peers],
        "images/s in training": [f"{result.images / result.seconds:.0f}" for result in results],
        "peak memory of training": [f"{result.memory / 2**20:.0f} MB" for result in results],
        **{f"minutes to {bar:.0%} recognised": [_minutes(result, bar) for result in results] for bar in BARS},
        "recognised, after each quarter": [_quarters(result.turns) for result in results],
        **{f"seconds per image at {bar:.0%}": [_price(result.cheapest(bar)) for result in results] for bar in BARS},
        "best recognised": [_describe(max(result.trials, key=attrgetter("recognised"))) for result in results],
        "least distance": [_describe(min(result.trials, key=attrgetter("distance"))) for result in results],
    }
    lines = [f"| {' | '.join([name, *cells])} |" for name, cells in rows.items()]
    lines.insert(1, f"|{'---|' * (len(results) + 1)}")
    parameters = sum(weight.numel() for weight in match.spec.build_network().parameters())
    caption = (
        f"{match.dataset.name}, network of {parameters:,} parameters, batch {match.settings.optimizer.batch_size}, "
        f"{flags.minutes:g} minutes of training per contender, in turns of {flags.slice_seconds:g} s; "
        f"{flags.num_images} samples, guidance {flags.guidance_scale:g}, judged by {test.extractor.name}; the "
        f"examples' learning rate {flags.example_lr:g}, ours {match.settings.optimizer.lr:g} with "
        f"{match.settings.optimizer.optimizer}. "
        f"{devices.describe_device(match.device)}; torch {torch.__version__}, Python {sys.version.split()[0]}; "
        f"commit {git_commit()}, {datetime.now(UTC):%Y-%m-%d}."
    )
    return "\n".join([caption, "", *lines])


def _quarters(turns: Sequence[Turn]) -> str:
    ends = [turns[max(0, round(quarter * len(turns) / 4) - 1)] for quarter in (1, 2, 3, 4)]
    return ", ".join(f"{turn.recognised:.1%}" for turn in ends)


def _minutes(result: Results, bar: float) -> str:
    minutes = result.minutes_to(bar)
    return f"{minutes:.2f}" if math.isfinite(minutes) else "not reached"


def _price(trial: Trial | None) -> str:
    return "not reached" if trial is None else f"{trial.seconds:.4f} ({trial.steps} steps, {trial.nfe:g} NFE)"


def _describe(trial: Trial) -> str:
    return f"{trial.recognised:.1%}, distance {trial.distance:.3g} ({trial.steps} steps)"


if __name__ == "__main__":
    run_command(main)
