"""Candidates of the tournament of samplers, their results, the choice of finalists, and the files of results."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, fields, replace
from itertools import product
from pathlib import Path
from typing import Any

from models.diffusion.samplers import SAMPLERS
from models.errors import UserError
from models.evaluation.text_tables import text_table
from models.generation import Sampling, choose_solver
from models.model import Model
from models.runs.files import replacing
from scripts.tasks.study_plan import Tournament

FAR, NEAR = 1.5, 1.1  # Ratios to the best distance: samplers above FAR are dropped, finalists have at most NEAR.
MOST = 2  # Largest number of finalists with the same guidance scale and number of evaluations.


@dataclass(frozen=True)
class Candidate:
    """Way to sample. steps: sampler steps. evaluations: denoiser evaluations per image. Guidance doubles their cost."""

    sampler: str
    grid: str
    steps: int
    evaluations: int
    scale: float

    @property
    def method(self) -> tuple[str, str]:
        """The sampler and its grid."""
        return self.sampler, self.grid

    @property
    def key(self) -> str:
        return f"{self.sampler}-{self.grid}-{self.steps}-guidance{self.scale:g}"

    @property
    def nfe(self) -> int:
        """Network evaluations per image: guidance doubles them."""
        return self.evaluations * (1 if self.scale == 1 else 2)


@dataclass(frozen=True)
class Result(Candidate):
    """Measurement of a candidate: distance in a network with its interval and floor, share recognised, recall.

    seconds: time per image. second: distance over floor in the second network. Values are NaN if not measured.
    """

    seconds: float
    fd: float
    low: float
    high: float
    floor: float
    recognised: float
    recall: float = math.nan
    second: float = math.nan

    @property
    def candidate(self) -> Candidate:
        return Candidate(*(getattr(self, field.name) for field in fields(Candidate)))

    def describe(self) -> str:
        """Return the candidate and its distance in words."""
        guidance = f", guidance {self.scale:g}" if self.scale != 1 else ""
        ratio = f"{self.fd / self.floor:.2f} times the floor"
        return f"{self.sampler}, {self.grid} grid, {self.evaluations} evaluations{guidance}: {ratio}"


def candidates(tournament: Tournament, model: Model) -> dict[int, list[Candidate]]:
    """Return a model's candidates by wanted number of evaluations.

    Each sampler, grid and scale takes the number of steps whose evaluations come nearest to the wanted number. A
    candidate that is nearest to two numbers is listed under the smaller. Grids with the same times count once. A
    student has a single candidate.
    """
    if model.spec.student is not None:
        sampler, steps = choose_solver(model.spec)
        count = model.spec.student.evaluations
        return {count: [Candidate(sampler, "uniform", steps, count, 1.0)]}
    scales = tournament.scales if model.spec.classes and model.spec.label_drop else (1.0,)
    found: dict[int, list[Candidate]] = {wanted: [] for wanted in sorted(tournament.evaluations)}
    known: set[tuple[object, ...]] = set()
    for wanted, scale, name, grid in product(found, scales, tournament.samplers or SAMPLERS, tournament.grids):
        nfe = SAMPLERS[name].nfe
        steps = min(range(1, wanted + 1), key=lambda steps: (abs(nfe(steps) - wanted), steps))
        sampling = Sampling(name, steps, grid, guidance_scale=scale)
        with suppress(UserError):  # The chain has fewer steps, or the sampler cannot use the initial noise.
            sampling.check(model)
            times = tuple(round(t, 9) for t in sampling.levels(model).levels.t.tolist())
            if (name, scale, times) not in known:
                known.add((name, scale, times))
                found[wanted].append(Candidate(name, grid, steps, nfe(steps), scale))
    return found


def far_off(results: Sequence[Result], before: Iterable[Result]) -> set[tuple[str, str]]:
    """Return each sampler and grid whose distance is above FAR times the best one at equal or fewer evaluations.

    results: results of a round without guidance. before: results of earlier rounds.
    """
    rivals = [row for row in (*results, *before) if row.scale == 1]
    far = set()
    for result in results:
        best = min(row.fd for row in rivals if row.evaluations <= result.evaluations)
        if result.fd > FAR * best:
            far.add(result.method)
    return far


def choose_finalists(results: Sequence[Result]) -> list[Result]:
    """Return the candidates that are near the best one with the same guidance scale and at most as many evaluations.

    Near: a distance of at most NEAR times the best distance, and an interval that overlaps that of the best. At most
    MOST finalists have the same scale and evaluations; of equal results, one is kept. Sorted by cost.
    """
    finalists: list[Result] = []
    for result in sorted(results, key=lambda result: (result.nfe, result.scale, result.fd)):
        equals = [row for row in finalists if (row.scale, row.evaluations) == (result.scale, result.evaluations)]
        if len(equals) == MOST or any(row.fd == result.fd for row in equals):
            continue  # Equal distances come from equal images: with one step, all samplers are the same.
        rivals = [row for row in results if row.scale == result.scale and row.evaluations <= result.evaluations]
        best = min(rivals, key=lambda row: row.fd)
        if result.fd <= NEAR * best.fd and result.low <= best.high:
            finalists.append(result)
    return finalists


# -- files ------------------------------------------------------------------------------------------------------------


def read_rows(path: Path) -> list[Result]:
    """Read the results of a CSV file; none if there is no such file."""
    if not path.is_file():
        return []
    kinds = {field.name: {"str": str, "int": int, "float": float}[str(field.type)] for field in fields(Result)}
    with path.open(encoding="utf-8", newline="") as file:
        return [Result(**{name: kinds[name](cell) for name, cell in row.items()}) for row in csv.DictReader(file)]


def write_rows(path: Path, results: Iterable[Result]) -> None:
    """Replace a CSV file by one with these results."""
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, [field.name for field in fields(Result)], lineterminator="\n")
        writer.writeheader()
        writer.writerows(asdict(result) for result in results)


def read_final(path: Path, screened: Result, networks: Sequence[str]) -> Result:
    """Return a finalist's result from its report."""
    results = json.loads(path.read_text(encoding="utf-8"))["results"]

    def row(kind: str, network: str) -> Any:
        return next((row for name, row in results.items() if name.startswith(f"{kind}_{network}")), None)

    found, floor = row("fd", networks[0])["found"], row("fd", networks[0])["floor"]["value"]
    numbers = {"fd": found["value"], "low": found["low"], "high": found["high"], "floor": floor}
    measured = {kind: row(kind, networks[0]) for kind in ("recognised", "recall")}
    shares = {kind: found["found"]["value"] if found else math.nan for kind, found in measured.items()}
    second = row("fd", networks[1]) if len(networks) > 1 else None
    ratio = second["found"]["value"] / second["floor"]["value"] if second else math.nan
    return replace(screened, **numbers, **shares, second=ratio)


def finalists_table(run: str, results: Sequence[Result], networks: Sequence[str]) -> str:
    """Return the finalists as a text table."""
    rows = [
        (
            f"{result.sampler} {result.steps}, {result.grid}",
            f"{result.scale:g}",
            str(result.nfe),
            f"{1000 * result.seconds:.3g}",
            *(f"{ratio:.2f}" for ratio in (result.fd / result.floor, result.second)[: len(networks)]),
            f"{100 * result.recognised:.2f}",
            f"{100 * result.recall:.1f}",
        )
        for result in results
    ]
    headings = ("sampler", "scale", "NFE", "ms", *networks, "recogn.", "recall")
    meanings = (
        "NFE: evaluations of the network for an image; ms: milliseconds for an image.\n"
        f"{' and '.join(networks)}: distance over that of real test images. recogn., recall: in percent."
    )
    return f"{run}\n\n{text_table(rows, headings, right=range(1, len(headings)))}\n\n{meanings}"
