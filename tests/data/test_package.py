"""The package as a whole: names, options, the data root, and an import without side effects."""

from __future__ import annotations

import inspect
import os
import subprocess
import sys
from pathlib import Path

import pytest

import data
from models.errors import UserError
from models.variants import DATA_SETS
from scripts.cli.signatures import import_options, options_of, read_options

REPOSITORY = Path(data.__file__).parent.parent


def test_names() -> None:
    assert DATA_SETS.names() == ["cifar10", "digits", "emnist", "fashion_mnist", "folder", "hf", "mnist"]


@pytest.mark.parametrize("name", DATA_SETS.names())
def test_every_data_set_follows_the_naming_rule_and_documents_its_options(name: str) -> None:
    data_set = DATA_SETS.find(name)
    assert data_set.__name__.lower() == name.replace("_", "")
    assert callable(data_set.load)
    options = inspect.signature(data_set).parameters.values()
    assert all(option.kind == option.KEYWORD_ONLY and option.default is not option.empty for option in options)
    assert all(option.help for option in options_of(DATA_SETS, name))


def test_options_that_data_sets_share_are_the_same() -> None:
    ours, theirs = (
        {option.name: option for option in read_options(DATA_SETS.source(name))} for name in ("folder", "hf")
    )
    shared = ["size", "crop", "channels", "test_share", "flips"]
    assert [ours[name] for name in shared] == [theirs[name] for name in shared]
    assert ours["crop"].help.startswith("Crop to the largest centred box")
    assert list(ours.values()) == list(import_options(DATA_SETS.find("folder")))


def test_data_sets_without_image_files_do_not_ask_for_free_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MEMORY_LIMIT", raising=False)
    monkeypatch.setattr("psutil.virtual_memory", None)
    digits = data.load("digits", {}, Path("unused"))
    assert digits.train.sha256 is None and digits.broken is None


@pytest.mark.parametrize(
    ("wrong", "right"), [("mnits", "mnist"), ("fashion-mnist", "fashion_mnist"), ("CIFAR", "cifar10")]
)
def test_unknown_name_gets_a_suggestion(wrong: str, right: str) -> None:
    with pytest.raises(UserError, match=f"{wrong}.*did you mean {right}"):
        DATA_SETS.find(wrong)


@pytest.mark.parametrize("name", ["batches", "readers", "os", "../digits", ""])
def test_what_is_no_data_set_is_refused(name: str) -> None:
    with pytest.raises(UserError, match="choose from cifar10, digits"):
        DATA_SETS.find(name)


def test_data_root(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("DATA_ROOT", raising=False)
    assert data.data_root() == REPOSITORY / "data" / "store"
    monkeypatch.setenv("DATA_ROOT", str(tmp_path))
    assert data.data_root() == tmp_path
    assert data.data_root("/elsewhere") == Path("/elsewhere")
    monkeypatch.chdir(tmp_path)
    assert data.data_root("sub") == tmp_path / "sub"
    monkeypatch.setenv("DATA_ROOT", "")
    assert data.data_root() == REPOSITORY / "data" / "store"


def test_import_touches_neither_network_nor_disk_and_stays_light() -> None:
    program = """
import sys
import numpy
touched = []
def watch(event, args):
    if event.startswith(("socket.", "urllib.")):
        touched.append((event, args))
    if event in ("os.listdir", "os.scandir", "os.mkdir") or (
        event == "open" and not str(args[0]).endswith((".py", ".pyc", ".so"))
        and ".pyc." not in str(args[0])
    ):
        # Finding a module lists the folders of sys.path; only folders of data files would be an error.
        if "store" in str(args[0]) or event == "open":
            touched.append((event, args))
sys.addaudithook(watch)
import data
from models.variants import DATA_SETS
for name in DATA_SETS.names():
    DATA_SETS.find(name)
heavy = {"torch", "torchvision", "sklearn", "PIL", "rich"} & set(sys.modules)
print(touched, sorted(heavy))
"""
    answer = subprocess.run(
        [sys.executable, "-c", program],
        cwd=REPOSITORY,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},  # After a change of the code, bytecode would be written.
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert answer.stdout.strip() == "[] []"
