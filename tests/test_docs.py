"""README.md and docs/: their links lead somewhere, and the commands and flags that they show exist."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from scripts.cli.arguments import leaves, with_settings
from scripts.cli.flags import FLOW, LATENT, AutoencoderFlags
from scripts.cli.recipes import RECIPES

REPOSITORY = Path(__file__).resolve().parents[1]
DOCUMENTS = [
    "README.md",
    "experiments/README.md",
    "experiments/records.md",
    "docs/reading.md",
    "docs/CHANGELOG.md",
    "docs/studies.md",
]
README = (REPOSITORY / "README.md").read_text(encoding="utf-8")
MAKEFILE = (REPOSITORY / "Makefile").read_text(encoding="utf-8")
TRAINING = {"train_ddpm": FLOW, "train_flow": FLOW, "train_latent": LATENT, "train_vae": AutoencoderFlags()}
COMMAND = re.compile(r'make (\w+)(?: FOREGROUND=1)?(?: ARGS="([^"]*)")?')


@pytest.mark.parametrize("document", DOCUMENTS)
def test_links_lead_to_files(document: str) -> None:
    path = REPOSITORY / document
    for link in re.findall(r"\]\(([^)#]+)\)", path.read_text(encoding="utf-8")):
        assert link.startswith("https://") or (path.parent / link).exists(), link


def test_every_command_of_the_readme_is_a_target() -> None:
    commands = COMMAND.findall(README)
    assert len(commands) > 50
    for target, _ in commands:
        assert re.search(rf"^{target}:", MAKEFILE, re.MULTILINE) or target in ("TARGET", "target"), target
    for module in re.findall(r"-m scripts\.(\w+)", README):
        assert (REPOSITORY / "scripts" / f"{module}.py").is_file(), module


def test_every_training_flag_and_recipe_of_the_readme_exists() -> None:
    for target, arguments in COMMAND.findall(README):
        if target not in TRAINING:
            continue
        words = shlex.split(arguments)
        values = dict(zip(words, [*words[1:], ""], strict=True))
        if "--recipe" in values:
            assert RECIPES[values["--recipe"]].task == target
        settings = {word: values[f"--{word}"] for word in ("dataset", "network") if f"--{word}" in values}
        settings = {word: "hf" if name.startswith("hf:") else name for word, name in settings.items()}
        names = {name for name, _, _ in leaves(with_settings(TRAINING[target], settings)[0])}
        names |= {name.removeprefix("space.") for name in names}
        for word in words:
            assert not word.startswith("--") or word.removeprefix("--") in names, f"{target}: {word}"
