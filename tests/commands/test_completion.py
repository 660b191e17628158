"""Completion in a real bash: targets, tasks, and the flags of a task."""

from __future__ import annotations

import shlex
import subprocess

import pytest

from tests.commands.tasks import REPOSITORY


@pytest.mark.parametrize(
    ("function", "words", "known", "others"),
    [
        ("make", ["make", "gen"], {"generate"}, {"evaluate"}),
        ("make", ["make", "generate", 'ARGS="--guid'], {"--guidance_scale", "--guidance_interval"}, {"--steps"}),
        ("make", ["make", "train_mnist", '"--lr 1e-3 --max'], {"--lr 1e-3 --max_steps"}, {"--max_steps"}),
        ("make", ["make", "status", "'--so"], {"--sort"}, {"--state"}),
        ("python", ["python", "-m", "scripts.vis"], {"scripts.visualize_guidance"}, {"scripts.generate"}),
        ("python", ["python", "-m", "scripts.status", "--s"], {"--sort", "--state"}, {"--task"}),
        ("python", ["python", "tool.py", "--s"], set(), {"--sort"}),
    ],
)
def test_words_are_completed(function: str, words: list[str], known: set[str], others: set[str]) -> None:
    script = f"""source scripts/sh/completion.bash
COMP_WORDS=({shlex.join(words)}); COMP_CWORD={len(words) - 1}
_complete_{function}
printf '%s\\n' "${{COMPREPLY[@]}}"
"""
    done = subprocess.run(["bash", "-c", script], cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 0 and not done.stderr
    offered = set(done.stdout.splitlines())
    assert known <= offered and not others & offered, offered
