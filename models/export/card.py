"""Model card of an exported run: the text of its README.md, with the metadata that model hubs read."""

from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from models.export.rendering import render
from models.model import Model

# Names of data sets on the Hugging Face hub.
HUB_NAMES = {"mnist": "ylecun/mnist", "fashion_mnist": "zalando-datasets/fashion_mnist", "cifar10": "uoft-cs/cifar10"}
NAMES_SHOWN = 20


def build_card(
    model: Model, run: str, config: Mapping[str, Any], starts: Sequence[Mapping[str, str]], raw_weights: bool
) -> str:
    """Return the card of a model.

    run: name of its run. config: its settings. starts: environment.txt of each start, empty without it.
    raw_weights: whether the checkpoint has the raw weights beside the EMA weights.
    """
    spec, dataset = model.spec, str(config.get("dataset", "unknown"))
    kind = "flow" if spec.noise_schedule == "flow" else "diffusion"
    hub_name = str(config.get("dataset.path", "")) if dataset == "hf" else HUB_NAMES.get(dataset)
    metadata: dict[str, Any] = {
        "library_name": "pytorch",
        "pipeline_tag": "unconditional-image-generation",
        "tags": [kind, spec.network, "image-generation"],
    }
    if hub_name:
        metadata["datasets"] = [hub_name]
    return render(
        "card.md",
        metadata=yaml.safe_dump(metadata, sort_keys=False),
        run=run,
        summary=_summary(model, kind, dataset),
        rows=_rows(model),
        shape=", ".join(map(str, model.space.image_shape)),
        starts=starts,
        raw_weights=raw_weights,
    )


def _summary(model: Model, kind: str, dataset: str) -> str:
    height, width = model.space.image_shape[1:]
    labels = f", conditioned on one of {model.spec.classes} classes" if model.spec.classes else ""
    return f"A {kind} model that generates {height}×{width} images like those of {dataset}{labels}."


def _rows(model: Model) -> list[tuple[str, str]]:
    spec, origin = model.spec, model.origin
    weights = sum(parameter.numel() for parameter in model.denoiser.network.parameters())
    names = [_code(name) for name in spec.class_names[:NAMES_SHOWN]]
    more = [f"and {spec.classes - NAMES_SHOWN} more"] if spec.classes > NAMES_SHOWN else []
    length = f"{spec.timesteps} steps" if spec.timesteps else "continuous"
    betas = ", published betas" if spec.chain_betas == "published" else ""
    rows = [
        ("network", f"{spec.network}, {weights:,} weights"),
        ("works in", f"{type(model.space).__name__.lower()}, {'×'.join(map(str, model.space.shape))}"),
        ("noise schedule", f"{spec.noise_schedule}, {length}{betas}"),
        ("prediction", spec.prediction),
        ("classes", ", ".join([*names, *more]) if spec.classes else "none"),
        ("guidance", "possible" if spec.classes and spec.label_drop > 0 else "not possible"),
    ]
    if spec.student is not None:
        rows.append(("distilled", spec.student.describe()))
    return rows if origin is None else [*rows, ("trained steps", f"{origin.step:,}")]


def _code(name: str) -> str:
    """Return a name as Markdown code for a table cell. The name may contain backquotes and bars."""
    word = " ".join(name.split()).replace("|", "\\|")
    return f"`` {word} ``" if "`" in word else f"`{word}`"
