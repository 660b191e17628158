"""Recipes: named settings of a task, as a dict from flag to value. `make train_mnist` and similar targets use them.

Flags on the command line override a recipe. `make recipes` lists all recipes. A comment gives the result of a recipe,
with machine and date. A recipe without a comment has not been measured.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from models.errors import UserError, suggestion


@dataclass(frozen=True)
class Recipe:
    """Settings that replace the defaults of a task.

    about: description for the list of recipes. target: the make target that runs the recipe, if there is one. gpu:
    settings that override `settings` on a GPU.
    """

    task: str
    about: str
    settings: dict[str, Any]
    target: str | None = None
    gpu: dict[str, Any] = field(default_factory=dict)

    def command(self, name: str) -> str:
        """Return the make command that runs the recipe."""
        return f"make {self.target}" if self.target else f'make {self.task} ARGS="--recipe {name}"'


OFTEN = {"eval_every": 1, "sample_every": 1}
SMALL_IMAGES: dict[str, Any] = {
    **OFTEN,
    "network": "unet",
    "network.blocks": 2,
    "lr": 2e-3,
    "label_drop": 0.1,
    "guidance_scale": 1.5,
}

# Measured on MNIST and Fashion-MNIST; the table is in experiments/README.md.
MUON: dict[str, Any] = {"optimizer": "muon", "lr": 5e-3}
COLOUR = {"network.width": 64}
# A GPU computes 512 images in little more time than 128. The learning rate grows with the square root of the batch, and
# the warm-up covers the same number of images. No run with these settings has been measured yet.
LARGE_BATCH: dict[str, Any] = {"batch_size": 512, "warmup_steps": 25}
GPU_MUON: dict[str, Any] = {**LARGE_BATCH, "lr": 1e-2}
GPU_ADAMW: dict[str, Any] = {**LARGE_BATCH, "lr": 4e-3}
GPU_COLOUR: dict[str, Any] = {**GPU_MUON, "network.width": 128}
# The autoencoder has already reduced the resolution, so patch_size is 1.
LATENTS: dict[str, Any] = {**SMALL_IMAGES, "network.width": 64, "network.blocks": 1, "network.patch_size": 1}
DDPM: dict[str, Any] = {"noise_schedule": "cosine", "timesteps": 1000, "prediction": "eps", "times": "discrete"}

AUTOENCODER: dict[str, Any] = {
    **OFTEN,
    "kind": "vae",
    "reconstruction": "l2",
    "kl_weight": 1e-6,
    "lr": 2e-3,
    "max_minutes": 3.5,
}

RECIPES = {
    "demo_digits": Recipe(
        "train_flow",
        "8x8 digits that come with scikit-learn",
        {
            **SMALL_IMAGES,
            "dataset": "digits",
            "max_steps": 1000,  # Half a minute to two minutes on two idle cores.
            "max_minutes": 4,
            "eval_every": 50,
            "sample_every": 200,
            "checkpoint_every": 100,
        },
        target="demo",
    ),
    # Results of mnist and fashion_mnist after ten minutes: experiments/records.md.
    "mnist": Recipe(
        "train_flow",
        "handwritten digits, ten minutes",
        {**SMALL_IMAGES, **MUON, "dataset": "mnist", "max_minutes": 10},
        target="train_mnist",
        gpu=GPU_MUON,
    ),
    "fashion_mnist": Recipe(
        "train_flow",
        "clothes, ten minutes",
        {**SMALL_IMAGES, **MUON, "dataset": "fashion_mnist", "max_minutes": 10},
        target="train_fashion_mnist",
        gpu=GPU_MUON,
    ),
    "emnist": Recipe(
        "train_flow",
        "handwritten letters, twenty minutes",
        {**SMALL_IMAGES, **MUON, "dataset": "emnist", "max_minutes": 20},
        target="train_emnist",
        gpu=GPU_MUON,
    ),
    "cifar10": Recipe(
        "train_flow",
        "colour photographs, an hour",
        {**SMALL_IMAGES, **MUON, **COLOUR, "dataset": "cifar10", "max_minutes": 60},
        target="train_cifar10",
        gpu=GPU_COLOUR,
    ),
    "ddpm_mnist": Recipe(
        "train_ddpm",
        "handwritten digits, ten minutes",
        {**SMALL_IMAGES, **MUON, "dataset": "mnist", "max_minutes": 10},
        gpu=GPU_MUON,
    ),
    "ddpm_fashion_mnist": Recipe(
        "train_ddpm",
        "clothes, ten minutes",
        {**SMALL_IMAGES, **MUON, "dataset": "fashion_mnist", "max_minutes": 10},
        gpu=GPU_MUON,
    ),
    "ddpm_cifar10": Recipe(
        "train_ddpm",
        "colour photographs, prediction v, an hour",
        {**SMALL_IMAGES, **MUON, **COLOUR, "prediction": "v", "dataset": "cifar10", "max_minutes": 60},
        gpu=GPU_COLOUR,
    ),
    # Two CPU cores (AMD Zen 5), 2026-11-22, 1,725 steps: test MSE 0.0052 on [-1, 1], PSNR 28.9 dB.
    "vae_mnist": Recipe(
        "train_vae", "handwritten digits to 4x7x7 latents", {**AUTOENCODER, "dataset": "mnist"}, gpu=GPU_ADAMW
    ),
    # Same machine and date, 1,713 steps: test MSE 0.0114, PSNR 25.5 dB.
    "vae_fashion_mnist": Recipe(
        "train_vae", "clothes to 4x7x7 latents", {**AUTOENCODER, "dataset": "fashion_mnist"}, gpu=GPU_ADAMW
    ),
    "vae_emnist": Recipe(
        "train_vae", "handwritten letters to 4x7x7 latents", {**AUTOENCODER, "dataset": "emnist"}, gpu=GPU_ADAMW
    ),
    "vae_cifar10": Recipe(
        "train_vae",
        "colour photographs to 4x8x8 latents",
        {**AUTOENCODER, **COLOUR, "dataset": "cifar10", "max_minutes": 30},
        gpu=GPU_ADAMW,
    ),
    # Each recipe of train_latent uses the latest autoencoder of its data set, unless --autoencoder names one.
    # With vae_mnist as measured above, 7,218 steps: 99.55 % of 2,000 samples recognised at guidance 1.5, 94.5 % at 1.
    # Training of VAE and flow, and encoding, took 16.6 minutes.
    "latent_mnist": Recipe(
        "train_latent",
        "a flow in latents of handwritten digits",
        {**LATENTS, "dataset": "mnist", "max_minutes": 11.5},
        gpu=GPU_ADAMW,
    ),
    # With vae_fashion_mnist as measured above, 5,009 steps: 94.8 % of samples recognised at guidance 1.5. The
    # classifier recognises 88.7 % of real images.
    "latent_fashion_mnist": Recipe(
        "train_latent",
        "a flow in latents of clothes",
        {**LATENTS, "dataset": "fashion_mnist", "max_minutes": 11.5},
        gpu=GPU_ADAMW,
    ),
    "latent_emnist": Recipe(
        "train_latent",
        "a flow in latents of handwritten letters",
        {**LATENTS, "dataset": "emnist", "max_minutes": 20},
        gpu=GPU_ADAMW,
    ),
    "latent_cifar10": Recipe(
        "train_latent",
        "a flow in latents of colour photographs",
        {**LATENTS, "dataset": "cifar10", "max_minutes": 60},
        gpu=GPU_ADAMW,
    ),
    "latent_ddpm_mnist": Recipe(
        "train_latent",
        "a DDPM in latents of handwritten digits",
        {**LATENTS, **DDPM, "dataset": "mnist", "max_minutes": 10},
        gpu=GPU_ADAMW,
    ),
}


def find_recipe(name: str, task: str | None = None) -> Recipe:
    """Return the recipe called `name`. Raises UserError if it does not exist or is not for `task` (None: any task)."""
    if name in RECIPES and task in (None, RECIPES[name].task):
        return RECIPES[name]
    names = [other for other, recipe in RECIPES.items() if task in (None, recipe.task)]
    choice = f"choose from {', '.join(names)}" if names else f"{task} has none"
    if name in RECIPES:
        raise UserError(f"recipe {name} is for {RECIPES[name].task}, not for {task}: {choice}")
    raise UserError(f"unknown recipe {name!r}: {choice}{suggestion(name, names)}")


def described(settings: Mapping[str, Any]) -> str:
    """Return settings as text, such as "lr 0.01, batch_size 512"."""
    return ", ".join(f"{name} {value}" for name, value in settings.items())
