"""The flags: read from source as they are, declared resumable where they may change, spelled as each task has them."""

from __future__ import annotations

import gc
import importlib
import re
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest

from models.errors import UserError
from models.learning_rate import LR_SCHEDULES, OptimizerSettings
from models.ranges import Resumable
from models.variants import AUTOENCODERS, DATA_SETS, NETWORKS, SPACES, Room
from scripts.cli import flags
from scripts.cli.arguments import forget_flags, leaves, merge, parse_flags, read_ahead, spell, with_settings
from scripts.cli.flags import FLOW, LATENT, AutoencoderFlags, CodingFlags, ModelFlags, TrainFlags
from scripts.cli.settings import read_training
from scripts.cli.signatures import import_options, names_in, read_options

VARIANTS = [(room, name) for room in (NETWORKS, AUTOENCODERS, SPACES, DATA_SETS) for name in room.names()]
TABLES = re.findall(r'names_in\("(.*)", "(.*)"\)', Path(flags.__file__).read_text(encoding="utf-8"))


@pytest.mark.parametrize(("room", "name"), VARIANTS, ids=lambda value: value if isinstance(value, str) else value.word)
def test_the_source_says_what_the_constructor_takes(room: Room, name: str) -> None:
    method = "fit" if room is SPACES else "__init__"
    assert read_options(room.source(name), method) == import_options(room.find(name), method)


@pytest.mark.parametrize(("module", "table"), TABLES)
def test_the_source_says_the_names_of_a_table(module: str, table: str) -> None:
    assert names_in(module, table) == tuple(getattr(importlib.import_module(module), table))


def test_garbage_is_collected_once_the_flags_are_read() -> None:
    gc.disable()  # as the package scripts does under `python -m`
    try:
        parse_flags([], FLOW, "train_flow", "")
        assert gc.isenabled()
    finally:
        gc.enable()


def test_every_learning_rate_schedule_is_a_choice() -> None:
    assert get_args(get_type_hints(OptimizerSettings)["lr_schedule"]) == tuple(LR_SCHEDULES)


RESUMABLE = {
    *("epochs", "max_steps", "max_minutes", "wall_clock", "patience"),
    *("log_every", "eval_every", "sample_every", "checkpoint_every", "keep_checkpoints", "logger", "format"),
    *("num_samples", "columns", "scale", "sampler", "steps", "guidance_scale"),
    *("data_root", "dataset.path", "dataset.test_path", "memory_limit", "workers"),
    *("experiments_dir", "name", "device", "graph", "accumulate"),
    *("space.autoencoder", "space.encoded", "umap"),
}


def test_these_flags_may_change_when_a_run_is_resumed() -> None:
    tasks = [(LATENT, {"dataset": "folder"}), (LATENT, {"dataset": "hf"}), (AutoencoderFlags(), {})]
    kinds = {name: kind for default, settings in tasks for name, _, kind in leaves(with_settings(default, settings)[0])}
    marks = {
        name: mark
        for name, kind in kinds.items()
        for mark in getattr(kind, "__metadata__", ())
        if isinstance(mark, Resumable)
    }
    assert marks.keys() == RESUMABLE
    fixed = {name for name, mark in marks.items() if mark.unless == "eval_samples"}
    assert fixed == {"sampler", "steps", "guidance_scale"}


@pytest.mark.parametrize(
    "words",
    [
        "--run one --run=two --network unet",
        "--run two --batch_size 3 --network=unet",
        "--experiments-dir x --experiments_dir y",
    ],
)
def test_flags_are_read_ahead_as_tyro_reads_them(words: str) -> None:
    expected = {"experiments_dir": "y"} if "experiments" in words else {"run": "two", "network": "unet"}
    assert read_ahead(words.split()) == expected
    assert read_ahead(["--run"]) == read_ahead(["run", "x"]) == read_ahead(["--runs", "x"]) == {}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("batch_size: many", "--batch_size many: not a value of this setting"),
        ("batch_size: 1.5", "--batch_size 1.5: not a value of this setting"),
        ("batch_size: 0", "--batch_size 0: must be at least 1"),
        ("batch_size:", "--batch_size None: not a value of this setting"),
        ("lr: .inf", "--lr inf: must be finite"),
        ("compile: 3", "--compile 3: not a value of this setting"),
        ("optimizer: sgd", "--optimizer sgd: not a value of this setting"),
        ("betas: [0.5]", "--betas [0.5]: not a value of this setting"),
        ("network.width: wide", "--network.width wide: not a value of this setting"),
        ("network.multipliers: [1, 0.5]", "--network.multipliers [1, 0.5]: not a value of this setting"),
        ("batch_sise: 3", "unknown setting batch_sise; did you mean batch_size?"),
        ("network.hight: 3", "unknown setting network.hight"),
        ("network: dit\nnetwork.blocks: 2", "unknown setting network.blocks"),
    ],
)
def test_a_config_is_checked_as_flags_are(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "config.txt").write_text(text + "\n", encoding="utf-8")
    forget_flags()
    with pytest.raises(UserError) as refused:
        read_training(["--config", str(tmp_path / "config.txt")], "train_flow", FLOW, "")
    assert message in refused.value.text(spell)


