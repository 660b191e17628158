"""Every task that draws writes its pictures in the format of --format, and nothing in another."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.commands.tasks import TINY, TINY_VAE, run_here

PICTURES = (".png", ".pdf", ".svg")
FEW = ("--steps", "2")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a flow and an autoencoder, each trained for a moment."""
    from scripts import train_flow, train_vae

    folder = tmp_path_factory.mktemp("runs")
    train_flow.main([*TINY, "--experiments_dir", str(folder), "--name", "flow"])
    train_vae.main([*TINY_VAE, "--experiments_dir", str(folder), "--name", "vae"])
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "names"),
    [
        (("generate", "--num_samples", "2", *FEW), {"grid", "denoising_strip"}),
        (("generate", "--every_checkpoint", "--num_samples", "2", *FEW), {"training_strip", "step_00000006"}),
        (
            ("evaluate", "--num_images", "20", "--draws", "10", *FEW),
            {"samples", "nearest", "farthest", "closest_pairs"},
        ),
        (("evaluate", "--every_checkpoint", "--num_images", "20", "--draws", "10", *FEW), {"checkpoints"}),
        (("evaluate", "--task", "loss", "--num_images", "8"), {"*loss*"}),
        (("reconstruct", "--height", "1"), {"reconstructions"}),
        (("visualize_guidance", "--scales", "1", "2", *FEW), {"guidance", "accuracy_and_diversity"}),
        (("visualize_distribution", "--method", "pca", "--num_samples", "20", *FEW), {"distribution"}),
        (("interpolate", "--between", "images", "--rows", "1", *FEW), {"interpolation", "reconstruction"}),
        (("inpaint", "--rows", "1", *FEW), {"inpainting"}),
        (("image_to_image", "--rows", "1", *FEW), {"image_to_image"}),
    ],
    ids=lambda value: " ".join(value[:2]) if isinstance(value, tuple) else "",
)
def test_pictures_have_the_chosen_format(
    words: tuple[str, ...], names: set[str], runs: Path, tmp_path: Path, capsys
) -> None:
    (run,) = runs.glob("*-vae" if words[0] == "reconstruct" else "*-flow")
    out = tmp_path / "out"
    flags = ("--run", run, "--experiments_dir", runs, "--out", out, "--format", "pdf")
    assert run_here(words[0], *words[1:], *flags, capsys=capsys).code == 0
    pictures = {path for path in out.rglob("*") if path.suffix in PICTURES}
    assert {path.suffix for path in pictures} == {".pdf"}
    for name in names:
        assert any(path.match(f"{name}.pdf") for path in pictures), name


@pytest.mark.slow
@pytest.mark.parametrize("task", ["train_flow", "train_vae"])
@pytest.mark.parametrize("picture_format", ["pdf", "svg"])
def test_training_writes_pictures_beside_png(task: str, picture_format: str, tmp_path: Path, capsys) -> None:
    tiny = TINY if task == "train_flow" else TINY_VAE
    words = (*tiny, "--experiments_dir", tmp_path, "--sample_every", 0.03, "--format", picture_format)
    run = run_here(task, *words, capsys=capsys).folder
    pictures = {path for path in run.rglob("*.png") if not path.name[0].isdigit()}  # single samples are data
    assert {"loss_curves.png", "epoch_samples"} <= {path.name for path in run.iterdir()} and len(pictures) >= 5
    assert {path.with_suffix(f".{picture_format}") for path in pictures} == set(run.rglob(f"*.{picture_format}"))
