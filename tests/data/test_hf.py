"""Local data sets of Hugging Face's `datasets`: their images are read like those of a folder."""

from __future__ import annotations

import io
import sys
import time
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import data
from data.batches import Batches
from data.readers import downloads
from models.errors import UserError
from tests.data.own_images import png

CLASSES = ["ant", "cat", "dog"]


def load_hf(path: Path | str, memory_limit: float = 1, root: Path = Path("/nonexistent"), **options: Any) -> Any:
    return data.load("hf", {"path": str(path), **options}, root, memory_limit)


def stored(value: int, size: tuple[int, int] = (6, 5)) -> bytes:
    memory = io.BytesIO()
    Image.fromarray(np.full((*size, 3), value, np.uint8)).save(memory, "PNG")
    return memory.getvalue()


def test_without_the_package_one_line_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(UserError, match=r"needs the package 'datasets'; .*pip install -r requirements-hf\.txt"):
        load_hf(tmp_path)
    assert (Path(data.__file__).parents[1] / "requirements-hf.txt").is_file()


def test_bad_options_are_refused_before_the_package_is_needed() -> None:
    bad: list[dict[str, Any]] = [{"size": (0,)}, {"channels": 2}, {"test_share": 1.0}]
    for options in bad:
        with pytest.raises(UserError, match=rf"dataset\.{next(iter(options))} "):
            load_hf("some", **options)
    with pytest.raises(UserError, match=r"needs dataset\.path"):
        load_hf("")


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return the package, with its cache in a temporary folder."""
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    return datasets


@pytest.fixture
def thirty(package: Any) -> Any:
    """Return a data set whose row n has value n and class n modulo 3."""
    features = package.Features({"number": package.Value("int64"), "picture": package.Image()})
    features["kind"] = package.ClassLabel(names=CLASSES)
    features["word"] = package.Value("string")
    rows = [
        {"number": n, "picture": {"bytes": stored(n), "path": None}, "kind": n % 3, "word": f"w{n % 2}"}
        for n in range(30)
    ]
    return package.Dataset.from_list(rows, features=features)


def values(split: data.Split) -> list[int]:
    return split.images[:][:, 0, 0, 0].tolist()


@pytest.mark.parametrize("kind", ["parquet", "folder of parquet", "saved", "saved splits"])
@pytest.mark.parametrize("memory_limit", [0, 1])
def test_local_data_sets(kind: str, memory_limit: float, package: Any, thirty: Any, tmp_path: Path) -> None:
    path = tmp_path / "here"
    if kind == "parquet":
        path = tmp_path / "here.parquet"
        thirty.to_parquet(path)
    elif kind == "folder of parquet":
        path.mkdir()
        thirty.select(range(25)).to_parquet(path / "train-00000-of-00001.parquet")
        thirty.select(range(25, 30)).to_parquet(path / "test-00000-of-00001.parquet")
    elif kind == "saved":
        thirty.save_to_disk(path)
    else:
        parts = {"train": thirty.select(range(25)), "validation": thirty.select(range(25, 30))}
        package.DatasetDict(parts).save_to_disk(path)
    loaded = load_hf(path, memory_limit)
    assert loaded.name == "hf" and loaded.class_names == tuple(CLASSES) and (loaded.broken is None) == memory_limit
    assert loaded.train.images.shape[1:] == (3, 6, 5)
    for split in (loaded.train, loaded.test):
        assert split.labels.tolist() == [value % 3 for value in values(split)]
    if kind in ("parquet", "saved"):
        assert sorted(values(loaded.train) + values(loaded.test)) == list(range(30)) and len(loaded.test) < 8
    else:
        assert values(loaded.train) == list(range(25)) and values(loaded.test) == list(range(25, 30))


def test_a_folder_of_images(package: Any, classes: Path) -> None:
    for split in ("train", "test"):
        for kind in CLASSES:
            png(classes.parent / "images" / split / kind / "1.png", 7)
    loaded = load_hf(classes.parent / "images", 0)
    assert loaded.class_names == tuple(CLASSES) and len(loaded.train) == len(loaded.test) == 3
    assert values(loaded.train) == [7, 7, 7]


@pytest.mark.parametrize("workers", [0, 2])
def test_streamed_are_those_in_memory(workers: int, thirty: Any, tmp_path: Path) -> None:
    thirty.to_parquet(tmp_path / "x.parquet")
    stream, memory = (load_hf(tmp_path / "x.parquet", limit, size=(4,)) for limit in (0, 1))
    assert stream.train.sha256 == memory.train.sha256 and stream.test.sha256 == memory.test.sha256
    ahead, held = Batches(stream.train, 7, 3, True, workers=workers), Batches(memory.train, 7, 3, True)
    for step in (0, 1, 2, 9, 10, 4):
        assert all(torch.equal(*pair) for pair in zip(ahead.at(step), held.at(step), strict=True))


def test_identity_is_of_the_contents_and_not_of_the_place(package: Any, thirty: Any, tmp_path: Path) -> None:
    thirty.to_parquet(tmp_path / "x.parquet")
    thirty.save_to_disk(tmp_path / "y")
    thirty.select(list(range(30))[::-1]).save_to_disk(tmp_path / "z")
    hashes = [load_hf(tmp_path / name, 0).train.sha256 for name in ("x.parquet", "y", "z")]
    assert hashes[0] == hashes[1] != hashes[2]
    assert load_hf(tmp_path / "y", 0, label_column="word").train.sha256 != hashes[0]


def test_columns_and_splits_by_name(package: Any, thirty: Any, tmp_path: Path) -> None:
    thirty.save_to_disk(tmp_path / "x")
    loaded = load_hf(tmp_path / "x", label_column="word")
    assert loaded.class_names == ("w0", "w1")
    assert loaded.train.labels.tolist() == [value % 2 for value in values(loaded.train)]
    assert load_hf(tmp_path / "x", label_column="number").class_names == tuple(map(str, range(30)))
    unlabelled = thirty.remove_columns(["kind", "word"]).map(lambda row: {"picture": row["picture"]})
    package.DatasetDict(a=unlabelled, b=unlabelled.select(range(3))).save_to_disk(tmp_path / "y")
    loaded = load_hf(tmp_path / "y", train_split="a", test_split="b", image_column="picture")
    assert loaded.class_names == () and len(loaded.train) == 30 and values(loaded.test) == [0, 1, 2]


@pytest.mark.parametrize(("train", "test"), [("Training", "Validation"), ("TRAIN", "dev"), ("train", "Testing")])
def test_splits_of_other_spelling(
    train: str, test: str, package: Any, thirty: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    parts = {train: thirty.select(range(25)), test: thirty.select(range(25, 30)), "more": thirty}
    package.DatasetDict(parts).save_to_disk(tmp_path / "x")
    loaded = load_hf(tmp_path / "x")
    assert values(loaded.train) == list(range(25)) and values(loaded.test) == list(range(25, 30))
    assert capsys.readouterr().err == ""
    package.DatasetDict({**parts, "val": thirty, "test": thirty.select([3])}).save_to_disk(tmp_path / "y")
    assert values(load_hf(tmp_path / "y").test) == [3]
    assert "not used: " in (told := capsys.readouterr().err) and "val (30 images)" in told


def test_strings_that_are_numbers_are_sorted_as_numbers(package: Any, thirty: Any, tmp_path: Path) -> None:
    numbered = thirty.map(lambda row: {"word": str(row["number"] % 12)})
    numbered.save_to_disk(tmp_path / "x")
    loaded = load_hf(tmp_path / "x", label_column="word")
    assert loaded.class_names == tuple(map(str, range(12)))
    assert loaded.train.labels.tolist() == [value % 12 for value in values(loaded.train)]
    thirty.map(lambda row: {"word": "w" * 300 if row["number"] else "v"}).save_to_disk(tmp_path / "y")
    with pytest.raises(UserError, match="a class name has 300 characters"):
        load_hf(tmp_path / "y", label_column="word")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"train_split": "training"}, "dataset.train_split training"),
        ({"test_split": "dev"}, "dataset.test_split dev"),
        ({"test_split": "train"}, "dataset.test_split train: this is also the training split"),
        (
            {"image_column": "image"},
            "image_column image: no such column; choose from number, picture, kind, word",
        ),
        ({"image_column": "kind"}, "dataset.image_column kind: not of type Image"),
        ({"label_column": "label"}, "dataset.label_column label: no such column"),
        ({"label_column": "picture"}, "dataset.label_column picture: not of type ClassLabel"),
    ],
    ids=str,
)
def test_what_a_data_set_has_not_is_refused(
    options: dict[str, Any], words: str, package: Any, thirty: Any, tmp_path: Path
) -> None:
    package.DatasetDict(train=thirty).save_to_disk(tmp_path / "x")
    with pytest.raises(UserError) as error:
        load_hf(tmp_path / "x", 0, **options)
    assert words in str(error.value) and "\n" not in str(error.value)


def test_a_test_split_without_the_column_of_labels_is_refused(package: Any, thirty: Any, tmp_path: Path) -> None:
    package.DatasetDict(train=thirty, test=thirty.remove_columns("kind")).save_to_disk(tmp_path / "x")
    with pytest.raises(UserError, match="its split test has no column kind"):
        load_hf(tmp_path / "x", 0)


def test_rows_without_a_class_or_an_image(package: Any, thirty: Any, tmp_path: Path) -> None:
    thirty.map(lambda row: {"kind": None if row["number"] == 4 else row["kind"]}).save_to_disk(tmp_path / "x")
    with pytest.raises(UserError, match=r"train/000000004 has no class"):
        load_hf(tmp_path / "x", 0)
    rows = [{"picture": {"bytes": stored(n), "path": None} if n != 3 else None} for n in range(30)]
    holed = package.Dataset.from_list(rows, features=package.Features({"picture": package.Image()}))
    holed.save_to_disk(tmp_path / "y")
    with pytest.raises(UserError, match=r"000000003 \(there is no image in this row\)"):
        load_hf(tmp_path / "y", 1)
    stream = load_hf(tmp_path / "y", 0)
    assert 4 in values(stream.train) and len(stream.broken.named) == 1


def test_what_cannot_be_read_is_one_line(
    package: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(package.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(sys.modules["huggingface_hub"].constants, "HF_HUB_OFFLINE", True)
    (tmp_path / "bad.parquet").write_text("nothing")
    (tmp_path / "program").mkdir()
    (tmp_path / "program" / "program.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    for path in ("absent.parquet", "/absent", tmp_path / "bad.parquet", tmp_path / "program", "nobody/nothing"):
        with pytest.raises(UserError) as error:
            load_hf(path)
        assert str(path) in str(error.value) and "\n" not in str(error.value)
    assert capfd.readouterr() == ("", "") and not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ("no network", ("does not answer ([Errno -2] Name or service not known)", "has no copy", "HF_HOME")),
        ("silence", ("does not answer (no answer in", "has no copy")),
        ("broken server", ("does not answer (503 Service Unavailable)",)),
        ("404", ("the hub has no data set of this name that you may read", "log in")),
    ],
)
def test_a_hub_that_does_not_serve_is_reported_at_once_with_a_way_without_it(
    answer: str, words: tuple[str, ...], package: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub = sys.modules["huggingface_hub"]

    class Unknown(hub.errors.RepositoryNotFoundError):
        def __init__(self) -> None:
            pass

    def dataset_info(self: object, name: str, timeout: float) -> None:
        if answer == "silence":
            time.sleep(2)
        raise {
            "no network": Exception("[Errno -2] Name or service not known"),
            "silence": Exception("too late"),
            "broken server": Exception("503 Service\nUnavailable"),
            "404": Unknown(),
        }[answer]

    monkeypatch.setattr(hub.HfApi, "dataset_info", dataset_info)
    monkeypatch.setattr(downloads, "ANSWER_SECONDS", 0.2)
    with pytest.raises(UserError) as error:
        load_hf(Path("nobody/nothing"))
    text = str(error.value)
    assert all(word in text for word in (*words, "nobody/nothing", "name their folder with dataset.path")), text
    assert "\n" not in text and not hub.constants.HF_HUB_OFFLINE and not package.config.HF_HUB_OFFLINE


def test_without_a_network_the_copy_in_the_cache_is_taken(
    package: Any, thirty: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    hub = sys.modules["huggingface_hub"]
    asked: list[bool] = []

    def load_dataset(name: str, subset: str | None) -> Any:
        asked.append(hub.constants.HF_HUB_OFFLINE)
        return {"train": thirty}

    def dataset_info(self: object, name: str, timeout: float) -> None:
        raise ConnectionError("no route to host")

    monkeypatch.setattr(hub.HfApi, "dataset_info", dataset_info)
    monkeypatch.setattr(package, "load_dataset", load_dataset)
    assert len(load_hf(Path("nobody/thirty")).train) > 20 and asked == [True]
    assert capsys.readouterr().err.startswith("the hub does not answer (no route to host): the copy in ")


def test_contents_of_rows_identify_them(
    package: Any, thirty: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("data.readers.streamed.look_at_some", lambda images: [])  # it reads all rows of a small set
    thirty.save_to_disk(tmp_path / "x")
    thirty.to_parquet(tmp_path / "x.parquet")
    one, other = (load_hf(tmp_path / name, 0) for name in ("x", "x.parquet"))
    assert one.train.contents(read=False) is None
    assert one.train.contents() == other.train.contents() == load_hf(tmp_path / "x", 1).train.contents()
    assert one.train.contents() != one.test.contents()


def test_relative_paths_are_found_in_the_data_root(package: Any, thirty: Any, tmp_path: Path) -> None:
    thirty.save_to_disk(tmp_path / "x")
    assert len(load_hf("x", 0, root=tmp_path).train) > 20


def test_the_real_jpegs(package: Any, real_root: Path, tmp_path: Path) -> None:
    path = real_root / "cifar10-jpeg-test.zip"
    if not path.is_file():
        pytest.skip("no cifar10-jpeg-test.zip in DATA_ROOT")
    with zipfile.ZipFile(path) as archive:
        names = sorted(archive.namelist())[::10]
        rows = [{"image": {"bytes": archive.read(name), "path": name}} for name in names]
    features = package.Features({"image": package.Image()})
    package.Dataset.from_list(rows, features=features).to_parquet(tmp_path / "x.parquet")
    stream, memory = (load_hf(tmp_path / "x.parquet", limit) for limit in (0, 1))
    ahead, held = Batches(stream.train, 128, 0, workers=1), Batches(memory.train, 128, 0)
    assert all(torch.equal(ahead.at(step)[0], held.at(step)[0]) for step in range(12))
