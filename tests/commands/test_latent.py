"""The commands around autoencoders, as people run them on tiny digits: reconstruct, encode_dataset, and bad input."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from data.digits import Digits
from models.evaluation.fidelity import fidelity
from models.runs.lookup import NEEDED
from models.spaces.encoded import read_encoded
from scripts.tasks.run_data import identity_of, split_hash
from tests.commands.tasks import TINY, TINY_VAE, Ended, grey_folder, run_here
from tests.commands.test_bad_input import check_refusal


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one small autoencoder of digits."""
    from scripts import train_vae

    folder = tmp_path_factory.mktemp("runs")
    train_vae.main([*TINY_VAE, "--experiments_dir", str(folder), "--max_steps", "60", "--lr", "1e-2"])
    return folder


@pytest.fixture(scope="module")
def latent(runs: Path) -> Path:
    """A flow in its latents."""
    from scripts import train_latent

    train_latent.main([*TINY, "--experiments_dir", str(runs)])
    return next(runs.glob("*-latent-*"))


@pytest.fixture
def vae(runs: Path) -> Path:
    return next(runs.glob("*-vae-*"))


@pytest.fixture
def run(runs: Path, capsys: pytest.CaptureFixture[str]):
    def start(task: str, *arguments: object) -> Ended:
        return run_here(task, "--experiments_dir", runs, *arguments, capsys=capsys)

    return start


def save_picture(path: Path, height: int, width: int) -> Path:
    Image.new("L", (width, height), 90).save(path)
    return path


# -- reconstruct ------------------------------------------------------------------------------------------------------


def test_reconstruct_measures_the_whole_test_split(run, vae: Path) -> None:
    ended = run("reconstruct", "--height", "2", "--width", "3", "--batch_size", "100")
    folder = ended.folder
    assert folder.parent == vae / "reconstructions" and folder.name.endswith("-digits")
    assert {path.name for path in folder.iterdir()} == {
        *("reconstructions.png", "metrics.json", "metrics.txt", "config.txt")
    }
    found, test = json.loads((folder / "metrics.json").read_text()), Digits().load(Path()).test
    assert found["images"] == len(test) and found["images_sha256"] == split_hash(test)
    assert (
        found["checkpoint_sha256"] == yaml.safe_load(next((vae / "checkpoints").glob("*60.yaml")).read_text())["sha256"]
    )
    assert found["latent_shape"] == [2, 4, 4] and len(found["latent_channel_deviations"]) == 2
    spread = [d**2 + (m - found["latent_mean"]) ** 2 for m, d in _channels(found)]
    assert found["latent_deviation"] ** 2 == pytest.approx(sum(spread) / 2)
    images = test.in_memory()
    flat = images.float().mean(0).expand(len(test), -1, -1, -1).round().to(torch.uint8)
    assert found["mse"] < fidelity([(images, flat)]).mse  # better than the mean image
    assert f"SSIM {found['ssim']:.4f}" in ended.err and "[-1, 1]" in (folder / "metrics.txt").read_text()


def _channels(found: dict) -> list[tuple[float, float]]:
    return list(zip(found["latent_channel_means"], found["latent_channel_deviations"], strict=True))


def test_reconstruct_is_the_same_in_other_batches_and_not_with_other_weights(run) -> None:
    def measured(*words: object) -> dict:
        return json.loads((run("reconstruct", *words).folder / "metrics.json").read_text())

    base = measured()
    assert measured("--batch_size", "7")["mse"] == pytest.approx(base["mse"], rel=1e-3)
    assert measured("--weights", "raw")["mse"] != base["mse"]


def test_reconstruct_reads_image_files(run, tmp_path: Path) -> None:
    files = [save_picture(tmp_path / f"{k}.png", 8, 8) for k in range(2)]
    folder = run("reconstruct", "--image", *files, "--out", tmp_path / "out").folder
    assert json.loads((folder / "metrics.json").read_text())["images"] == 2


# -- encode_dataset ---------------------------------------------------------------------------------------------------


def test_encode_dataset_writes_both_splits(run, vae: Path) -> None:
    ended = run("encode_dataset")
    assert ended.folder == vae / "encoded" and "deviation of each channel" in ended.err
    data = Digits().load(Path())
    for name, split in (("train", data.train), ("test", data.test)):
        codes = read_encoded(ended.folder / f"digits-{name}.safetensors")
        assert codes.posterior.shape == (len(split), 4, 4, 4) and codes.mirrored is None
        assert codes.data == identity_of(split) and codes.words["split"] == name


def test_mirrored_images_are_encoded_where_they_are_trained_on(run, tmp_path: Path) -> None:
    for k in range(3):
        image = Image.new("L", (8, 8))
        image.putpixel((k, 2), 255)
        image.save(tmp_path / f"{k}.png")
    words = ("--dataset", "folder", "--dataset.path", tmp_path, "--dataset.channels", "1", "--dataset.flips")
    folder = run("encode_dataset", *words, "--out", tmp_path / "out").folder
    codes = read_encoded(folder / "folder-train.safetensors")
    assert codes.mirrored is not None and codes.mirrored.shape == codes.posterior.shape
    assert read_encoded(folder / "folder-test.safetensors").mirrored is None


# -- generate ---------------------------------------------------------------------------------------------------------

SAMPLED = ("--num_samples", "4", "--steps", "2")


def samples_of(folder: Path) -> np.ndarray:
    return np.load(folder / "samples.npz")["arr_0"]


