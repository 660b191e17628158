"""`evaluate --task loss`: the noise-prediction loss by t, on test images and, for the gap, on training images."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field, replace
from typing import Any

import torch
import tyro
from torch import Tensor

from data import Split
from models import processes
from models.diffusion.times import BINS
from models.drawing.loss_curves import draw_losses_by_t
from models.evaluation.images import Images
from models.evaluation.noise_loss import by_bin, noise_losses
from models.evaluation.statistics import refuse_infinite
from models.model import Model
from models.training.interrupts import Interrupts
from scripts.cli.arguments import check_positive, parse_flags
from scripts.cli.flags import ModelFlags, SourceFlags
from scripts.tasks.protocol import (
    data_card,
    estimated,
    in_batches,
    load_data_of_run,
    model_card,
    report_folder,
    spread_over,
    with_interval,
    write_report,
)
from scripts.tasks.sampling import describe_model, find_checkpoint, open_model, resolve_model

DESCRIPTION = "Measure the noise-prediction loss of a trained run by t. Prints the report's path."
USUAL_COUNT = 1000


@dataclass(frozen=True)
class LossFlags:
    """Settings of `evaluate --task loss`."""

    task: str = "loss"
    """This task."""
    model: tyro.conf.OmitArgPrefixes[ModelFlags] = field(default_factory=ModelFlags)
    data: tyro.conf.OmitArgPrefixes[SourceFlags] = field(default_factory=SourceFlags)
    num_images: int | None = None
    """Test images, evenly spaced over the split, and as many training images; 0 for all of the test split. Default:
    1000, or as many as there are."""
    seed: int = 0
    """Times and noise of an image depend on the seed and its number alone, whatever the batch size."""
    batch_size: int = 256
    """Images per network call."""
    out: str | None = None
    """Folder for the report. Default: evaluation/ in the run."""


def main(argv: list[str]) -> None:
    flags = parse_flags(argv, LossFlags(), "evaluate", DESCRIPTION)
    check_positive(flags, "batch_size")
    flags = replace(flags, model=resolve_model(flags.model))
    path = find_checkpoint(flags.model)
    model = open_model(path, flags.model)
    dataset = load_data_of_run(path, flags.data)
    test, numbers = spread_over(dataset, "test", flags.num_images, USUAL_COUNT)
    train, _ = spread_over(dataset, "train", len(test), USUAL_COUNT)
    with Interrupts(at_once=True):
        folder = report_folder(path, flags.out)
        started = time.perf_counter()
        t, losses = _measure(flags, model, numbers, {"test": test, "train": train})
        seconds = time.perf_counter() - started
    if not processes.is_rank_zero():
        return
    results = _results(t, losses, seconds)
    card = {
        **model_card(path, flags.model),
        **data_card(dataset, "test", {"images": "evenly spaced"}, test),
        "train_images_sha256": data_card(dataset, "train", {}, train)["images_sha256"],
        "labels": "each image's own" if model.spec.classes else "none",
        "t": "ten for each image, one uniform in each tenth",
        "seed": flags.seed,
        "batch_size": flags.batch_size,
    }
    report = write_report(folder, "loss", card, results, _table(results))
    draw_losses_by_t(
        {name: [_numbers(each["loss"]) for each in results[name]["by_t"]] for name in ("train", "test")},
        report.with_suffix(".png"),
        f"{describe_model(model)}: mean squared error of the estimated noise, {len(test)} images each",
    )
    print(report)


def _measure(
    flags: LossFlags, model: Model, numbers: list[int], splits: dict[str, Split]
) -> tuple[Tensor, dict[str, Tensor]]:
    """(N, 10) times, and losses of both splits at them; row k of each split is shown what the k-th number decides."""
    device = torch.device(flags.model.device)
    times: list[Tensor] = []
    losses: dict[str, list[Tensor]] = {name: [] for name in splits}

    def so_far(done: int) -> str:
        means = (f"{name} loss {torch.cat(each).mean():.4f}" for name, each in losses.items())
        return ", ".join(means)

    def measure(part: slice) -> tuple[Tensor, dict[str, Tensor]]:
        t, found = torch.empty(0), {}
        for name, split in splits.items():
            clean = model.space.encode(split.images[part].to(device))
            images = Images(clean, numbers[part], flags.seed, model.spec.initial_noise)
            label = split.labels[part].to(device) if model.spec.classes else None
            t, found[name] = noise_losses(model.denoiser, model.noise_schedule, images, label)
            refuse_infinite(found[name])
        return t, found

    for t, found in in_batches(measure, len(numbers), flags.batch_size, so_far):
        times.append(t)
        for name in splits:
            losses[name].append(found[name])
    return torch.cat(times), {name: torch.cat(each) for name, each in losses.items()}


def _results(t: Tensor, losses: dict[str, Tensor], seconds: float) -> dict[str, Any]:
    """Everything the report says, as plain numbers; gap: test minus train, by pairs that share their noise."""
    curves = {**losses, "gap": losses["test"] - losses["train"]}
    return {
        **{name: _curve(t, each) for name, each in curves.items()},
        "images": len(t),
        "evaluations_per_image": BINS,
        "seconds": round(seconds, 3),
    }


def _curve(t: Tensor, losses: Tensor) -> dict[str, Any]:
    bins = by_bin(t, losses)
    by_t = []
    for k in range(BINS):
        known = bins[:, k][~bins[:, k].isnan()]
        loss = estimated(known) if len(known) > 1 else None
        by_t.append({"from": k / BINS, "to": (k + 1) / BINS, "loss": loss})
    return {**estimated(losses.mean(1)), "by_t": by_t}


def _numbers(estimate: dict[str, Any] | None) -> list[float]:
    """Mean, low, high."""
    return [math.nan] * 3 if estimate is None else [estimate["mean"], *estimate["interval_95"]]


def _table(results: dict[str, Any]) -> str:
    """The results for people."""
    names = ("test", "train", "gap")
    rows = [["t", "test", "train", "test - train"]]
    for k in range(BINS):
        bins = [results[name]["by_t"][k] for name in names]
        cells = [with_interval(each["loss"]) if each["loss"] else "-" for each in bins]
        rows.append([f"{bins[0]['from']:.1f} to {bins[0]['to']:.1f}", *cells])
    rows.append(["all", *(with_interval(results[name]) for name in names)])
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join(
        [
            f"mean squared error of the estimated noise, by t (0 clean, 1 noise), on {results['images']} test images",
            "and as many training images under the same times and noise, with 95 % intervals over images",
            "",
            *lines,
        ]
    )
