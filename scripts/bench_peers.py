"""Measures our loop beside those of the examples of two libraries: speed, memory, time to good samples, their price.

Each contender trains in a process of its own, a slice of time after the other in turn, so that what else the machine
does falls on all alike. Only training counts as time; between slices a few samples are measured.
"""

from __future__ import annotations

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
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import torch

from models import devices
from models.devices import peak_memory
from models.errors import UserError
from models.evaluation.sample_test import DISTANCE, RECOGNISED, SampleTest
from models.runs.environment import git_commit
from models.training.interrupts import Interrupts
from scripts.cli.arguments import parse_flags, split_at_dashes
from scripts.cli.command import run_command
from scripts.cli.flags import SampleTestFlags, experiments_dir
from scripts.cli.terminal import tell
from scripts.tasks.denoising import build_sample_test, build_spec, fit_space, settings_to_measure
from scripts.tasks.peers import EXAMPLE_LR, PEERS, Match, Ours
from scripts.tasks.training import fingerprint, load_data

DESCRIPTION = """Measure our loop beside those of other libraries. Prints a table.

Flags after -- are for train_flow, as in: -- --network.width 48"""
NEEDED = ("denoising_diffusion_pytorch", "ema_pytorch", "diffusers")
BARS = (0.95, 0.98)


@dataclass(frozen=True)
class PeerFlags:
    """Settings of `bench_peers`."""

    recipe: str = "mnist"
    """Data, network and batch size, by recipe of train_flow; all else of it is for our loop alone."""
    minutes: float = 10.0
    """Of training, for each."""
    slice_seconds: float = 15.0
    """How long one trains before the next has its turn; samples are measured after each turn."""
    num_images: int = 500
    """How many samples are measured, and timed."""
    guidance_scale: float = 1.5
    """Of the samples of all three; 1 is none."""
    example_lr: float = EXAMPLE_LR
    """Learning rate of the two others; the default is that of their examples. Ours is the recipe's."""
    most_steps: int = 1000
    """No more sampling steps than these are tried; 1000 is the whole chain of the others, by their DDPM sampler."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1, mps."""
    data_root: str | None = None
    """Folder of the data sets, in torchvision's layout. Default: the variable DATA_ROOT, else data/store."""
    experiments_dir: str = field(default_factory=experiments_dir)
    """Where feature networks and features are kept; the variable EXPERIMENTS_DIR sets its default."""


class Turn(NamedTuple):
    """After a slice: seconds and images of all training so far, and the share of samples recognised."""

    seconds: float
    images: int
    recognised: float


class Trial(NamedTuple):
    """Samples of the trained network: their steps, evaluations of the network, seconds for each, and quality."""

    steps: int
    nfe: float
    seconds: float
    recognised: float
    distance: float


@dataclass
class Found:
    """All that was measured of one contender. memory: bytes, of training."""

    name: str
    turns: list[Turn] = field(default_factory=list)
    trials: list[Trial] = field(default_factory=list)
    memory: int = 0

    def minutes_to(self, bar: float) -> float:
        return min((turn.seconds / 60 for turn in self.turns if turn.recognised >= bar), default=math.nan)

    def cheapest(self, bar: float) -> Trial | None:
        reaching = [trial for trial in self.trials if trial.recognised >= bar]
        return min(reaching, key=lambda trial: trial.seconds, default=None)


class Contender:
    """The parent's end of a process that trains and samples as it is told."""

    def __init__(self, name: str, argv: Sequence[str], folder: str):
        context = multiprocessing.get_context("spawn")
        self.link, other = context.Pipe()
        self.found = Found(name)
        self.process = context.Process(target=serve, args=(other, name, argv, folder), name=name)
        self.process.start()
        other.close()
        self.answer()

    def ask(self, *words: Any) -> Any:
        self.link.send(words)
        return self.answer()

    def answer(self) -> Any:
        try:
            return self.link.recv()
        except EOFError:
            raise RuntimeError(f"the process of {self.found.name} has ended") from None


def main(argv: list[str]) -> None:
    flags, match = read_flags(argv)
    contenders: list[Contender] = []
    os.environ["TQDM_DISABLE"] = "1"  # of the others, in the processes to come
    with TemporaryDirectory() as folder, Interrupts(at_once=True):
        try:
            for name in PEERS:
                contenders.append(Contender(name, argv, folder))
            measured = replace(match.settings, sample_test=SampleTestFlags(eval_samples=flags.num_images))
            test = build_sample_test(measured, match.dataset, fingerprint(match.dataset))
            compete(flags, match, contenders, test)
            for each in contenders:
                try_samplers(flags, match, each, test)
        finally:
            for each in contenders:
                each.process.terminate()
                each.process.join()
    print(peers_table(flags, match, [each.found for each in contenders], test))


