"""The recipes: each trains, each belongs to one task, and all are listed with the command to type."""

from __future__ import annotations

import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import yaml

from models.errors import UserError
from scripts.cli.arguments import to_config
from scripts.cli.flags import FLOW
from scripts.cli.recipes import RECIPES, find_recipe
from scripts.cli.settings import read_training
from scripts.recipes import recipes_table
from scripts.tasks.measuring import settings_to_measure
from scripts.tasks.training import run_training
from tests.commands.tasks import REPOSITORY, run_here, status_of, use_tiny_data

QUICK = (
    *("--max_steps", 2, "--warmup_steps", 1, "--batch_size", 4, "--eval_images", 4, "--eval_every", 0),
    *("--sample_every", 0, "--no-tensorboard"),
)
FEW_SAMPLES = ("--num_samples", 2, "--steps", 1)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Folder of all runs, on tiny data of the real shapes. A latent run finds the autoencoder of its data set there."""
    with pytest.MonkeyPatch.context() as patch:
        use_tiny_data(patch)
        yield tmp_path_factory.mktemp("runs")


def train(name: str, runs: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    task = RECIPES[name].task
    quick = QUICK if task == "train_vae" else (*QUICK, *FEW_SAMPLES)
    return run_here(task, "--recipe", name, "--experiments_dir", runs, *quick, capsys=capsys).folder


@pytest.mark.slow
@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_trains(name: str, runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = RECIPES[name]
    if recipe.task == "train_latent":
        train(f"vae_{recipe.settings['dataset']}", runs, capsys)
        train("vae_mnist" if recipe.settings["dataset"] != "mnist" else "vae_emnist", runs, capsys)
    folder = train(name, runs, capsys)
    assert status_of(folder)["state"] == "finished" and status_of(folder)["task"] == recipe.task
    config = yaml.safe_load((folder / "config.txt").read_text(encoding="utf-8"))
    changed = {word.lstrip("-") for word in map(str, (*QUICK, *FEW_SAMPLES))}
    kept = {key: value for key, value in recipe.settings.items() if key not in changed}
    assert kept.items() <= config.items()
    assert "recipe" not in config
    if recipe.task == "train_latent":
        autoencoder = Path(config["space.autoencoder"]).parents[1]
        assert status_of(autoencoder)["dataset"] == recipe.settings["dataset"]


@pytest.mark.parametrize(
    ("name", "task"), [("vae_mnist", "train_flow"), ("mnist", "train_ddpm"), ("mnist", "train_vae")]
)
def test_another_tasks_recipe_is_refused(
    name: str, task: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ended = run_here(task, "--recipe", name, "--experiments_dir", tmp_path, capsys=capsys)
    assert ended.code == 2 and len(ended.err.splitlines()) == 1 and not list(tmp_path.iterdir())
    assert f"recipe {name} is for {RECIPES[name].task}, not for {task}" in ended.err
    assert all(other in ended.err for other, recipe in RECIPES.items() if recipe.task == task)


def test_settings_of_a_network_that_is_exchanged_are_left_out_and_named(tmp_path: Path) -> None:
    """The network is exchanged by a config, then by a flag. Settings that fit stay."""
    config = tmp_path / "config.txt"
    config.write_text("network: dit\nnetwork.depth: 2\n", encoding="utf-8")
    request = read_training(["--recipe", "cifar10", "--config", str(config)], "train_flow", FLOW, "")
    settings = to_config(request.flags)
    assert (settings["network"], settings["network.depth"], settings["dataset"]) == ("dit", 2, "cifar10")
    assert settings["network.width"] == 128
    belongs = "settings left out, since they belong to another network, space or data set: "
    assert request.notes == [f"{belongs}network.blocks of recipe cifar10, network.width of recipe cifar10"]
    request = read_training(["--recipe", "mnist", "--network=convnext"], "train_flow", FLOW, "")
    assert request.notes == [f"{belongs}network.blocks of recipe mnist"] and request.flags.optimizer.lr == 5e-3
    assert read_training(["--recipe", "mnist"], "train_flow", FLOW, "").notes == []


def test_the_last_source_wins(tmp_path: Path) -> None:
    config = tmp_path / "config.txt"
    config.write_text("lr: 1e-4\nbatch_size: 32\nlr_milestones: [0.5, 0.9]\n", encoding="utf-8")
    words = ["--recipe", "mnist", "--config", str(config), "--batch-size=64", "--batch_size", "16"]
    flags = read_training(words, "train_flow", FLOW, "").flags
    optimizer = flags.optimizer
    assert (flags.dataset, optimizer.optimizer, optimizer.lr, optimizer.batch_size) == ("mnist", "muon", 1e-4, 16)
    assert optimizer.lr_milestones == (0.5, 0.9) and flags.budget.max_minutes == 10


def test_the_list_says_what_to_type() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "scripts.recipes"], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    assert done.stdout == recipes_table() + "\n"
    lines = done.stdout.splitlines()
    assert max(map(len, lines)) <= 80
    makefile = (REPOSITORY / "Makefile").read_text(encoding="utf-8")
    for name, recipe in RECIPES.items():
        assert any(line.split()[:2] == [name, recipe.task] for line in lines)
        assert f"make {recipe.target}" in done.stdout if recipe.target else f"--recipe {name}" in done.stdout
        target = shlex.split(recipe.command(name))[1]
        assert f"\n{target}:" in makefile
        assert find_recipe(name, recipe.task) is recipe
        for option, value in recipe.gpu.items():
            assert option in recipe.settings or option in to_config(read_training([], "train_flow", FLOW, "").flags)
            assert value != recipe.settings.get(option)
    assert "on a GPU: batch_size 512, warmup_steps 25, lr 0.01\n" in done.stdout


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the default device be a GPU. Its precision is float32, since torch finds no GPU with bf16."""
    monkeypatch.setattr("models.devices.pick_device", lambda name: torch.device("cuda" if name == "auto" else name))


