"""The tasks that draw a trained model, as people run them: what they write, that flags act, and seeds are honoured."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from models.drawing import sheets
from scripts.tasks import distribution
from tests.commands.tasks import TINY, Ended, run_here
from tests.commands.test_bad_input import check_refusal

FEW = ("--steps", "2")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a flow, a short chain, a flow that knows no labels and one in latents, trained for a moment."""
    from scripts import train_ddpm, train_flow, train_latent, train_vae

    folder = tmp_path_factory.mktemp("runs")
    common = [*TINY, "--experiments_dir", str(folder)]
    train_flow.main([*common, "--name", "labels"])
    train_ddpm.main([*common, "--timesteps", "20", "--name", "chain"])
    train_flow.main([*common, "--no-conditional", "--name", "plain"])
    train_flow.main([*common, "--initial_noise", "uniform", "--name", "uniform"])
    small = [
        "--max_steps",
        "4",
        "--batch_size",
        "16",
        "--eval_images",
        "16",
        "--no-tensorboard",
        "--network.width",
        "8",
    ]
    train_vae.main([*small, "--experiments_dir", str(folder), "--name", "autoencoder"])
    train_latent.main(
        [*small, "--experiments_dir", str(folder), "--num_samples", "4", "--steps", "2", "--name", "latents"]
    )
    return folder