def test_an_exported_run_needs_no_other(run, runs: Path, latent: Path, tmp_path: Path, capsys) -> None:
    before = samples_of(run("generate", "--run", latent, *SAMPLED, "--out", tmp_path / "before").folder)
    exported = run("generate", "--run", latent, "--export", tmp_path / "packed" / "mine").folder
    assert exported == tmp_path / "packed" / "mine"
    assert {path.name for path in exported.iterdir()} == {
        *("config.txt", "status.json", "environment.txt", "README.md", "checkpoints", "autoencoder")
    }
    moved = exported.rename(tmp_path / "elsewhere")
    away = tmp_path / "away"
    latent.parent.rename(away)
    try:
        after = run_here("generate", "--run", moved, *SAMPLED, capsys=capsys).folder
        again = run_here("generate", "--run", moved, "--export", tmp_path / "again", capsys=capsys).folder
    finally:
        away.rename(runs)
    np.testing.assert_array_equal(samples_of(after), before)
    assert after.parent == moved / "samples"
    assert {path.name for path in again.rglob("*.yaml")} == {path.name for path in moved.rglob("*.yaml")}


def test_an_export_is_not_written_over_and_takes_a_run(run, latent: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("keep")
    check_refusal(run("generate", "--run", latent, "--export", tmp_path), "--export", "name a new one")
    lonely = tmp_path / "lonely"
    shutil.copytree(latent / "checkpoints", lonely)
    words = ("--checkpoint", next(lonely.glob("*.safetensors")), "--autoencoder", "latest")
    check_refusal(run("generate", *words, "--export", tmp_path / "x"), "--export packs a run")
    check_refusal(run("generate", "--run", latent, "--export", tmp_path / "x", "--out", tmp_path / "y"), "--export")


def test_the_autoencoder_is_gone_or_another(run, runs: Path, latent: Path, tmp_path: Path, capsys) -> None:
    moved = shutil.copytree(latent, tmp_path / "alone" / latent.name)
    shutil.rmtree(moved / NEEDED)
    ended = run_here("generate", "--run", moved, *SAMPLED, capsys=capsys)
    check_refusal(ended, "autoencoder", "--autoencoder", str(moved.parent))
    (vae,) = runs.glob("*-vae-*")
    found = run_here("generate", "--run", moved, "--autoencoder", vae, *SAMPLED, capsys=capsys).folder
    assert samples_of(found).shape == (4, 8, 8, 1)
    other = run_here("train_vae", *TINY_VAE, "--experiments_dir", tmp_path, "--max_steps", "1", capsys=capsys).folder
    check_refusal(run("generate", "--run", latent, "--autoencoder", other, *SAMPLED), "--autoencoder", "its hash is")
    check_refusal(run("generate", "--run", latent, "--autoencoder", latent, *SAMPLED), "--autoencoder", "its hash is")


def test_an_autoencoder_is_no_denoiser(run, vae: Path) -> None:
    check_refusal(run("generate", "--run", vae), "not a denoiser checkpoint", "reconstruct")


# -- what does not fit ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", ["reconstruct", "encode_dataset"])
@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--run", "yesterday"), ("yesterday",)),
        (("--checkpoint", "absent.safetensors"), ("absent.safetensors",)),
        (("--batch_size", "0"), ("--batch_size 0",)),
        (("--dataset", "digitz"), ("digitz", "digits")),
        (("--dataset.size", "9"), ("1x9x9", "takes 1x8x8")),
        (("--device", "cuda:77"), ("cuda:77",)),
        (("--out", "/proc/nothing/here"), ("/proc/nothing",)),
    ],
    ids=lambda value: " ".join(value),
)
def test_refusals(task: str, flags: tuple[str, ...], words: tuple[str, ...], run) -> None:
    check_refusal(run(task, *flags), *words)


def test_images_of_another_size(run, tmp_path: Path) -> None:
    check_refusal(run("reconstruct", "--image", save_picture(tmp_path / "a.png", 9, 8)), "a.png", "9x8", "8x8")
    (tmp_path / "b.png").write_bytes(b"no image")
    check_refusal(run("reconstruct", "--image", tmp_path / "b.png"), "b.png", "of a known format")
    words = grey_folder(tmp_path / "oblong", 9, 8)
    for task in ("reconstruct", "encode_dataset"):
        check_refusal(run(task, *words), "1x9x8", "1x8x8")


def test_a_denoiser_is_no_autoencoder(run, vae: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.setattr("models.runs.lookup.PRETRAINED", tmp_path)
    flow = run_here("train_flow", *TINY, "--experiments_dir", tmp_path, "--max_steps", "1", capsys=capsys).folder
    for task in ("reconstruct", "encode_dataset"):
        check_refusal(run(task, "--run", flow), "not an autoencoder checkpoint", "train_vae")
    check_refusal(run_here("reconstruct", "--experiments_dir", tmp_path, capsys=capsys), "no run of train_vae")
    check_refusal(run("train_latent", *TINY, "--autoencoder", flow), "train_vae")
    check_refusal(run("generate", "--run", flow, "--autoencoder", vae), "--autoencoder", "pixels")


def test_reconstruct_refuses_weights_that_are_not_there(run) -> None:
    check_refusal(run("reconstruct", "--weights", "both"), "both", "choose from ema, raw")
    check_refusal(run("reconstruct", "--height", "0"), "--height 0")


# -- weights to begin with --------------------------------------------------------------------------------------------


def test_init_from_takes_weights_of_a_like_task(run, vae: Path, latent: Path, tmp_path: Path) -> None:
    for task, source, wanted, words in (
        ("train_flow", vae, "train_vae", TINY),
        ("train_vae", latent, "train_latent", TINY_VAE),
    ):
        check_refusal(run(task, *words, "--init_from", source), str(source), f"a run of {wanted}", task)
    ended = run("train_flow", *TINY, "--init_from", "latest", "--experiments_dir", tmp_path)
    check_refusal(ended, "no run of train_ddpm or train_flow or train_latent")
