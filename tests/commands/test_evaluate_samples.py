"""evaluate as people run it on generated images: wherever these come from, the same images get the same figures."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from models.evaluation import inception
from models.evaluation.classifier import Classifier
from models.evaluation.measure_names import kind_of
from models.runs import checkpoints
from models.variants import DATA_SETS
from tests.commands.tasks import TINY, Ended, run_here, tiny_classifier

COUNT = 30
STEPS, SEED = ("--steps", 3), ("--seed", 5)
IN_TURN = ("--labels", *range(10))  # As generate asks for them.


class Made(NamedTuple):
    """experiments: the folder of runs. run: a flow trained for a moment. samples: the folder of COUNT images that
    generate made of it. network: the file of a classifier."""

    experiments: Path
    run: Path
    samples: Path
    network: Path

    @property
    def npz(self) -> Path:
        return self.samples / "samples.npz"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    from scripts import generate, train_flow

    folder = tmp_path_factory.mktemp("made")
    experiments, samples = folder / "experiments", folder / "samples"
    once = ("--eval_every", "0", "--checkpoint_every", "0", "--sample_every", "0", "--experiments_dir", experiments)
    train_flow.main([*map(str, (*TINY, *once, "--max_steps", 30, "--lr", "3e-3"))])
    (run,) = experiments.glob("2*")
    words = ("--run", run, "--num_samples", COUNT, *STEPS, *SEED, "--save_images", "--out", samples)
    generate.main([*map(str, words)])
    return Made(experiments, run, samples, tiny_classifier(folder))


@pytest.fixture
def evaluate(made: Made, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """With the tiny network; of the run, as generate sampled it, where no samples are named."""

    def run(*words: object, experiments: Path = made.experiments, network: object = made.network) -> Ended:
        of_run = () if "--samples" in words or "--run" in words else ("--run", made.run, *STEPS, *SEED)
        usual = ("--extractors", network, "--draws", 10, "--experiments_dir", experiments)
        out = () if "--out" in words else ("--out", tmp_path / f"out{len(list(tmp_path.iterdir()))}")
        return run_here("evaluate", *of_run, *usual, *out, *words, capsys=capsys)

    return run


def report_of(ended: Ended) -> dict[str, Any]:
    return json.loads((ended.folder / "report.json").read_text())


def numbers_of(rows: dict[str, Any]) -> dict[str, float]:
    """What is known of a row: some have no interval, some no floor."""
    known = {kind: estimate for kind, estimate in rows.items() if estimate is not None}
    return {f"{kind} {key}": each for kind, row in known.items() for key, each in row.items() if each is not None}


def assert_alike(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert one["samples"]["images_sha256"] == other["samples"]["images_sha256"]
    assert one["results"].keys() == other["results"].keys() and one.get("confusion") == other.get("confusion")
    for name, rows in one["results"].items():
        assert numbers_of(rows) == pytest.approx(numbers_of(other["results"][name]), rel=1e-6, abs=1e-6), name


def test_a_run_its_archive_and_its_pictures_get_the_same_figures(evaluate, made: Made) -> None:
    of_run = report_of(evaluate("--num_images", COUNT, *IN_TURN))
    of_archive = report_of(evaluate("--samples", made.npz))
    of_pictures = report_of(evaluate("--samples", made.samples / "images"))
    assert_alike(of_run, of_archive)
    assert_alike(of_run, of_pictures)
    assert any(name.startswith("recognised_") for name in of_run["results"])
    assert (of_run["samples"]["made_by"], of_archive["samples"]["made_by"]) == ("generate", "generate")
    assert of_run["samples"]["nfe"] == of_archive["samples"]["nfe"] == 5
    for word in ("checkpoint_sha256", "step"):
        assert of_run["samples"][word] == of_archive["samples"][word]
    assert of_archive["samples"]["steps"] == 3
    assert of_run["protocol"] == of_archive["protocol"] == of_pictures["protocol"]
    assert of_run["protocol"]["images"] == COUNT and of_run["protocol"]["dataset"] == "digits"


def test_what_is_written(evaluate, made: Made) -> None:
    ended = evaluate("--num_images", COUNT, *IN_TURN)
    names = {"samples.png", "nearest.png", "farthest.png", "closest_pairs.png", "confusion.png"}
    assert names | {"report.json", "report.txt", "resampled.safetensors", "samples.npz"} <= {
        path.name for path in ended.folder.iterdir()
    }
    for name in names:
        with Image.open(ended.folder / name) as picture:
            assert min(picture.size) > 40, name
    report, text = report_of(ended), (ended.folder / "report.txt").read_text()
    cards = yaml.safe_load(text[text.index("\nprotocol:") :])
    assert {key: report[key] for key in cards} == cards
    assert all(f" {kind_of(name)} " in text.replace("\n", " ") for name in report["results"])
    assert [word for word in report["warnings"] if f"{COUNT} images for 128 features" in word]
    for rows in report["results"].values():
        assert rows["found"]["low"] is None or rows["found"]["low"] <= rows["found"]["value"] <= rows["found"]["high"]
    assert sum(map(sum, report["confusion"])) == COUNT
    with np.load(ended.folder / "samples.npz") as mine, np.load(made.npz) as theirs:
        assert (mine["arr_0"] == theirs["arr_0"]).all() and (mine["arr_1"] == theirs["arr_1"]).all()
    again = evaluate("--samples", ended.folder / "samples.npz", "--dataset", "digits")
    assert_alike(report, report_of(again))


def test_without_out_it_goes_into_the_run_or_beside_the_samples(
    made: Made, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    usual = ("--extractors", made.network, "--draws", 10, "--num_images", 8, "--experiments_dir", made.experiments)
    of_run = run_here("evaluate", "--run", made.run, *STEPS, *SEED, *usual, capsys=capsys)
    assert of_run.folder.parent == made.run / "evaluation"
    shutil.copyfile(made.npz, tmp_path / "mine.npz")
    words = ("--samples", tmp_path / "mine.npz", "--dataset", "digits")
    of_file = run_here("evaluate", *words, *usual, capsys=capsys)
    assert of_file.folder.parent == tmp_path / "evaluation" and of_file.folder.name.endswith("-mine")
    assert report_of(of_file)["samples"]["made_by"] == "others"


def test_the_first_images_alone(evaluate, made: Made, tmp_path: Path) -> None:
    with np.load(made.npz) as archive:
        np.savez(tmp_path / "first.npz", arr_0=archive["arr_0"][:12], arr_1=archive["arr_1"][:12])
    few = report_of(evaluate("--samples", made.npz, "--num_images", 12))
    assert few["protocol"]["images"] == 12 and few["protocol"]["floor"] == "test split, 12 images"
    assert_alike(few, report_of(evaluate("--samples", tmp_path / "first.npz", "--dataset", "digits")))
    assert_alike(few, report_of(evaluate("--num_images", 12, *IN_TURN)))


def test_classes_come_as_often_as_in_the_training_images(evaluate) -> None:
    labels = DATA_SETS.find("digits")().load(Path()).train.labels
    ended = evaluate("--num_images", 359, "--sampler", "euler", "--steps", 1)
    with np.load(ended.folder / "samples.npz") as archive:
        found = np.bincount(archive["arr_1"], minlength=10)
    expected = 359 * torch.bincount(labels).numpy() / len(labels)
    assert abs(found - expected).max() < 1
    assert len(set(found.tolist())) > 1  # in turn they would be equally many
    assert not [word for word in report_of(ended)["warnings"] if "shares" in word]
    few = evaluate("--num_images", 40, "--sampler", "euler", "--steps", 1)
    with np.load(few.folder / "samples.npz") as archive, np.load(ended.folder / "samples.npz") as more:
        assert (archive["arr_1"] == more["arr_1"][:40]).all()


def test_neither_batch_size_nor_threads_change_a_figure(evaluate, made: Made) -> None:
    whole = report_of(evaluate("--samples", made.npz))
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        assert_alike(whole, report_of(evaluate("--samples", made.npz, "--batch_size", 7)))
    finally:
        torch.set_num_threads(before)
    in_parts = evaluate("--num_images", COUNT, *IN_TURN, "--batch_size", 7)
    with np.load(in_parts.folder / "samples.npz") as mine, np.load(made.npz) as theirs:
        images = [each["arr_0"].astype(int) for each in (mine, theirs)]
    assert np.abs(images[0] - images[1]).max() <= 1  # float sums may round differently in other batch sizes
    if (images[0] == images[1]).all():
        assert_alike(whole, report_of(in_parts))


def test_real_images_are_read_once(evaluate, made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counts: list[int] = []
    extract = Classifier.extract
    monkeypatch.setattr(Classifier, "extract", lambda self, images: counts.append(len(images)) or extract(self, images))
    words = ("--samples", made.npz, "--dataset", "digits")
    first = report_of(evaluate(*words, experiments=tmp_path / "new"))
    assert counts == [COUNT, 1438, 359]
    second = report_of(evaluate(*words, experiments=tmp_path / "new"))
    assert counts == [COUNT, 1438, 359, COUNT]
    assert_alike(first, second)
    for path in (tmp_path / "new" / ".features").iterdir():
        path.write_bytes(path.read_bytes()[:-9])
    assert_alike(first, report_of(evaluate(*words, experiments=tmp_path / "new")))
    assert counts[4:] == [COUNT, 1438, 359]


def test_pictures_in_folders_of_their_class(evaluate, made: Made, tmp_path: Path) -> None:
    for path in (made.samples / "images").iterdir():
        number, label = path.stem.split("_label")
        (tmp_path / "sorted" / label).mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, tmp_path / "sorted" / label / f"{number}.png")
    found = report_of(evaluate("--samples", tmp_path / "sorted", "--dataset", "digits"))
    of_archive = report_of(evaluate("--samples", made.npz))
    assert found["confusion"] == of_archive["confusion"]
    some = report_of(evaluate("--samples", tmp_path / "sorted", "--dataset", "digits", "--num_images", COUNT // 2))
    asked = torch.tensor(some["confusion"]).sum(1)
    assert asked.sum() == COUNT // 2 and asked[COUNT // 20 :].sum() > 0  # not the first classes alone


# -- mistakes ------------------------------------------------------------------------------------------------------


@pytest.fixture
def idle(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading or generating an image would fail the test."""

    def work(*_: object, **__: object) -> None:
        raise AssertionError("worked before the mistake was found")

    monkeypatch.setattr(Classifier, "extract", work)
    monkeypatch.setattr("scripts.tasks.samples.generate", work)
    monkeypatch.setattr("models.evaluation.classifier.fit_classifier", work)


