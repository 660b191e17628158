"""Own images: layouts, classes and splits of folders and zips."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from data.folder import Folder
from data.readers.layouts import _fraction, hold_out
from models.errors import UserError
from tests.data.own_images import load, png, values, zipped


@pytest.mark.parametrize("kind", ["folder", "zip", "zip around a folder"])
def test_class_folders(kind: str, classes: Path) -> None:
    path = classes if kind == "folder" else zipped(classes, "" if kind == "zip" else "outer/mine/")
    loaded = load(path)
    assert loaded.name == "folder" and loaded.class_names == ("ant", "cat", "dog") and loaded.flips is False
    assert loaded.train.images.shape[1:] == (3, 6, 5) and loaded.train.images.dtype == torch.uint8
    both = values(loaded.train) + values(loaded.test)
    assert sorted(both) == sorted([*range(10), *range(100, 110), *range(200, 210)])
    labels = loaded.train.labels.tolist() + loaded.test.labels.tolist()
    assert labels == [2 - value // 100 for value in both]
    reference = load(classes)
    assert values(loaded.test) == values(reference.test) and values(loaded.train) == values(reference.train)


@pytest.mark.parametrize("kind", ["folder", "zip", "zip around a folder"])
def test_plain_images_are_unlabelled(kind: str, tmp_path: Path) -> None:
    for number in range(20):
        png(tmp_path / "plain" / f"{number:02}.png", number)
    path = tmp_path / "plain"
    if kind != "folder":
        path = zipped(path, "" if kind == "zip" else "plain/")
    loaded = load(path)
    assert loaded.class_names == ()
    assert sorted(values(loaded.train) + values(loaded.test)) == list(range(20))
    assert not loaded.train.labels.any() and loaded.train.labels.dtype == torch.int64


@pytest.mark.parametrize("test_name", ["test", "val", "Validation", "testing"])
@pytest.mark.parametrize("kind", ["folder", "zip"])
def test_official_splits_are_used(test_name: str, kind: str, tmp_path: Path) -> None:
    root = tmp_path / "mine"
    png(root / "train" / "b" / "1.png", 1)
    png(root / "train" / "a" / "deeper" / "2.png", 2)
    png(root / test_name / "b" / "3.png", 3)
    loaded = load(zipped(root) if kind == "zip" else root)
    assert loaded.class_names == ("a", "b")
    assert (values(loaded.train), loaded.train.labels.tolist()) == ([2, 1], [0, 1])
    assert (values(loaded.test), loaded.test.labels.tolist()) == ([3], [1])


def test_unlabelled_official_splits(tmp_path: Path) -> None:
    png(tmp_path / "train" / "1.png", 1)
    png(tmp_path / "test" / "2.png", 2)
    loaded = load(tmp_path)
    assert loaded.class_names == () and values(loaded.train) == [1] and values(loaded.test) == [2]


def test_test_images_elsewhere(classes: Path, tmp_path: Path) -> None:
    png(tmp_path / "other" / "test" / "cat" / "1.png", 7)
    loaded = load(classes, test_path=str(tmp_path / "other"))
    assert len(loaded.train) == 30 and values(loaded.test) == [7] and loaded.test.labels.tolist() == [1]


def test_a_folder_called_train_may_be_a_class(tmp_path: Path) -> None:
    for number in range(4):
        png(tmp_path / "train" / f"{number}.png", number)
        png(tmp_path / "plane" / f"{number}.png", number)
    assert load(tmp_path).class_names == ("plane", "train")


def test_hidden_and_other_files_are_passed_over(classes: Path) -> None:
    png(classes / ".cache" / "1.png", 1)
    png(classes / "__MACOSX" / "cat" / "1.png", 1)
    for system in (
        "@eaDir/cat",
        "cat/@eaDir/1.png",
        "#recycle",
        "$RECYCLE.BIN",
        "System Volume Information",
        "lost+found",
    ):
        png(classes / system / "SYNOPHOTO_THUMB_M.png", 1)
    for system in ("FOUND.000", "@Recently-Snapshot", "~snapshot/hourly", "dog/Network Trash Folder", "__pycache__"):
        png(classes / system / "1.png", 1)
    (classes / "cat" / "._1.png").write_bytes(b"resource fork")
    (classes / "README.txt").write_text("about")
    for path in (classes, zipped(classes)):
        loaded = load(path)
        assert loaded.class_names == ("ant", "cat", "dog") and len(loaded.train) + len(loaded.test) == 30


NAMES = st.sets(st.text("abc0123.", min_size=1, max_size=6), min_size=2, max_size=30)


@settings(deadline=None, max_examples=100)
@given(names=NAMES, others=NAMES, share=st.floats(0.01, 0.99))
def test_held_out_images_stay_held_out_when_others_come(names: set[str], others: set[str], share: float) -> None:
    train, test = hold_out(Path("some"), list(names), share)
    assert train and test and sorted(train + test) == sorted(names)
    more_train, more_test = hold_out(Path("some"), list(names | others), share)
    natural = {name for name in names | others if _fraction(name) < share}
    if natural & names and names - natural:  # otherwise one image is moved, so that neither split is empty
        assert set(test) == natural & names and set(more_test) == natural
        assert set(train) <= set(more_train)


def test_hold_out_share_and_stability(tmp_path: Path) -> None:
    fractions = [_fraction(f"cat/{number}.png") for number in range(20000)]
    assert abs(np.mean(fractions) - 0.5) < 0.01 and abs(np.mean(np.array(fractions) < 0.1) - 0.1) < 0.01
    for number in range(60):
        png(tmp_path / f"{number:03}.png", number)
    before = load(tmp_path, test_share=0.3)
    for number in range(60, 120):
        png(tmp_path / f"{number:03}.png", number)
    after = load(tmp_path, test_share=0.3)
    assert set(values(before.test)) == {value for value in values(after.test) if value < 60}


@pytest.mark.parametrize("share", [1e-9, 1 - 1e-9])
def test_neither_split_is_empty(share: float, tmp_path: Path) -> None:
    png(tmp_path / "1.png", 1)
    png(tmp_path / "2.png", 2)
    loaded = load(tmp_path, test_share=share)
    assert len(loaded.train) == len(loaded.test) == 1


def test_relative_paths_are_found_here_or_in_the_data_root(
    classes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert len(Folder(path="mine").load(tmp_path).train) > 0
    monkeypatch.chdir(tmp_path)
    assert len(Folder(path="mine").load(Path("/nonexistent")).train) > 0
    with pytest.raises(UserError, match=r"dataset\.path yours: neither in .* nor in /data"):
        Folder(path="yours").load(Path("/data"))


def test_links_are_followed_but_not_round_in_circles(classes: Path, tmp_path: Path) -> None:
    linked = tmp_path / "linked"
    linked.mkdir()
    for name in ("ant", "cat"):
        (linked / name).symlink_to(classes / name)
    (linked / "cat" / "circle").symlink_to(linked)
    loaded = load(linked)
    assert loaded.class_names == ("ant", "cat") and len(loaded.train) + len(loaded.test) == 20
