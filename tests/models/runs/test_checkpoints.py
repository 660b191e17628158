"""Checkpoints: complete or refused in one line, never executed, and no more of them than requested."""

from __future__ import annotations

import hashlib
import os
import pickle
from pathlib import Path

import pytest
import safetensors.torch
import torch
import yaml
from torch import Tensor

from models.errors import UserError
from models.runs import checkpoints


def tensors(seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        "network.weight": torch.randn(3, 4, generator=generator),
        "network.half": torch.randn(2, generator=generator).bfloat16(),
        "optimizer.0.step": torch.tensor(7.0),
        "empty": torch.zeros(0, 2),
        "counts": torch.arange(5),
    }


FACTS = {"denoiser": {"network": "unet", "shape": [1, 8, 8]}, "training": {"best_loss": float("inf"), "seconds": 0.1}}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "run" / "checkpoints"


@pytest.fixture
def saved(folder: Path) -> Path:
    folder.parent.mkdir()
    return checkpoints.save_checkpoint(folder, 12, tensors(), FACTS, keep=0)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def one_line(error: pytest.ExceptionInfo[UserError]) -> str:
    message = str(error.value)
    assert "\n" not in message
    return message


def test_round_trip(saved: Path) -> None:
    loaded, facts = checkpoints.load_checkpoint(saved)
    assert saved.name == "step_00000012.safetensors"
    assert loaded.keys() == tensors().keys()
    for key, value in tensors().items():
        assert loaded[key].dtype == value.dtype
        assert loaded[key].equal(value)
    assert facts["step"] == 12
    assert {key: facts[key] for key in FACTS} == FACTS
    assert names(saved.parent) == ["last", "step_00000012.safetensors", "step_00000012.yaml"]


def test_numbers_come_back_exactly(folder: Path) -> None:
    """Resuming bit for bit needs every digit of times and losses."""
    folder.parent.mkdir()
    values = [1e-5, 0.1 + 0.2, 1 / 3, 1e22, 5e-324, float("inf"), -0.0, 123456789.123456789]
    path = checkpoints.save_checkpoint(folder, 0, {}, {"values": values}, keep=0)
    assert checkpoints.load_checkpoint(path)[1]["values"] == values


def test_views_and_strides_are_stored_by_value(folder: Path) -> None:
    folder.parent.mkdir()
    base = torch.arange(12.0).reshape(3, 4)
    views = {"transposed": base.T, "row": base[1], "scalar": base[0, 0], "grad": base.clone().requires_grad_()}
    loaded, _ = checkpoints.load_checkpoint(checkpoints.save_checkpoint(folder, 1, views, {}, keep=0))
    for key, value in views.items():
        assert loaded[key].equal(value.detach())


def test_a_run_knows_its_last_and_best(saved: Path) -> None:
    run = saved.parent.parent
    with pytest.raises(UserError, match="has no best checkpoint yet"):
        checkpoints.resolve_checkpoint(run, checkpoints.BEST)
    checkpoints.save_checkpoint(saved.parent, 12, tensors(), FACTS, keep=0, best=True)
    newer = checkpoints.save_checkpoint(saved.parent, 20, tensors(1), FACTS, keep=0)
    assert checkpoints.resolve_checkpoint(run) == newer
    assert checkpoints.resolve_checkpoint(run, checkpoints.BEST) == saved
    assert checkpoints.list_checkpoints(saved.parent) == [saved, newer]


def test_only_the_last_few_and_the_best_are_kept(folder: Path) -> None:
    folder.parent.mkdir()
    for step in range(1, 8):
        checkpoints.save_checkpoint(folder, step, tensors(step), FACTS, keep=2, best=step == 2)
    steps = [int(path.stem.removeprefix("step_")) for path in checkpoints.list_checkpoints(folder)]
    assert steps == [2, 6, 7]
    files = sorted(path.name for path in folder.glob("*.safetensors"))
    assert files == [f"step_{step:08d}.safetensors" for step in steps]
    assert checkpoints.resolve_checkpoint(folder.parent, checkpoints.BEST).is_file()
    checkpoints.save_checkpoint(folder, 8, tensors(), FACTS, keep=2, best=True)
    assert [path.stem for path in checkpoints.list_checkpoints(folder)] == ["step_00000007", "step_00000008"]