def read_flags(argv: Sequence[str]) -> tuple[PeerFlags, Match]:
    """The flags, and what the contenders share; each process makes its own. Raises UserError."""
    own, further = split_at_dashes(argv)
    flags = parse_flags(own, PeerFlags(), "bench_peers", DESCRIPTION)
    _check(flags)
    return flags, _match(flags, further)


def _check(flags: PeerFlags) -> None:
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        install = ".venv/bin/python -m pip install -r requirements-bench.txt"
        raise UserError(f"bench_peers needs {', '.join(missing).replace('_', '-')}: {install}")
    for name in ("minutes", "slice_seconds", "example_lr", "guidance_scale"):
        if not 0 < getattr(flags, name) < math.inf:
            raise UserError(f"--{name} {getattr(flags, name)}: takes more than 0")
    fewest = max(peer.steps_to_try[0] for peer in PEERS.values())
    if flags.most_steps < fewest:
        raise UserError(f"--most_steps {flags.most_steps}: takes {fewest} or more")


def _match(flags: PeerFlags, further: Sequence[str]) -> Match:
    places = ["--device", flags.device, "--experiments_dir", flags.experiments_dir]
    root = [] if flags.data_root is None else ["--data_root", flags.data_root]
    own = ["--no-tensorboard", "--eval_samples", str(flags.num_images), *places, *root]
    settings = settings_to_measure(["--recipe", flags.recipe, *further, *own])
    dataset = load_data(settings)
    spec = build_spec(settings, dataset, fit_space(settings, dataset, fingerprint(dataset)).space)
    if settings.space != "pixels" or spec.classes == 0 or spec.label_drop == 0:
        raise UserError("the contenders are compared in pixels, with labels, some of which are dropped for guidance")
    settings = replace(settings, sample_test=SampleTestFlags())  # Samples are measured here, and not by the contenders.
    return Match(settings, dataset, spec, flags.minutes, flags.guidance_scale, flags.example_lr)


# -- the process of a contender ---------------------------------------------------------------------------------------


