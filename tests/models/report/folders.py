"""Run folders as training writes them, made in milliseconds."""

from __future__ import annotations

import json
import os
import socket
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image

CONFIG = {
    "dataset": "digits",
    "network": "unet",
    "network.width": 16,
    "space": "pixels",
    "noise_schedule": "flow",
    "prediction": "flow",
    "loss": "l2",
    "weighting": "uniform",
    "batch_size": 64,
    "lr": 0.003,
    "max_steps": 100,
    "seed": 0,
    "device": "cpu",
    "precision": "float32",
}
FRAME_TIMES = (1.0, 0.5, 0.0)
HOSTILE = "<img src=x onerror=\"document.title='owned'\">&amp;'\"</script>"


def write_run(
    experiments: Path,
    name: str,
    loss: float = 0.5,
    rows: int = 10,
    pictures: bool = True,
    config: dict[str, Any] | None = None,
    **status: Any,
) -> Path:
    """Write a run of train_flow that has finished with a test loss, and return its folder."""
    folder = experiments / name
    (folder / "checkpoints").mkdir(parents=True)
    content = {
        "task": "train_flow",
        "dataset": "digits",
        "started": "2026-02-08T14:30:52+00:00",
        "state": "finished",
        "reason": "",
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "heartbeat": datetime.now(UTC).isoformat(timespec="seconds"),
        "step": 10 * rows,
        "progress": 1.0,
        "loss": loss,
        "test_loss": loss,
    }
    (folder / "status.json").write_text(json.dumps(content | status))
    (folder / "config.txt").write_text(yaml.safe_dump(CONFIG | (config or {}), sort_keys=False))
    (folder / "environment.txt").write_text(
        "started: 2026-02-08T14:30:52+00:00\ncommand: python -m scripts.train_flow\n"
    )
    first = "digits 1x8x8: 1438 train, 359 test images, 10 classes; unet of 12,345 parameters on cpu, float32"
    (folder / "training_log.txt").write_text(f"{first}\nepoch 1.00  step {10 * rows}\n")
    bins = [f"{split}_loss_t{k}" for split in ("test", "train") for k in range(10)]
    columns = ["step", "epoch", "seconds", "images_per_second", "lr", "grad_norm"]
    lines = [",".join([*columns, "train_loss", "test_loss", "train_grid_loss", *bins])]
    for row in range(1, rows + 1):
        value = loss * rows / row
        cells = [
            10 * row,
            row / 2,
            1.5 * row,
            400,
            0.003 / row,
            1.0,
            value,
            value,
            value,
            *(value + k / 10 for k in range(20)),
        ]
        lines.append(",".join(f"{cell:g}" for cell in cells))
    (folder / "metrics.csv").write_text("\n".join(lines) + "\n")
    facts = {"denoiser": {"space": {"name": "pixels", "shape": [1, 8, 8]}}}
    (folder / "checkpoints" / "step_00000100.yaml").write_text(yaml.safe_dump(facts))
    if pictures:
        _write_pictures(folder)
    return folder


def _write_pictures(folder: Path) -> None:
    noise = np.random.default_rng(0)
    sizes = {
        **{f"final_samples/{k:05d}_label{k}.png": (8, 8) for k in range(8)},
        "final_samples/grid.png": (80, 100),
        **{f"epoch_samples/step_{step:08d}.png": (80, 100) for step in (20, 40, 60)},
        **{f"denoising_steps/noisy/{k:02d}_t{t:.2f}.png": (20, 90) for k, t in enumerate(FRAME_TIMES)},
        **{f"denoising_steps/clean_estimate/{k:02d}_t{t:.2f}.png": (20, 90) for k, t in enumerate(FRAME_TIMES[1:])},
        "forward_noising.png": (90, 110),
        "loss_curves.png": (90, 110),
    }
    for name, size in sizes.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(noise.integers(0, 256, size, dtype=np.uint8)).save(path)


def write_comparison(experiments: Path, name: str, one: str, other: str, low: float | str = -0.5) -> None:
    """Write what `evaluate --compare` does. The difference of the distance is -1, its interval ends at `low`."""
    undefined = dict.fromkeys(("one", "other", "value", "low", "high"))
    differences = {
        "recognised_convnet_12345678": {"one": 0.9, "other": 0.95, "value": 0.05, "low": -0.01, "high": 0.11},
        "fd_convnet_12345678": {"one": 3.0, "other": 2.0, "value": -1.0, "low": -1.5, "high": low},
        "kd_convnet_12345678": undefined,
        "grey_mean": {**undefined, "one": 80.0, "other": 81.0, "value": 1.0},
    }
    content = {"one": one, "other": other, "paired": True, "protocol": {"images": 200}, "differences": differences}
    folder = experiments / "comparisons"
    folder.mkdir(exist_ok=True)
    (folder / f"{name}.json").write_text(json.dumps(content))


def write_evaluation(run: Path, name: str, distance: float, images: int = 200, ratio: bool = True) -> Path:
    """Write the report of an evaluation of samples. The floor of the distance is 1, its interval is +-10 %."""
    folder = run / "evaluation" / f"{name}-samples"
    folder.mkdir(parents=True)
    results = {
        "recognised_convnet_12345678": {
            "found": {"value": 0.9, "low": 0.85, "high": 0.94},
            "floor": {"value": 0.99, "low": 0.97, "high": 1.0},
        },
        "fd_convnet_12345678": {
            "found": {"value": distance, "low": 0.9 * distance, "high": 1.1 * distance},
            "floor": {"value": 1.0, "low": 0.8, "high": 1.2},
        },
        "grey_mean": {"found": {"value": 80.0, "low": None, "high": None}, "floor": None},
    }
    content = {
        "task": "samples",
        "protocol": {"version": 2, "images": images, "dataset": "digits"},
        "samples": {"run": run.name, "step": 100, "seed": 0},
        "results": results,
        "warnings": [],
    }
    (folder / "report.json").write_text(json.dumps(content))
    lines = [f"{run.name}, step 100, ema weights, ddim, 50 steps, NFE 50", "", "  fd   1"]
    (folder / "report.txt").write_text("\n".join([*lines, *([f"  fd / floor  {distance:.2f}"] * ratio)]) + "\n")
    Image.new("L", (40, 40), 90).save(folder / "nearest.png")
    return folder
