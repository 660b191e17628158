"""docs/reading.md: every file and name in it exists, and its way through the code is short enough for one sitting."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
TEXT = (REPOSITORY / "docs" / "reading.md").read_text(encoding="utf-8")
# Paragraphs, list items and table rows: a name belongs to the files that its own block names.
BLOCKS = [block for block in re.split(r"\n\s*\n|\n(?=\||[0-9]+\. |- )", TEXT) if "`" in block]
PATH = re.compile(r"[\w./<>]+/[\w.<>]*|[\w<>]+\.(?:py|md|sh)|Makefile")
NAME = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")
NO_NAMES = {
    "noisy = alpha * clean + sigma * noise",
    "Args:",
    "forward",
    "nfe",
    "adds_noise",
    "DESCRIPTION",
    "load",
    "variational",
}


def quotes(block: str) -> list[str]:
    """Return the texts in backticks, each on one line."""
    return [" ".join(text.split()) for text in re.findall(r"`([^`]+)`", block)]


def paths_in(block: str) -> list[str]:
    return [text.split(":")[0] for text in quotes(block) if PATH.fullmatch(text.split(":")[0])]


@cache
def names_of(path: Path) -> frozenset[str]:
    """Return what a file defines at its top level, and the members of its classes as Class.member."""
    names = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        names |= {target.id for target in targets if isinstance(target, ast.Name)}
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            names.add(node.name)
        if isinstance(node, ast.ClassDef):
            names |= {f"{node.name}.{member.name}" for member in node.body if isinstance(member, ast.FunctionDef)}
    return frozenset(names)


@pytest.mark.parametrize("path", sorted({path for block in BLOCKS for path in paths_in(block)}))
def test_every_path_exists(path: str) -> None:
    target = REPOSITORY / path
    if "<" in target.name:
        assert any(target.parent.glob("*.py")), f"{target.parent} holds no files like {target.name}"
    else:
        assert target.exists()


def test_every_name_is_defined_in_a_file_of_its_block() -> None:
    count = 0
    for block in BLOCKS:
        files = [REPOSITORY / path for path in paths_in(block) if path.endswith(".py") and "<" not in path]
        for text in quotes(block):
            path, colon, name = text.partition(": ")
            if PATH.fullmatch(path) and colon:
                assert name in names_of(REPOSITORY / path), text
            elif NAME.fullmatch(text) and not PATH.fullmatch(text) and text not in NO_NAMES:
                assert any(text in names_of(file) for file in files), f"{text} in: {block}"
            else:
                continue
            count += 1
    assert count > 60


def test_the_way_through_is_short() -> None:
    part = TEXT.split("## The way through")[1].split("\n## ")[0]
    rows = re.findall(r"^\| (\d+) \| `([^`]+)` \|", part, re.MULTILINE)
    assert [int(number) for number, _ in rows] == list(range(1, len(rows) + 1))
    assert len(rows) == len({path for _, path in rows}) <= 20
    assert sum(len((REPOSITORY / path).read_text(encoding="utf-8").splitlines()) for _, path in rows) <= 3500


def test_the_commonest_changes_have_a_file_and_a_test() -> None:
    part = TEXT.split("## Where to make a change")[1]
    rows = re.findall(r"^\| a .*", part, re.MULTILINE)
    assert len(rows) == 10
    for row in rows:
        what, where, guard = row.strip("|").split(" | ")
        assert paths_in(where), what
        assert any(path.startswith("tests/") for path in paths_in(guard)), what
