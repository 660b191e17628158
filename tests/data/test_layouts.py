"""Names of images as splits and classes: folders of splits, the order of classes, labels in file names."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.readers.layouts import (
    class_in_name,
    class_order,
    find_splits,
    hold_out,
    names_look_labelled,
    split_role,
)
from models.errors import UserError
from tests.data.own_images import load, png, zipped

WHERE = Path("pictures")


def names(*folders: str, count: int = 3) -> list[str]:
    return [f"{folder}/{number}.png".lstrip("/") for folder in folders for number in range(count)]


def refusal(*folders: str) -> str:
    with pytest.raises(UserError) as error:
        find_splits(WHERE, names(*folders))
    assert "\\n" not in str(error.value) and "{train,test}/CLASS/IMAGE" in str(error.value)
    return error.value.message


@pytest.mark.parametrize(
    ("role", "spellings"),
    [
        ("train", "train Train TRAIN training trainset train_data Training-Set train2017 imagesTr x_train trainval"),
        ("val", "val valid Valid validation VALIDATION val_images dev development eval val2017"),
        ("test", "test Test testing tests test_set TestData test1 holdout hold_out held-out imagesTs"),
    ],
)
def test_names_of_splits(role: str, spellings: str) -> None:
    assert {split_role(name) for name in spellings.split()} == {role}


@pytest.mark.parametrize(
    "name", ["", "cat", "trainer", "trainers", "test tube", "valley", "device", "1", "trainA", "äöü"]
)
def test_other_names(name: str) -> None:
    assert split_role(name) is None


@pytest.mark.parametrize(
    ("train", "test"),
    [("train", "validation"), ("train", "valid"), ("Train", "Test"), ("TRAINING", "dev"), ("training_set", "test_set")],
)
@pytest.mark.parametrize("layout", ["{}/cat {}/dog", "cat/{} dog/{}", "", "outer/{}/images/cat outer/{}/images/dog"])
def test_splits_at_any_level(train: str, test: str, layout: str) -> None:
    folders = layout.split() or ["{}"]
    splits = find_splits(WHERE, names(*(folder.format(split) for split in (train, test) for folder in folders)))
    assert splits is not None and splits.notes == []
    assert splits.train == names(*(folder.format(train) for folder in folders))
    assert splits.test == names(*(folder.format(test) for folder in folders))
    assert not any(word in splits.inside(name) for word in (train, test) for name in splits.train + splits.test)


@pytest.mark.parametrize("test", ["test", "Testing", "TEST"])
@pytest.mark.parametrize("val", ["val", "valid", "Validation"])
def test_of_three_splits_one_is_not_used_and_named(val: str, test: str) -> None:
    splits = find_splits(WHERE, names("train/cat", f"{val}/cat", f"{test}/cat"))
    assert splits is not None and splits.test == names(f"{test}/cat")
    assert splits.notes == [f"pictures: {val} (3 images) is not used, since {test} is the test split"]


@pytest.mark.parametrize(
    ("folders", "reason"),
    [
        ("train test extra", "extra is not the name of a split"),
        ("trainA trainB testA testB", "trainA is not the name of a split"),
        ("seg_train/cat seg_test/cat seg_pred", "seg_train is not"),
        ("cats_train cats_test", "cats_train is not"),
        ("train/cat test1/cat test2/cat", "test1 and test2 name the same split"),
        ("train/cat val/cat valid/cat", "val and valid name the same split"),
        ("train/cat Train/cat test/cat", "Train and train name the same split"),
        ("val/cat test/cat", "no training split"),
        ("cat dog test", "no training split beside test"),
        ("train/cat train/dog more/cat", "no test split beside train"),
        ("train/train/cat train/val/cat test/cat", "splits inside the training split"),
        ("cat/train cat/test dog", "images lie beside them"),
        ("training/cat train/cat", "no test split"),
    ],
)
def test_unclear_splits_are_refused(folders: str, reason: str) -> None:
    assert reason in refusal(*folders.split())


@pytest.mark.parametrize(
    "folders",
    [
        "cat dog",
        "train plane car",
        "train_station bus_station",
        "test_tube beaker",
        "cat/old dog/new",
        "train/cat train/dog",
        "",
    ],
)
def test_class_folders_are_no_splits(folders: str) -> None:
    assert find_splits(WHERE, names(*(folders.split() or [""]))) is None


@pytest.mark.parametrize("kind", ["folder", "zip"])
def test_classes_of_splits_below_the_classes(kind: str, tmp_path: Path) -> None:
    for value, name in enumerate(["cat/train/1", "cat/train/2", "cat/Valid/3", "dog/train/1", "dog/Valid/2"]):
        png(tmp_path / "mine" / f"{name}.png", value)
    loaded = load(zipped(tmp_path / "mine") if kind == "zip" else tmp_path / "mine")
    assert loaded.class_names == ("cat", "dog")
    assert loaded.train.labels.tolist() == [0, 0, 1] and loaded.test.labels.tolist() == [0, 1]


def test_test_path_and_splits_exclude_each_other(tmp_path: Path) -> None:
    for folder in ("both/train/cat", "both/test/cat", "alone/cat"):
        png(tmp_path / folder / "1.png", 1)
    for path, test_path in (("both", "alone"), ("alone", "both")):
        with pytest.raises(UserError, match="has folders of both splits"):
            load(tmp_path / path, test_path=str(tmp_path / test_path))


@pytest.mark.parametrize(
    "numbers", [range(12), [-1, 0, 10, 9], ["01", "2", "010"], ["0.5", "10", "2.5"], [2**70, 2**70 + 1, 3]]
)
def test_numbers_are_sorted_by_value(numbers: list[object]) -> None:
    texts = [str(number) for number in numbers]
    assert class_order(texts, WHERE) == tuple(
        sorted(texts, key=float) if len(texts) != 3 else sorted(texts, key=lambda text: (float(text), text))
    )
    assert class_order(texts, WHERE, known=sorted(texts)) == tuple(sorted(texts))


@pytest.mark.parametrize(
    "ordered",
    [
        ("9", "10", "cat"),
        ("class_1", "class_2", "class_10"),
        ("2nd", "10th", "fold2-cat9", "fold2-cat10", "fold10-cat1"),
        ("Zoo", "a", "a01", "a1", "é"),
        ("x3", "x٣", "x²"),
    ],
)
def test_numbers_inside_names_are_sorted_by_value(ordered: tuple[str, ...]) -> None:
    assert class_order(reversed(ordered), WHERE) == ordered
    assert class_order(ordered, WHERE, known=sorted(ordered)) == tuple(sorted(ordered))
    assert class_order(ordered, WHERE, known=sorted(ordered)[1:]) == ordered


@pytest.mark.parametrize("kind", ["folder", "zip"])
def test_class_folders_that_are_numbers(kind: str, tmp_path: Path) -> None:
    for number in range(12):
        for image in range(2):
            png(tmp_path / "mine" / str(number) / f"{image}.png", number)
    path = zipped(tmp_path / "mine") if kind == "zip" else tmp_path / "mine"
    loaded = load(path)
    assert loaded.class_names == tuple(map(str, range(12)))
    assert loaded.train.labels.tolist() == loaded.train.images[:, 0, 0, 0].tolist()


# -- held-out images --------------------------------------------------------------------------------------------------


@given(counts=st.lists(st.integers(1, 4), min_size=1, max_size=8), share=st.floats(0.01, 0.99))
def test_each_class_keeps_an_image_for_training(counts: list[int], share: float) -> None:
    labels = {f"{label}/{image}.png": label for label, count in enumerate(counts) for image in range(count)}
    if len(labels) < 2:
        return
    train, test = hold_out(WHERE, list(labels), share, labels)
    assert train and test and sorted(train + test) == sorted(labels)
    kept = {labels[name] for name in train}
    assert kept == set(range(len(counts))) or (max(counts) == 1 and len(test) == 1)
    plain = hold_out(WHERE, list(labels), share)
    if {labels[name] for name in plain[0]} == set(range(len(counts))):
        assert (train, test) == plain  # nothing changes where no class would be lost


def test_a_class_without_a_training_image_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in "abcdefghij":
        png(tmp_path / "one" / name / "only.png", 1)
    loaded = load(tmp_path / "one")
    assert len(loaded.untrained) == len(loaded.test) == 1
    lost = loaded.class_names[loaded.untrained[0]]
    assert f"class without any training image: {lost} (left out of samples)\n" in capsys.readouterr().err
    png(tmp_path / "one" / "a" / "second.png", 1)
    assert load(tmp_path / "one").untrained == () and capsys.readouterr().err == ""


# -- labels in file names ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "label"),
    [
        ("cat_1.png", "cat"),
        ("dogs/cat.123.jpg", "cat"),
        ("great_pyrenees_12.jpg", "great_pyrenees"),
        ("dog (3).png", "dog"),
        ("cat1.png", "cat"),
        ("n01440764_10026.JPEG", "n01440764"),
        ("00003_label7.png", "label7"),
        ("0012-cat.png", "cat"),
        ("7_00012.png", "7"),
        ("cat.png", "cat"),
        ("0001.png", "0001"),
    ],
)
def test_labels_in_file_names(name: str, label: str) -> None:
    assert class_in_name(name) == label


def test_file_names_as_labels(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number in range(10):
        for value, name in ((10, "cat_"), (20, "dog_"), (30, "2_")):
            png(tmp_path / "mine" / f"{name}{number}.png", value)
    assert load(tmp_path / "mine").class_names == ()
    hint = "the file names look like labels (2, cat, dog); set dataset.labels names to use them"
    assert hint in capsys.readouterr().err
    loaded = load(zipped(tmp_path / "mine"), labels="names")
    assert loaded.class_names == ("2", "cat", "dog") and capsys.readouterr().err == ""
    assert [(30, 10, 20)[label] for label in loaded.train.labels] == loaded.train.images[:, 0, 0, 0].tolist()


def test_file_names_as_labels_in_splits(tmp_path: Path) -> None:
    for name in ("train/cat_1", "train/cat_2", "train/dog_1", "validation/cat_7"):
        png(tmp_path / "mine" / f"{name}.png", 1)
    loaded = load(tmp_path / "mine", labels="names")
    assert loaded.class_names == ("cat", "dog") and loaded.test.labels.tolist() == [0]
    png(tmp_path / "mine" / "validation" / "owl_1.png", 1)
    with pytest.raises(
        UserError, match=r"validation/owl_1\.png is in none of the training images' classes \(cat, dog\)"
    ):
        load(tmp_path / "mine", labels="names")


@pytest.mark.parametrize("stems", [["img_1", "img_2"], ["a", "b", "c"]])
def test_file_names_without_labels_are_refused(stems: list[str], tmp_path: Path) -> None:
    for stem in stems:
        png(tmp_path / "mine" / f"{stem}.png", 1)
    with pytest.raises(UserError, match=r"dataset\.labels names: the file names in .* give"):
        load(tmp_path / "mine", labels="names")


def test_most_file_names_do_not_look_like_labels() -> None:
    assert names_look_labelled(["cat_1.png", "cat_2.png", "owl_1.png", "owl_2.png"]) == ("cat", "owl")
    for others in (["IMG_1.png", "IMG_2.png"], ["1.png", "2.png"], ["cat_1.png", "cat_2.png", "owl.png"], ["a.png"]):
        assert names_look_labelled(others) == ()
