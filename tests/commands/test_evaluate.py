"""evaluate as people run it: a report whose card says how its figures were taken, whatever the batch size."""

from __future__ import annotations

import json
import math
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image

from models.evaluation.statistics import wilson_interval
from models.runs import checkpoints
from tests.commands.tasks import TINY, Ended, run_here

FEW = ("--num_images", "40", "--draws", "8")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a flow that knows a little, a chain, a flow without labels, an autoencoder and a latent flow."""
    from scripts import train_ddpm, train_flow, train_latent, train_vae

    folder = tmp_path_factory.mktemp("runs")
    once = ("--eval_every", "0", "--checkpoint_every", "0", "--no-tensorboard", "--experiments_dir", str(folder))
    tiny = [*TINY, *once, "--sample_every", "0", "--lr", "1e-2"]
    train_flow.main([*tiny, "--max_steps", "120", "--batch_size", "32", "--name", "labels"])
    train_ddpm.main([*tiny, "--timesteps", "50"])
    train_flow.main([*tiny, "--no-conditional", "--name", "plain"])
    train_vae.main(
        [*once, "--network.width", "8", "--batch_size", "32", "--max_steps", "60", "--lr", "5e-3", "--no-umap"]
    )
    train_latent.main([*tiny, "--network.multipliers", "1", "1", "--initial_noise", "uniform"])
    return folder


@pytest.fixture
def evaluate(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    def run(task: str, kind: str, *words: object) -> Ended:
        (folder,) = runs.glob(f"*{kind}*")
        return run_here("evaluate", "--task", task, "--run", folder, "--out", tmp_path, *words, capsys=capsys)

    return run


@pytest.fixture
def bayes(evaluate):
    return partial(evaluate, "bayes")


def report_of(ended: Ended) -> dict[str, Any]:
    return json.loads(ended.folder.read_text())


def test_the_report_goes_into_the_run_and_carries_its_protocol(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (run,) = runs.glob("*labels")
    ended = run_here("evaluate", "--task=bayes", "--run", run, *FEW, capsys=capsys)
    assert ended.folder.parent == run / "evaluation" and ended.folder.name.endswith("-bayes.json")
    report = report_of(ended)
    card, results = report["protocol"], report["results"]
    _, facts = checkpoints.load_checkpoint(checkpoints.resolve_checkpoint(run))
    assert card["run"] == run.name and card["step"] == 120 and card["weights"] == "ema"
    assert card["checkpoint_sha256"] == facts["sha256"] and len(card["images_sha256"]) == 64
    assert (card["dataset"], card["split"], card["num_images"]) == ("digits", "test", 40)
    assert (card["method"], card["draws"], card["time_range"]) == ("denoising", 8, [0.3, 0.9])
    assert results["accuracy"] == results["right"] / 40 > 0.3
    assert results["interval_95"] == pytest.approx(wilson_interval(results["right"], 40))
    assert results["evaluations_per_class_and_image"] <= results["most_evaluations_per_class_and_image"] <= 8
    assert sum(map(sum, results["confusion"])) == 40
    assert sum(results["confusion"][k][k] for k in range(10)) == results["right"] == 40 - len(results["wrong"])
    text = ended.folder.with_suffix(".txt").read_text()
    assert text.startswith(f"accuracy {100 * results['accuracy']:.2f} %")
    assert yaml.safe_load(text.split("\nprotocol\n")[1]) == card
    assert "40 of 40 images" in ended.err.splitlines()[0] and text.split("\nprotocol\n")[0].strip() in ended.err


def test_neither_batch_size_nor_what_else_is_classified_changes_the_answers(bayes) -> None:
    whole = report_of(bayes("labels", *FEW))["results"]
    parts = report_of(bayes("labels", *FEW, "--batch_size", "7"))["results"]
    same = ("confusion", "wrong", "evaluations_per_class_and_image")
    assert parts["cross_entropy"] == pytest.approx(whole["cross_entropy"], rel=1e-4)
    assert {key: whole[key] for key in same} == {key: parts[key] for key in same}
    later = report_of(bayes("labels", *FEW, "--first_image", "30", "--num_images", "10"))["results"]
    assert later["wrong"] == [each for each in whole["wrong"] if each["image"] >= 30]


def test_every_flag_acts(bayes) -> None:
    few = ("--num_images", "30", "--draws", "6")
    usual = report_of(bayes("labels", *few))
    for words, where in (
        (("--seed", "5"), "seed"),
        (("--weights", "raw"), "weights"),
        (("--split", "train"), "images_sha256"),
        (("--weighting", "flow"), "weighting"),
        (("--time_range", "0.8", "0.99"), "time_range"),
        (("--prior", "train"), "prior"),
        (("--patience", "0"), "patience"),
    ):
        report = report_of(bayes("labels", *few, *words))
        assert report["protocol"][where] != usual["protocol"][where], words
        if where != "patience":
            assert report["results"]["cross_entropy"] != usual["results"]["cross_entropy"], words
    patient = report_of(bayes("labels", "--num_images", "30", "--draws", "12", "--patience", "0"))["results"]
    assert patient["evaluations_per_class_and_image"] == 12
    eager = report_of(bayes("labels", "--num_images", "30", "--draws", "12", "--patience", "1"))["results"]
    assert eager["evaluations_per_class_and_image"] < 12


@pytest.mark.parametrize("kind", ["labels", "ddpm"])
def test_by_the_likelihood(bayes, kind: str) -> None:
    words = ("--method", "likelihood", "--num_images", "12", "--ode_steps", "3", "--batch_size", "64")
    report = report_of(bayes(kind, *words))
    assert report["protocol"]["method"] == "likelihood" and report["protocol"]["ode_steps"] == 3
    assert report["results"]["evaluations_per_class_and_image"] == 6
    if kind == "labels":
        assert report["results"]["right"] > 3
        exact = report_of(bayes(kind, *words, "--probes", "0", "--num_images", "3"))
        assert exact["protocol"]["probes"] == 0


@pytest.mark.parametrize("kind", ["ddpm", "latent"])
def test_chains_and_latents_too(bayes, runs: Path, kind: str) -> None:
    report = report_of(bayes(kind, "--num_images", "10", "--draws", "3"))
    assert report["results"]["images"] == 10
    (vae,) = runs.glob("*-vae-*")
    hashes = {"latent": checkpoints.load_checkpoint(checkpoints.resolve_checkpoint(vae))[1]["sha256"]}
    assert report["protocol"].get("autoencoder_sha256") == hashes.get(kind)


def test_an_autoencoder_by_gaussians_of_its_latents(bayes) -> None:
    report = report_of(bayes("-vae-", "--num_images", "0"))
    assert report["protocol"]["method"] == "gaussians" and report["protocol"]["shrinkage"] == 0.1
    assert report["results"]["images"] == 359
    assert report["results"]["accuracy"] > 0.8
    plainer = report_of(bayes("-vae-", "--num_images", "0", "--diagonal", "--shrinkage", "1"))
    assert plainer["results"]["cross_entropy"] > report["results"]["cross_entropy"]


@pytest.mark.parametrize(
    ("kind", "flags", "words"),
    [
        ("plain", (), ("model without labels", "conditional")),
        ("labels", ("--method", "magic"), ("--method magic", "denoising, likelihood")),
        ("labels", ("--method", "gaussians"), ("--method gaussians", "a denoiser")),
        ("-vae-", ("--method", "denoising"), ("--method denoising", "an autoencoder")),
        ("-vae-", ("--shrinkage", "2"), ("shrinkage 2",)),
        ("latent", ("--method", "likelihood"), ("uniform noise",)),
        ("labels", ("--draws", "0"), ("--draws 0",)),
        ("labels", ("--weighting", "x"), ("--weighting x", "variational")),
        ("labels", ("--time_range", "0.9", "0.1"), ("--time_range 0.9 0.1",)),
        ("labels", ("--prior", "none"), ("--prior none", "uniform, train")),
        ("labels", ("--split", "valid"), ("--split valid", "test, train")),
        ("labels", ("--first_image", "99999"), ("--first_image 99999", "images 0..")),
        ("labels", ("--num_images", "-1"), ("--num_images -1",)),
        ("labels", ("--first_image", "350", "--num_images", "10"), ("--num_images 10", "1 to 9")),
        ("labels", ("--batch_size", "0"), ("--batch_size 0",)),
        ("labels", ("--drawz", "3"), ("--drawz", "did you mean --draws")),
        ("labels", ("--method", "likelihood", "--ode_steps", "0"), ("--ode_steps 0",)),
        ("labels", ("--task", "bayez"), ("--task bayez", "did you mean bayes")),
    ],
)
def test_mistakes_are_one_line(
    bayes, tmp_path: Path, kind: str, flags: tuple[str, ...], words: tuple[str, ...]
) -> None:
    ended = bayes(kind, *flags)
    assert ended.code == 2 and ended.out == "", ended.err
    assert ended.err.startswith("error: ") and len(ended.err.splitlines()) == 1, ended.err
    assert all(word in ended.err for word in words), ended.err
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_task_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    ended = run_here("evaluate", "--task", "bays", capsys=capsys)
    assert ended.code == 2 and "--task bays: choose from samples, bayes" in ended.err
    assert "did you mean bayes?" in ended.err


def test_another_data_set_is_refused(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (run,) = runs.glob("*labels")
    path = checkpoints.resolve_checkpoint(run)
    for each in (path, path.with_suffix(".yaml")):
        (tmp_path / each.name).write_bytes(each.read_bytes())
    foreign = tmp_path / path.name
    facts = yaml.safe_load(foreign.with_suffix(".yaml").read_text())
    facts["data"]["sha256"] = "0" * 64
    foreign.with_suffix(".yaml").write_text(yaml.safe_dump(facts))
    words = ("--task", "bayes", "--checkpoint", foreign)
    assert "differs from the data" in run_here("evaluate", *words, "--out", tmp_path, capsys=capsys).err
    facts["data"]["sha256"] = yaml.safe_load(path.with_suffix(".yaml").read_text())["data"]["sha256"]
    foreign.with_suffix(".yaml").write_text(yaml.safe_dump(facts))
    assert "name an output folder with --out" in run_here("evaluate", *words, capsys=capsys).err


# -- the loss by t ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["labels", "ddpm", "plain", "latent"])
def test_the_loss_by_t_of_every_kind_of_model(evaluate, kind: str) -> None:
    ended = evaluate("loss", kind, "--num_images", "50")
    report = report_of(ended)
    card, results = report["protocol"], report["results"]
    assert ended.folder.name.endswith("-loss.json") and card["num_images"] == results["images"] == 50
    assert card["labels"] == ("none" if kind == "plain" else "each image's own")
    assert len(card["train_images_sha256"]) == 64 and card["train_images_sha256"] != card["images_sha256"]
    for name in ("test", "train", "gap"):
        curve = results[name]
        assert [each["from"] for each in curve["by_t"]] == [k / 10 for k in range(10)]
        assert curve["mean"] == pytest.approx(sum(each["loss"]["mean"] for each in curve["by_t"]) / 10, rel=1e-6)
        low, high = curve["interval_95"]
        assert low < curve["mean"] < high
    assert results["gap"]["mean"] == pytest.approx(results["test"]["mean"] - results["train"]["mean"], abs=1e-9)
    assert results["test"]["by_t"][0]["loss"]["mean"] > results["test"]["by_t"][9]["loss"]["mean"]
    text = ended.folder.with_suffix(".txt").read_text()
    assert "on 50 test images" in text and f"\nall         {results['test']['mean']:.4f} [" in text
    assert yaml.safe_load(text.split("\nprotocol\n")[1]) == card
    with Image.open(ended.folder.with_suffix(".png")) as picture:
        assert picture.width > 600
    assert "50 of 50 images, test loss" in ended.err.splitlines()[0]
    assert text.split("\nprotocol\n")[0].strip() in ended.err


def test_the_loss_does_not_depend_on_the_batch_size_and_every_flag_acts(evaluate) -> None:
    few = ("--num_images", "30")
    usual = report_of(evaluate("loss", "labels", *few))
    parts = report_of(evaluate("loss", "labels", *few, "--batch_size", "7"))
    for name in ("test", "train"):
        assert parts["results"][name]["mean"] == pytest.approx(usual["results"][name]["mean"], rel=1e-5)
    for words in (("--seed", "5"), ("--weights", "raw"), ("--num_images", "29")):
        assert report_of(evaluate("loss", "labels", *few, *words))["results"]["test"] != usual["results"]["test"]
    assert report_of(evaluate("loss", "labels", "--num_images", "0"))["results"]["images"] == 359


# -- bits per dimension -----------------------------------------------------------------------------------------


def bits_of(report: dict[str, Any]) -> float:
    return report["results"]["bits_per_dimension"]["mean"]


@pytest.mark.parametrize(
    ("kind", "words", "method"),
    [("ddpm", (), "vlb"), ("ddpm", ("--method", "ode"), "ode"), ("labels", (), "ode"), ("plain", (), "ode")],
)
def test_bits_per_dimension(evaluate, kind: str, words: tuple[str, ...], method: str) -> None:
    few = ("--ode_steps", "3") if method == "ode" else ()
    ended = evaluate("likelihood", kind, "--num_images", "20", *few, *words)
    report = report_of(ended)
    card, results = report["protocol"], report["results"]
    assert ended.folder.name.endswith("-likelihood.json") and card["method"] == method
    assert card["clip"] == (method == "vlb")
    assert results["dimensions"] == 64 and results["images"] == 20 and results["bound"] == "upper"
    assert results["of"] == "8-bit grey levels" + ("" if kind == "plain" else ", given the label")
    assert 1 < bits_of(report) < 60
    assert results["nats_per_image"]["mean"] == pytest.approx(bits_of(report) * 64 * math.log(2))
    low, high = results["bits_per_dimension"]["interval_95"]
    assert low < bits_of(report) < high
    if method == "vlb":
        assert card["steps"] == results["evaluations_per_image"] == 50  # the whole chain
        assert set(results["parts"]) == {"prior", "steps", "decoder"}
        assert sum(each["mean"] for each in results["parts"].values()) == pytest.approx(bits_of(report))
    else:
        assert card["ode_steps"] == 3 and results["evaluations_per_image"] == 6 and results["parts"] == {}
    text = ended.folder.with_suffix(".txt").read_text()
    assert text.startswith(f"{bits_of(report):.4f} [{low:.4f}, {high:.4f}] bits per dimension of 8-bit grey levels")
    assert yaml.safe_load(text.split("\nprotocol\n")[1]) == card
    assert "20 of 20 images" in ended.err.splitlines()[0] and text.split("\nprotocol\n")[0].strip() in ended.err


@pytest.mark.parametrize("kind", ["ddpm", "labels"])
def test_bits_do_not_depend_on_the_batch_size_and_every_flag_acts(evaluate, kind: str) -> None:
    few = ("--num_images", "12", *{"ddpm": ("--vlb_steps", "5"), "labels": ("--ode_steps", "3")}[kind])
    usual = report_of(evaluate("likelihood", kind, *few))
    assert usual["results"]["evaluations_per_image"] == {"ddpm": 5, "labels": 6}[kind]
    parts = report_of(evaluate("likelihood", kind, *few, "--batch_size", "5"))
    assert bits_of(parts) == pytest.approx(bits_of(usual), rel=1e-4)
    acting = {
        "ddpm": (("--vlb_steps", "0"), ("--vlb_steps", "6")),
        "labels": (("--ode_steps", "4"), ("--first_time", "0.01"), ("--probes", "2"), ("--probes", "0")),
    }
    for words in (("--seed", "5"), ("--weights", "raw"), ("--split", "train"), *acting[kind]):
        assert bits_of(report_of(evaluate("likelihood", kind, *few, *words))) != bits_of(usual), words


@pytest.mark.parametrize(
    ("task", "kind", "flags", "words"),
    [
        ("loss", "labels", ("--num_images", "1"), ("--num_images 1", "must be 2 to 359")),
        ("loss", "labels", ("--num_images", "-3"), ("--num_images -3",)),
        ("loss", "labels", ("--batch_size", "0"), ("--batch_size 0",)),
        ("loss", "-vae-", (), ("not a denoiser checkpoint",)),
        ("loss", "labels", ("--split", "test"), ("--split",)),
        ("likelihood", "latent", (), ("a model of latents", "trained on pixels")),
        ("likelihood", "-vae-", (), ("not a denoiser checkpoint",)),
        ("likelihood", "labels", ("--method", "vlb"), ("--method vlb", "continuous", "--method ode")),
        ("likelihood", "labels", ("--method", "elbo"), ("--method elbo", "auto, vlb, ode")),
        ("likelihood", "labels", ("--vlb_steps", "9"), ("--vlb_steps 9", "ode", "vlb")),
        ("likelihood", "plain", ("--vlb_steps", "0"), ("--vlb_steps 0", "ode", "vlb")),
        ("likelihood", "ddpm", ("--ode_steps", "9"), ("--ode_steps 9", "vlb", "ode")),
        ("likelihood", "ddpm", ("--method", "ode", "--vlb_steps", "9"), ("--vlb_steps 9", "leave it out")),
        ("bayes", "labels", ("--ode_steps", "9"), ("--ode_steps 9", "denoising", "likelihood")),
        ("bayes", "labels", ("--diagonal",), ("--diagonal", "gaussians")),
        ("bayes", "-vae-", ("--time_range", "0.1", "0.2"), ("--time_range 0.1 0.2", "denoising")),
        ("likelihood", "labels", ("--ode_steps", "0"), ("--ode_steps 0",)),
        ("likelihood", "labels", ("--first_time", "1"), ("--first_time 1",)),
        ("likelihood", "labels", ("--probes", "-1"), ("--probes -1",)),
        ("likelihood", "labels", ("--split", "valid"), ("--split valid",)),
        ("likelihood", "ddpm", ("--vlb_steps", "1"), ("--vlb_steps 1",)),
        ("loss", "labels", ("--num_images", "360"), ("--num_images 360", "359")),
        ("likelihood", "ddpm", ("--num_images", "1"), ("--num_images 1",)),
        ("likelihood", "ddpm", ("--num_images", "360"), ("--num_images 360", "359")),
        ("likelihood", "ddpm", ("--batch_size", "0"), ("--batch_size 0",)),
    ],
)
def test_mistakes_of_these_are_one_line(
    evaluate, tmp_path: Path, task: str, kind: str, flags: tuple[str, ...], words: tuple[str, ...]
) -> None:
    ended = evaluate(task, kind, *flags)
    assert ended.code == 2 and ended.out == "", ended.err
    assert ended.err.startswith("error: ") and len(ended.err.splitlines()) == 1, ended.err
    assert all(word in ended.err for word in words), ended.err
    assert list(tmp_path.iterdir()) == []
