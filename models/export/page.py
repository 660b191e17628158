"""One HTML file that generates images in a browser, offline: the network's graph, its weights and the samplers' moves.

The page's code is beside this file in `browser/`. For a seed, a page draws the same images as `generate`,
up to the rounding of the weights to half precision.
"""

import base64
import shlex
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from models.errors import UserError
from models.export.graph import Graph
from models.export.rendering import render
from models.export.sampling import trace_sampler
from models.export.tracing import build_graph, export_decoder, export_network
from models.generation import Sampling
from models.model import Model, Origin
from models.places import PALETTE
from models.runs import checkpoints

BROWSER = Path(__file__).parent / "browser"
ENGINE = ("matmul", "operations", "interpreter", "philox", "sampler", "worker")  # scripts of the worker, in order
MOST_CLASSES = 100
UNLABELLED = 10  # Number of images on the page of a model without classes.
# Samplers of the page, with their titles and numbers of steps.
OFFERED: dict[str, tuple[str, tuple[int, ...]]] = {
    "heun": ("Heun", (2, 3, 4, 6, 10, 16, 25)),
    "euler": ("Euler (DDIM)", (1, 2, 5, 10, 20, 50)),
    "dpmpp_2m": ("DPM-Solver++ (2M)", (5, 10, 15, 25)),
    "ddpm": ("ancestral (DDPM)", (10, 20, 50)),
}


class PageModel(NamedTuple):
    """A model of a page. run: name of its run, or of a checkpoint file outside of runs. sampling: initial settings."""

    model: Model
    run: str
    sampling: Sampling


def build_page(shown: PageModel, teacher: PageModel | None = None) -> str:
    """Return the HTML of a page. teacher: the teacher of a student, for comparison, with the same space and classes.

    Raises UserError if a network cannot be traced, has an operation that the page lacks, or has a weight above 65,504.
    """
    model, drawn = shown.model, [shown, *([teacher] if teacher else [])]
    graphs = [build_graph(export_network(each.model)[0]) for each in drawn]
    decoder = None if model.space.grey_levels else build_graph(export_decoder(model.space)[0])
    networks = [_network_facts(*each) for each in zip(drawn, graphs, ("student", "teacher"), strict=False)]
    return render(
        "page.html",
        title=shown.run,
        subtitle=_describe(model),
        taught=teacher is not None,
        model={**_facts(model), "networks": networks, "decoder": decoder and _graph_facts(decoder)},
        weights=" ".join(_encoded(each) for each in (*graphs, decoder) if each),
        style=PALETTE.read_text(encoding="utf-8") + _read("page.css"),
        engine="\n".join(_read(f"{name}.js") for name in ENGINE),
        script=_read("page.js"),
    )


def _read(name: str) -> str:
    return (BROWSER / name).read_text(encoding="utf-8")


def _describe(model: Model) -> str:
    weights = sum(parameter.numel() for parameter in model.denoiser.network.parameters())
    size = "×".join(map(str, model.space.image_shape[1:]))
    student = "" if model.spec.student is None else f" ({model.spec.student.describe()})"
    text = f"A network of {weights:,} weights{student} draws {size} images on this device."
    return f"{text} This file needs no connection."


def _facts(model: Model) -> dict[str, Any]:
    """Return what the networks of a page have in common."""
    spec = model.spec
    named = [
        {"label": label, "name": spec.class_names[label], "word": _word(label, spec.class_names)}
        for label in spec.trained
    ]
    return {
        "shape": model.space.shape,
        "bounds": model.space.bounds,
        "imageShape": model.space.image_shape,
        "greyLevels": model.space.grey_levels or (0, 255),
        "initialNoise": spec.initial_noise,
        "nullLabel": spec.classes,
        "images": (named or [{"label": None, "name": str(index)} for index in range(UNLABELLED)])[:MOST_CLASSES],
    }


def _word(label: int, names: Sequence[str]) -> str:
    """Return a class as a value of `--labels`: its number, or its name if its number is also the name of a class."""
    return shlex.quote(names[label]) if str(label) in names else str(label)


def _source(run: str, origin: Origin | None) -> list[str]:
    """Return the flags that choose a model: by name if its checkpoint is the last or best of the run, else by file."""
    if origin is None:
        return ["--run", run]
    weights = ["--weights", "raw"] if origin.weights == "raw" else []
    for word, words in ((checkpoints.LAST, []), (checkpoints.BEST, ["--checkpoint", checkpoints.BEST])):
        with suppress(UserError, OSError):
            if checkpoints.resolve_checkpoint(origin.path.parent.parent, word).samefile(origin.path):
                return ["--run", run, *words, *weights]
    return ["--checkpoint", str(origin.path), *weights]


def _network_facts(shown: PageModel, graph: Graph, role: str) -> dict[str, Any]:
    """Return the facts of one network for the page. role: its name on a page with two networks."""
    (model, run, sampling), spec = shown, shown.model.spec
    guided = spec.classes > 0 and spec.label_drop > 0 and spec.student is None
    samplers, usual = _samplers(model, replace(sampling, guidance_scale=1.0))
    return {
        "role": role,
        "source": shlex.join(_source(run, model.origin)),
        "graph": _graph_facts(graph),
        "guided": guided,
        "guidance": sampling.guidance_scale if guided else 1.0,
        "samplers": samplers,
        "sampler": usual,
    }


def _samplers(model: Model, usual: Sampling) -> tuple[list[dict[str, Any]], int]:
    """Return the samplers that fit the model, with their moves, and the index of `usual`, which the page opens with.

    A student has `usual` alone. Other models have the samplers of OFFERED, and `usual` if it is not among them.
    """
    offered = [(title, Sampling(name, steps)) for name, (title, counts) in OFFERED.items() for steps in counts]
    if model.spec.student is not None:
        offered = [("the student's sampler", usual)]
    elif usual not in [sampling for _, sampling in offered]:
        offered.insert(0, (f"{usual.sampler}, which the student imitates", usual))
    rows, first = [], 0
    for title, sampling in offered:
        try:
            sampling.check(model)
        except UserError:
            continue  # The model's chain may have fewer steps, or its initial noise rules out samplers that add noise.
        first = len(rows) if sampling == usual else first
        moves = trace_sampler(model, sampling)
        rows.append({"name": sampling.sampler, "title": title, "steps": sampling.steps, "moves": moves})
    return rows, first


def _graph_facts(graph: Graph) -> dict[str, Any]:
    return {
        "inputs": graph.inputs,
        "constants": [{"shape": list(constant.tensor.shape), "half": constant.learned} for constant in graph.constants],
        "operations": graph.operations,
        "output": graph.output,
    }


def _encoded(graph: Graph) -> str:
    """Return the values of the constants, in base64: parameters in half precision, others in float32."""
    content = bytearray()
    for tensor, learned in graph.constants:
        stored = tensor.half() if learned else tensor.float()
        if learned and not stored.isfinite().all():
            raise UserError("`to html`: a weight is not finite in half precision", "use `to onnx`")
        content += stored.contiguous().numpy().tobytes()
    return base64.b64encode(content).decode()
