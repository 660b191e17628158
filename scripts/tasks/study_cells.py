"""Processes of a study. Each process runs one training and measures it. Several processes may run in parallel."""

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from multiprocessing import connection
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import NamedTuple

from models.errors import UserError
from models.evaluation.measure_names import REPORT
from models.processes import threads_per_rank
from models.runs.files import locked
from models.runs.lookup import find_runs
from models.runs.status import read_status
from models.training.interrupts import Interrupted, Interrupts
from scripts.cli.command import quick_imports, run_command
from scripts.tasks.running import run_task
from scripts.tasks.study_plan import Cell, Training

RUNS, LOGS = "runs", "logs"  # Folders in the study's folder.
POLL_SECONDS = 1.0
# Environment variables that record the session in a run folder. They are for the study, not for its trainings.
SESSION = ("LAUNCH_RECORD", "LAUNCH_LOG", "LAUNCH_MONITOR", "LAUNCH_SESSION")
_stop = threading.Event()  # Set in the process of a training when the study has stopped.


class Places(NamedTuple):
    """Folder of the study, and the values of --experiments_dir, --data_root and --device for its tasks."""

    folder: Path
    experiments_dir: str
    data_root: str | None
    device: str

    @property
    def data(self) -> list[str]:
        return [] if self.data_root is None else ["--data_root", self.data_root]


def finished_runs(folder: Path) -> dict[str, Path]:
    """Return the newest finished run of each training in a study's folder, by the training's key."""
    oldest_first = reversed(find_runs(folder / RUNS))
    return {_key_of(run): run for run in oldest_first if read_status(run).get("state") == "finished"}


def _key_of(run: Path) -> str:
    """Return the key of a run's training, which is the end of the folder's name."""
    return "-".join(run.name.split("-")[-2:])


def report_of(run: Path, cell: Cell) -> Path:
    """Return the path of the report of a cell's evaluation."""
    return run / "evaluation" / cell.evaluation / REPORT


def log_of(training: Training, folder: Path) -> Path:
    """Return the path of the log of a training."""
    return folder / LOGS / f"{training.run_name}.log"


def is_done(training: Training, cells: Sequence[Cell], finished: Mapping[str, Path]) -> bool:
    """Return whether a training and all its evaluations are done. finished: from `finished_runs`."""
    run = finished.get(training.key)
    return run is not None and all(report_of(run, cell).is_file() for cell in cells)


# -- in the process of a training --------------------------------------------------------------------------------------


def measure(training: Training, cells: Sequence[Cell], places: Places) -> None:
    """Train, and measure each cell that the training serves. Finished runs and evaluations are not repeated.

    If cells cannot be measured, the other cells are still measured. Then the first UserError is raised.
    """
    run, refusals = _train(training, places), []
    for cell in cells:
        _stop_if_asked()
        out = report_of(run, cell).parent
        if (out / REPORT).is_file():
            continue
        words = ["--run", run, *cell.sampling, "--seed", training.seed, "--device", places.device]
        try:
            run_task("evaluate", *words, "--experiments_dir", places.experiments_dir, *places.data, "--out", out)
        except UserError as error:
            refusals.append(error)
    if refusals:
        raise refusals[0]


def _train(training: Training, places: Places) -> Path:
    """Return the finished run of a training. If needed, resume a run that has a checkpoint, or start a new run."""
    # Two trainings may need the same autoencoder.
    with locked(places.folder / RUNS / f".{training.key}.lock"):
        if run := finished_runs(places.folder).get(training.key):
            return run
        common = ["--experiments_dir", places.folder / RUNS, "--device", places.device]
        own = [run for run in find_runs(places.folder / RUNS) if _key_of(run) == training.key]
        begun = [run for run in own if (run / "checkpoints" / "last").is_file()]
        if begun:
            return _run(training.task, "--resume", begun[0], *common, *places.data)
        needed = [] if training.first is None else ["--autoencoder", _train(training.first, places)]
        _stop_if_asked()
        budget = ["--epochs", "None", "--max_minutes", "None", "--max_steps", training.steps(places.data_root)]
        words = [*training.words(), *needed, *budget, "--name", training.run_name]
        return _run(training.task, *words, *common, *places.data)


