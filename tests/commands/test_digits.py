"""The demo's recipe learns real digits: a classifier trained apart knows what was asked for, and none is a copy."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.neighbors import NearestNeighbors
from sklearn.svm import SVC

from tests.commands.tasks import run_here

STEPS = 300  # A fifth of a minute's worth on an idle core; the demo itself takes about ten times as many.
COUNT = 200


@pytest.fixture(scope="module")
def digits() -> tuple[np.ndarray, np.ndarray]:
    return load_digits(return_X_y=True)  # type: ignore[return-value]


@pytest.mark.slow
def test_a_short_demo_generates_the_digits_asked_for(tmp_path: Path, capsys, digits) -> None:
    real, labels = digits
    words = ("--recipe", "demo_digits", "--max_steps", STEPS, "--max_minutes", 60, "--batch_size", 64)
    words += ("--eval_every", 0, "--sample_every", 0, "--experiments_dir", tmp_path)
    run = run_here("train_flow", *words, capsys=capsys).folder
    words = ("--run", run, "--num_samples", COUNT, "--guidance_scale", 2, "--sampler", "heun", "--steps", 8)
    samples = np.load(run_here("generate", *words, capsys=capsys).folder / "samples.npz")
    generated = samples["arr_0"].reshape(COUNT, 64) / 255 * 16
    judge = SVC(gamma=0.001, C=10).fit(real, labels)  # pyright: ignore[reportArgumentType]
    assert (judge.predict(generated) == samples["arr_1"]).mean() >= 0.8
    # Not copies: as far from the nearest real digit as real digits are from each other, not nearer.
    neighbours = NearestNeighbors(n_neighbors=2).fit(real)
    among_real = neighbours.kneighbors(real)[0][:, 1]
    to_real = neighbours.kneighbors(generated)[0][:, 0]
    assert np.median(to_real) > 0.8 * np.median(among_real) and to_real.min() > 0.5 * among_real.min()
    # Not one digit over and over: samples of a class differ as real ones of it do.
    for label in range(10):
        mine, theirs = generated[samples["arr_1"] == label], real[labels == label]
        assert mine.std(axis=0).mean() > 0.5 * theirs.std(axis=0).mean()
