"""Pictures of latent spaces of every size: all are drawn, show the right images, and depend on the seed alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

from models.autoencoders.loss import AutoencoderLoss
from models.drawing import sheets
from models.spaces.pixels import Pixels
from models.training import autoencoder_objective, latent_pictures
from models.training.autoencoder_objective import AutoencoderObjective
from models.training.latent_pictures import Codec, draw_latent_space
from tests.models.coders import random_images, small_coder

ALWAYS = {"decoded_slice.png", "interpolations.png", "prior_samples.png"}


def codec(tmp_path: Path, shape: tuple[int, int, int] = (1, 8, 8), kind: str = "vae", **options: Any) -> Codec:
    model = small_coder(tmp_path / "run", shape, kind, **options)
    return Codec(model.network, model.spec)


def draw(made: Codec, folder: Path, count: int = 12, umap: bool = False) -> set[str]:
    """Draw the latent space of test images in three classes. Return the names of the files."""
    folder.mkdir()
    images = random_images(count, made.spec.shape)
    draw_latent_space(made, images, torch.arange(count) % 3, folder, "title", 0, umap)
    return {path.name for path in folder.iterdir()}


@pytest.mark.parametrize("kind", ["vae", "autoencoder"])
@pytest.mark.parametrize(
    ("shape", "latent_shape", "maps"),
    [
        ((1, 8, 8), (1, 1, 1), {"latents.png"}),
        ((3, 8, 12), (2, 1, 1), {"latents.png"}),
        ((1, 8, 8), (1, 1, 2), {"latents.png"}),
        ((3, 6, 7), (4, 2, 2), {"latents_pca.png"}),
    ],
)
def test_every_picture_is_drawn(kind: str, shape, latent_shape, maps: set[str], tmp_path: Path) -> None:
    if latent_shape == (1, 1, 2):
        shape = (1, 4, 8)
    assert draw(codec(tmp_path, shape, kind, latent_shape=latent_shape), tmp_path / "a") == ALWAYS | maps
    mode = "L" if shape[0] == 1 else "RGB"
    assert all(Image.open(tmp_path / "a" / name).mode == mode for name in ALWAYS)


def test_interpolations_show_all_classes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten classes have ten rows, although the test images are sorted by class; their titles name both ends."""
    made = codec(tmp_path)
    made = replace(made, spec=replace(made.spec, class_names=tuple("0123456789")))
    titles: list[str] = []
    strip = sheets.strip
    monkeypatch.setattr(
        sheets, "strip", lambda *given, **options: titles.extend(options["row_titles"]) or strip(*given, **options)
    )
    folders = tmp_path / "usual", tmp_path / "small"
    for folder, scale in zip(folders, (None, 2), strict=True):
        folder.mkdir()
        labels = torch.arange(40) // 4
        draw_latent_space(made, random_images(40, made.spec.shape), labels, folder, "title", 0, False, scale)
    assert titles[:10] == [f"class {digit} to {(digit + 1) % 10}" for digit in range(10)]
    for name in ALWAYS:
        assert Image.open(folders[0] / name).height > Image.open(folders[1] / name).height


@pytest.mark.parametrize(("count", "expected"), [(1, ALWAYS - {"interpolations.png"}), (2, ALWAYS)])
def test_few_images_without_classes(count: int, expected: set[str], tmp_path: Path) -> None:
    for folder, latent_shape, maps in (("a", (2, 2, 2), set()), ("b", (2, 1, 1), {"latents.png"})):
        made = codec(tmp_path / f"run-{folder}", latent_shape=latent_shape)
        made = replace(made, spec=replace(made.spec, class_names=()))
        assert draw(made, tmp_path / folder, count) == expected | maps