def test_a_best_checkpoint_is_marked_before_it_is_the_last(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that is killed between the two resumes from an older checkpoint, which has an older best loss."""
    folder.parent.mkdir()
    first = checkpoints.save_checkpoint(folder, 1, tensors(1), FACTS, keep=0, best=True)

    def write_text(path: Path, text: str) -> None:
        if path.name == checkpoints.LAST:
            raise KeyboardInterrupt
        path.write_text(text)

    monkeypatch.setattr(checkpoints, "write_text", write_text)
    with pytest.raises(KeyboardInterrupt):
        checkpoints.save_checkpoint(folder, 2, tensors(2), FACTS, keep=0, best=True)
    assert checkpoints.resolve_checkpoint(folder.parent) == first
    assert checkpoints.resolve_checkpoint(folder.parent, checkpoints.BEST).stem == "step_00000002"


def test_keep_0_keeps_all(folder: Path) -> None:
    folder.parent.mkdir()
    for step in range(5):
        checkpoints.save_checkpoint(folder, step, {}, FACTS, keep=0)
    assert len(checkpoints.list_checkpoints(folder)) == 5


def test_keys_with_and_without_prefix() -> None:
    state = {"a.b": torch.zeros(1), "ab": torch.ones(1)}
    both = {**checkpoints.prefixed("network", state), **checkpoints.prefixed("network2", {"c": torch.zeros(1)})}
    assert checkpoints.under("network", both).keys() == state.keys()
    assert checkpoints.under("net", both) == {}


# -- damaged and foreign files ----------------------------------------------------------------------------------------


def test_missing(saved: Path) -> None:
    with pytest.raises(UserError, match="no checkpoint"):
        checkpoints.load_checkpoint(saved.with_name("step_00000099.safetensors"))
    with pytest.raises(UserError, match="no checkpoint"):
        checkpoints.load_checkpoint(saved.parent)


@pytest.mark.parametrize("length", [0, 1, 100, -1])
def test_truncated(saved: Path, length: int) -> None:
    content = saved.read_bytes()
    saved.write_bytes(content[:length])
    with pytest.raises(UserError, match="truncated or altered") as error:
        checkpoints.load_checkpoint(saved)
    assert str(saved) in one_line(error)


def test_one_bit_flipped(saved: Path) -> None:
    content = bytearray(saved.read_bytes())
    content[-3] ^= 1
    saved.write_bytes(content)
    with pytest.raises(UserError, match="truncated or altered"):
        checkpoints.load_checkpoint(saved)


def test_weights_without_their_facts(saved: Path) -> None:
    saved.with_suffix(".yaml").unlink()
    with pytest.raises(UserError, match=r"no checkpoint of this repository: expected a .safetensors file with a .yaml"):
        checkpoints.load_checkpoint(saved)


@pytest.mark.parametrize("text", ["", "- 1\n- 2\n", "just words", "a: [unclosed", "\x00", "format: 99\n", "step: 1\n"])
def test_facts_that_are_no_mapping_of_this_format(saved: Path, text: str) -> None:
    saved.with_suffix(".yaml").write_text(text)
    with pytest.raises(UserError) as error:
        checkpoints.load_checkpoint(saved)
    assert saved.with_suffix(".yaml").name in one_line(error)


def test_facts_that_are_not_text(saved: Path) -> None:
    saved.with_suffix(".yaml").write_bytes(b"\xff\xfe\x00\xd8")
    with pytest.raises(UserError) as error:
        checkpoints.load_checkpoint(saved)
    one_line(error)


def test_a_foreign_file_with_facts_of_its_own_hash(saved: Path) -> None:
    """A pickle file named .safetensors is not read."""
    content = pickle.dumps({"weight": [1.0]})
    saved.write_bytes(content)
    facts = yaml.safe_load(saved.with_suffix(".yaml").read_text())
    facts["sha256"] = hashlib.sha256(content).hexdigest()
    saved.with_suffix(".yaml").write_text(yaml.safe_dump(facts))
    with pytest.raises(UserError, match="cannot be read as safetensors") as error:
        checkpoints.load_checkpoint(saved)
    one_line(error)


def test_other_peoples_files(tmp_path: Path) -> None:
    torch.save({"weight": torch.zeros(1)}, tmp_path / "model.pt")
    safetensors.torch.save_file({"weight": torch.zeros(1)}, tmp_path / "model.safetensors")
    for name in ("model.pt", "model.safetensors"):
        with pytest.raises(UserError, match="is no checkpoint of this repository"):
            checkpoints.load_checkpoint(tmp_path / name)


MALICIOUS = [
    "!!python/object/apply:os.system ['touch {mark}']",
    "!!python/object/apply:pathlib.Path.touch [!!python/object/apply:pathlib.Path ['{mark}']]",
    "!!python/object/new:subprocess.Popen [['touch', '{mark}']]",
    "a: !!python/name:os.system",
]


@pytest.mark.parametrize("text", MALICIOUS)
def test_facts_execute_nothing(saved: Path, tmp_path: Path, text: str) -> None:
    mark = tmp_path / "executed"
    saved.with_suffix(".yaml").write_text(text.format(mark=mark))
    with pytest.raises(UserError, match="cannot be read"):
        checkpoints.load_checkpoint(saved)
    assert not mark.exists()


@pytest.mark.parametrize(
    "name",
    ["../../secret.safetensors", "/etc/passwd", "..", ".", "", "a\nb", "step_1.yaml", "last", "sub/step_1.safetensors"],
)
def test_pointers_cannot_leave_their_folder(saved: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / "secret.safetensors").write_bytes(b"secret")
    (saved.parent / checkpoints.LAST).write_text(name)
    with pytest.raises(UserError, match="has no last checkpoint") as error:
        checkpoints.resolve_checkpoint(saved.parent.parent)
    one_line(error)


def test_a_pointer_of_rubbish(saved: Path) -> None:
    (saved.parent / checkpoints.LAST).write_bytes(b"\xff\x00\xfe")
    with pytest.raises(UserError, match="has no last checkpoint"):
        checkpoints.resolve_checkpoint(saved.parent.parent)


# -- crashes --------------------------------------------------------------------------------------------------------


def test_the_newest_complete_checkpoint_is_loaded(saved: Path) -> None:
    run = saved.parent.parent
    newer = checkpoints.save_checkpoint(saved.parent, 20, tensors(1), FACTS, keep=0)
    assert checkpoints.load_newest(run)[1]["step"] == 20
    newer.write_bytes(newer.read_bytes()[:50])
    assert checkpoints.load_newest(run)[1]["step"] == 12
    saved.unlink()
    with pytest.raises(UserError, match="no checkpoint"):
        checkpoints.load_newest(run)


def test_a_run_without_checkpoints(tmp_path: Path) -> None:
    for call in (checkpoints.load_newest, checkpoints.resolve_checkpoint):
        with pytest.raises(UserError, match=r"has no (last )?checkpoint yet"):
            call(tmp_path)


@pytest.mark.parametrize("suffix", [".safetensors", ".yaml"])
def test_a_full_disk_leaves_earlier_checkpoints(saved: Path, monkeypatch: pytest.MonkeyPatch, suffix: str) -> None:
    before = names(saved.parent)
    replace = os.replace

    def full(source: Path, target: Path) -> None:
        if Path(target).name == f"step_00000020{suffix}":
            raise OSError(28, "No space left on device")
        replace(source, target)

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="No space left"):
        checkpoints.save_checkpoint(saved.parent, 20, tensors(1), FACTS, keep=1)
    assert checkpoints.resolve_checkpoint(saved.parent.parent) == saved
    assert checkpoints.load_newest(saved.parent.parent)[1]["step"] == 12
    assert set(names(saved.parent)) - set(before) <= {"step_00000020.safetensors"}


def test_temporary_files_of_a_killed_writer_are_deleted(saved: Path) -> None:
    half = saved.parent / ".step_00000013.safetensors.4242.tmp"
    half.write_bytes(b"half")
    orphan = saved.parent / "step_00000013.safetensors"
    orphan.write_bytes(b"no facts yet")
    assert checkpoints.load_newest(saved.parent.parent)[1]["step"] == 12
    checkpoints.save_checkpoint(saved.parent, 13, tensors(1), FACTS, keep=0)
    assert not half.exists()
    assert checkpoints.load_checkpoint(orphan)[1]["step"] == 13


def test_a_run_resumed_from_an_earlier_checkpoint_deletes_the_later_ones(folder: Path) -> None:
    folder.parent.mkdir()
    for step in (80, 90, 100):
        checkpoints.save_checkpoint(folder, step, tensors(step), FACTS, keep=0, best=step == 100)
    newest = folder / "step_00000100.safetensors"
    newest.write_bytes(b"cut short")
    assert checkpoints.load_newest(folder.parent)[1]["step"] == 90
    path = checkpoints.save_checkpoint(folder, 95, tensors(95), FACTS, keep=1)
    assert checkpoints.list_checkpoints(folder) == [path] and checkpoints.resolve_checkpoint(folder.parent) == path
    assert not (folder / "best").exists()