def _run(task: str, *words: object) -> Path:
    """Run a training. Its run folder records this command, not that of the spawned process."""
    sys.orig_argv = [sys.executable, "-m", f"scripts.{task}", *map(str, words)]
    return run_task(task, *words)


def _process(
    training: Training, cells: Sequence[Cell], places: Places, environment: dict[str, str], study: Connection
) -> None:
    """Main function of a process: train and measure. Its messages go to the training's log.

    study: pipe that closes when the study stops or is killed.
    """
    os.setpgid(0, 0)  # Ctrl-C reaches the study alone, which then stops its trainings.
    log = os.open(log_of(training, places.folder), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    os.dup2(log, sys.stdout.fileno())
    os.dup2(log, sys.stderr.fileno())
    os.environ.update(environment)
    for name in SESSION:
        os.environ.pop(name, None)
    threading.Thread(target=_end_with, args=(study,), daemon=True).start()
    with quick_imports():
        import torch  # noqa: F401

    run_command(lambda argv: measure(training, cells, places))


def _end_with(study: Connection) -> None:
    """Stop this process when the study stops. A task about to end may ignore the signal, so `_stop` is set too."""
    connection.wait([study])
    _stop.set()
    os.kill(os.getpid(), signal.SIGTERM)


def _stop_if_asked() -> None:
    """Raise Interrupted if the study has stopped."""
    if _stop.is_set():
        raise Interrupted(signal.SIGTERM)


# -- in the process of the study --------------------------------------------------------------------------------------


def run_trainings(
    trainings: Mapping[Training, Sequence[Cell]],
    places: Places,
    jobs: int,
    gpus: Sequence[str],
    ended: Callable[[Training, int], None],
) -> None:
    """Train and measure, with `jobs` trainings in parallel. Call `ended(training, exit code)` after each.

    gpus: values of CUDA_VISIBLE_DEVICES that the jobs take in turn; if empty, the variable stays as it is. After a
    signal, wait until all jobs have stopped, then raise Interrupted.
    """
    for folder in (RUNS, LOGS):
        (places.folder / folder).mkdir(exist_ok=True)
    waiting, free = list(trainings), list(range(jobs))
    running: dict[BaseProcess, tuple[Training, int, Connection]] = {}
    spawning = multiprocessing.get_context("spawn")
    with Interrupts() as interrupts:
        try:
            while (waiting or running) and interrupts.signal is None:
                while waiting and free:
                    training, slot = waiting.pop(0), free.pop(0)
                    study, ours = spawning.Pipe(duplex=False)
                    arguments = training, trainings[training], places, _environment(slot, jobs, gpus), study
                    process = spawning.Process(target=_process, args=arguments)
                    process.start()
                    study.close()
                    running[process] = training, slot, ours
                connection.wait([process.sentinel for process in running], POLL_SECONDS)
                for process in [process for process in running if process.exitcode is not None]:
                    training, slot, ours = running.pop(process)
                    ours.close()
                    free.append(slot)
                    ended(training, process.exitcode or 0)
        finally:
            for _, _, ours in running.values():
                ours.close()
            for process in running:
                process.join()
    if interrupts.signal is not None:
        raise Interrupted(interrupts.signal)


def _environment(slot: int, jobs: int, gpus: Sequence[str]) -> dict[str, str]:
    """Return the environment variables that give a job its GPU, or its share of the CPU cores."""
    if gpus:
        return {"CUDA_VISIBLE_DEVICES": gpus[slot % len(gpus)]}
    return {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(threads_per_rank(jobs)))}
