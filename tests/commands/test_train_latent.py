"""train_vae and train_latent as people run them on digits: all kinds, exact resuming, encoded data sets."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import yaml
from PIL import Image

from models.runs import checkpoints
from models.runs.lookup import NEEDED
from models.spaces import latents
from scripts.cli.arguments import parse_flags
from scripts.cli.flags import LATENT, LATENT_OPTIONS
from scripts.tasks.autoencoding import read_images
from tests.commands.tasks import TINY, TINY_VAE, Ended, grey_folder, rows_of, run_here, status_of, weights_hash
from tests.commands.test_bad_input import check_refusal

CHAIN = ("--noise_schedule", "cosine", "--prediction", "eps", "--timesteps", "50", "--times", "discrete")
EXACT = ("--accumulate", "2", "--lr_schedule", "constant", "--ema", "0", "--network.dropout", "0.2")


@pytest.fixture(scope="module")
def vae(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from scripts import train_vae

    folder = tmp_path_factory.mktemp("runs")
    train_vae.main([*TINY_VAE, "--experiments_dir", str(folder), "--max_steps", "30", "--lr", "1e-2"])
    return next(folder.iterdir())


@pytest.fixture
def train(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    def start(task: str, *arguments: object) -> Ended:
        tiny = TINY_VAE if task == "train_vae" else TINY
        return run_here(task, "--experiments_dir", tmp_path / "runs", *tiny, *arguments, capsys=capsys)

    return start


@pytest.mark.curves
@pytest.mark.parametrize("reconstruction", ["l1", "l2", "bernoulli"])
@pytest.mark.parametrize("kind", ["vae", "autoencoder"])
def test_an_autoencoder_leaves_a_folder_that_explains_itself(kind: str, reconstruction: str, train) -> None:
    folder = train("train_vae", "--kind", kind, "--reconstruction", reconstruction, "--eval_every", "0.03").folder
    assert status_of(folder)["state"] == "finished"
    row, log = rows_of(folder)[-1], (folder / "training_log.txt").read_text()
    assert f"reconstruction {float(row['test_loss_reconstruction']):.4f}" in log and "active units" in log
    assert ("test_loss_kl" in row) == ("bits per dimension" in log) == (kind == "vae")
    for name in ("loss_curves", "latent_space/reconstructions"):
        assert Image.open(folder / f"{name}.png").width > 100, name


def test_a_vae_without_use_of_its_latents_warns(train) -> None:
    ended = train("train_vae", "--kl_weight", "1e4", "--max_steps", "40", "--lr", "1e-2", "--eval_every", "0")
    assert "active units 0 of 32: warning, posterior collapse" in ended.err


@pytest.mark.parametrize(
    "flags",
    [
        ("--kl_weight", "1"),
        ("--kl_weight", "1", "--kl_warmup_steps", "10"),
        ("--kl_weight", "1", "--free_bits", "1"),
        ("--kind", "autoencoder"),
        ("--reconstruction", "l1"),
        ("--network.latent_shape", "4", "2", "2"),
        ("--network.patch_size", "1"),
        ("--network.blocks", "2"),
        ("--network.dropout", "0.5"),
    ],
    ids=" ".join,
)
def test_every_flag_of_an_autoencoder_acts(flags: tuple[str, ...], train, hashes: dict[tuple[str, ...], str]) -> None:
    def trained(*words: str) -> str:
        if words not in hashes:
            hashes[words] = weights_hash(train("train_vae", "--max_steps", "3", *words).folder)
        return hashes[words]

    plain = flags[:2] if flags[0] == "--kl_weight" and len(flags) > 2 else ()
    assert trained(*flags) != trained(*plain)


@pytest.fixture(scope="module")
def hashes() -> dict[tuple[str, ...], str]:
    """Hashes of the weights that have been trained already, by flags."""
    return {}


@pytest.mark.parametrize("process", [(), CHAIN], ids=["flow", "chain"])
def test_a_latent_run_generates(process: tuple[str, ...], vae: Path, train, capsys) -> None:
    folder = train("train_latent", "--autoencoder", vae, *process).folder
    for name in ("final_samples/grid", "denoising_steps/noisy", "forward_noising"):
        assert Image.open(folder / f"{name}.png").width > 100, name
    words = ("--autoencoder", vae, "--num_samples", "4", "--steps", "3", "--save_images")
    made = run_here("generate", "--run", folder, *words, capsys=capsys).folder
    assert Image.open(next((made / "images").iterdir())).size == (8, 8)


@pytest.mark.parametrize("task", ["train_vae", "train_latent"])
def test_stopped_and_resumed_equals_uninterrupted(task: str, vae: Path, train) -> None:
    own = ("--kl_weight", "1", "--kl_warmup_steps", "5") if task == "train_vae" else ("--autoencoder", vae, *CHAIN)
    whole = train(task, *EXACT, *own).folder
    part = train(task, *EXACT, *own, "--max_steps", "4").folder
    assert weights_hash(part) != weights_hash(whole)
    again = train(task, *EXACT, *own, "--resume", part)
    assert again.folder == part and weights_hash(part) == weights_hash(whole), again.err
    assert rows_of(part)[-1]["test_loss"] == rows_of(whole)[-1]["test_loss"]


@pytest.fixture
def copy(vae: Path, tmp_path: Path) -> Path:
    """Copy of an autoencoder's run that a test may damage."""
    return Path(shutil.copytree(vae, tmp_path / "copies" / vae.name))


