"""The tournament of samplers: find the sampler and grid that give a model's best images at each number of evaluations.

Candidates are screened with few images in one feature network, in rounds with increasing numbers of evaluations. From
DROPPING evaluations on, samplers with a much larger distance than the best are dropped. The finalists are measured by
`evaluate`, with many images and in two networks. All results are kept in files, so that a tournament can be resumed.
"""

from __future__ import annotations

import hashlib
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from data import ImageData
from models.drawing.pareto import ParetoPoint, draw_pareto
from models.evaluation.distances import Gaussian, gaussian
from models.evaluation.features import FeaturesAndLogits
from models.evaluation.measure_names import REPORT
from models.evaluation.measures import MeasureSettings, measure_frechet
from models.evaluation.protocol import Protocol
from models.generation import Sampling
from models.model import Model
from models.progress import duration
from models.report.studies import PARETO, TABLE
from models.runs.files import write_text
from models.runs.run import Run
from scripts.cli.flags import ModelFlags, SourceFlags
from scripts.cli.terminal import tell
from scripts.tasks.extractors import FEATURES_CACHE, find_extractors, real_images
from scripts.tasks.protocol import load_data_of_run, stored_facts
from scripts.tasks.running import run_task
from scripts.tasks.samples import draw_samples, labels_as_real
from scripts.tasks.sampling import find_checkpoint, name_of, open_model, resolve_model
from scripts.tasks.study_plan import Tournament
from scripts.tasks.tournament_candidates import (
    Candidate,
    Result,
    candidates,
    choose_finalists,
    far_off,
    finalists_table,
    read_final,
    read_rows,
    write_rows,
)

if TYPE_CHECKING:
    from scripts.study import StudyFlags

SCREEN, FINALISTS, FINALS, LOG = "screen.csv", "finalists.csv", "finals", "details.log"
SEED = 1  # Seed of the samples. The shipped models' cards use seed 0.
DROPPING = 8  # Smallest number of evaluations at which samplers are dropped. With fewer, all samplers are rough.


