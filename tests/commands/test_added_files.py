"""A network, a conditioning, a space and a data set, each added as one file: the real commands train and sample it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import yaml

import data
from models.variants import DATA_SETS, NETWORKS, SPACES
from scripts.cli.signatures import import_options, options_of, read_options
from tests.added import SOURCES, add
from tests.commands.tasks import run_here

QUICK = (
    *("--batch_size", "8", "--max_steps", "2", "--warmup_steps", "1", "--eval_images", "8"),
    *("--num_samples", "4", "--steps", "2", "--no-tensorboard"),
)
SMALL_UNET = ("--network.width", "8", "--network.patch_size", "1")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "arguments", "stored", "size"),
    [
        ("one_layer", ("--network", "one_layer", "--network.kernel_size", 5), {"network.kernel_size": 5}, 8),
        (
            "everything",
            (*SMALL_UNET, "--network.conditioning", "everything"),
            {"network": "unet", "network.conditioning": "everything"},
            8,
        ),
        (
            "folded",
            (*SMALL_UNET, "--space", "folded", "--space.seed", 2, "--seed", 7),
            {"space": "folded", "space.seed": 2, "seed": 7},
            8,
        ),
        ("stripes", (*SMALL_UNET, "--dataset", "stripes", "--dataset.width", 10), {"dataset.width": 10}, 10),
    ],
)
def test_one_new_file_is_enough(
    name: str,
    arguments: tuple[object, ...],
    stored: dict[str, object],
    size: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    add(name, tmp_path, monkeypatch)
    trained = run_here("train_flow", *QUICK, *arguments, "--experiments_dir", tmp_path / "runs", capsys=capsys)
    config = yaml.safe_load((trained.folder / "config.txt").read_text(encoding="utf-8"))
    assert stored.items() <= config.items()
    generated = run_here("generate", "--run", trained.folder, "--num_samples", 3, "--steps", 2, capsys=capsys)
    with np.load(generated.folder / "samples.npz") as samples:
        assert samples["arr_0"].shape == (3, size, size, 1) and samples["arr_0"].dtype == np.uint8
    again = run_here("train_flow", "--resume", trained.folder, "--max_steps", 3, capsys=capsys)
    assert again.folder == trained.folder


def test_help_names_an_added_conditioning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    add("everything", tmp_path, monkeypatch)
    shown = run_here("train_flow", "--help", capsys=capsys).out
    assert "--network.conditioning {concatenation,cross_attention,embedding,everything}" in shown


ROOMS = {"one_layer": NETWORKS, "folded": SPACES, "stripes": DATA_SETS}


@pytest.mark.parametrize("name", ROOMS)
def test_its_options_are_read_from_its_source(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    add(name, tmp_path, monkeypatch)
    room, method = ROOMS[name], "fit" if name == "folded" else "__init__"
    options = read_options(room.source(name), method)
    assert options and options == import_options(room.find(name), method)


def test_a_source_that_is_not_plain_is_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = SOURCES["stripes"][1].replace("width: int = 12", "width: int = 2 * 6")
    add("stripes", tmp_path, monkeypatch, data, source)
    with pytest.raises(ValueError, match="malformed"):
        read_options(DATA_SETS.source("stripes"))
    (option,) = options_of(DATA_SETS, "stripes")
    assert (option.name, option.kind, option.default) == ("width", int, 12)


def test_every_kind_of_large_variant_is_among_them() -> None:
    assert {package.__name__ for package, _ in SOURCES.values()} == {
        *("models.networks", "models.networks.conditioning", "models.spaces", "data"),
    }