def test_a_latent_run_goes_on_where_its_autoencoder_moved_to(copy: Path, vae: Path, train) -> None:
    folder = train("train_latent", "--autoencoder", copy, "--max_steps", "2").folder
    shutil.rmtree(copy)
    assert train("train_latent", "--resume", folder, "--max_steps", "4").folder == folder  # the run has a copy of it
    shutil.rmtree(folder / NEEDED)
    check_refusal(train("train_latent", "--resume", folder), "no such checkpoint", "--autoencoder")
    words = ("--resume", folder, "--max_steps", "8")
    assert train("train_latent", *words, "--autoencoder", vae).folder == folder
    other = train("train_vae", "--max_steps", "1").folder
    check_refusal(train("train_latent", "--resume", folder, "--autoencoder", other), "pass the original --autoencoder")


def test_an_encoded_set_is_used_where_it_fits(copy: Path, train, capsys) -> None:
    fresh = train("train_latent", "--autoencoder", copy)
    assert "encoded now" in fresh.err
    encoded = run_here("encode_dataset", "--run", copy, capsys=capsys).folder / "digits-train.safetensors"
    read = train("train_latent", "--autoencoder", copy)
    assert f"read from {encoded}" in read.err and weights_hash(read.folder) == weights_hash(fresh.folder)
    assert "encoded now" in train("train_latent", "--autoencoder", copy, "--encoded", "none").err

    words = ("--resume", copy, "--max_steps", "31")
    assert run_here("train_vae", *TINY_VAE, "--lr", "1e-2", *words, capsys=capsys).code == 0
    stale = train("train_latent", "--autoencoder", copy)
    assert "encoded anew" in stale.err and "another autoencoder" in stale.err
    refused = train("train_latent", "--autoencoder", copy, "--encoded", encoded)
    check_refusal(refused, "--encoded", "another autoencoder", "encode_dataset")


def test_an_encoded_set_of_other_images_is_refused(copy: Path, train, capsys) -> None:
    folder = run_here("encode_dataset", "--run", copy, capsys=capsys).folder
    test = folder / "digits-test.safetensors"
    check_refusal(train("train_latent", "--autoencoder", copy, "--encoded", test), "--encoded", "other images")
    shutil.copy(test, folder / "digits-train.safetensors")
    ended = train("train_latent", "--autoencoder", copy)
    assert ended.code == 0 and "encoded anew" in ended.err and "other images" in ended.err
    (folder / "digits-train.safetensors").write_bytes(test.read_bytes()[:2000])
    ended = train("train_latent", "--autoencoder", copy)
    assert ended.code == 0 and "damaged" in ended.err
    test.write_bytes(test.read_bytes()[:100])
    check_refusal(train("train_latent", "--autoencoder", copy, "--encoded", test), str(test))


# -- pictures that are edited in place, at the same name and size ------------------------------------------------------


def write_pictures(folder: Path, suffix: str, seed: int) -> tuple[object, ...]:
    """Write 24 pictures of noise, which all have the same size in this format. Return the flags of their data set."""
    folder.mkdir(exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (24, 8, 8), np.uint8)
    for number, image in enumerate(pixels):
        Image.fromarray(image).save(folder / f"{number:02}{suffix}")
    return "--dataset", "folder", "--dataset.path", folder, "--dataset.channels", 1


@pytest.mark.slow
@pytest.mark.parametrize(("suffix", "limit"), [(".bmp", 1), (".ppm", 0), (".tif", 1)])
def test_latents_of_pictures_that_were_edited_are_encoded_anew(
    suffix: str, limit: float, copy: Path, tmp_path: Path, train, capsys
) -> None:
    words = write_pictures(tmp_path / "pictures", suffix, 0)
    encoded = run_here("encode_dataset", "--run", copy, *words, capsys=capsys).folder / "folder-train.safetensors"
    usual = ("train_latent", "--autoencoder", copy, *words, "--memory_limit", limit, "--max_steps", 1)
    assert f"read from {encoded}" in train(*usual).err
    write_pictures(tmp_path / "pictures", suffix, 1)
    assert f"encoded anew, since {encoded} is of other images" in train(*usual).err
    check_refusal(train(*usual, "--encoded", encoded), "--encoded", "of other images", "encode_dataset")
    write_pictures(tmp_path / "pictures", suffix, 0)  # as they were: contents decide, not times
    assert f"read from {encoded}" in train(*usual).err


