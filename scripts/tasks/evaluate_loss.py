"""The work of `evaluate --task loss`: the noise-prediction loss by t, on test images and on training images."""

from __future__ import annotations

import math
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from data import Split
from models import processes
from models.diffusion.times import BINS
from models.drawing.loss_curves import draw_losses_by_t
from models.evaluation.images import Images
from models.evaluation.noise_loss import by_bin, noise_losses
from models.evaluation.statistics import refuse_infinite
from models.evaluation.text_tables import text_table
from models.model import Model, require_every_level
from models.training.interrupts import Interrupts
from scripts.tasks import protocol
from scripts.tasks.sampling import describe_model, find_checkpoint, folder_in_run, open_model, resolve_model

if TYPE_CHECKING:
    from scripts.cli.evaluation_flags import NoiseLossFlags


def main(flags: NoiseLossFlags) -> None:
    flags = replace(flags, model=resolve_model(flags.model))
    path = find_checkpoint(flags.model)
    model = open_model(path, flags.model)
    require_every_level(model, "the error by t")
    dataset = protocol.load_data_of_run(path, flags.data)
    fewest = min(len(dataset.test), len(dataset.train))
    count = fewest if flags.num_images == 0 else flags.num_images
    test, indices = protocol.spread_over(dataset, "test", count, min(protocol.USUAL_COUNT, fewest))
    train, _ = protocol.spread_over(dataset, "train", len(test))
    with Interrupts(at_once=True):
        folder = folder_in_run(path, flags.model.experiments_dir, flags.out, "evaluation")
        started = time.perf_counter()
        t, losses = _measure(flags, model, indices, {"test": test, "train": train})
        seconds = time.perf_counter() - started
    if not processes.is_rank_zero():
        return
    results = _results(t, losses, seconds)
    card = {
        **protocol.model_card(path, flags.model),
        **protocol.data_card(dataset, "test", {"images": "evenly spaced"}, test),
        "train_images_sha256": protocol.data_card(dataset, "train", {}, train)["images_sha256"],
        "labels": "each image's own" if model.spec.classes else "none",
        "t": "ten for each image, one uniform in each tenth",
        "seed": flags.seed,
        "batch_size": flags.batch_size,
    }
    report = protocol.write_report(folder, "loss", card, results, _table(results))
    draw_losses_by_t(
        {name: [_point(row["loss"]) for row in results[name]["by_t"]] for name in ("train", "test")},
        report.with_suffix(f".{flags.format}"),
        f"{describe_model(model)}: mean squared error of the estimated noise, {len(test)} images each",
    )
    print(report)


def _measure(
    flags: NoiseLossFlags, model: Model, indices: list[int], splits: dict[str, Split]
) -> tuple[Tensor, dict[str, Tensor]]:
    """Return times (N, 10) and the losses of each split. indices[k] decides the times and noise of row k."""
    device = torch.device(flags.model.device)
    times: list[Tensor] = []
    losses: dict[str, list[Tensor]] = {name: [] for name in splits}

    def measure(rows: slice) -> tuple[Tensor, dict[str, Tensor]]:
        t, batch = torch.empty(0), {}
        for name, split in splits.items():
            clean = model.space.encode(split.images[rows].to(device))
            images = Images(clean, indices[rows], flags.seed, model.spec.initial_noise)
            label = split.labels[rows].to(device) if model.spec.classes else None
            t, batch[name] = noise_losses(model.denoiser, model.noise_schedule, images, label)
            refuse_infinite(batch[name])
        return t, batch

    def summary(done: int) -> str:
        return ", ".join(f"{name} loss {torch.cat(batches).mean():.4f}" for name, batches in losses.items())

    for t, batch in protocol.in_batches(measure, len(indices), flags.batch_size, summary):
        times.append(t)
        for name in splits:
            losses[name].append(batch[name])
    return torch.cat(times), {name: torch.cat(batches) for name, batches in losses.items()}


def _results(t: Tensor, losses: dict[str, Tensor], seconds: float) -> dict[str, Any]:
    """Return the results as plain numbers. gap: test minus training loss, paired by times and noise."""
    curves = {**losses, "gap": losses["test"] - losses["train"]}
    return {
        **{name: _curve(t, values) for name, values in curves.items()},
        "images": len(t),
        "evaluations_per_image": BINS,
        "seconds": round(seconds, 3),
    }


def _curve(t: Tensor, losses: Tensor) -> dict[str, Any]:
    bins = by_bin(t, losses)
    by_t = []
    for k in range(BINS):
        values = bins[:, k][~bins[:, k].isnan()]
        loss = protocol.mean_estimate(values) if len(values) > 1 else None
        by_t.append({"from": k / BINS, "to": (k + 1) / BINS, "loss": loss})
    return {**protocol.mean_estimate(losses.mean(1)), "by_t": by_t}


def _point(estimate: dict[str, Any] | None) -> list[float]:
    """Return mean, low and high for the plot; NaN if there is no estimate."""
    return [math.nan] * 3 if estimate is None else [estimate["mean"], *estimate["interval_95"]]


def _table(results: dict[str, Any]) -> str:
    names = ("test", "train", "gap")
    rows = []
    for k in range(BINS):
        bins = [results[name]["by_t"][k] for name in names]
        cells = [protocol.format_estimate(row["loss"]) if row["loss"] else "-" for row in bins]
        rows.append((f"{bins[0]['from']:.1f} to {bins[0]['to']:.1f}", *cells))
    rows.append(("all", *(protocol.format_estimate(results[name]) for name in names)))
    return (
        f"mean squared error of the estimated noise, by t (0 clean, 1 noise), on {results['images']} test images\n"
        "and as many training images under the same times and noise, with 95 % intervals over images\n\n"
        + text_table(rows, ("t", "test", "train", "test - train"))
    )
