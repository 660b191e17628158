"""The user's mistakes: a line that names the value and the way out, exit code 2, and nothing left behind."""

from __future__ import annotations

import json
import os
import shutil
from datetime import UTC, datetime
from pathlib import Path

import pytest

from models.runs import checkpoints
from tests.commands.tasks import TINY, Ended, run_here


def check_refusal(ended: Ended, *words: str) -> None:
    assert ended.code == 2, ended.err
    assert ended.out == ""
    assert ended.err.startswith("error: ") and len(ended.err.splitlines()) == 1, ended.err
    for word in words:
        assert word in ended.err


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--dataset", "digitz"), ("digitz", "did you mean digits")),
        (("--network", "unett"), ("unett", "did you mean unet")),
        (("--batch_sise", "3"), ("--batch_sise", "did you mean --batch_size")),
        (("--network.widht", "3"), ("--network.widht", "--network.width")),
        (("--batch_size", "0"), ("--batch_size 0",)),
        (("--batch_size", "many"), ("--batch_size many: must be INT",)),
        (("--max_steps", "1.5"), ("--max_steps 1.5: must be INT",)),
        (("--max-minutes", "long"), ("--max_minutes long: must be FLOAT",)),
        (("--betas", "0.9", "x"), ("--betas 0.9 x: must be FLOAT FLOAT",)),
        (("--betas", "0.9"), ("--betas: a value is missing, FLOAT FLOAT",)),
        (("--network.multipliers", "wide"), ("--network.multipliers wide: must be [INT ...]",)),
        (("--data_root",), ("--data_root: a value is missing, STR",)),
        (("--seed", "-1"), ("--seed -1",)),
        (("--epochs", "-1"), ("--epochs",)),
        (("--max_minutes", "0"), ("--max_minutes",)),
        (("--label_drop", "1.5"), ("--label_drop",)),
        (("--label_drop", "0", "--guidance_scale", "2"), ("--guidance_scale 2", "--label_drop")),
        (("--max_minutes", "nan"), ("--max_minutes nan", "finite")),
        (("--epochs", "inf"), ("--epochs inf", "finite")),
        (("--betas", "1", "1"), ("--betas", "1")),
        (("--lr_gamma", "-1"), ("--lr_gamma",)),
        (("--accumulate", "99"), ("--accumulate 99", "--batch_size")),
        (("--timesteps", "-1"), ("--timesteps -1",)),
        (("--timesteps", "50", "--steps", "51"), ("--steps 51", "at most 50")),
        (("--steps", "0"), ("--steps",)),
        (("--noise_schedule", "cosin"), ("cosin", "cosine")),
        (("--noise_schedule", "flow"), ("flow", "--timesteps 0")),
        (("--zero_terminal_snr",), ("eps", "--prediction v")),
        (("--chain_betas", "ho"), ("ho", "published")),
        (("--chain_betas", "published"), ("published: the cosine schedule has no betas", "--noise_schedule linear")),
        (("--chain_betas", "published", "--noise_schedule", "flow"), ("the flow schedule has no betas",)),
        (("--chain_betas", "published", "--noise_schedule", "linear", "--timesteps", "0"), ("--timesteps, e.g. 1000",)),
        (("--graph", "on", "--device", "cpu"), ("--graph on", "cpu, not a CUDA GPU", "leave out --graph")),
        (("--timesteps", "0"), ("eps", "--prediction v")),
        (("--timesteps", "0", "--prediction", "v"), ("discrete", "--timesteps")),
        (("--prediction", "epsilon"), ("epsilon", "eps")),
        (("--times", "normal"), ("normal", "logit_normal")),
        (("--loss", "l3"), ("l3", "huber")),
        (("--weighting", "snr"), ("snr", "min_snr")),
        (("--lr_schedule", "cosin"), ("cosin",)),
        (("--sampler", "dim"), ("dim", "ddim")),
        (("--network.multipliers", "1", "1", "1", "1", "1"), ("8",)),
        (("--network.patch_size", "0"), ("patch_size",)),
        (("--device", "cuda:77"), ("cuda:77",)),
        (("--precision", "fp16"), ("fp16", "bf16")),
        (("--recipe", "ddpm_mnits"), ("ddpm_mnits", "did you mean ddpm_mnist?")),
        (("--config", "absent.txt"), ("absent.txt",)),
        (("--resume", "latest"), ("no run",)),
        (("--resume", "yesterday"), ("yesterday",)),
        (("--init_from", "yesterday"), ("yesterday",)),
        (("--name", "a/b"), ("a/b",)),
        (("--name", "a\nb"), ("printable",)),
        (("--dataset", "mnist", "--data_root", "nowhere"), ("train-images-idx3-ubyte", "nowhere", "--dataset digits")),
        (("--dataset", "folder", "--dataset.path", "nowhere"), ("nowhere",)),
    ],
    ids=lambda value: " ".join(value),
)
def test_training_flags(flags, words, tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    check_refusal(run_here("train_ddpm", *TINY, *flags, capsys=capsys), *words)
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from scripts import train_ddpm

    folder = tmp_path_factory.mktemp("runs")
    train_ddpm.main([*TINY, "--experiments_dir", str(folder), "--timesteps", "20"])
    return next(folder.iterdir())


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--steps", "0"), ("--steps",)),
        (("--steps", "21"), ("--steps 21", "at most 20")),
        (("--sampler", "dimm"), ("dimm", "ddim")),
        (("--sampler", "euler", "--eta", "1"), ("euler", "--eta", "ddim")),
        (("--sampler", "ddpm", "--variance", "big"), ("big", "posterior")),
        (("--sampler", "unipc", "--order", "4"), ("4",)),
        (("--grid", "even"), ("even", "karras")),
        (("--labels", "10"), ("10", "0 to 9")),
        (("--labels", "-1"), ("-1",)),
        (("--labels", "three"), ("three",)),
        (("--eta", "big"), ("--eta big: must be FLOAT",)),
        (("--variance", "big"), ("--variance big: choose from", "posterior")),
        (("--num_samples", "0"), ("--num_samples 0",)),
        (("--batch_size", "0"), ("--batch_size 0",)),
        (("--weights", "both"), ("both", "ema, raw")),
        (("--format", "mp4"), ("mp4", "svg")),
        (("--guidance_interval", "0.8", "0.2"), ("0.8 0.2",)),
        (("--guidance_scale", "nan"), ("--guidance_scale", "finite")),
        (("--sampler", "sde", "--diffusion", "inf"), ("--diffusion", "finite")),
        (("--run", "yesterday"), ("yesterday",)),
        (("--checkpoint", "absent.safetensors"), ("absent.safetensors",)),
        (("--autoguidance", "yesterday", "--guidance_scale", "2"), ("yesterday",)),
        (("--out", "/proc/nothing/here"), ("/proc/nothing",)),
        (("--precision", "fp16"), ("--precision fp16", "auto, float32, bf16")),
        (("--device", "meta"), ("--device meta", "choose auto, cpu")),
    ],
    ids=lambda value: " ".join(value),
)
def test_generation_flags(flags, words, run: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    before = sorted(run.rglob("*"))
    given = () if {"--run", "--checkpoint"} & set(flags) else ("--run", run)
    out = () if "--out" in flags else ("--out", tmp_path / "out")
    steps = () if "--steps" in flags else ("--steps", "2")
    check_refusal(run_here("generate", *given, *out, *steps, *flags, capsys=capsys), *words)
    assert list(tmp_path.iterdir()) == [] and sorted(run.rglob("*")) == before


def test_a_folder_that_is_not_empty_is_not_written_over(run: Path, tmp_path: Path, capsys) -> None:
    (tmp_path / "mine.txt").write_text("keep")
    ended = run_here("generate", "--run", run, "--steps", "2", "--out", tmp_path, capsys=capsys)
    check_refusal(ended, str(tmp_path), "name a new one")
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


@pytest.fixture
def copy(run: Path, tmp_path: Path) -> Path:
    """Copy of a run that a test may damage."""
    return Path(shutil.copytree(run, tmp_path / run.name))


def test_a_link_to_an_empty_folder_is_filled(run: Path, tmp_path: Path, capsys) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "link").symlink_to("there")
    words = ("--run", run, "--out", tmp_path / "link", "--num_samples", "2", "--steps", "2")
    assert run_here("generate", *words, capsys=capsys).code == 0
    assert (tmp_path / "there" / "grid.png").is_file()