def serve(link: Connection, name: str, argv: Sequence[str], folder: str) -> None:
    """Answers ("train", seconds) and ("sample", labels, steps), until the parent has gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # The parent hears of it and ends us,
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # in order, so that no worker of a DataLoader is left.
    # Those workers begin as they would anywhere: starting them anew takes seconds where it is not by a fork.
    multiprocessing.set_start_method(multiprocessing.get_all_start_methods()[0], force=True)
    torch.manual_seed(0)
    _, match = read_flags(argv)
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
    """Steps, seconds and bytes of a slice."""
    steps, started = 0, time.perf_counter()
    while time.perf_counter() - started < seconds:
        peer.step()
        steps += 1
    _wait_for(device)
    return steps, time.perf_counter() - started, peak_memory(device)


def _sample(peer: Any, device: torch.device, labels: torch.Tensor, steps: int) -> tuple[Any, float, float]:
    """The images as an array, evaluations of the network, and seconds for each image."""
    started = time.perf_counter()
    drawn = peer.sample(labels, steps)
    _wait_for(device)
    return drawn.images.numpy(), drawn.nfe, (time.perf_counter() - started) / len(labels)


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


# -- the match --------------------------------------------------------------------------------------------------------


def labels_of(flags: PeerFlags, match: Match) -> torch.Tensor:
    return torch.arange(flags.num_images) % match.spec.classes


def compete(flags: PeerFlags, match: Match, contenders: Sequence[Contender], test: SampleTest) -> None:
    """Slice after slice until all have had their minutes; who begins changes."""
    labels, size = labels_of(flags, match), match.settings.optimizer.batch_size
    seconds = dict.fromkeys(PEERS, 0.0)
    images = dict.fromkeys(PEERS, 0)
    rounds = math.ceil(flags.minutes * 60 / flags.slice_seconds)
    for index in range(rounds):
        first = index % len(contenders)
        for each in [*contenders[first:], *contenders[:first]]:
            found = each.found
            left = flags.minutes * 60 - seconds[found.name]
            if left <= 0:
                continue
            steps, spent, memory = each.ask("train", min(flags.slice_seconds, left))
            seconds[found.name] += spent
            images[found.name] += steps * size
            found.memory = found.memory or memory  # of training alone: nothing has been sampled yet
            trials = [try_steps(each, labels, steps, test) for steps in PEERS[found.name].steps_on_the_way]
            turn = Turn(seconds[found.name], images[found.name], max(trial.recognised for trial in trials))
            found.turns.append(turn)
            tell(f"{index + 1}/{rounds}  {found.name:<28} {turn.seconds:6.1f} s  {turn.recognised:.1%}")


def try_samplers(flags: PeerFlags, match: Match, each: Contender, test: SampleTest) -> None:
    """Samples of the trained network with ever more steps."""
    for steps in PEERS[each.found.name].steps_to_try:
        if steps <= flags.most_steps:
            trial = try_steps(each, labels_of(flags, match), steps, test)
            each.found.trials.append(trial)
            tell(f"{each.found.name}: {_describe(trial)}, {trial.seconds:.4f} s per image")


def try_steps(each: Contender, labels: torch.Tensor, steps: int, test: SampleTest) -> Trial:
    drawn, nfe, seconds = each.ask("sample", labels, steps)
    figures = test.measure(torch.from_numpy(drawn), labels.tolist())
    return Trial(steps, nfe, seconds, figures[RECOGNISED], figures[DISTANCE])


# -- the table --------------------------------------------------------------------------------------------------------


def peers_table(flags: PeerFlags, match: Match, found: Sequence[Found], test: SampleTest) -> str:
    """Markdown: a line on what was measured, and a column for each contender."""
    peers = [PEERS[each.name] for each in found]
    rows: dict[str, list[str]] = {
        "": [f"{peer.name} ({peer.package} {metadata.version(peer.package)})" for peer in peers],
        "precision": [match.settings.run.precision if peer is Ours else "float32" for peer in peers],
        "sampler": [peer.sampler for peer in peers],
        "images/s in training": [f"{each.turns[-1].images / each.turns[-1].seconds:.0f}" for each in found],
        "peak memory of training": [f"{each.memory / 2**20:.0f} MB" for each in found],
        **{f"minutes to {bar:.0%} recognised": [_number(each.minutes_to(bar), 2) for each in found] for bar in BARS},
        "recognised, after each quarter": [", ".join(f"{each:.1%}" for each in _quarters(each)) for each in found],
        **{f"seconds per image at {bar:.0%}": [_price(each.cheapest(bar)) for each in found] for bar in BARS},
        "best recognised": [_describe(max(each.trials, key=lambda trial: trial.recognised)) for each in found],
        "least distance": [_describe(min(each.trials, key=lambda trial: trial.distance)) for each in found],
    }
    lines = [f"| {' | '.join([name, *cells])} |" for name, cells in rows.items()]
    lines.insert(1, f"|{'---|' * (len(found) + 1)}")
    parameters = sum(each.numel() for each in match.spec.build_network().parameters())
    told = (
        f"{match.dataset.name}, network of {parameters:,} parameters, batch {match.settings.optimizer.batch_size}, "
        f"{flags.minutes:g} minutes of training each in slices of {flags.slice_seconds:g} s taken in turn; "
        f"{flags.num_images} samples, guidance {flags.guidance_scale:g}, judged by {test.extractor.name}; the "
        f"examples' learning rate {flags.example_lr:g}, ours {match.settings.optimizer.lr:g} of "
        f"{match.settings.optimizer.optimizer}. "
        f"{devices.describe_device(match.device)}; torch {torch.__version__}, Python {sys.version.split()[0]}; "
        f"commit {git_commit()}, {datetime.now(UTC):%Y-%m-%d}."
    )
    return "\n".join([told, "", *lines])


def _quarters(found: Found) -> list[float]:
    turns = found.turns
    return [turns[max(0, round(quarter * len(turns) / 4) - 1)].recognised for quarter in (1, 2, 3, 4)]


def _number(value: float, digits: int) -> str:
    return f"{value:.{digits}f}" if math.isfinite(value) else "not reached"


def _price(trial: Trial | None) -> str:
    return "not reached" if trial is None else f"{trial.seconds:.4f} ({trial.steps} steps, {trial.nfe:g} NFE)"


def _describe(trial: Trial) -> str:
    return f"{trial.recognised:.1%}, distance {trial.distance:.3g} ({trial.steps} steps)"


if __name__ == "__main__":
    run_command(main)
