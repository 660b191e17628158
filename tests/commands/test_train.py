"""train_ddpm and train_flow as people run them: the run folder, the flags, and resuming."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image

from models.model import load_model
from models.runs import checkpoints
from models.training import loop
from models.training.reporting import ReportSettings
from scripts.cli.flags import FLOW
from scripts.cli.settings import read_training
from tests.commands.tasks import REPOSITORY, TINY, Ended, rows_of, run_here, status_of, weights_hash

EXACT = ("--network.dropout", "0.2", "--accumulate", "2", "--label_drop", "0.3", "--checkpoint_every", "0.03")


@pytest.fixture
def train(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    def run(task: str, *arguments: str | Path) -> Ended:
        return run_here(task, "--experiments_dir", tmp_path / "runs", *TINY, *arguments, capsys=capsys)

    return run


@pytest.mark.curves
@pytest.mark.parametrize("task", ["train_ddpm", "train_flow"])
def test_a_run_leaves_a_folder_that_explains_itself(task: str, train) -> None:
    folder = train(task, "--sample_every", "0.05", "--eval_every", "0.03").folder
    assert status_of(folder)["state"] == "finished" and status_of(folder)["step"] == 6
    config = yaml.safe_load((folder / "config.txt").read_text())
    assert config["device"] == "cpu" and config["precision"] == "float32" and "auto" not in config.values()
    rows = rows_of(folder)
    assert [int(row["step"]) for row in rows] == sorted({int(row["step"]) for row in rows}) and rows[-1]["step"] == "6"
    assert all(float(row["test_loss"]) > 0 for row in rows)
    for name in ("environment.txt", "training_log.txt", "performance_metrics.txt", "checkpoints/last"):
        assert (folder / name).read_text().strip(), name
    pictures = ("loss_curves", "forward_noising", "final_samples/grid", "denoising_steps/noisy")
    for name in pictures:
        assert Image.open(folder / f"{name}.png").width > 100, name
    assert Image.open(folder / "denoising_steps" / "noisy" / "00_t1.00.png").size == (91, 10)  # ten images of 8x8
    assert list((folder / "epoch_samples").glob("*.png"))
    assert "gap" in (folder / "training_log.txt").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_an_uncompiled_run_imports_no_compiler(optimizer: str, tmp_path: Path) -> None:
    """It imports no other slow package that it does not need either."""
    flags = [str(word) for word in (*TINY, "--optimizer", optimizer, "--experiments_dir", tmp_path)]
    code = "import sys; from scripts.train_flow import main; main(sys.argv[1:]); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code, *flags], cwd=REPOSITORY, capture_output=True, text=True)
    folder, modules = done.stdout.splitlines()
    assert status_of(Path(folder))["state"] == "finished"
    assert "torch.optim" in modules.split()
    assert not {"torch._dynamo", "torch._inductor", "sklearn", "pandas", "scipy.stats"} & set(modules.split())


def test_the_loss_falls_and_is_that_of_the_test_split(train) -> None:
    folder = train(
        "train_flow", "--max_steps", "120", "--lr", "1e-2", "--eval_every", "0.2", "--eval_images", "64"
    ).folder
    losses = [float(row["test_loss"]) for row in rows_of(folder)]
    assert losses[-1] < 0.8 * losses[0]
    assert rows_of(folder)[-1]["test_loss"] != rows_of(folder)[-1]["train_grid_loss"]


def test_stopped_and_resumed_equals_uninterrupted(train) -> None:
    """It stops mid-epoch, with dropout, accumulation and label drop. Only the budget differs."""
    whole = train("train_flow", *EXACT, "--lr_schedule", "constant", "--ema", "0").folder
    part = train("train_flow", *EXACT, "--lr_schedule", "constant", "--ema", "0", "--max_steps", "4").folder
    assert weights_hash(part) != weights_hash(whole)
    again = train("train_flow", *EXACT, "--lr_schedule", "constant", "--ema", "0", "--resume", part).folder
    assert again == part and weights_hash(part) == weights_hash(whole)
    assert "resumed at step 4" in (part / "training_log.txt").read_text()
    assert [row["test_loss"] for row in rows_of(part)][-1] == [row["test_loss"] for row in rows_of(whole)][-1]


@pytest.mark.parametrize("step", [3, 5])
def test_work_that_was_due_at_an_interruption_is_done_at_the_resumption(step: int, train, monkeypatch) -> None:
    """The rows, the best checkpoint and the sheets are those of a run that was not interrupted."""
    flags = ("--max_steps", "8", "--log_every", "5", "--eval_every", "0.03", "--sample_every", "0.03")
    whole = train("train_flow", *flags).folder  # It evaluates at the steps 3, 6 and 8.
    advance = loop.SharedClock.advance

    def interrupted(clock: loop.SharedClock, elapsed: float, sent: int, agree: bool = False) -> int:
        nonlocal step
        step -= 1
        return advance(clock, elapsed, sent, agree=agree) or (signal.SIGINT if step == 0 else 0)

    monkeypatch.setattr(loop.SharedClock, "advance", interrupted)
    assert train("train_flow", *flags).code == 128 + signal.SIGINT
    part = train("train_flow", *flags, "--resume", "latest").folder
    columns = ("step", "test_loss", "train_loss", "lr")
    assert [[row[name] for name in columns] for row in rows_of(part, evaluated=False)] == [
        [row[name] for name in columns] for row in rows_of(whole, evaluated=False)
    ]
    sheets, others = (sorted(path.name for path in run.glob("epoch_samples/*.png")) for run in (part, whole))
    assert sheets == others and len(sheets) == 2
    assert weights_hash(part) == weights_hash(whole)
    assert (part / "checkpoints" / "best").read_text() == (whole / "checkpoints" / "best").read_text()


def test_resume_is_the_same_command_and_refuses_another(train) -> None:
    folder = train("train_flow", "--seed", "3").folder
    refused = train("train_flow", "--seed", "4", "--resume", "latest")
    assert refused.code == 2 and "--seed 4 (was 3)" in refused.err and len(refused.err.splitlines()) == 1
    assert train("train_flow", "--seed", "3", "--max_steps", "8", "--resume", "latest").folder == folder
    assert status_of(folder)["step"] == 8
    other = train("train_ddpm", "--resume", folder)
    assert other.code == 2 and "train_flow" in other.err


def test_a_published_chain_says_how_much_signal_is_left_and_is_rebuilt(train) -> None:
    """sqrt(prod(1 - beta)) of 50 betas from 1e-4 to 0.02 is 0.777."""
    short = ("--noise_schedule", "linear", "--timesteps", "50")
    folder = train("train_ddpm", *short, "--chain_betas", "published").folder
    line = "the chain ends at sqrt(alpha-bar) 0.78: its last step is not pure noise, but samples start from pure noise"
    assert line in (folder / "training_log.txt").read_text()
    model = load_model(checkpoints.resolve_checkpoint(folder, "last"), "ema", torch.device("cpu"))
    betas = torch.linspace(1e-4, 0.02, 50, dtype=torch.float64)
    torch.testing.assert_close(model.noise_schedule.level(torch.ones(())).alpha ** 2, (1 - betas).prod())


def test_config_file_gives_the_same_run(train) -> None:
    first = train("train_flow", "--seed", "5", "--prediction", "v", "--network.heads", "1").folder
    second = train("train_flow", "--config", first / "config.txt").folder
    assert first != second and weights_hash(first) == weights_hash(second)
    third = train("train_flow", "--config", first / "config.txt", "--seed", "6").folder
    assert weights_hash(third) != weights_hash(first)


@pytest.mark.slow
@pytest.mark.parametrize(
    "flags",
    [
        ("--batch_size", "8"),
        ("--lr", "1e-4"),
        ("--lr_schedule", "multistep"),
        ("--warmup_steps", "0"),
        ("--weight_decay", "0.5"),
        ("--betas", "0.5", "0.9"),
        ("--clip", "1e-3"),
        ("--ema", "0.9"),
        ("--loss", "l1"),
        ("--loss", "huber"),
        ("--weighting", "variational"),
        ("--weighting", "min_snr"),
        ("--weighting", "min_snr", "--weight_limit", "0.5"),
        ("--times", "uniform"),
        ("--time_mean", "1"),
        ("--no-stratified",),
        ("--label_drop", "0.9"),
        ("--no-conditional",),
        ("--prediction", "x0"),
        ("--noise_schedule", "cosine", "--prediction", "v"),
        ("--network.dropout", "0.5"),
        ("--seed", "9"),
    ],
    ids=" ".join,
)
def test_every_flag_acts(flags: tuple[str, ...], train, plain_hash: str) -> None:
    assert weights_hash(train("train_flow", "--max_steps", "3", *flags).folder) != plain_hash


@pytest.fixture(scope="module")
def plain_hash(tmp_path_factory: pytest.TempPathFactory) -> str:
    from scripts import train_flow

    runs = tmp_path_factory.mktemp("plain")
    train_flow.main([*TINY, "--max_steps", "3", "--experiments_dir", str(runs)])
    return weights_hash(next(runs.iterdir()))


@pytest.mark.parametrize(
    "flags",
    [
        *(("--eval_every", "0.02"), ("--sample_every", "0.02"), ("--num_samples", "3"), ("--log_every", "1")),
        ("--columns", "4", "--scale", "2"),
    ],
    ids=" ".join,
)
def test_watching_changes_nothing(flags: tuple[str, ...], train, plain_hash: str) -> None:
    assert weights_hash(train("train_flow", "--max_steps", "3", *flags).folder) == plain_hash


def test_the_training_loss_is_logged_without_evaluations(train) -> None:
    """Steps between evaluations of the default are more than these runs have."""
    folder = train("train_flow", "--log_every", "2", "--max_steps", "7").folder
    every, evaluated = rows_of(folder, evaluated=False), rows_of(folder)
    assert [row["step"] for row in every] == ["2", "4", "6", "7"] and [row["step"] for row in evaluated] == ["7"]
    assert all(float(row["train_loss"]) > 0 and float(row["lr"]) > 0 and row["grad_norm"] for row in every)
    log = [line for line in (folder / "training_log.txt").read_text().splitlines() if line.startswith("epoch")]
    assert ["  test " in line for line in log] == [False, False, False, True]
    assert status_of(folder)["loss"] == pytest.approx(float(every[-1]["train_loss"]), rel=1e-4)


@pytest.mark.parametrize("steps", [40, 60])
def test_a_short_run_has_a_curve_of_the_training_loss(steps: int, train) -> None:
    """A row follows each twentieth of the budget at the latest."""
    rows = rows_of(train("train_flow", "--max_steps", str(steps)).folder, evaluated=False)
    assert int(rows[-1]["step"]) == steps and 20 <= len(rows) <= steps
    assert all(float(row["train_loss"]) > 0 for row in rows)


def test_a_row_has_the_losses_since_the_row_before(train) -> None:
    """The mean over all rows is the mean over the run, also if it is resumed."""
    whole = train("train_flow", "--log_every", "6", "--lr_schedule", "constant").folder
    part = train("train_flow", "--log_every", "4", "--lr_schedule", "constant", "--max_steps", "4").folder
    train("train_flow", "--resume", part, "--log_every", "5", "--max_steps", "6")
    rows = rows_of(part, evaluated=False)
    assert [row["step"] for row in rows] == ["4", "5", "6"]
    mean = sum(float(row["train_loss"]) * steps for row, steps in zip(rows, (4, 1, 1), strict=True)) / 6
    assert mean == pytest.approx(float(rows_of(whole)[-1]["train_loss"]), rel=1e-4)


def test_a_small_data_set_is_evaluated_by_steps_and_a_large_one_by_epochs() -> None:
    usual = ReportSettings()
    assert usual.epochs_between(epoch_steps=1000) == (1, 5, 1)
    assert usual.epochs_between(epoch_steps=10) == (10, 50, 10)
    assert ReportSettings(eval_every=0.5, sample_every=0, checkpoint_every=2).epochs_between(10) == (0.5, 0, 2)


def test_init_from_reports_what_matched(train) -> None:
    source = train("train_flow").folder
    ended = train("train_flow", "--init_from", source, "--max_steps", "1", "--lr", "1e-12", "--weight_decay", "0")
    assert "initial weights:" in ended.err
    theirs = checkpoints.under("ema", checkpoints.load_checkpoint(checkpoints.resolve_checkpoint(source))[0])
    mine = checkpoints.under("network", checkpoints.load_checkpoint(checkpoints.resolve_checkpoint(ended.folder))[0])
    assert all(torch.allclose(mine[key], theirs[key], atol=1e-6) for key in theirs)


def test_early_stopping_and_best(train) -> None:
    """With a learning rate of nearly zero the loss does not fall, so patience ends the run."""
    folder = train(
        *("train_flow", "--max_steps", "40", "--eval_every", "0.03", "--patience", "2"),
        *("--lr", "1e-30", "--weight_decay", "0", "--ema", "0"),
    ).folder
    assert status_of(folder)["step"] < 40 and "early stop" in (folder / "training_log.txt").read_text()
    assert checkpoints.resolve_checkpoint(folder, checkpoints.BEST).is_file()


def test_minutes_end_the_run_and_the_learning_rate_with_it(train) -> None:
    folder = train("train_flow", "--max_steps", "1000000", "--max_minutes", "0.02", "--eval_every", "0").folder
    row = rows_of(folder)[-1]
    assert 1.0 < float(row["seconds"]) < 4.0
    assert float(row["lr"]) < 1e-4
    assert "; evaluation" in (folder / "training_log.txt").read_text()


def test_by_the_wall_clock_all_that_the_process_did_counts(train, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "process_age", lambda: 57.0)
    spent = "--max_minutes", "1", "--max_steps", "1000000"
    folder = train("train_flow", *spent, "--wall_clock", "--eval_every", "0.02").folder
    row = rows_of(folder)[-1]
    assert 60 <= float(row["seconds"]) < 70
    figures = yaml.safe_load((folder / "performance_metrics.txt").read_text())
    assert figures["evaluation_seconds"] > 0.2  # within the three seconds that were left
    monkeypatch.setattr(loop, "process_age", lambda: 3600.0)
    assert status_of(train("train_flow", *spent, "--wall_clock", "--eval_every", "0").folder)["step"] == 1
    assert status_of(train("train_flow", "--max_minutes", "1").folder)["step"] == 6


def test_checkpoints_are_kept_as_asked(train) -> None:
    folder = train("train_flow", "--checkpoint_every", "0.02", "--keep_checkpoints", "2").folder
    kept = checkpoints.list_checkpoints(folder / "checkpoints")
    best = checkpoints.resolve_checkpoint(folder, checkpoints.BEST)
    assert kept[-1].name == "step_00000006.safetensors" and len(set(kept) - {best}) <= 2
    everything = train("train_flow", "--checkpoint_every", "0.01", "--keep_checkpoints", "0").folder
    assert len(checkpoints.list_checkpoints(everything / "checkpoints")) == 6


def test_bf16_on_a_cpu_is_taken_with_a_measured_warning(train) -> None:
    ended = train("train_flow", "--precision", "bf16", "--max_steps", "2")
    assert "times as long as float32" in ended.err and status_of(ended.folder)["state"] == "finished"


def test_without_an_average_the_ema_weights_are_the_raw_ones(train) -> None:
    folder = train(
        "train_flow", "--ema", "0", "--max_steps", "7", "--checkpoint_every", "0.01", "--keep_checkpoints", "0"
    )
    for path in checkpoints.list_checkpoints(folder.folder / "checkpoints"):
        tensors, _ = checkpoints.load_checkpoint(path)
        raw, average = checkpoints.under("network", tensors), checkpoints.under("ema", tensors)
        assert all(torch.equal(raw[key], average[key]) for key in raw), path


def test_latest_is_the_latest_of_the_data_set_asked_for(train, tmp_path: Path) -> None:
    folder = train("train_flow", "--name", "first").folder
    refused = train("train_flow", "--dataset", "mnist", "--resume", "latest")
    assert refused.code == 2 and "no run of train_flow on mnist" in refused.err
    refused = train("train_flow", "--dataset", "mnist", "--resume", folder)
    assert refused.code == 2 and "--dataset mnist (was digits)" in refused.err
    refused = train("train_flow", "--network", "dit", "--resume", folder)
    assert refused.code == 2 and "--network dit (was unet)" in refused.err


def test_a_config_of_another_network_lends_what_fits(train) -> None:
    first = train("train_flow", "--seed", "5").folder
    words = ("--config", first / "config.txt", "--network", "dit", "--network.width", "8", "--network.depth", "1")
    assert train("train_flow", *words).code == 2  # the tiny settings name multipliers, which a dit does not have
    request = read_training([str(word) for word in words], "train_flow", FLOW, "")
    assert request.flags.run.seed == 5 and request.flags.network_options.heads == 4
    assert f"network.heads of {first / 'config.txt'}" in request.notes[0]


def test_settings_that_are_left_out_stand_in_the_log(train, tmp_path: Path) -> None:
    config = tmp_path / "config.txt"
    config.write_text("network: convnext\nnetwork.expansion: 3\n", encoding="utf-8")
    folder = train("train_flow", "--config", config, "--network", "unet", "--max_steps", "1").folder
    assert f"left out, since they belong to another network, space or data set: network.expansion of {config}" in (
        folder / "training_log.txt"
    ).read_text(encoding="utf-8")


def test_a_run_of_another_version_is_resumed(train) -> None:
    """Its config lacks flags that are younger, and has settings that no longer exist."""
    folder = train("train_flow").folder
    lines = (folder / "config.txt").read_text(encoding="utf-8").splitlines()
    young = ("coupling:", "network.conditioning:", "wall_clock:", "betas:", "- 0.9")
    kept = [line for line in lines if not line.startswith(young)]
    (folder / "config.txt").write_text("\n".join([*kept, "older_setting: 3", "network.older: 1"]), encoding="utf-8")
    refused = train("train_flow", "--coupling", "optimal", "--resume", folder)
    assert refused.code == 2 and "--coupling optimal (was independent)" in refused.err
    assert train("train_flow", "--max_steps", "8", "--resume", folder).folder == folder
    log = (folder / "training_log.txt").read_text(encoding="utf-8")
    assert "settings of the run that this version does not have: older_setting, network.older" in log
    assert "older_setting" not in (folder / "config.txt").read_text(encoding="utf-8")


def test_what_was_initialised_from_may_go(train) -> None:
    import shutil

    source = train("train_flow", "--name", "source").folder
    folder = train("train_flow", "--init_from", source).folder
    shutil.rmtree(source)
    assert train("train_flow", "--init_from", source, "--max_steps", "8", "--resume", folder).folder == folder


def test_a_recipe_does_not_hinder_the_resuming_of_another_network(
    train, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`make train_mnist ARGS="--resume latest"` names the recipe, whose network the run need not have."""
    folder = train("train_flow", "--network", "convnext", "--max_steps", "2").folder
    words = ("--experiments_dir", tmp_path / "runs", "--recipe", "demo_digits", "--resume", folder, "--max_steps", 3)
    ended = run_here("train_flow", *words, capsys=capsys)
    assert ended.code == 0, ended.err
    assert status_of(folder)["step"] == 3
