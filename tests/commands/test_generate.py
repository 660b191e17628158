"""generate as people run it: what it writes, that every flag acts, and that the batch size changes nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from models.diffusion.samplers import SAMPLERS
from models.drawing import sheets
from models.generation import MANY_STEPS, OF_CHAIN, OF_FLOW
from models.runs import checkpoints
from tests.commands.tasks import TINY, Ended, run_here
from tests.commands.test_bad_input import check_refusal


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one flow and one chain, each trained for a moment."""
    from scripts import train_ddpm, train_flow

    folder = tmp_path_factory.mktemp("runs")
    common = [*TINY, "--experiments_dir", str(folder), "--max_steps", "30", "--checkpoint_every", "0.1", "--lr", "3e-3"]
    train_flow.main(common)
    train_ddpm.main([*common, "--timesteps", "20"])
    return folder


@pytest.fixture
def generate(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    def run(kind: str, *arguments: str | Path, **flags: object) -> Ended:
        (folder,) = runs.glob(f"*-{kind}-*")
        out = tmp_path / f"out{len(list(tmp_path.iterdir()))}"
        words = ["--run", folder, "--num_samples", "12", "--steps", "4", "--out", out, *arguments]
        return run_here("generate", *words, capsys=capsys)

    return run


def images_of(folder: Path) -> np.ndarray:
    return np.load(folder / "samples.npz")["arr_0"]


def test_what_is_written(generate) -> None:
    folder = generate("flow", "--save_images", "--animate", "--labels", "3", "1", "4").folder
    archive = np.load(folder / "samples.npz")
    assert archive["arr_0"].shape == (12, 8, 8, 1) and archive["arr_0"].dtype == np.uint8
    assert archive["arr_1"].tolist() == [3, 1, 4] * 4
    singles = sorted((folder / "images").iterdir())
    assert [path.name for path in singles[:2]] == ["00000_label3.png", "00001_label1.png"] and len(singles) == 12
    np.testing.assert_array_equal(np.asarray(Image.open(singles[5])), archive["arr_0"][5, :, :, 0])
    assert Image.open(folder / "animation.webp").n_frames == 5  # type: ignore[attr-defined]
    assert Image.open(folder / "grid.png").mode == "L"
    assert Image.open(folder / "denoising_strip.png").width > 200
    timing = yaml.safe_load((folder / "timing.txt").read_text())
    assert timing["network_evaluations_per_image"] == 4 and timing["seconds"] > 0
    assert yaml.safe_load((folder / "config.txt").read_text())["labels"] == [3, 1, 4]


STARTS = {"png": b"\x89PNG", "pdf": b"%PDF", "svg": b"<?xml", "webp": b"RIFF", "gif": b"GIF8"}


@pytest.mark.parametrize(
    ("flags", "picture", "film"),
    [
        ((), "png", "webp"),
        (("--format", "pdf"), "pdf", "webp"),
        (("--format", "svg", "--animation_format", "gif"), "svg", "gif"),
        (("--format", "gif"), "png", "gif"),
        (("--format=webp", "--format", "pdf"), "pdf", "webp"),
        (("--format=gif", "--format=pdf"), "pdf", "gif"),
    ],
    ids=" ".join,
)
def test_pictures_and_animations_have_formats(flags: tuple[str, ...], picture: str, film: str, generate) -> None:
    folder = generate("flow", "--animate", "--num_samples", "2", "--save_images", *flags).folder
    names = {"grid": picture, "denoising_strip": picture, "animation": film}
    for name, suffix in names.items():
        assert (folder / f"{name}.{suffix}").read_bytes().startswith(STARTS[suffix])
    files = {path.name for path in folder.iterdir() if path.suffix not in (".txt", ".npz", "")}
    assert files == {f"{name}.{suffix}" for name, suffix in names.items()}
    assert {path.suffix for path in (folder / "images").iterdir()} == {".png"}


@pytest.mark.parametrize(
    ("flags", "word"), [(("--format", "bmp"), "bmp"), (("--format=mp4",), "mp4"), (("--format",), "")]
)
def test_unknown_formats_are_refused(flags: tuple[str, ...], word: str, generate, tmp_path: Path) -> None:
    ended = generate("flow", *flags)
    assert ended.code == 2 and word in ended.err and len(ended.err.splitlines()) == 1 and not list(tmp_path.iterdir())


@pytest.mark.parametrize("flags", [(), ("--format", "pdf", "--animate"), ("--labels", "3"), ("--steps", "1")], ids=str)
def test_each_sample_has_a_folder(flags: tuple[str, ...], generate) -> None:
    folder = generate("flow", "--sample_folders", "--num_samples", "3", *flags).folder / "by_sample"
    suffix = "pdf" if "pdf" in flags else "png"
    labels = (3, 3, 3) if "--labels" in flags else (0, 1, 2)
    folders = sorted(folder.iterdir())
    for number, (sample, label) in enumerate(zip(folders, labels, strict=True)):
        assert sample.name.startswith(f"{number:05d}_label{label}")
        films = ["animation.webp"] if "--animate" in flags else []
        assert sorted(path.name for path in sample.iterdir()) == [*films, f"image.{suffix}", "steps", f"strip.{suffix}"]
        steps = sorted(path.name for path in (sample / "steps").iterdir())
        assert len(steps) == (2 if "--steps" in flags else 5)
        assert steps[0] == f"00_t1.00.{suffix}" and steps[-1].endswith(f"_t0.00.{suffix}")
    image = images_of(folder.parent)[1, :, :, 0]
    if suffix == "png":
        shown = np.asarray(Image.open(folders[1] / "image.png"))
        assert shown.shape == (256, 256)
        np.testing.assert_array_equal(shown, np.asarray(sheets.large(torch.from_numpy(image)[None])))


def test_one_image_is_drawn_and_animated_large(generate) -> None:
    folder = generate("flow", "--num_samples", "1", "--animate").folder
    for name in ("grid.png", "animation.webp"):
        with Image.open(folder / name) as picture:
            assert min(picture.size) >= 256
    assert Image.open(folder / "animation.webp").n_frames == 5  # type: ignore[attr-defined]


@pytest.mark.parametrize("words", [("--num_samples", 257), ("--every_checkpoint", "--num_samples", 2)], ids=str)
def test_folders_of_samples_are_few_and_of_one_checkpoint(words: tuple[object, ...], generate, tmp_path: Path) -> None:
    ended = generate("flow", "--sample_folders", *map(str, words))
    assert ended.code == 2 and "--sample_folders" in ended.err and not list(tmp_path.iterdir())


@pytest.mark.parametrize("keep", [1, 2, 0])
def test_pruned_checkpoints_are_reported(keep: int, tmp_path: Path, capsys) -> None:
    words = (
        *TINY,
        "--experiments_dir",
        tmp_path,
        "--checkpoint_every",
        0.01,
        "--keep_checkpoints",
        keep,
        "--eval_every",
        0,
    )
    run = run_here("train_flow", *words, capsys=capsys).folder
    for path in checkpoints.list_checkpoints(run / "checkpoints")[: -keep or None]:
        if keep == 1:  # the best one
            path.with_suffix(".yaml").unlink()
    ended = run_here("generate", "--run", run, "--every_checkpoint", "--animate", "--num_samples", 2, capsys=capsys)
    if keep == 1:
        assert ended.code == 2 and "one checkpoint" in ended.err and "--keep_checkpoints 0" in ended.err
        assert not (run / "samples").exists()
        return
    assert ("--keep_checkpoints 0" in ended.err) == (keep > 0)
    assert (ended.folder / "training_strip.png").is_file() and (ended.folder / "animation.webp").is_file()


@pytest.mark.parametrize("kind", ["flow", "ddpm"])
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_the_batch_size_changes_nothing(kind: str, sampler: str, generate) -> None:
    whole = images_of(generate(kind, "--sampler", sampler, "--seed", "7").folder)
    parts = images_of(generate(kind, "--sampler", sampler, "--seed", "7", "--batch_size", "5").folder)
    assert np.abs(whole.astype(int) - parts).max() <= 1  # float sums may round differently in other batch sizes
    assert len(np.unique(whole.reshape(12, -1), axis=0)) == 12


@pytest.mark.parametrize(
    "flags",
    [
        ("--seed", "1"),
        ("--weights", "raw"),
        ("--sampler", "heun"),
        ("--steps", "3"),
        ("--eta", "0.5"),
        ("--grid", "karras"),
        ("--grid", "log_snr"),
        ("--guidance_scale", "0"),
        ("--guidance_scale", "3"),
        ("--labels", "5"),
        ("--no-clip",),
    ],
    ids=" ".join,
)
def test_every_flag_acts(flags: tuple[str, ...], generate) -> None:
    assert (images_of(generate("ddpm").folder) != images_of(generate("ddpm", *flags).folder)).any()


@pytest.mark.parametrize(
    ("sampler", "flags"),
    [
        ("ddpm", ("--variance", "beta")),
        ("dpmpp_2m", ("--eta", "0.5")),
        ("sde", ("--diffusion", "1.5")),
        ("unipc", ("--order", "1")),
        ("ddim", ("--guidance_scale", "3", "--guidance_interval", "0.3", "0.6")),
        ("ddim", ("--guidance_scale", "3", "--guidance_rescale", "1")),
    ],
)
def test_the_options_of_samplers_and_guidance_act(sampler: str, flags: tuple[str, ...], generate) -> None:
    base = ("--sampler", sampler, *(flags[:2] if flags[0] == "--guidance_scale" else ()))
    assert (images_of(generate("ddpm", *base).folder) != images_of(generate("ddpm", *base, *flags).folder)).any()


def test_guidance_costs_one_pass_of_twice_the_images(generate) -> None:
    timing = generate("flow", "--guidance_scale", "2", "--sampler", "ddim").folder / "timing.txt"
    assert yaml.safe_load(timing.read_text())["network_evaluations_per_image"] == 8
    interval = ("--guidance_interval", "0.4", "0.8", "--sampler", "ddim")
    timing = generate("flow", "--guidance_scale", "2", *interval).folder / "timing.txt"
    assert yaml.safe_load(timing.read_text())["network_evaluations_per_image"] == 6


def test_columns_and_scale_arrange_the_sheet(generate) -> None:
    sizes = []
    for flags in ((), ("--columns", 8), ("--columns", 8, "--scale", 3), ("--labels", 3, 1)):
        folder = generate("flow", "--num_samples", 24, *flags).folder
        with Image.open(folder / "grid.png") as sheet, Image.open(folder / "denoising_strip.png") as strip:
            sizes.append((*sheet.size, *strip.size))
    plain, columns, small, chosen = sizes
    assert columns[1] > small[1] and columns[2:] > small[2:]
    assert len({plain[:2], columns[:2], small[:2], chosen[:2]}) == 4


def test_a_scale_that_is_too_large_is_refused_at_once(generate, monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setattr("scripts.tasks.generation.generate", None)
    check_refusal(generate("flow", "--scale", 2000), "--scale 2000", "use a smaller --scale")
    film = ("--animate", "--sampler", "heun", "--steps", 19, "--num_samples", 4)  # The strip has twenty columns.
    check_refusal(generate("flow", *film, "--scale", 110), "--scale 110", "use a smaller --scale")
    assert list(tmp_path.iterdir()) == []


def test_every_checkpoint(generate, runs: Path) -> None:
    (run,) = runs.glob("*-flow-*")
    folder = generate("flow", "--every_checkpoint", "--animate").folder
    names = {path.stem for path in checkpoints.list_checkpoints(run / "checkpoints")}
    assert len(names) > 2 and names <= {path.stem for path in folder.glob("*.png")}
    assert Image.open(folder / "training_strip.png").width > 100
    assert Image.open(folder / "animation.webp").n_frames == len(names)  # type: ignore[attr-defined]


def test_a_checkpoint_file_alone_is_enough(generate, runs: Path, tmp_path: Path, capsys) -> None:
    (run,) = runs.glob("*-flow-*")
    path = checkpoints.resolve_checkpoint(run)
    lonely = tmp_path / "moved" / path.name
    lonely.parent.mkdir()
    for suffix in (".safetensors", ".yaml"):
        lonely.with_suffix(suffix).write_bytes(path.with_suffix(suffix).read_bytes())
    words = ("--checkpoint", lonely, "--out", tmp_path / "there", "--num_samples", "12", "--steps", "4")
    folder = run_here("generate", *words, capsys=capsys).folder
    np.testing.assert_array_equal(images_of(folder), images_of(generate("flow").folder))


def test_autoguidance(generate, runs: Path) -> None:
    (run,) = runs.glob("*-flow-*")
    weak = checkpoints.list_checkpoints(run / "checkpoints")[0]
    plain = images_of(generate("flow").folder)
    guided = images_of(generate("flow", "--guidance_scale", "2", "--autoguidance", weak).folder)
    assert (plain != guided).any()
    itself = images_of(
        generate("flow", "--guidance_scale", "2", "--autoguidance", checkpoints.resolve_checkpoint(run)).folder
    )
    assert np.abs(plain.astype(int) - itself).max() <= 1


def test_the_default_steps_fit_a_short_chain(runs: Path, tmp_path: Path, capsys) -> None:
    (run,) = runs.glob("*-ddpm-*")
    words = ("--run", run, "--num_samples", 1, "--sampler", "ddim", "--out", tmp_path / "out")
    folder = run_here("generate", *words, capsys=capsys).folder
    assert yaml.safe_load((folder / "config.txt").read_text())["steps"] == 20


def test_the_default_sampler_is_that_of_the_kind_of_model_and_is_said(runs: Path, tmp_path: Path, capsys) -> None:
    def made(kind: str, *words: object) -> tuple[dict[str, Any], str]:
        (run,) = runs.glob(f"*-{kind}-*")
        fixed = ("--run", run, "--num_samples", 1, "--out", tmp_path / f"{kind}{len(words)}")
        ended = run_here("generate", *fixed, *words, capsys=capsys)
        return yaml.safe_load((ended.folder / "config.txt").read_text()), ended.err.splitlines()[0]

    for kind, usual in (("flow", OF_FLOW), ("ddpm", OF_CHAIN)):
        config, first = made(kind)
        assert (config["sampler"], config["steps"]) == (usual.sampler, min(usual.steps, 20 if kind == "ddpm" else 99))
        assert first == f"by default: --sampler {config['sampler']} --steps {config['steps']}"
    config, first = made("flow", "--animate")
    assert (config["sampler"], config["steps"]) == MANY_STEPS and "--sampler ddim" in first
    config, first = made("flow", "--sampler", "heun")
    assert config["steps"] == 12 and "by default" not in first
    config, first = made("flow", "--steps", "2", "--seed", "1")
    assert (config["sampler"], config["steps"]) == (OF_FLOW.sampler, 2)


def test_the_default_folder_lies_in_the_run(runs: Path, capsys) -> None:
    words = ("--experiments_dir", runs, "--num_samples", "2", "--steps", "2")
    first = run_here("generate", *words, capsys=capsys).folder
    second = run_here("generate", *words, capsys=capsys).folder
    assert first != second and first.parent == second.parent and first.parent.name == "samples"
    assert first.parent.parent == max(runs.iterdir())
    assert not list(first.parent.glob(".*"))


def test_autoguidance_needs_no_labels(tmp_path: Path, capsys) -> None:
    words = (*TINY, "--experiments_dir", tmp_path, "--no-conditional", "--lr", "3e-3", "--checkpoint_every", "0.03")
    run = run_here("train_flow", *words, capsys=capsys).folder
    weak = checkpoints.list_checkpoints(run / "checkpoints")[0]
    words = ("--run", run, "--num_samples", 4, "--steps", 2)
    plain = images_of(run_here("generate", *words, capsys=capsys).folder)
    words = (*words, "--autoguidance", weak, "--guidance_scale", 3)
    assert (images_of(run_here("generate", *words, capsys=capsys).folder) != plain).any()