def test_a_config_is_as_lenient_as_flags_are(tmp_path: Path) -> None:
    text = "epochs: 3\nname: 2026\nlr: 1e-4\nlr_milestones: 0.5\ndataset: hf:a/b\ndataset.size: 8\nmax_steps: null\n"
    (tmp_path / "config.txt").write_text(text, encoding="utf-8")
    parsed = read_training(["--config", str(tmp_path / "config.txt")], "train_flow", FLOW, "").flags
    assert (parsed.budget.epochs, parsed.budget.max_steps, parsed.run.name) == (3.0, None, "2026")
    assert (parsed.optimizer.lr, parsed.optimizer.lr_milestones) == (1e-4, (0.5,))
    assert (parsed.dataset, parsed.dataset_options.path, parsed.dataset_options.size) == ("hf", "a/b", (8,))


@pytest.mark.parametrize(
    ("words", "value"),
    [
        ("", "auto"),
        ("--compile", "on"),
        ("--compile --seed 3", "on"),
        ("--compile auto", "auto"),
        ("--compile=off", "off"),
        ("--compile off", "off"),
        ("--no-compile", "off"),
        ("--no_compile --seed 3", "off"),
    ],
)
def test_compile_alone_means_on(words: str, value: str) -> None:
    assert parse_flags(words.split(), FLOW, "train_flow", "").run.compile == value


@pytest.mark.parametrize(("text", "value"), [("true", "on"), ("false", "off"), ("auto", "auto"), ("'on'", "on")])
def test_configs_of_before_have_compile_as_true_or_false(text: str, value: str, tmp_path: Path) -> None:
    (tmp_path / "config.txt").write_text(f"compile: {text}\n", encoding="utf-8")
    words = ["--config", str(tmp_path / "config.txt")]
    assert read_training(words, "train_flow", FLOW, "").flags.run.compile == value


def test_defaults_that_are_left_out_are_not_named() -> None:
    settings, left_out = merge(LATENT, ("", {"network.width": 64}), ("", {"network": "dit"}))
    assert settings == {"dataset": "digits", "network": "dit", "space": "latents"} and left_out == []


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ("--dataset.path here", "--dataset.path: digits has no such option; choose --dataset folder or hf"),
        (
            "--network dit --network.kernel_size=3",
            "--network.kernel_size: dit has no such option; choose --network convnext",
        ),
        ("--dataset.nothing here", "Unrecognized options: --dataset.nothing, here (--help lists the flags of train)"),
    ],
)
def test_an_option_of_another_variant_names_that_variant(words: str, line: str) -> None:
    with pytest.raises(UserError) as refused:
        parse_flags(words.split(), FLOW, "train", "")
    assert refused.value.text(spell) == line


TASKS: dict[str, Any] = {
    "train_ddpm": TrainFlags(),
    "train_latent": LATENT,
    "train_vae": AutoencoderFlags(),
    "reconstruct": CodingFlags(),
    "generate": ModelFlags(),
}


@pytest.mark.parametrize("task", TASKS)
def test_ways_out_name_only_flags_that_the_task_has(task: str) -> None:
    """The options of all tasks are offered, with the prefix of their network, space or data set and without it."""
    options = {name for default in TASKS.values() for name, _, _ in leaves(with_settings(default, {})[0])}
    options |= {name.rpartition(".")[2] for name in options}
    forget_flags()
    own = {f"--{name}" for name, _, _ in leaves(parse_flags([], TASKS[task], task, ""))}
    aliases = {flag.replace("space.", "") for flag in own}
    error = UserError("`seed` 3: is taken", *(f"use `{option} x`" for option in sorted(options)))
    named = set(re.findall(r"--[a-z_.]+", error.text(spell)))
    assert own - {"--resume", "--config", "--recipe"} <= named <= own | aliases
    assert error.text(spell).startswith("--seed 3: is taken; use" if "--seed" in own else "seed 3: is taken; use")
