"""Pictures of README and tour, and a page for each shipped model, made from the shipped models."""

import re
import shlex
import shutil
from pathlib import Path

from models.runs.lookup import SHIPPED_PREFIX
from scripts.cli.terminal import tell
from scripts.tasks.running import run_task

DOCS = Path(__file__).resolve().parents[2] / "docs"
IMAGES = DOCS / "images"
# A command of the tour, and the picture below it.
COMMAND = re.compile(r'^make (\w+) ARGS="([^"]*)"\n```\n\n!\[[^]]*\]\(images/(\w+\.png)\)', re.MULTILINE)
# File to copy, by task. The picture tour_reverse.png is the denoising strip of `generate`.
RESULTS = {
    "generate": "grid.png",
    "tour_reverse.png": "denoising_strip.png",
    "visualize_guidance": "guidance.png",
    "interpolate": "interpolation.png",
    "inpaint": "inpainting.png",
}
ANIMATION = "--num_samples 40 --columns 20 --scale 2 --guidance_scale 1.5 --sampler heun --steps 12 --animate"


def draw_pictures(models: list[str], experiments_dir: str) -> None:
    """Redraw the pictures of README and tour that show one of the models, and export each model as a page.

    models: names of models to sample from, without their prefix.
    """
    places = ("--experiments_dir", experiments_dir)
    if "mnist" in models:
        drawn = run_task("generate", "--run", f"{SHIPPED_PREFIX}mnist", *shlex.split(ANIMATION), *places)
        shutil.copyfile(drawn / "animation.webp", IMAGES / "reverse.webp")
    for task, words, name in COMMAND.findall((DOCS / "tour.md").read_text(encoding="utf-8")):
        if any(f"{SHIPPED_PREFIX}{model} " in f"{words} " for model in models):
            drawn = run_task(task, *shlex.split(words), *places)
            shutil.copyfile(drawn / RESULTS.get(name, RESULTS[task]), IMAGES / name)
    for model in models:
        tell(f"page of {model}: {run_task('export', '--run', f'{SHIPPED_PREFIX}{model}', *places)}")
