"""Models that come with the repository: `pretrained` makes them, every task takes them and writes in experiments."""

from __future__ import annotations

import hashlib
import re
import shutil
from pathlib import Path

import pytest
import torch
import yaml

import models
from models.places import PRETRAINED
from models.runs import checkpoints, lookup
from models.runs.lookup import find_shipped, read_config
from scripts.tasks import shipping, shipping_card, shipping_pictures
from tests.commands.tasks import REPOSITORY, TINY, Ended, run_here
from tests.commands.test_bad_input import check_refusal

SMALL = ("--max_steps", "4", "--network.width", "8", "--network.blocks", "1", "--warmup_steps", "1", "--no-tensorboard")
SMALL_STUDENT = (*SMALL[:2], *SMALL[-3:], "--batch_size", "16", "--eval_images", "16", "--num_samples", "10")
MACHINE = re.compile(r"/(tmp|home|root|work|Users)/")


def patched(patch: pytest.MonkeyPatch, folder: Path) -> None:
    for module in (lookup, shipping, shipping_card):
        patch.setattr(module, "PRETRAINED", folder)
    patch.setattr(lookup, "SHIPPED_DATA", "digits")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in the place of models/pretrained: the digits as `pretrained` makes them after four steps, a student."""
    from scripts import pretrained

    folder = tmp_path_factory.mktemp("repository") / "pretrained"
    folder.mkdir()
    (folder / "README.md").write_text(f"before\n{shipping_card.BEGIN}\nold\n{shipping_card.END}\nafter\n")
    with pytest.MonkeyPatch.context() as patch:
        patched(patch, folder)
        patch.setattr(shipping, "ROWS", (("heun", 2, 1.5),))
        patch.setattr(shipping, "draw_pictures", lambda models, folder: None)
        student = shipping.MODELS["mnist-1"]._replace(
            words="--run pretrained/digits --guidance_scale 1.5", data="digits"
        )
        patch.setitem(shipping.MODELS, "digits-1", student)
        words = ["--num_images", "30", "--experiments_dir", str(folder.parent / "runs"), "--models"]
        pretrained.main([*words, "digits", "--", *SMALL])
        pretrained.main(["--no-classification_accuracy", *words, "digits-1", "--", *SMALL_STUDENT])
    return folder


@pytest.fixture
def shipped(made: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    patched(monkeypatch, made)
    return made / "digits"


@pytest.fixture
def run(shipped: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """Run a task with an empty folder of runs. The folder of the shipped model must not change."""

    def run(task: str, *words: object) -> Ended:
        before = {path: path.read_bytes() for path in shipped.rglob("*") if path.is_file()}
        ended = run_here(task, *words, "--experiments_dir", tmp_path / "mine", capsys=capsys)
        assert before == {path: path.read_bytes() for path in shipped.rglob("*") if path.is_file()}
        return ended

    return run


def check_card(folder: Path) -> None:
    """The card names the hash of the weights, and no file names a place of the machine that trained them."""
    path = checkpoints.resolve_checkpoint(folder)
    tensors, facts = checkpoints.load_checkpoint(path)
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert hashlib.sha256(path.read_bytes()).hexdigest() in card and f"| {facts['step']:,} of " in card
    assert {tensor.dtype for tensor in tensors.values()} == {torch.float16}
    assert yaml.safe_load(card.split("---")[1])["license"] == "mit"
    assert re.search(r"\| commit \| [0-9a-f]{12}", card) and (folder / "samples.png").stat().st_size > 500
    texts = [path.read_text(encoding="utf-8") for path in folder.rglob("*") if path.suffix in (".md", ".yaml", ".txt")]
    assert len(texts) >= 3 and not any(MACHINE.search(text) for text in texts)


@pytest.mark.parametrize("folder", find_shipped(), ids=lambda folder: folder.name)
def test_cards_of_the_shipped_models(folder: Path) -> None:
    check_card(folder)
    assert folder.name in shipping.MODELS and f"({folder.name}/README.md)" in (PRETRAINED / "README.md").read_text()
    assert checkpoints.resolve_checkpoint(folder).stat().st_size < 3e6


def test_every_picture_of_readme_and_tour_is_drawn_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every picture in docs/images is drawn by its own command, from the model that the command names."""
    ran: list[tuple[object, ...]] = []

    def run_task(task: str, *words: object) -> Path:
        folder = tmp_path / f"{len(ran)}"
        folder.mkdir()
        ran.append((task, *words))
        for name in (*shipping_pictures.RESULTS.values(), "animation.webp"):
            (folder / name).write_text(f"{name} of {task} {words[:2]}")
        return folder

    monkeypatch.setattr(shipping_pictures, "run_task", run_task)
    monkeypatch.setattr(shipping_pictures, "IMAGES", tmp_path)
    drawn = REPOSITORY / "docs" / "images"
    shipping_pictures.draw_pictures(["digits"], "runs")
    assert not (tmp_path / "reverse.webp").exists() and ran[-1][:3] == ("export", "--run", "pretrained/digits")
    shipping_pictures.draw_pictures(["mnist"], "runs")
    expected = {path.name for path in drawn.iterdir() if not path.name.startswith("study_")}
    assert {path.name for path in tmp_path.iterdir() if path.is_file()} == expected
    assert (tmp_path / "tour_reverse.png").read_text().startswith("denoising_strip.png of generate")
    assert (tmp_path / "tour_inpaint.png").read_text().startswith("inpainting.png of inpaint")


