"""The ready studies. `make study` lists them; `make study NAME=... ARGS=--show` prints one as YAML."""

from pathlib import Path
from typing import Any

from models.errors import UserError, suggestion
from scripts.tasks.study_plan import Study, Tournament, as_axis, read_study

# Half the width and one block take a quarter of the time per image. Every cell sees the same number of images.
SMALL = {"network.width": 16, "network.blocks": 1}
CHAIN = {**SMALL, "sampling.sampler": "dpmpp_2m", "sampling.steps": 8}
FLOW = {**SMALL, "sampling.sampler": "heun", "sampling.steps": 4}
CLOTHES: dict[str, Any] = {"recipe": "ddpm_fashion_mnist", "images": 120_000, "settings": CHAIN}
DIGITS: dict[str, Any] = {"recipe": "mnist", "images": 120_000, "settings": FLOW}


def _chains(as_long: set[str]) -> dict[str, dict[str, Any]]:
    """Return an axis of four chain lengths, each with published and rescaled betas. At 1000 they are equal: one row.

    as_long: names of other settings that get the chain length as their value.
    """
    chains: dict[str, dict[str, Any]] = {"1000": {"timesteps": 1000}}
    for length in (500, 200, 100):
        for betas in ("published", "rescaled"):
            chains[f"{length}, {betas}"] = {"timesteps": length, "chain_betas": betas}
    return {label: row | dict.fromkeys(as_long, row["timesteps"]) for label, row in chains.items()}


def _weighted(limit: float) -> dict[str, Any]:
    return {"weighting": "variational", "weight_limit": limit}


STUDIES: dict[str, Study | Tournament] = {
    "samplers": Tournament(
        "Which sampler and grid gives the best images at a number of evaluations?",
        ("pretrained/mnist", "pretrained/fashion_mnist"),
    ),
    "width": Study(
        "Does a wider network help in the same number of images?",
        "demo_digits",
        60_000,
        settings={"network.blocks": 1, "sampling.sampler": "heun", "sampling.steps": 6},
        grid={"network.width": as_axis("network.width", [16, 32])},
        seeds=(0, 1),
        num_images=300,
        extractors=("convnet",),
    ),
    "chain_length": Study(
        "Are longer chains better?",
        grid={"timesteps": _chains(set())},
        **{**CLOTHES, "settings": {**CHAIN, "noise_schedule": "linear"}},
    ),
    "full_chains": Study(
        "Are longer chains better if every step of the chain is taken?",
        grid={"timesteps": _chains({"sampling.steps"})},
        **{**CLOTHES, "settings": {**SMALL, "noise_schedule": "linear", "sampling.sampler": "ddpm"}},
        seeds=(0,),
        num_images=500,
    ),
    "schedules": Study(
        "Does the noise schedule of a chain matter?",
        grid={
            "noise_schedule": {
                **as_axis("noise_schedule", ["linear", "cosine", "quadratic", "sigmoid"]),
                # A flow ends in pure noise, where a predicted noise says nothing about the image. So it predicts v.
                "flow, v predicted": {"noise_schedule": "flow", "timesteps": 0, "times": "uniform", "prediction": "v"},
            }
        },
        **CLOTHES,
    ),
    "losses": Study(
        "Which loss is best?",
        grid={
            "loss": {
                "l2": {},
                "l1": {"loss": "l1"},
                "huber": {"loss": "huber"},
                "weighted l2, clip 1": _weighted(1),
                "weighted l2, clip 10": _weighted(10),
                "weighted l2, clip 100": _weighted(100),
                "min-SNR": {"weighting": "min_snr"},
                "soft-min-SNR": {"weighting": "soft_min_snr"},
            }
        },
        **CLOTHES,
    ),
    "predictions": Study(
        "What should the network predict?",
        grid={"prediction": as_axis("prediction", ["eps", "x0", "v", "flow", "edm"])},
        **{**DIGITS, "recipe": "ddpm_mnist", "settings": CHAIN},
    ),
    "conditioning": Study(
        "How should the network receive the label?",
        grid={
            "network.conditioning": as_axis("network.conditioning", ["embedding", "concatenation", "cross_attention"])
        },
        **DIGITS,
    ),
    "guidance": Study(
        "How much guidance, and at which noise?",
        grid={
            "guidance": {
                **{f"{scale:g}": {"sampling.guidance_scale": scale} for scale in (1.0, 1.25, 1.5, 2.0, 3.0)},
                **{
                    f"{scale:g} in 0.2 to 0.8": {
                        "sampling.guidance_scale": scale,
                        "sampling.guidance_interval": [0.2, 0.8],
                    }
                    for scale in (1.5, 2.0, 3.0)
                },
            }
        },
        **{**DIGITS, "images": 200_000},
    ),
    "latents": Study(
        "Which latents are best for a latent flow?",
        "latent_mnist",
        80_000,
        settings={"network.width": 32, "sampling.sampler": "heun", "sampling.steps": 4},
        grid={
            "latent_shape": {
                "4x7x7": {},
                "2x7x7": {"autoencoder.network.latent_shape": [2, 7, 7]},
                "8x7x7": {"autoencoder.network.latent_shape": [8, 7, 7]},
                "4x14x14": {"autoencoder.network.latent_shape": [4, 14, 14]},
            },
            "kl_weight": as_axis("autoencoder.kl_weight", [1e-6, 1e-4, 1e-2]),
        },
        autoencoder="vae_mnist",
        autoencoder_images=80_000,
    ),
    "averages": Study(
        "How long should the average of the weights be?",
        grid={"ema": as_axis("ema", [0.1, 0.0, 0.02, 0.05, 0.2, 0.4])},
        **DIGITS,
    ),
    "batch_size": Study(
        "Which batch size is best at equal images?",
        grid={"batch_size": as_axis("batch_size", [128, 32, 64, 256, 512])},
        **DIGITS,
    ),
}


def find_study(name: str) -> tuple[str, Study | Tournament]:
    """Return the name and the definition of a ready study, or of the study in a YAML file. Raises UserError."""
    path = Path(name)
    if path.suffix.lower() in (".yaml", ".yml"):
        if path.stem in STUDIES:
            raise UserError(f"`name` {name}: a ready study is called {path.stem}", "give the file another name")
        return path.stem, read_study(path)
    if name not in STUDIES:
        choice = f"choose from {', '.join(STUDIES)}, or name a .yaml file"
        raise UserError(f"`name` {name}: is not a ready study; {choice}{suggestion(name, STUDIES)}")
    return name, STUDIES[name]


def describe_studies() -> str:
    """Return the list of the ready studies: name, question, and the number of trainings and images of each."""
    rows = [(name, study.question, _size(study)) for name, study in STUDIES.items()]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)
    return "\n".join(line.rstrip() for line in lines)


def _size(study: Study | Tournament) -> str:
    if isinstance(study, Tournament):
        return "of trained runs"
    return f"{len(study.trainings())} x {study.images:,}"
