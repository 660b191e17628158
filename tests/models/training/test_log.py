"""The log of a training run: the times of its rows, and what TensorBoard receives."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from models.runs.run import Run
from models.training import objectives
from models.training.denoising_objective import DenoisingObjective
from models.training.log import TrainingLog
from models.training.objectives import Objective

FACTS = {"epoch": 0.5, "lr": 1e-3, "grad_norm": 2.0}


@pytest.fixture
def run(tmp_path: Path):
    run = Run.create(tmp_path, "train_flow", "digits", None)
    yield run
    run.end("finished")


def make_log(run: Run, **options: Any) -> TrainingLog:
    class Named:
        parts = DenoisingObjective.parts
        figures = ("sample_distance",)
        picture_format = "png"

    return TrainingLog(run, cast(Objective, Named()), 16, torch.device("cpu"), **options)


def due_at(log: TrainingLog, seconds: list[float]) -> list[float]:
    """The times at which a row is due, in a run without end."""
    due = []
    for step, second in enumerate(seconds, start=1):
        if log.row_due(step, second, 0.0):
            log.row(step, second, 0.0, None, FACTS)
            due.append(second)
    return due


def test_rows_come_often_at_first_and_then_more_rarely(run: Run) -> None:
    due = due_at(make_log(run), [float(second) for second in range(1, 7200)])
    gaps = [after - before for before, after in pairwise(due)]
    assert gaps[:10] == [3.0] * 10 and gaps == sorted(gaps) and gaps[-1] == 60.0
    assert 100 < len(due) < 200


def test_slow_steps_have_a_row_each(run: Run) -> None:
    assert due_at(make_log(run), [4.0, 8.0, 12.0]) == [4.0, 8.0, 12.0]


@pytest.mark.parametrize("every", [1, 3, 50])
def test_rows_every_so_many_steps(every: int, run: Run) -> None:
    log = make_log(run, log_every=every)
    assert [step for step in range(1, 101) if log.row_due(step, 1e6, 0.9)] == list(range(every, 101, every))


def test_a_resumed_log_goes_on_counting_other_work(run: Run) -> None:
    before, after = make_log(run), make_log(run)
    with before.timed("evaluation"):
        pass
    before.other_seconds["pictures"] = 7.5
    after.restore(torch.zeros_like(after.loss_sums), before.state(), 10)
    assert after.other_seconds == before.other_seconds and after.other_seconds["evaluation"] > 0


def test_the_board_has_groups_pictures_and_settings(run: Run) -> None:
    log = make_log(run, config={"lr": 1e-3, "network": "unet", "conditional": True, "betas": [0.9, 0.99], "name": None})
    log.open_board("tensorboard", 0)
    for bins in log.loss_sums[1:]:
        bins += 1
    tested = objectives.TestLoss(0.5, 0.4, [0.1] * 10, "", {"sample_distance": 3.0})
    log.row(1, 1.0, 0.0, tested, FACTS)
    sheet = run.folder / "epoch_samples" / "step_00000001.png"
    final = run.folder / "denoising_steps" / "noisy.png"
    for path in (sheet, final):
        path.parent.mkdir()
        Image.new("L", (20, 10), 90).save(path)
    log.add_pictures([sheet, final], 1)
    events = EventAccumulator(str(run.folder / "tensorboard"))
    events.Reload()
    tags = events.Tags()
    assert {"loss/train", "loss/test", "train_loss/t3", "test_loss/t0", "optimizer/lr", "sample/distance"} <= set(
        tags["scalars"]
    )
    assert all("/" in tag for tag in tags["scalars"])
    assert set(tags["images"]) == {"epoch_samples", "final/noisy"}
    assert events.Images("epoch_samples")[0].width == 20
    assert any("hparams" in tag and "session_start" in tag for tag in events.summary_metadata)
    settings = events.summary_metadata["_hparams_/session_start_info"].plugin_data.content
    assert b"betas" in settings and b"[0.9, 0.99]" in settings and b"unet" in settings


def test_without_a_board_pictures_are_not_read(run: Run) -> None:
    make_log(run).add_pictures([run.folder / "missing.png"], 1)