@dataclass(frozen=True)
class Bout:
    """The tournament on one run."""

    tournament: Tournament
    run: str
    flags: StudyFlags
    studies: Path
    log: Run

    @cached_property
    def model_flags(self) -> ModelFlags:
        return resolve_model(
            ModelFlags(run=self.run, device=self.flags.device, experiments_dir=self.flags.experiments_dir)
        )

    @cached_property
    def checkpoint(self) -> Path:
        return find_checkpoint(self.model_flags)

    @cached_property
    def model(self) -> Model:
        return open_model(self.checkpoint, self.model_flags)

    @cached_property
    def sha256(self) -> str:
        """Hash of the checkpoint."""
        return str(stored_facts(self.checkpoint)["sha256"])

    @property
    def teacher(self) -> str | None:
        """Hash of the teacher's checkpoint; None unless the model is a student."""
        student = self.model.spec.student
        return None if student is None else student.sha256

    @cached_property
    def folder(self) -> Path:
        """Folder of the results. Its name has a hash of checkpoint, measurement settings and device."""
        name, tournament = name_of(self.checkpoint).replace("/", "-"), self.tournament
        settings = (tournament.screen_images, tournament.num_images, tournament.extractors)
        what = f"{self.sha256} {settings} {torch.device(self.model_flags.device).type}"
        return self.studies / f"{name}-{hashlib.sha256(what.encode()).hexdigest()[:8]}"

    @cached_property
    def dataset(self) -> ImageData:
        return load_data_of_run(self.checkpoint, SourceFlags(data_root=self.flags.data_root))

    @cached_property
    def protocol(self) -> Protocol:
        experiments, device = Path(self.flags.experiments_dir), torch.device(self.model_flags.device)
        extractors = find_extractors(self.tournament.extractors[:1], None, self.dataset, experiments, device)
        settings = MeasureSettings(draws=100)
        return Protocol(real_images(self.dataset), extractors, settings, experiments / FEATURES_CACHE, device)

    @cached_property
    def labels(self) -> list[int] | None:
        return labels_as_real(self.model, self.dataset, self.tournament.screen_images)

    def play(self, students: Sequence[ParetoPoint]) -> list[Result]:
        """Screen all candidates and measure the finalists. Return the finalists' results in the first network.

        Table and picture are written after each finalist. students: results of the model's students, for the picture.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        screened = self.screen()
        finalists = choose_finalists(screened)
        self.log.log(f"{self.run}: {len(finalists)} finalists of {len(screened)} candidates")
        results = []
        for number, result in enumerate(finalists):
            results.append(self.measure(result))
            self.log.log(f"{self.run}: final {number + 1} of {len(finalists)}, {results[-1].describe()}")
            title = f"{self.run}: finalists of the tournament"
            points = [*self.points(results), *students]
            draw_pareto(points, self.folder / PARETO, title, self.tournament.extractors[0])
            write_text(self.folder / TABLE, self.table(results) + "\n")
            write_rows(self.folder / FINALISTS, results)
        return results

    # -- screening ----------------------------------------------------------------------------------------------------

    def screen(self) -> list[Result]:
        """Measure all candidates with few images, in one round for each wanted number of evaluations.

        Guidance is tried only with samplers and grids that are not far off without guidance.
        """
        results: list[Result] = []
        out: set[tuple[str, str]] = set()
        for count, entries in candidates(self.tournament, self.model).items():
            plain = self.measured([row for row in entries if row.scale == 1 and row.method not in out], count)
            far = far_off(plain, results)
            results += plain
            guided = [row for row in entries if row.scale != 1 and row.method not in out | far]
            results += self.measured(guided, count)
            if count >= DROPPING:
                out |= far
                dropped = f"{len(far)} of {len(plain)} pairs of sampler and grid"
                self.log.log(f"{self.run}: {dropped} are dropped after the round of {count} evaluations")
        return results

    def measured(self, entries: Sequence[Candidate], count: int) -> list[Result]:
        """Return the results of candidates. Results that are not in screen.csv are measured and added to it.

        count: number of evaluations of the round, for the log.
        """
        known = {result.candidate: result for result in read_rows(self.folder / SCREEN)}
        missing = [candidate for candidate in entries if candidate not in known]
        started = time.monotonic()
        for number, candidate in enumerate(missing):
            known[candidate] = self.screen_one(candidate)
            write_rows(self.folder / SCREEN, known.values())
            left = duration((time.monotonic() - started) / (number + 1) * (len(missing) - number - 1))
            self.log.log(f"{self.run}: {known[candidate].describe()}; {left} left at {count} evaluations")
        return [known[candidate] for candidate in entries]

    def screen_one(self, candidate: Candidate) -> Result:
        (network,) = self.protocol.extractors
        sampling = Sampling(candidate.sampler, candidate.steps, candidate.grid, guidance_scale=candidate.scale)
        count, started = self.tournament.screen_images, time.perf_counter()
        with self.quietly():
            samples = draw_samples(self.model, sampling, count, self.labels, SEED, 256)
        seconds = (time.perf_counter() - started) / count
        output = self.protocol.sample_features(network, samples.images)
        found = measure_frechet(output.features, self.moments, self.protocol.settings)
        right = torch.nan if samples.labels is None else (output.predictions == samples.labels).double().mean().item()
        return Result(
            **asdict(candidate),
            seconds=seconds,
            fd=found.value,
            low=found.low,
            high=found.high,
            floor=self.floor,
            recognised=right,
        )

    @cached_property
    def moments(self) -> Gaussian:
        return gaussian(self.protocol.train_features(self.protocol.extractors[0]).features)

    @cached_property
    def floor(self) -> float:
        """Distance of `screen_images` real test images from the training images."""
        rows = self.protocol.floor_rows(self.tournament.screen_images)
        test: FeaturesAndLogits = self.protocol.test_features(self.protocol.extractors[0])
        return measure_frechet(test.features[rows], self.moments, self.protocol.settings).value

    # -- finals -------------------------------------------------------------------------------------------------------

    def measure(self, screened: Result) -> Result:
        """Measure a finalist with `evaluate`, unless its report exists. Return its result in the first network."""
        out = self.folder / FINALS / screened.key
        if not (out / REPORT).is_file():
            tournament, flags = self.tournament, self.flags
            words: list[object] = ["--checkpoint", self.checkpoint, "--seed", SEED, "--out", out]
            words += ["--sampler", screened.sampler, "--grid", screened.grid, "--steps", screened.steps]
            words += ["--guidance_scale", screened.scale, "--num_images", tournament.num_images]
            words += ["--extractors", *tournament.extractors]
            words += ["--device", flags.device, "--experiments_dir", flags.experiments_dir]
            words += ["--data_root", flags.data_root] if flags.data_root else []
            with self.quietly():
                run_task("evaluate", *words)
        return read_final(out / REPORT, screened, self.tournament.extractors)

    @contextmanager
    def quietly(self) -> Iterator[None]:
        """Write the messages of a block to the file LOG. The tournament itself reports one line per candidate."""
        with (self.folder / LOG).open("a", encoding="utf-8") as log, redirect_stderr(log):
            yield

    def points(self, results: Sequence[Result]) -> list[ParetoPoint]:
        """Return results as points of the Pareto picture. A student's point has its built-in guidance scale."""
        student = self.model.spec.student
        points = []
        for result in results:
            label = result.sampler if result.grid == "uniform" else f"{result.sampler}, {result.grid}"
            scale = result.scale if student is None else student.guidance_scale
            point = ParetoPoint(
                label if student is None else "students",
                "plain" if scale == 1 else f"guidance {scale:g}",
                result.nfe, result.seconds, result.fd, result.low, result.high, result.floor, student is not None,
            )  # fmt: skip
            points.append(point)
        return points

    def table(self, results: Sequence[Result]) -> str:
        """Return the finalists as a text table."""
        return finalists_table(self.run, results, self.tournament.extractors)


def run_tournament(tournament: Tournament, studies: Path, run: Run, flags: StudyFlags) -> Iterator[str]:
    """Play the tournament on each run, and yield its table. Students are also drawn in their teacher's picture."""
    bouts = [Bout(tournament, name, flags, studies, run) for name in flags.runs or tournament.runs]
    for bout in bouts:
        _ = bout.checkpoint  # Reports a missing run before hours of measuring.
    of_students: dict[str | None, list[ParetoPoint]] = defaultdict(list)  # by the hash of the teacher's checkpoint
    for number, bout in enumerate(sorted(bouts, key=lambda bout: bout.teacher is None)):  # students first
        tell(f"{bout.run}: tournament on {bout.model_flags.device}")
        results = bout.play(of_students[bout.sha256])
        of_students[bout.teacher] += bout.points(results)
        run.update(step=number + 1, progress=(number + 1) / len(bouts))
        yield bout.table(results)