@pytest.fixture
def refused(evaluate, idle: None, tmp_path: Path) -> Callable[..., None]:
    def check(*flags: object, words: tuple[str, ...], network: object = None) -> None:
        out = tmp_path / "not_written"
        given = {} if network is None else {"network": network}
        ended = evaluate(*flags, *(() if "--out" in flags else ("--out", out)), **given)
        assert ended.code == 2 and ended.out == "", ended.err
        assert ended.err.startswith("error: ") and len(ended.err.splitlines()) == 1, ended.err
        assert all(word in ended.err for word in words), ended.err
        assert not list(tmp_path.glob("*not_written*"))

    return check


class Code:
    """What runs when it is unpickled."""

    def __init__(self, marker: Path):
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.marker),)


def save(path: Path, images: Any, labels: Any = None) -> None:
    np.savez(path, allow_pickle=True, arr_0=images, **({} if labels is None else {"arr_1": labels}))


def grey(*shape: int) -> np.ndarray:
    return np.full(shape, 90, np.uint8)


NPZ = {
    "another shape": (lambda path: save(path, grey(9, 8, 9, 1)), ("(CxHxW), but those of digits are 1x8x8",)),
    "colours": (lambda path: save(path, grey(9, 8, 8, 3)), ("images are 3x8x8",)),
    "no rows": (lambda path: save(path, grey(9, 8)), ("(9, 8)", "(N, H, W, C)")),
    "no images": (lambda path: save(path, grey(0, 8, 8, 1)), ("(0, 8, 8, 1)",)),
    "floats": (
        lambda path: save(path, grey(9, 8, 8, 1) / 255),
        ("images are float64 from 0.352941 to 0.352941; they must be uint8", "save them as numpy.uint8"),
    ),
    "beyond 255": (lambda path: save(path, grey(9, 8, 8, 1) + np.int64(200)), ("images are int64 from 290 to 290",)),
    "below 0": (lambda path: save(path, np.full((9, 8, 8, 1), -1)), ("images are int64 from -1 to -1",)),
    "truth values": (lambda path: save(path, grey(9, 8, 8, 1) > 3), ("images are bool; they must be uint8",)),
    "label 10": (lambda path: save(path, grey(9, 8, 8, 1), np.full(9, 10)), ("one label per image, from 0 to 9",)),
    "label -1": (lambda path: save(path, grey(9, 8, 8, 1), np.full(9, -1)), ("one label per image, from 0 to 9",)),
    "fewer labels": (lambda path: save(path, grey(9, 8, 8, 1), np.zeros(8, int)), ("one label per image",)),
    "broken labels": (lambda path: save(path, grey(9, 8, 8, 1), np.zeros(9)), ("arr_1 must hold one whole number",)),
    "several arrays": (
        lambda path: np.savez(path, real=grey(9, 8, 8, 1), fake=grey(9, 8, 8, 1)),
        ("no samples.npz with an arr_0", "real (9, 8, 8, 1), fake (9, 8, 8, 1)", "save the images as arr_0"),
    ),
    "no arrays": (lambda path: np.savez(path), ("no samples.npz with an arr_0", "arrays: none")),
    "too few": (lambda path: save(path, grey(5, 8, 8, 1)), ("5 images have fewer than 5 neighbours", "--k")),
    "empty": (lambda path: path.write_bytes(b""), ("no samples.npz",)),
    "text": (lambda path: path.write_text("no archive\n"), ("no samples.npz",)),
    "single array": (lambda path: np.save(path.open("wb"), grey(9, 8, 8, 1)), ("no samples.npz",)),
    "pickle": (lambda path: path.write_bytes(pickle.dumps(Code(path.with_suffix(".ran")))), ("no samples.npz",)),
    "objects": (
        lambda path: save(path, np.array([Code(path.with_suffix(".ran"))] * 9, dtype=object)),
        ("no samples.npz", "Object arrays cannot be loaded"),
    ),
}


