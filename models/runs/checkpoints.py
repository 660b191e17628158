"""Checkpoints: tensors in a safetensors file, everything else in a YAML file beside it. Loading executes no code.

The YAML file is written last and holds the hash of the tensors' file. A checkpoint is complete if the hash matches.
The text files `last` and `best` each hold the name of a checkpoint.
"""

import hashlib
import re
import shutil
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import safetensors.torch
import yaml
from safetensors import SafetensorError
from torch import Tensor, nn

from models.errors import UserError
from models.runs.files import replacing, write_text
from models.runs.yaml_files import plain, read_yaml

FORMAT = 1
LAST, BEST = "last", "best"
FILE_NAME = re.compile(r"step_\d+\.safetensors")


def save_checkpoint(
    folder: Path, step: int, tensors: Mapping[str, Tensor], facts: Mapping[str, Any], keep: int, best: bool = False
) -> Path:
    """Write a checkpoint, write its file name to `last`, and delete surplus checkpoints.

    keep: number of newest checkpoints to keep, this one included, in addition to the best; 0 to keep all. best: also
    write the name to `best`. `best` is written before `last`: after a crash between the two writes, `best` names the
    new checkpoint and `last` the previous one. Raises OSError if writing fails; older checkpoints are then unchanged.
    """
    folder.mkdir(exist_ok=True)
    for temporary in folder.glob(".*.tmp"):  # left by a process that was killed; a folder has one writer at a time
        temporary.unlink(missing_ok=True)
    path = folder / f"step_{step:08d}.safetensors"
    write_checkpoint(path, tensors, {"step": step, **facts})
    for pointer in (BEST, LAST) if best else (LAST,):
        write_text(folder / pointer, path.name + "\n")
    _prune(folder, keep, path)
    return path


def write_checkpoint(path: Path, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
    """Write the .safetensors file of a checkpoint, then its .yaml with the format, the hash and the facts."""
    content = safetensors.torch.save({key: value.detach().cpu().contiguous() for key, value in tensors.items()})
    with replacing(path) as temporary:
        temporary.write_bytes(content)
    facts = {"format": FORMAT, "sha256": hashlib.sha256(content).hexdigest(), **plain(facts)}
    write_text(path.with_suffix(".yaml"), yaml.safe_dump(facts, sort_keys=False, allow_unicode=True))


def _prune(folder: Path, keep: int, newest: Path) -> None:
    """Delete surplus older checkpoints, and all checkpoints after `newest`: a resumed run computes them again."""
    paths = list_checkpoints(folder)
    older = [path for path in paths if path.name < newest.name]
    later = [path for path in paths if path.name > newest.name]
    surplus = older[: max(0, len(older) - keep + 1)] if keep > 0 else []
    best = _read_pointer(folder / BEST)
    if best in {path.name for path in later}:
        (folder / BEST).unlink()
    for path in [*later, *(path for path in surplus if path.name != best)]:
        path.with_suffix(".yaml").unlink()
        path.unlink(missing_ok=True)


def _read_pointer(path: Path) -> str | None:
    """Return the checkpoint's name in a file such as `last`, or None if the file is missing or holds no such name."""
    if not path.is_file():
        return None
    name = path.read_text(encoding="utf-8", errors="replace").strip()
    return name if FILE_NAME.fullmatch(name) else None


def list_checkpoints(folder: Path) -> list[Path]:
    """Return the checkpoints that have a YAML file, oldest first."""
    return sorted(path.with_suffix(".safetensors") for path in folder.glob("step_*.yaml"))


def resolve_checkpoint(run: Path, which: str = LAST) -> Path:
    """Return the checkpoint that `last` or `best` names in a run folder. Raises UserError if there is none."""
    name = _read_pointer(run / "checkpoints" / which)
    if name is None:
        raise UserError(f"{run} has no {which} checkpoint yet", "wait for one", "name a file with `checkpoint`")
    return run / "checkpoints" / name


def load_checkpoint(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the tensors (on the CPU) and the facts. Raises UserError for a missing, damaged or unsuitable file."""
    if not path.is_file():
        raise UserError(f"no checkpoint {path}")
    facts_path = path.with_suffix(".yaml")
    if path.suffix != ".safetensors" or not facts_path.is_file():
        raise UserError(f"{path} is no checkpoint of this repository: expected a .safetensors file with a .yaml file")
    facts = read_yaml(facts_path)
    if facts.get("format") != FORMAT:
        raise UserError(f"{facts_path} is no checkpoint of this repository (format {facts.get('format')!r})")
    content = path.read_bytes()
    if hashlib.sha256(content).hexdigest() != facts.get("sha256"):
        raise UserError(f"{path} is truncated or altered: its hash differs from the one in {facts_path.name}")
    try:
        return safetensors.torch.load(content), facts
    except SafetensorError as error:
        raise UserError(f"{path} cannot be read as safetensors: {error}") from None


def load_newest(run: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Load the newest undamaged checkpoint of a run. Raises UserError if there is none."""
    paths = list_checkpoints(run / "checkpoints")
    if not paths:
        raise UserError(f"{run} has no checkpoint yet", "start the run again instead of resuming it")
    for path in paths[:0:-1]:
        with suppress(UserError):
            return load_checkpoint(path)
    return load_checkpoint(paths[0])


def copy_checkpoint(path: Path, folder: Path) -> None:
    """Copy both files of a checkpoint into a folder. A missing folder is created."""
    folder.mkdir(exist_ok=True)
    for suffix in (".safetensors", ".yaml"):
        shutil.copyfile(path.with_suffix(suffix), folder / path.with_suffix(suffix).name)


def fill_network(network: nn.Module, tensors: Mapping[str, Tensor], path: Path) -> None:
    """Load tensors into a network. Raises UserError, naming `path`, if there are none or if names or shapes differ."""
    if not tensors:
        raise UserError(f"{path} has no such weights", "leave out `weights`")
    try:
        network.load_state_dict(dict(tensors))
    except RuntimeError as error:
        raise UserError(f"{path} does not fit its network: {' '.join(str(error).split())[:300]}") from None


def find_by_hash(sha256: str, folders: Iterable[Path]) -> Path | None:
    """Return the checkpoint with this hash in one of the folders, or None. Reads the YAML files only."""
    paths = (path for folder in folders for path in list_checkpoints(folder))
    line = f"sha256: {sha256}\n"
    return next((path for path in paths if line in path.with_suffix(".yaml").read_text("utf-8", "replace")), None)


def prefixed(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors with `prefix.` before each key."""
    return {f"{prefix}.{key}": value for key, value in tensors.items()}


def under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors whose keys begin with `prefix.`, without the prefix."""
    return {key[len(prefix) + 1 :]: value for key, value in tensors.items() if key.startswith(f"{prefix}.")}