def test_a_truncated_checkpoint(copy: Path, capsys) -> None:
    path = checkpoints.resolve_checkpoint(copy)
    path.write_bytes(path.read_bytes()[:-100])
    check_refusal(run_here("generate", "--run", copy, "--steps", "2", capsys=capsys), path.name, "truncated")


def test_a_missing_checkpoint(copy: Path, capsys) -> None:
    checkpoints.resolve_checkpoint(copy).unlink()
    check_refusal(run_here("generate", "--run", copy, "--steps", "2", capsys=capsys), "no checkpoint")
    (copy / "checkpoints" / "last").unlink()
    check_refusal(run_here("generate", "--run", copy, "--steps", "2", capsys=capsys), "checkpoint")


def test_a_foreign_checkpoint(tmp_path: Path, capsys) -> None:
    foreign = tmp_path / "model.pt"
    foreign.write_bytes(b"\x80\x04anything")
    check_refusal(run_here("generate", "--checkpoint", foreign, "--out", tmp_path / "x", capsys=capsys), "model.pt")
    other = tmp_path / "model.safetensors"
    other.write_bytes(b"anything")
    other.with_suffix(".yaml").write_text("who: knows\n")
    check_refusal(run_here("generate", "--checkpoint", other, "--out", tmp_path / "x", capsys=capsys), "model.yaml")