@pytest.mark.slow
def test_what_pretrained_makes(made: Path) -> None:
    check_card(made / "digits")
    card = (made / "digits" / "README.md").read_text()
    command = re.search(r'`make train_flow ARGS="(.*)"`', card)
    assert command and command[1].endswith(f"--max_steps 2000 {' '.join(SMALL)}")
    assert re.search(r"\| heun 2, 6 \| 1.5 \| \d+\.\d\d % \[\d+\.\d\d, \d+\.\d\d\] \|", card), card
    index = (made / "README.md").read_text()
    assert "(digits/README.md)" in index and "old" not in index and index.endswith(f"{shipping_card.END}\nafter\n")
    (trained,) = (made.parent / "runs").glob("*-flow-digits-pretrained")
    tensors, _ = checkpoints.load_checkpoint(checkpoints.resolve_checkpoint(trained))
    model = models.load(trained)
    ours = dict(model.denoiser.network.named_parameters())
    assert ours.keys() == checkpoints.under("ema", tensors).keys()


def test_shipped_weights_are_measured_without_a_run(made: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    """`--trained` keeps weights and how they were made, and measures the first row of the card again."""
    from scripts import pretrained

    folder = Path(shutil.copytree(made, tmp_path / "pretrained"))
    patched(monkeypatch, folder)
    monkeypatch.setattr(shipping, "ROWS", (("heun", 3, 1.0),))
    monkeypatch.setattr(shipping, "draw_pictures", lambda models, folder: None)
    weights = checkpoints.resolve_checkpoint(folder / "digits")
    before, card = weights.read_bytes(), (folder / "digits" / "README.md").read_text()
    words = ["--num_images", "20", "--no-classification_accuracy", "--experiments_dir", str(tmp_path / "runs")]
    pretrained.main(["--trained", "--models", "digits", *words])
    assert "the shipped weights are measured" in capsys.readouterr().err and weights.read_bytes() == before
    again = (folder / "digits" / "README.md").read_text()
    begin = card.index(shipping_card.RECORD)
    assert again[:begin] == card[:begin] and "| heun 3, 5 | 1 |" in again and "heun 2" not in again[begin:]


def test_the_card_of_a_student_has_one_row(made: Path, run) -> None:
    """Its teacher is named with its hash, and the model is used by its name."""
    check_card(made / "digits-1")
    card = (made / "digits-1" / "README.md").read_text()
    teacher = hashlib.sha256(checkpoints.resolve_checkpoint(made / "digits").read_bytes()).hexdigest()
    assert f"1 evaluation, student of pretrained/digits, guidance 1.5 built in; teacher's SHA-256 {teacher}" in card
    assert len(re.findall(r"^\| student, 1 \| 1.5, built in \| \d", card, re.MULTILINE)) == 1 and "heun" not in card
    assert 'make generate ARGS="--run pretrained/digits-1"' in card
    assert "(digits-1/README.md)" in (made / "README.md").read_text()
    assert "student of pretrained/digits" in run("generate", "--run", "digits-1", "--num_samples", 2).err
    refused = run("generate", "--run", "pretrained/digits-1", "--steps", 3)
    check_refusal(refused, "--steps 3", "--run pretrained/digits")


def test_the_library_loads_a_shipped_model_in_float32(shipped: Path) -> None:
    (run,) = (shipped.parents[1] / "runs").glob("*-flow-digits-pretrained")
    trained = models.load(run).denoiser.network.state_dict()
    loaded = models.load("pretrained/digits").denoiser.network.state_dict()
    for name, weights in trained.items():
        assert loaded[name].dtype == torch.float32
        torch.testing.assert_close(loaded[name], weights.half().float(), rtol=0, atol=0)


def test_without_a_run_generate_takes_the_shipped_model_and_says_so(run, tmp_path: Path, capsys) -> None:
    line = "pretrained/digits is used, which comes with the repository"
    for words in ((), ("--run", "digits"), ("--run", "pretrained/digits")):
        ended = run("generate", "--num_samples", 4, "--steps", 2, *words)
        assert ended.folder.parent == tmp_path / "mine" / "pretrained" / "digits" / "samples"
        assert ended.err.count(line) == (words[-1:] != ("pretrained/digits",))
    own = run_here("train_flow", *TINY, "--experiments_dir", tmp_path / "mine", "--max_steps", 1, capsys=capsys).folder
    for words in ((), ("--run", "digits")):
        ended = run("generate", "--num_samples", 4, "--steps", 2, *words)
        assert ended.folder.parent == own / "samples" and line not in ended.err
    check_refusal(run("generate", "--run", "pretrained/none"), "pretrained/none", "choose from pretrained/digits")


def test_without_a_run_the_shipped_model_is_the_teacher(run) -> None:
    small = ("--max_steps", 1, "--batch_size", 4, "--eval_images", 4, "--num_samples", 1, "--no-tensorboard")
    ended = run("distill", *small, "--steps", 1, "--device", "cpu")
    assert ended.err.count("pretrained/digits is used, which comes with the repository") == 1
    assert read_config(ended.folder)["run"] == "pretrained/digits"


@pytest.mark.parametrize(
    ("words", "kind"),
    [
        (("evaluate", "--task", "bayes", "--num_images", 2), "evaluation"),
        (("evaluate", "--task", "loss", "--num_images", 2), "evaluation"),
        (("inpaint", "--rows", 2, "--steps", 2), "inpainting"),
        (("interpolate", "--rows", 1, "--steps", 2), "interpolations"),
        (("generate", "--every_checkpoint", "--num_samples", 2, "--steps", 2), "samples"),
    ],
    ids=lambda value: " ".join(map(str, value[:3])) if isinstance(value, tuple) else value,
)
def test_results_lie_in_the_folder_of_runs(words: tuple[object, ...], kind: str, run, tmp_path: Path) -> None:
    assert run(*words, "--run", "pretrained/digits").folder.parent.parts[-3:] == ("pretrained", "digits", kind)
    assert (tmp_path / "mine" / "pretrained" / "digits").is_dir()


def test_a_shipped_model_begins_a_training_and_is_not_resumed(run) -> None:
    refused = run("train_flow", "--resume", "pretrained/digits")
    check_refusal(refused, "--resume pretrained/digits", "--init_from pretrained/digits")
    check_refusal(run("generate", "--run", "pretrained/digits", "--weights", "raw"), "has no such weights")
    network = ("--network.width", 8, "--label_drop", 0.1, "--max_steps", 1, "--init_from", "pretrained/digits")
    log = (run("train_flow", *TINY, *network).folder / "training_log.txt").read_text()
    assert re.search(r"initial weights: (\d+) of \1 tensors matched", log)


def test_every_checkpoint_of_a_shipped_model_has_its_averaged_weights(run) -> None:
    words = ("--every_checkpoint", "--num_images", 40, "--extractors", "convnet", "--steps", 2)
    table = (run("evaluate", *words, "--run", "pretrained/digits").folder / "table.txt").read_text()
    assert " ema " in table and " raw " not in table


def test_pretrained_refuses_what_it_cannot_make(tmp_path: Path, capsys) -> None:
    for words, said in {
        ("--models", "cifar10"): "choose from digits, mnist",
        ("--trained", "--", "--max_steps", "3"): "leave out the flags after --",
    }.items():
        check_refusal(run_here("pretrained", "--experiments_dir", tmp_path, *words, capsys=capsys), said)
