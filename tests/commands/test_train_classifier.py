"""train_classifier as people run it: a file that can be verified, and a file that states too much is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from models.runs import checkpoints
from tests.commands.tasks import Ended, grey_folder, run_here, tiny_classifier, use_tiny_data


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_classifier(tmp_path_factory.mktemp("classifier"))


@pytest.fixture
def verify(made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """Of the file, after some of what stands beside its weights was changed."""

    def run(**changes: object) -> Ended:
        tensors, facts = checkpoints.load_checkpoint(made)
        facts = {key: value for key, value in facts.items() if key not in ("sha256", "format")}
        checkpoints.write_checkpoint(tmp_path / "network.safetensors", tensors, {**facts, **changes})
        file = tmp_path / "network.safetensors"
        return run_here("train_classifier", "--verify_only", "--file", file, capsys=capsys)

    return run


def assert_refused(ended: Ended, *words: str) -> None:
    assert ended.code == 2 and ended.out == "", ended.err
    last = ended.err.splitlines()[-1]
    assert last.startswith("error: ") and all(word in last for word in words), ended.err


def test_what_is_written_says_what_it_is(made: Path) -> None:
    _, facts = checkpoints.load_checkpoint(made)
    assert (facts["dataset"], facts["network"], facts["shape"]) == ("digits", "convnet", [1, 8, 8])
    assert facts["classes"] == 10
    assert 0.3 < facts["accuracy"] <= 1 and facts["test_images"] == 359
    assert facts["settings"]["epochs"] == 2


def test_it_learns_mirrored_images_where_the_data_set_is_mirrored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """So that `evaluate` finds it by its settings."""
    use_tiny_data(monkeypatch)
    few = ("--epochs", 1, "--width", 4, "--batch_size", 8, "--device", "cpu", "--experiments_dir", tmp_path)
    for name, flips in (("digits", False), ("cifar10", True)):
        ended = run_here("train_classifier", "--dataset", name, *few, capsys=capsys)
        assert checkpoints.load_checkpoint(ended.folder)[1]["settings"]["flips"] is flips


def test_a_file_as_it_was_written_is_verified(verify, tmp_path: Path) -> None:
    ended = verify()
    assert ended.folder == tmp_path / "network.safetensors"
    assert "359 test images of digits recognised" in ended.err


def test_a_file_that_states_a_higher_accuracy_fails(verify, made: Path) -> None:
    _, facts = checkpoints.load_checkpoint(made)
    assert_refused(verify(accuracy=facts["accuracy"] + 1 / 359), "recognises", "the file states")
    assert verify(accuracy=facts["accuracy"] - 1 / 359).code == 0


def test_a_network_of_other_data_is_not_verified(verify) -> None:
    assert_refused(verify(data_sha256="0" * 64), "other data than this digits")


def test_altered_weights_are_not_verified(made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content = bytearray(made.read_bytes())
    content[-1] ^= 1
    (tmp_path / "network.safetensors").write_bytes(content)
    (tmp_path / "network.yaml").write_bytes(made.with_suffix(".yaml").read_bytes())
    words = ("--verify_only", "--file", tmp_path / "network.safetensors")
    assert_refused(run_here("train_classifier", *words, capsys=capsys), "truncated or altered")


def test_without_a_file_there_must_be_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("models.evaluation.classifier.PRETRAINED", tmp_path)
    assert_refused(
        run_here("train_classifier", "--verify_only", capsys=capsys),
        "no convnet trained on these images of digits",
        "--file",
    )


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--network", "vgg"), ("--network", "convnet")),
        (("--epochs", "0"), ("epochs 0",)),
        (("--lr", "-1"), ("lr -1",)),
        (("--file", "x.safetensors"), ("--file", "--verify_only")),
        (("--out", "network.pt"), ("network.pt", "name a .safetensors file")),
    ],
)
def test_mistakes_are_one_line(
    flags: tuple[str, ...], words: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ended = run_here("train_classifier", *flags, "--experiments_dir", tmp_path, capsys=capsys)
    assert_refused(ended, *words)
    assert len(ended.err.splitlines()) == 1 and list(tmp_path.iterdir()) == []


def test_neither_an_old_file_is_written_over_nor_pictures_without_classes_are_learnt(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = made.read_bytes()
    assert_refused(run_here("train_classifier", "--out", made, capsys=capsys), "exists already")
    assert made.read_bytes() == before
    words = grey_folder(tmp_path / "grey", 8, 8)
    assert_refused(run_here("train_classifier", *words, capsys=capsys), "has no classes")