def test_latents_from_before_contents_were_hashed_are_used_only_if_they_are_named(
    copy: Path, tmp_path: Path, train, capsys
) -> None:
    words = write_pictures(tmp_path / "pictures", ".bmp", 0)
    encoded = run_here("encode_dataset", "--run", copy, *words, capsys=capsys).folder / "folder-train.safetensors"
    with safetensors.safe_open(encoded, framework="pt") as file:
        tensors, facts = {key: file.get_tensor(key) for key in file.keys()}, dict(file.metadata())  # noqa: SIM118
    del facts["data_contents"]
    safetensors.torch.save_file(tensors, encoded, facts)
    usual = ("train_latent", "--autoencoder", copy, *words, "--max_steps", 1)
    assert "without a hash of the contents of its images" in train(*usual).err
    named = train(*usual, "--encoded", encoded)
    assert f"read from {encoded} (only the names and sizes of its images were compared)" in named.err


def test_a_run_resumes_on_the_same_contents_and_one_from_before_on_the_same_names(tmp_path: Path, train) -> None:
    words = write_pictures(tmp_path / "pictures", ".bmp", 0)
    folder = train("train_vae", *words, "--max_steps", 1).folder
    more = ("train_vae", "--resume", folder, "--max_steps", 2)
    write_pictures(tmp_path / "pictures", ".bmp", 1)
    check_refusal(train(*more), "data differ")
    path = checkpoints.resolve_checkpoint(folder).with_suffix(".yaml")
    facts = yaml.safe_load(path.read_text())
    del facts["data"]["contents"]
    path.write_text(yaml.safe_dump(facts))
    ended = train(*more)
    assert ended.code == 0 and ended.err.count("not their contents: only names and sizes were compared") == 1


@pytest.mark.parametrize(
    ("task", "flags", "words"),
    [
        ("train_vae", ("--network.latent_shape", "4", "3", "3"), ("latent_shape", "4 3 3", "4 4, 2 2, 1 1")),
        ("train_vae", ("--network.latent_shape", "0", "2", "2"), ("latent_shape", "0 2 2: must be at least 1")),
        ("train_vae", ("--kind", "gan"), ("gan", "vae, autoencoder")),
        ("train_vae", ("--reconstruction", "l3"), ("l3", "bernoulli")),
        ("train_vae", ("--kl_weight", "-1"), ("--kl_weight -1",)),
        ("train_vae", ("--free_bits", "-1"), ("--free_bits -1",)),
        ("train_vae", ("--kl_warmup_steps", "-1"), ("--kl_warmup_steps -1",)),
        ("train_vae", ("--kind", "autoencoder", "--kl_weight", "1"), ("--kl_weight", "--kind autoencoder")),
        ("train_vae", ("--kind", "autoencoder", "--free_bits", "1"), ("--free_bits", "--kind autoencoder")),
        ("train_vae", ("--network", "unet"), ("unet", "conv")),
        ("train_latent", ("--autoencoder", "yesterday"), ("yesterday",)),
        ("train_latent", ("--autoencoder", "absent.safetensors"), ("absent.safetensors",)),
        ("train_latent", ("--autoencoder", "latest"), ("no run of train_vae",)),
        ("train_latent", ("--space", "latent"), ("latent", "latents")),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else value,
)
def test_refusals(task: str, flags: tuple[str, ...], words: tuple[str, ...], train, tmp_path: Path) -> None:
    check_refusal(train(task, *flags), *words)
    assert not (tmp_path / "runs").exists()


def test_an_autoencoder_for_images_of_another_size(vae: Path, train, tmp_path: Path) -> None:
    words = grey_folder(tmp_path / "oblong", 8, 9)
    check_refusal(train("train_latent", "--autoencoder", vae, *words), "1x8x8", "1x8x9")


def test_the_best_checkpoint_of_an_autoencoder_can_be_named(vae: Path, train) -> None:
    path = checkpoints.resolve_checkpoint(vae, checkpoints.BEST)
    assert str(path) in train("train_latent", "--autoencoder", path).err


def test_latents_have_a_network_of_their_own_unless_another_is_chosen() -> None:
    """The options are defaults that help shows. They are left out with the network that they belong to."""

    def options(*argv: str) -> Any:
        return parse_flags(argv, LATENT, "train_latent", "", LATENT_OPTIONS).network_options

    assert (options().width, options().patch_size) == (64, 1)
    assert options("--network.width", "8").width == 8
    assert options("--network", "dit").width == 128


def test_an_autoencoder_that_is_still_training_is_refused(
    vae: Path, train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(latents, "liveness", lambda status: "running")
    check_refusal(train("train_latent", "--autoencoder", vae), "is still training", "--autoencoder")
    assert not (tmp_path / "runs").exists()
    (file,) = (vae / "checkpoints").glob("*.safetensors")
    assert train("train_latent", "--autoencoder", file, "--max_steps", "1").code == 0


def test_an_autoencoder_is_trained_and_drawn_in_float64(train) -> None:
    assert train("train_vae", "--precision", "float64", "--max_steps", "2").code == 0


def test_given_images_are_read_as_those_of_the_training(tmp_path: Path) -> None:
    Image.fromarray(np.full((8, 8), 4095, np.uint16)).save(tmp_path / "scan.png")
    for options, value in (({"white_level": 4095}, 255), ({}, 16)):
        (image,) = read_images([str(tmp_path / "scan.png")], (1, 8, 8), options)
        assert abs(int(image.max()) - value) <= 1