@pytest.mark.parametrize("kind", NPZ)
def test_archives_that_cannot_be_measured(kind: str, refused, tmp_path: Path) -> None:
    write, words = NPZ[kind]
    path = tmp_path / "bad.npz"
    write(path)
    refused("--samples", path, "--dataset", "digits", words=(f"--samples {path}", *words))
    assert not path.with_suffix(".ran").exists()


@pytest.mark.parametrize("kept", [0.1, 0.5, 0.9, -1])
def test_archives_cut_short_or_altered(kept: float, refused, made: Made, tmp_path: Path) -> None:
    content = bytearray(made.npz.read_bytes())
    if kept > 0:
        content = content[: int(kept * len(content))]
    else:
        content[200] ^= 255
    (tmp_path / "bad.npz").write_bytes(content)
    refused("--samples", tmp_path / "bad.npz", "--dataset", "digits", words=("no samples.npz with an arr_0",))


def test_samples_that_are_not_there(refused, made: Made, tmp_path: Path) -> None:
    refused("--samples", tmp_path / "none.npz", "--dataset", "digits", words=("no such file or folder",))
    (tmp_path / "bare").mkdir()
    refused("--samples", tmp_path / "bare", "--dataset", "digits", words=("holds no images",))
    refused("--samples", tmp_path / "bare", words=("name their data set with --dataset",))
    refused("--samples", made.npz, "--num_images", COUNT + 1, words=(f"--num_images {COUNT + 1}", f"only {COUNT}"))


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--num_images", "5"), ("--num_images 5", "--k 5")),
        (("--num_images", "-3"), ("--num_images -3",)),
        (("--samples", "README.md", "--sampler", "ddpm"), ("--sampler says how to generate",)),
        (("--samples", "README.md", "--labels", "3"), ("--labels says how to generate",)),
        (("--samples", "README.md", "--eta", "0.5"), ("--eta says how to generate", "leave out --eta")),
        (("--k", "400"), ("--k 400", "359")),
        (("--k", "0"), ("--k 0",)),
        (("--draws", "3"), ("--draws 3",)),
        (("--dataset", "mnist"), ("--dataset mnist", "leave out --dataset or name images with --samples")),
        (("--inception_weights", "x.pth"), ("inception_weights needs", "extractors inception")),
        (("--labels", "10"), ("--labels 10", "0 to 9")),
        (("--batch_size", "0"), ("--batch_size 0",)),
        (("--extractors", "convnets"), ("extractors convnets", "convnet, resnet, inception")),
        (("--extractors", "convnet", "vgg"), ("extractors vgg",)),
        (("--extractors", "resnet", "resnet"), ("each once",)),
        (("--extractors", "none.safetensors"), ("none.safetensors",)),
    ],
)
def test_flags_that_make_no_sense(flags: tuple[str, ...], words: tuple[str, ...], refused) -> None:
    refused(*flags, words=words)