def test_a_config_that_would_run_code(copy: Path, tmp_path: Path, capsys) -> None:
    mark = tmp_path / "executed"
    evil = f"!!python/object/apply:os.system ['touch {mark}']\n"
    path = checkpoints.resolve_checkpoint(copy)
    path.with_suffix(".yaml").write_text(evil)
    check_refusal(run_here("generate", "--run", copy, "--steps", "2", capsys=capsys), ".yaml")
    (tmp_path / "evil.txt").write_text(evil)
    check_refusal(run_here("train_flow", "--config", tmp_path / "evil.txt", capsys=capsys), "evil.txt")
    assert not mark.exists()


def test_resuming_on_other_data(copy: Path, tmp_path: Path, capsys) -> None:
    path = checkpoints.resolve_checkpoint(copy)
    facts = path.with_suffix(".yaml").read_text().splitlines()
    at = next(index for index, line in enumerate(facts) if line == "data:")
    facts[at + 2] = "  sha256: " + "0" * 64
    path.with_suffix(".yaml").write_text("\n".join(facts))
    ended = run_here("train_ddpm", *TINY, "--timesteps", "20", "--resume", copy, capsys=capsys)
    check_refusal(ended, "data differ", "--changed_data")


def contents(folder: Path) -> dict[Path, tuple[bytes, int]]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in files}


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ((), ("6 steps", "add --max_steps above 6")),
        (("--max_steps", "3"), ("add --max_steps above 6",)),
        (("--max_steps", "6", "--lr", "1e-3"), ("add --max_steps above 6",)),
        (("--max_steps", "9", "--epochs", "0.01"), ("add --epochs above 0.0667",)),
        (("--max_steps", "6", "--epochs", "0.01"), ("add --epochs above 0.0667", "and --max_steps above 6")),
        (("--max_steps", "9", "--max_minutes", "1e-9"), ("add --max_minutes above 0.",)),
    ],
    ids=lambda value: " ".join(value),
)
def test_a_finished_run_is_not_resumed_without_a_longer_budget(flags, words, copy: Path, capsys) -> None:
    before = contents(copy)
    ended = run_here("train_ddpm", "--resume", copy, *flags, capsys=capsys)
    check_refusal(ended, copy.name, "has finished", *words)
    assert contents(copy) == before


def test_other_initial_weights_are_refused_when_a_run_is_resumed(copy: Path, run: Path, capsys) -> None:
    before = contents(copy)
    refused = run_here("train_ddpm", "--resume", copy, "--init_from", run, "--max_steps", "9", capsys=capsys)
    check_refusal(refused, "--init_from")
    assert contents(copy) == before


def test_a_run_that_stopped_early_is_not_resumed_with_the_same_patience(tmp_path: Path, capsys) -> None:
    words = ("--patience", "1", "--eval_every", "0.01", "--lr", "1e-12", "--max_steps", "90")
    folder = run_here("train_flow", *TINY, *words, "--experiments_dir", tmp_path, capsys=capsys).folder
    before = contents(folder)
    check_refusal(run_here("train_flow", "--resume", folder, capsys=capsys), "add --patience above 1")
    assert contents(folder) == before


@pytest.mark.parametrize(
    ("schedule", "rise"), [("cosine", "from 0 to 0.0005"), ("linear", "from 0 to 0.0005"), ("constant", "")]
)
def test_a_longer_budget_says_how_the_learning_rate_rises(schedule, rise, tmp_path: Path, capsys) -> None:
    words = (*TINY, "--lr_schedule", schedule, "--warmup_steps", "0", "--experiments_dir", tmp_path)
    folder = run_here("train_flow", *words, capsys=capsys).folder
    again = run_here("train_flow", "--resume", folder, "--max_steps", "12", capsys=capsys)
    assert again.folder == folder
    assert (f"the learning rate goes back up {rise}" in again.err) == bool(rise)
    assert again.err.splitlines()[-1] == f'finished; next: make generate ARGS="--run {folder}"'


def test_an_interrupted_run_resumes_without_a_word_on_the_learning_rate(copy: Path, capsys) -> None:
    status = json.loads((copy / "status.json").read_text()) | {"state": "interrupted"}
    (copy / "status.json").write_text(json.dumps(status))
    ended = run_here("train_ddpm", "--resume", copy, capsys=capsys)
    assert ended.folder == copy and "learning rate" not in ended.err


