"""Rooms of variants: their exact names, listed without importing torch, and the check of options before building."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from models.errors import UserError
from models.variants import AUTOENCODERS, NETWORKS, Room

REPOSITORY = Path(__file__).resolve().parents[2]
NAMES = {
    "NETWORKS": ["convnext", "dit", "unet"],
    "CONDITIONINGS": ["concatenation", "cross_attention", "embedding"],
    "AUTOENCODERS": ["conv"],
    "SPACES": ["latents", "pixels"],
    "DATA_SETS": ["cifar10", "digits", "emnist", "fashion_mnist", "folder", "hf", "mnist"],
}
LIST_NAMES = """
import json, sys
from models import variants
print(json.dumps({room: getattr(variants, room).names() for room in sys.argv[1:]}))
assert "torch" not in sys.modules
"""
OPTION_TYPES = {"int", "float", "bool", "str", "tuple", "Literal", "ConditioningName", "PositiveInt", "NonNegativeInt"}
OPTION_TYPES |= {"Positive", "NonNegative", "Share", "ShareBelowOne"}


def test_names_of_every_room_are_listed_without_torch() -> None:
    """Helpers such as networks.blocks, spaces.encoded and data.batches are not among the names."""
    command = [sys.executable, "-c", LIST_NAMES, *NAMES]
    done = subprocess.run(command, cwd=REPOSITORY, env=os.environ, check=True, capture_output=True, text=True)
    assert json.loads(done.stdout) == NAMES


@pytest.mark.parametrize(("room", "helper"), [(NETWORKS, "blocks"), (NETWORKS, "options"), (AUTOENCODERS, "loss")])
def test_a_helper_is_no_variant(room: Room, helper: str) -> None:
    with pytest.raises(UserError, match=f"^no {room.word} is called '{helper}'"):
        room.find(helper)


def test_options_are_checked_before_a_variant_is_built() -> None:
    with pytest.raises(UserError) as error:
        NETWORKS.build("unet", (1, 8, 8), 10, width=0)
    assert error.value.message == "`network.width` 0: must be at least 1"
    assert NETWORKS.build("unet", (1, 8, 8), 10, width=8).patch_size == 2
    with pytest.raises(UserError, match="the network unet has no option 'wings' in this version"):
        NETWORKS.build("unet", (1, 8, 8), 10, wings=2)  # from a checkpoint of a later version


@pytest.mark.parametrize(("room", "name"), [(room, name) for room in (NETWORKS, AUTOENCODERS) for name in room.names()])
def test_options_can_be_read_from_the_source(room: Room, name: str) -> None:
    """Every option of a constructor has a literal default and a type of the agreed names."""
    tree = ast.parse(room.source(name).read_text(encoding="utf-8"))
    variant = {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}[room.find(name).__name__]
    constructor = next(node for node in variant.body if isinstance(node, ast.FunctionDef) and node.name == "__init__")
    for option, default in zip(constructor.args.kwonlyargs, constructor.args.kw_defaults, strict=True):
        assert default is not None and option.annotation is not None
        ast.literal_eval(default)
        assert {node.id for node in ast.walk(option.annotation) if isinstance(node, ast.Name)} <= OPTION_TYPES