def test_a_folder_in_use(refused, made: Made) -> None:
    refused("--out", made.samples, words=("exists and is not an empty folder",))


def test_a_network_of_other_data_or_with_damaged_weights(refused, made: Made, tmp_path: Path) -> None:
    tensors, facts = checkpoints.load_checkpoint(made.network)
    facts = {key: value for key, value in facts.items() if key not in ("sha256", "format")}
    other = tmp_path / "other.safetensors"
    checkpoints.write_checkpoint(other, tensors, {**facts, "dataset": "letters", "data_sha256": "0" * 64})
    refused(
        words=(
            "trained on letters",
            "whose images differ from those of digits",
        ),
        network=other,
    )
    other.write_bytes(other.read_bytes()[:-9])
    refused(words=("truncated or altered",), network=other)
    run = checkpoints.resolve_checkpoint(made.run)
    refused(words=("is no feature network",), network=run)


def test_inception_weights_that_are_not_torch_fidelitys(
    refused, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, marker = tmp_path / "weights.pth", tmp_path / "ran"

    def refused_with(*words: str) -> None:
        refused("--inception_weights", path, words=(f"inception_weights {path}", *words), network="inception")

    refused_with("no such file")
    torch.save(Code(marker), path)
    refused_with("not torch-fidelity's", "6726825d")
    contents: tuple[tuple[Any, str], ...] = (
        (Code(marker), "cannot be read as tensors"),
        ({"fc.weight": torch.zeros(2)}, "not the weights of Inception"),
    )
    for content, words in contents:
        torch.save(content, path)
        monkeypatch.setattr(inception, "SHA256", inception.hashlib.sha256(path.read_bytes()).hexdigest())
        refused_with(words)
    assert not marker.exists()