@pytest.mark.usefixtures("gpu")
def test_a_recipe_has_other_settings_on_a_gpu(tmp_path: Path) -> None:
    """A training receives them, resolved and noted for the log. A config and flags of the user win."""
    config = tmp_path / "config.txt"
    config.write_text("warmup_steps: 7\n", encoding="utf-8")
    words = [
        "--recipe",
        "cifar10",
        "--config",
        str(config),
        "--lr",
        "0.03",
        "--experiments_dir",
        str(tmp_path / "runs"),
    ]
    seen = {}

    def prepare(flags, stored):
        seen.update(to_config(flags))
        raise UserError("seen")

    request = read_training(words, "train_flow", FLOW, "")
    with pytest.raises(UserError, match="seen"):
        run_training(request, prepare)
    wanted = {"batch_size": 512, "warmup_steps": 7, "lr": 0.03, "network.width": 128, "device": "cuda", "compile": "on"}
    assert wanted.items() <= seen.items()
    assert to_config(settings_to_measure(words)).items() >= wanted.items()
    assert request.on("cuda").notes == ["settings of recipe cifar10 on a GPU: batch_size 512, network.width 128"]
    on_cpu = to_config(settings_to_measure([*words, "--device", "cpu"]))
    assert (on_cpu["batch_size"], on_cpu["network.width"], request.on("cpu")) == (128, 64, request)
    left_out = read_training([*words, "--network", "dit"], "train_flow", FLOW, "").on("cuda").notes[-1]
    assert "network.width of recipe cifar10 on a GPU" in left_out


def test_a_resumed_run_keeps_its_settings_on_a_gpu() -> None:
    run = REPOSITORY / "tests/data/older_runs/flow"
    request = read_training(["--recipe", "mnist", "--resume", str(run), "--dataset", "digits"], "train_flow", FLOW, "")
    assert request.folder == run and request.on("cuda") is request
    assert request.flags.optimizer.batch_size == yaml.safe_load((run / "config.txt").read_text())["batch_size"] != 512