@pytest.fixture
def task(runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """Runs a task on one of the runs, into a folder of its own."""

    def run(name: str, *arguments: object, kind: str = "labels") -> Ended:
        (model,) = runs.glob(f"*-{kind}")
        out = tmp_path / f"out{len(list(tmp_path.iterdir()))}"
        steps = () if "--steps" in arguments else FEW
        words = ("--run", model, "--experiments_dir", runs, "--out", out, *steps, *arguments)
        return run_here(name, *words, capsys=capsys)

    return run


def frames_of(path: Path) -> int:
    with Image.open(path) as film:
        return film.n_frames  # type: ignore[attr-defined]


def read(path: Path) -> dict[str, float]:
    return yaml.safe_load(path.read_text())


def test_guidance(task) -> None:
    words = ("--scales", 0, 1, 3, "--labels", 2, 7, "--shown", 2, "--samples_per_class", 4, "--animate")
    folder = task("visualize_guidance", *words).folder
    with (folder / "guidance.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    assert [row["scale"] for row in table] == ["0", "1", "3"] and {row["images"] for row in table} == {"8"}
    assert [row["nfe"] for row in table] == ["2", "2", "4"]
    assert (folder / "guidance.txt").read_text().splitlines()[0].split() == list(table[0])
    assert Image.open(folder / "guidance.png").width > 300 and (folder / "accuracy_and_diversity.png").is_file()
    assert frames_of(folder / "animation.webp") == 3
    assert yaml.safe_load((folder / "config.txt").read_text())["labels"] == [2, 7]


def test_one_noise_along_a_row_of_scales(task) -> None:
    """Columns of equal scales show equal images; another seed shows others."""
    words = ("--scales", 2, 2, "--labels", 3, "--shown", 1, "--samples_per_class", 1)
    sheets = [task("visualize_guidance", *words, "--seed", seed).folder / "guidance.png" for seed in (0, 0, 1)]
    pixels = [np.asarray(Image.open(sheet)) for sheet in sheets]
    assert (pixels[0] == pixels[1]).all() and (pixels[0] != pixels[2]).any()


@pytest.mark.parametrize(("features", "kind"), [("pixels", "plain"), ("latents", "latents"), ("classifier", "chain")])
def test_distribution(features: str, kind: str, task) -> None:
    words = ("--method", "pca", "--features", features, "--num_samples", 60, "--animate", "--animation_format", "gif")
    folder = task("visualize_distribution", *words, kind=kind).folder
    numbers = read(folder / "numbers.txt")
    assert numbers["mixing"] < 0.3 < numbers["mixing_floor"] and numbers["mixing_expected"] == 0.5042
    assert numbers["coverage"] < numbers["coverage_floor"] and numbers["images"] == 60
    assert frames_of(folder / "animation.gif") == 2 and (folder / "distribution.png").is_file()


@pytest.mark.slow
def test_a_map_by_umap_is_a_function_of_the_seed(task) -> None:
    words = ("--num_samples", 30, "--neighbours", 5, "--k", 2)
    first, second = (task("visualize_distribution", *words).folder / "distribution.png" for _ in range(2))
    assert first.read_bytes() == second.read_bytes()


@pytest.mark.parametrize("between", ["noises", "images", "classes"])
@pytest.mark.parametrize("kind", ["labels", "chain", "latents"])
def test_interpolation(between: str, kind: str, task) -> None:
    words = ("--between", between, "--rows", 2, "--columns", 3, "--animate")
    folder = task("interpolate", *words, kind=kind).folder
    assert Image.open(folder / "interpolation.png").mode == "L"
    assert frames_of(folder / "animation.webp") == 16
    if between == "images":
        numbers = read(folder / "reconstruction.txt")
        # Trained for six steps, the chain's noise estimate is no smooth field yet that could be walked backwards, and
        # the autoencoder brings no image back.
        assert kind != "labels" or numbers["reconstruction_rmse_worst"] < 0.1 * numbers["rmse_between_the_two_images"]
        assert (folder / "reconstruction.png").is_file()


def test_interpolation_without_labels(task) -> None:
    assert task("interpolate", "--between", "images", "--images", 3, 5, kind="plain").folder
    check_refusal(task("interpolate", "--between", "classes", kind="plain"), "classes")


@pytest.mark.parametrize("kind", ["labels", "plain", "latents"])
def test_inpainting(kind: str, task, tmp_path: Path) -> None:
    mask = np.zeros((8, 8), dtype=np.uint8)
    mask[:3, 2:] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    words = ("--mask", tmp_path / "mask.png", "--rows", 2, "--samples", 2, "--animate", "--resample", 2)
    folder = task("inpaint", *words, kind=kind).folder
    errors = read(folder / "errors.txt")
    assert errors["known_rmse"] == 0 and (errors["known_rmse_before_putting_back"] < 0.01) == (kind != "latents")
    assert errors["hidden_share"] == pytest.approx(18 / 64, abs=1e-5) and errors["hidden_rmse"] > 1
    assert (folder / "inpainting.png").is_file() and frames_of(folder / "animation.webp") > 2


def test_image_to_image(task) -> None:
    words = ("--rows", 3, "--strength", 0.25, 1, "--steps", 4, "--animate", "--labels", 8, "--format", "pdf")
    folder = task("image_to_image", *words).folder
    with (folder / "change.csv").open(newline="") as file:
        weak, strong = csv.DictReader(file)
    assert (weak["strength"], weak["nfe"], strong["nfe"]) == ("0.25", "1", "4")
    assert float(weak["rmse"]) < float(strong["rmse"])
    assert (folder / "image_to_image.pdf").is_file() and frames_of(folder / "animation.webp") > 3


@pytest.mark.parametrize(("kind", "left"), [("labels", 4), ("chain", 3)])
def test_a_strength_is_a_flow_time_with_every_schedule(kind: str, left: int, task) -> None:
    """A strength of 0.2 leaves 4 of 20 steps on a flow, and 3 on a cosine chain, where t is 0.15."""
    folder = task("image_to_image", "--rows", 1, "--strength", 0.2, "--steps", 20, kind=kind).folder
    with (folder / "change.csv").open(newline="") as file:
        (row,) = csv.DictReader(file)
    assert float(row["strength"]) == pytest.approx(0.2, abs=0.002)
    assert float(row["nfe"]) == left


@pytest.mark.parametrize("name", ["inpaint", "image_to_image"])
def test_the_batch_size_changes_nothing(name: str, task) -> None:
    few = ("--samples", 1, "--resample", 2) if name == "inpaint" else ()
    numbers = "errors.txt" if name == "inpaint" else "change.txt"
    one, other = (
        (task(name, "--rows", 3, "--sampler", "ddpm", "--batch_size", size, *few).folder / numbers).read_text()
        for size in (256, 2)
    )
    assert one == other


@pytest.mark.parametrize(
    ("name", "flags", "words"),
    [
        ("visualize_guidance", ("--scales", "nan"), ("--scales",)),
        ("visualize_guidance", ("--guidance_scale", "3"), ("--guidance_scale 3", "--scales")),
        ("visualize_guidance", ("--shown", "9", "--samples_per_class", "2"), ("--shown 9",)),
        ("visualize_guidance", ("--labels", "3", "3"), ("--labels",)),
        ("visualize_distribution", ("--method", "tsne"), ("tsne", "umap")),
        ("visualize_distribution", ("--features", "logits"), ("logits", "pixels")),
        ("visualize_distribution", ("--num_samples", "5"), ("--num_samples", "--k")),
        ("interpolate", ("--between", "worlds"), ("worlds", "noises")),
        ("interpolate", ("--columns", "1"), ("--columns 1",)),
        ("interpolate", ("--between", "images", "--sampler", "ddpm"), ("--sampler ddim",)),
        ("interpolate", ("--between", "images", "--images", "1"), ("--images", "two per row")),
        ("interpolate", ("--between", "images", "--images", "1", "99999"), ("99999",)),
        ("inpaint", ("--mask", "middle"), ("middle", "center")),
        ("inpaint", ("--resample", "0"), ("--resample 0",)),
        ("inpaint", ("--format", "bmp"), ("bmp", "svg")),
        ("inpaint", ("--animation_format", "mp4"), ("mp4", "webp")),
        ("image_to_image", ("--strength", "1.5"), ("1.5",)),
        ("image_to_image", ("--labels", "10"), ("10", "0 to 9")),
        ("image_to_image", ("--rows", "9999"), ("9999",)),
        ("image_to_image", ("--scale", "999"), ("--scale 999",)),
        ("interpolate", ("--scale", "999"), ("--scale 999",)),
        ("inpaint", ("--scale", "999"), ("--scale 999",)),
        ("visualize_guidance", ("--scale", "999"), ("--scale 999",)),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else value,
)
def test_mistakes(name: str, flags: tuple[str, ...], words: tuple[str, ...], task, tmp_path: Path) -> None:
    check_refusal(task(name, *flags), *words)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "words",
    [
        ("image_to_image", "--strength", 0.5),
        ("inpaint", "--samples", 1, "--resample", 1),
        ("interpolate", "--columns", 3),
        ("interpolate", "--columns", 3, "--between", "images"),
    ],
    ids=lambda words: " ".join(map(str, words)),
)
def test_all_ten_classes_have_a_row_by_default(words: tuple[object, ...], task, monkeypatch) -> None:
    """The titles of the rows say the classes, and --scale changes the size of the picture."""
    titles: list[list[str]] = []
    strip = sheets.strip
    monkeypatch.setattr(sheets, "strip", lambda *given: titles.append(list(given[3])) or strip(*given))
    folders = [task(*words, *scale).folder for scale in ((), ("--scale", 2))]
    shown = " ".join(titles[0])
    assert len(titles[0]) == 10 and all(f" {digit}" in shown for digit in range(10)) and "class 0" in shown
    small, smaller = (Image.open(sorted(folder.glob("*.png"))[0]) for folder in folders)
    assert small.height > smaller.height


def test_strengths_with_one_start_have_one_column(task) -> None:
    ended = task("image_to_image", "--strength", 0.2, 0.3, 0.9, "--steps", 2, "--rows", 2)
    with (ended.folder / "change.csv").open(newline="") as file:
        assert len(list(csv.DictReader(file))) == 2
    assert any(
        line.startswith("strength 0.3 uses the column of an earlier strength") for line in ended.err.splitlines()
    )


@pytest.mark.parametrize(
    "words", [("inpaint",), ("interpolate",), ("interpolate", "--between", "images")], ids=" ".join
)
def test_noises_that_are_not_gaussian_are_not_mixed(words: tuple[str, ...], task) -> None:
    check_refusal(task(*words, kind="uniform"), "uniform", "Gaussian")


def test_other_data_is_refused(task, runs: Path, tmp_path: Path, capsys) -> None:
    import shutil

    (model,) = runs.glob("*-labels")
    copy = shutil.copytree(model, tmp_path / model.name)
    for path in copy.glob("checkpoints/*.yaml"):
        facts = yaml.safe_load(path.read_text())
        facts["data"]["sha256"] = "0" * 64
        path.write_text(yaml.safe_dump(facts))
    check_refusal(run_here("inpaint", "--run", copy, *FEW, capsys=capsys), "digits", "trained on")


@pytest.mark.parametrize(
    ("shown", "scales", "classes", "columns"),
    [(4, 6, 10, 4), (4, 6, 2, 2), (9, 2, 10, 9), (1, 6, 10, 1), (6, 6, 10, 3), (7, 6, 10, 4), (5, 1, 1, 3)],
)
def test_a_guidance_picture_has_about_the_shape_of_a_screen(
    shown: int, scales: int, classes: int, columns: int
) -> None:
    from scripts.tasks.guidance import columns_of_a_cell

    assert columns_of_a_cell(shown, scales / classes) == columns


def test_the_floor_of_a_distribution_has_the_class_shares_of_the_test_images() -> None:
    labels, others = torch.tensor([0] * 9 + [1]), torch.tensor([0] * 50 + [1] * 50)
    rows = distribution._rows_like(labels, others, seed=3)
    assert others[rows].sum() == 1 and len(rows.unique()) == 10
    assert len(distribution._rows_like(labels, torch.tensor([1] * 30), seed=3)) == 10  # no other images are left