@pytest.mark.parametrize(
    "flags",
    [("--network.width", "16"), ("--network", "dit"), ("--network", "convnext"), ("--network.multipliers", "3", "5")],
    ids=" ".join,
)
def test_weights_of_another_network_are_refused(flags, run: Path, tmp_path: Path, capsys) -> None:
    words = (*(() if "--network" in flags else TINY), "--experiments_dir", tmp_path, "--init_from", run, *flags)
    ended = run_here("train_ddpm", *words, "--max_steps", "1", capsys=capsys)
    check_refusal(ended, "--init_from: only", "of the weights", "--network")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("task", ["train_flow", "train_latent", "train_vae"])
def test_the_config_of_another_task_is_refused(task: str, run: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    ended = run_here(task, "--config", run / "config.txt", capsys=capsys)
    check_refusal(ended, "--config", "a run of train_ddpm", f"not of {task}", "use it with train_ddpm")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("named", [(), ("--run", "latest"), ("--run", "ddpm-digits")], ids=" ".join)
def test_a_run_that_is_still_training_is_said(named, copy: Path, capsys) -> None:
    now = datetime.now(UTC).isoformat()
    status = json.loads((copy / "status.json").read_text())
    (copy / "status.json").write_text(json.dumps(status | {"state": "running", "progress": 0.25, "heartbeat": now}))
    words = ("--experiments_dir", copy.parent, "--steps", "2", "--num_samples", "2", *named)
    ended = run_here("generate", *words, capsys=capsys)
    assert ended.folder.is_relative_to(copy)
    assert f"{copy.name} is still training (step 6, 25% done)" in ended.err
    (copy / "status.json").write_text(json.dumps(status))
    assert "still training" not in run_here("generate", *words, capsys=capsys).err


def test_a_part_of_two_names_is_refused(run: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    for name in ("20260101_000000-flow-mnist", "20260102_000000-flow-mnist"):
        shutil.copytree(run, tmp_path / "runs" / name)
    monkeypatch.chdir(tmp_path)
    before = contents(tmp_path)
    for words in (
        ("generate", "--run", "flow"),
        ("evaluate", "--run", "2026"),
        ("train_ddpm", "--resume", "mnist"),
        ("train_ddpm", "--init_from", "flow-"),
        ("reconstruct", "--run", "mnist"),
    ):
        ended = run_here(*words, "--experiments_dir", "runs", capsys=capsys)
        check_refusal(ended, "2 runs match", "20260101_000000-flow-mnist", "20260102_000000-flow-mnist")
    assert contents(tmp_path) == before


def test_labels_and_guidance_of_a_model_without_labels(tmp_path: Path, capsys) -> None:
    words = (*TINY, "--experiments_dir", tmp_path, "--no-conditional")
    folder = run_here("train_flow", *words, capsys=capsys).folder
    check_refusal(run_here("generate", "--run", folder, "--labels", "1", capsys=capsys), "--labels")
    check_refusal(run_here("generate", "--run", folder, "--guidance_scale", "2", capsys=capsys), "--guidance_scale")


def test_guidance_without_label_drop(tmp_path: Path, capsys) -> None:
    words = (*TINY, "--experiments_dir", tmp_path, "--label_drop", "0")
    folder = run_here("train_flow", *words, capsys=capsys).folder
    check_refusal(run_here("generate", "--run", folder, "--guidance_scale", "2", capsys=capsys), "label_drop")


def test_a_corrupt_image_in_a_folder(tmp_path: Path, capsys) -> None:
    for label in ("cat", "dog"):
        (tmp_path / "pictures" / label).mkdir(parents=True)
        (tmp_path / "pictures" / label / "one.png").write_bytes(b"\x89PNG and no more")
    words = ("--dataset", "folder", "--dataset.path", tmp_path / "pictures", "--experiments_dir", tmp_path / "runs")
    check_refusal(run_here("train_flow", *TINY, *words, capsys=capsys), "one.png")
    assert not (tmp_path / "runs").exists()


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_an_unwritable_folder(tmp_path: Path, capsys) -> None:
    tmp_path.chmod(0o500)
    ended = run_here("train_flow", *TINY, "--experiments_dir", tmp_path / "runs", capsys=capsys)
    check_refusal(ended, "--experiments_dir")


def test_a_file_where_the_folder_should_be(tmp_path: Path, capsys) -> None:
    (tmp_path / "runs").write_text("")
    ended = run_here("train_flow", *TINY, "--experiments_dir", tmp_path / "runs", capsys=capsys)
    check_refusal(ended, "--experiments_dir")