def test_umap_needs_a_long_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[bool] = []
    monkeypatch.setattr(autoencoder_objective, "draw_latent_space", lambda *words: drawn.append(words[6]))
    made, images = codec(tmp_path), random_images(12, (1, 8, 8))
    loss, labels = AutoencoderLoss("l2", 1e-6, 0, 0.0), torch.arange(12) % 3
    shape = made.network.latent_shape
    objective = AutoencoderObjective(made.spec, loss, shape, None, images, images, labels, 0, umap=True)
    line = objective.draw_final(made.network, tmp_path, "title", 59)
    assert "PCA only" in line and "59.0s" in line and objective.draw_final(made.network, tmp_path, "title", 60) == ""
    objective = replace(objective, umap=False)
    assert objective.draw_final(made.network, tmp_path, "title", 59) == ""
    assert drawn == [False, True, False]


def test_umap_needs_its_option_and_enough_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    methods: list[str] = []

    def fit_map(method: str, features: Any, seed: int, neighbours: int) -> Any:
        methods.append(method)
        return real("pca", features, seed, neighbours)

    real = latent_pictures.fit_map
    monkeypatch.setattr(latent_pictures, "fit_map", fit_map)
    made = codec(tmp_path, latent_shape=(2, 2, 2))
    assert "latents_umap.png" not in draw(made, tmp_path / "a", 12, umap=True)
    assert "latents_umap.png" in draw(made, tmp_path / "b", 60, umap=True)
    assert "latents_umap.png" not in draw(made, tmp_path / "c", 60)
    assert methods == ["pca", "pca", "umap", "pca"]


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> dict[str, tuple[Any, dict[str, Any]]]:
    """Collect the images and options of each sheet by the first words of its title."""
    contents: dict[str, tuple[Any, dict[str, Any]]] = {}
    for name in ("grid", "strip"):
        real = getattr(sheets, name)

        def collect(images: Any, *rest: Any, real: Any = real, **options: Any) -> Any:
            contents.setdefault(options["title"].split(": ")[1][:12], (images, options))
            return real(images, *rest, **options)

        monkeypatch.setattr(sheets, name, collect)
    return contents


def test_the_middle_of_the_slice_is_the_mean_and_lines_end_in_reconstructions(tmp_path: Path, drawn) -> None:
    made = codec(tmp_path, latent_shape=(2, 2, 2))
    draw(made, tmp_path / "a")
    images = random_images(12, made.spec.shape)
    means, _ = made.encode(images)
    decoded, options = drawn["decoded late"]
    assert close(decoded[len(decoded) // 2], made.decode(means.mean(0, keepdim=True))[0])
    assert options["column_titles"][0] == "-3.0" and options["row_titles"][0] == "+3.0"
    frames, _ = drawn["decoded poin"]
    space = Pixels(made.spec.shape, 1.0)
    with torch.no_grad():
        expected = space.decode(made.network(space.encode(frames[0])).output)
    assert close(frames[1], expected) and len(frames[0]) == len(frames[-1]) == 10
    rows = [int((images == image).flatten(1).all(1).nonzero()[0]) for image in (*frames[0], *frames[-1])]
    assert all(first % 3 != last % 3 for first, last in zip(rows[:10], rows[10:], strict=True))


def close(one: Tensor, other: Tensor) -> bool:
    return bool((one.int() - other.int()).abs().max() <= 1)


@pytest.mark.parametrize("kind", ["vae", "autoencoder"])
def test_the_title_names_the_source_of_samples(kind: str, tmp_path: Path, drawn) -> None:
    draw(codec(tmp_path, kind=kind, latent_shape=(2, 2, 2)), tmp_path / "a")
    ((images, options),) = [value for key, value in drawn.items() if key == "decoded samp"]
    assert "Gaussian fitted to each unit of the test latents" in options["title"]
    assert ("no prior" in options["title"]) == (kind == "autoencoder")
    assert len(images) == (96 if kind == "vae" else 48)
    assert [name for name in options["row_titles"] if name][:1] == (["prior:\nunit Gaussian"] if kind == "vae" else [])


def test_the_same_seed_gives_the_same_pictures(tmp_path: Path) -> None:
    made = codec(tmp_path, latent_shape=(2, 2, 2))
    first, second = tmp_path / "a", tmp_path / "b"
    draw(made, first)
    draw(made, second)
    assert all((first / name).read_bytes() == (second / name).read_bytes() for name in ALWAYS)
