"""Checkpoints: tensors in safetensors, everything else in YAML beside them, so that loading runs no code.

`step_00001000.safetensors` is written first and its YAML, which holds its hash, last: a pair that agrees is whole.
`last` and `best` are one-line files that name a checkpoint. Which tensors and facts go in is the caller's business.
"""

from __future__ import annotations

import hashlib
import re
import shutil
from collections.abc import Iterable, Mapping
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


def _path(folder: Path, step: int) -> Path:
    return folder / f"step_{step:08d}.safetensors"


def save_checkpoint(
    folder: Path, step: int, tensors: Mapping[str, Tensor], facts: Mapping[str, Any], keep: int
) -> Path:
    """Writes one checkpoint, points `last` at it, and removes all but the last `keep` and the best.

    keep = 0 keeps all. Raises OSError as the file system does; what stood before then still stands.
    """
    folder.mkdir(exist_ok=True)
    _sweep(folder)
    path = _path(folder, step)
    write_checkpoint(path, tensors, {"step": step, **facts})
    write_text(folder / LAST, path.name + "\n")
    _prune(folder, keep, path)
    return path


def write_checkpoint(path: Path, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
    """A .safetensors file, then its .yaml, which says what it is and holds its hash."""
    content = safetensors.torch.save({key: value.detach().cpu().contiguous() for key, value in tensors.items()})
    with replacing(path) as temporary:
        temporary.write_bytes(content)
    facts = {"format": FORMAT, "sha256": hashlib.sha256(content).hexdigest(), **plain(facts)}
    write_text(path.with_suffix(".yaml"), yaml.safe_dump(facts, sort_keys=False, allow_unicode=True))


def mark_best(folder: Path, path: Path) -> None:
    write_text(folder / BEST, path.name + "\n")


def _sweep(folder: Path) -> None:
    """Removes what a writer that was killed left half-written; a folder has one writer at a time."""
    for path in folder.glob(".*.tmp"):
        path.unlink(missing_ok=True)


def _prune(folder: Path, keep: int, newest: Path) -> None:
    """Removes what is older than the last `keep` and not the best, and what a run that fell back has yet to redo."""
    found = list_checkpoints(folder)
    older = [path for path in found if path.name < newest.name]
    undone = [path for path in found if path.name > newest.name]
    surplus = older[: max(0, len(older) - keep + 1)] if keep > 0 else []
    best = _read_pointer(folder / BEST)
    if best in {path.name for path in undone}:
        (folder / BEST).unlink()
    for path in [*undone, *(path for path in surplus if path.name != best)]:
        path.with_suffix(".yaml").unlink()
        path.unlink(missing_ok=True)


def _read_pointer(path: Path) -> str | None:
    """The name in a one-line file; None if there is no such file, or no name of a checkpoint in it."""
    if not path.is_file():
        return None
    name = path.read_text(encoding="utf-8", errors="replace").strip()
    return name if FILE_NAME.fullmatch(name) else None


def list_checkpoints(folder: Path) -> list[Path]:
    """Every checkpoint whose YAML is there, oldest first."""
    return sorted(path.with_suffix(".safetensors") for path in folder.glob("step_*.yaml"))


def resolve_checkpoint(run: Path, which: str = LAST) -> Path:
    """The checkpoint of a run folder that `last` or `best` names. Raises UserError where there is none."""
    name = _read_pointer(run / "checkpoints" / which)
    if name is None:
        raise UserError(f"{run} has no {which} checkpoint yet: wait for one, or name a file with --checkpoint")
    return run / "checkpoints" / name


def load_checkpoint(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """(tensors on the CPU, facts) of one checkpoint. Raises UserError: missing, truncated, altered or foreign."""
    if not path.is_file():
        raise UserError(f"no checkpoint {path}")
    facts_path = path.with_suffix(".yaml")
    if path.suffix != ".safetensors" or not facts_path.is_file():
        raise UserError(f"{path} is no checkpoint of this repository: expected a .safetensors with its .yaml beside it")
    facts = read_yaml(facts_path)
    if facts.get("format") != FORMAT:
        raise UserError(f"{facts_path} is no checkpoint of this repository (format {facts.get('format')!r})")
    content = path.read_bytes()
    if hashlib.sha256(content).hexdigest() != facts.get("sha256"):
        raise UserError(f"{path} is truncated or altered (its hash differs from the one in {facts_path.name})")
    try:
        return safetensors.torch.load(content), facts
    except SafetensorError as error:
        raise UserError(f"{path} cannot be read as safetensors: {error}") from None


def load_newest(run: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The newest checkpoint of a run that is whole; one cut short by a crash is passed over."""
    candidates = list_checkpoints(run / "checkpoints")[::-1]
    for path in candidates[:-1]:
        try:
            return load_checkpoint(path)
        except UserError:
            continue
    if not candidates:
        raise UserError(f"{run} has no checkpoint yet: nothing to resume, start it again")
    return load_checkpoint(candidates[-1])


def copy_checkpoint(path: Path, folder: Path) -> None:
    """Copies a checkpoint, both files of it, into a folder that is made if need be."""
    folder.mkdir(exist_ok=True)
    for suffix in (".safetensors", ".yaml"):
        shutil.copyfile(path.with_suffix(suffix), folder / path.with_suffix(suffix).name)


def fill_network(network: nn.Module, tensors: Mapping[str, Tensor], path: Path) -> None:
    """Raises UserError where the tensors are not those of this network."""
    try:
        network.load_state_dict(dict(tensors))
    except RuntimeError as error:
        raise UserError(f"{path} does not fit its network: {' '.join(str(error).split())[:300]}") from None


def find_by_hash(sha256: str, folders: Iterable[Path]) -> Path | None:
    """The checkpoint of that hash among those in the given folders; the weights themselves are not read."""
    for folder in folders:
        for path in list_checkpoints(folder):
            if f"sha256: {sha256}\n" in path.with_suffix(".yaml").read_text(encoding="utf-8", errors="replace"):
                return path
    return None


def prefixed(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {f"{prefix}.{key}": value for key, value in tensors.items()}


def under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors whose keys begin with `prefix.`, without it."""
    return {key[len(prefix) + 1 :]: value for key, value in tensors.items() if key.startswith(f"{prefix}.")}
