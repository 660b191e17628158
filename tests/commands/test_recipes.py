"""The recipes: each is built from its row and trains; each belongs to one task; all are listed with what to type."""

from __future__ import annotations

import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from scripts.cli.arguments import gather
from scripts.cli.recipes import RECIPES, settings_of
from scripts.recipes import recipes_table
from tests.commands.tasks import REPOSITORY, run_here, status_of, use_tiny_data

QUICK = (
    *("--max_steps", 2, "--warmup_steps", 1, "--batch_size", 4, "--eval_images", 4, "--eval_every", 0),
    *("--sample_every", 0, "--no-tensorboard"),
)
FEW_SAMPLES = ("--num_samples", 2, "--steps", 1)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder of all runs, over tiny data of the real shapes: latents find the autoencoder of their data set."""
    with pytest.MonkeyPatch.context() as patch:
        use_tiny_data(patch)
        yield tmp_path_factory.mktemp("runs")


def train(name: str, runs: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    task = RECIPES[name].task
    quick = QUICK if task == "train_vae" else (*QUICK, *FEW_SAMPLES)
    return run_here(task, "--recipe", name, "--experiments_dir", runs, *quick, capsys=capsys).folder


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
    assert all(each in ended.err for each, recipe in RECIPES.items() if recipe.task == task)


def test_a_config_or_a_flag_takes_the_options_of_what_it_exchanges_along(tmp_path: Path) -> None:
    """Also where the config exchanges the network of the recipe."""
    config = tmp_path / "config.txt"
    config.write_text("network: dit\nnetwork.depth: 2\n", encoding="utf-8")
    arguments = gather(["--recipe", "mnist", "--config", str(config)], "train_flow")
    network = [word for word in arguments if word.startswith("--network.")]
    assert network == ["--network.depth=2"] and "--dataset=mnist" in arguments
    arguments = gather(["--recipe", "mnist", "--network=convnext"], "train_flow")
    assert not [word for word in arguments if word.startswith("--network.")]


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
        assert settings_of(name, recipe.task) is recipe.settings
