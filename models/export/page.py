"""One HTML file that generates images in a browser, offline: the network's graph, its weights and the samplers' moves.

The page's code is beside this file in `browser/`. A page draws the images of a seed as `generate` does, except that
the weights are rounded to half precision.
"""

import base64
import shlex
from pathlib import Path
from typing import Any

from models.errors import UserError
from models.export.graph import Graph
from models.export.rendering import render
from models.export.sampling import trace_sampler
from models.export.tracing import build_graph, export_decoder, export_network
from models.generation import Sampling
from models.model import Model
from models.places import PALETTE

BROWSER = Path(__file__).parent / "browser"
ENGINE = ("matmul", "operations", "interpreter", "philox", "sampler", "worker")  # scripts of the worker, in order
MOST_CLASSES = 100
UNLABELLED = 10  # Images of a model without classes.
USUAL = ("heun", 6)
# Samplers of the page, with their titles and numbers of steps.
OFFERED: dict[str, tuple[str, tuple[int, ...]]] = {
    "heun": ("Heun", (2, 3, 4, 6, 10, 16, 25)),
    "euler": ("Euler (DDIM)", (1, 2, 5, 10, 20, 50)),
    "dpmpp_2m": ("DPM-Solver++ (2M)", (5, 10, 15, 25)),
    "ddpm": ("ancestral (DDPM)", (10, 20, 50)),
}


def build_page(model: Model, run: str, guidance_scale: float) -> str:
    """Return the HTML of a page.

    run: name of the model's run, or of its file outside of runs. guidance_scale: the scale that is set at first.
    Raises UserError if a network cannot be traced, has an operation that the page lacks, or weights above 65,504.
    """
    graph = build_graph(export_network(model)[0])
    decoder = None if model.space.grey_levels else build_graph(export_decoder(model.space)[0])
    facts = {"graph": _graph_facts(graph), "decoder": decoder and _graph_facts(decoder)}
    return render(
        "page.html",
        title=run,
        subtitle=_describe(model),
        model={**_facts(model, run, guidance_scale), **facts},
        weights=" ".join(_encoded(each) for each in (graph, decoder) if each),
        style=PALETTE.read_text(encoding="utf-8") + _read("page.css"),
        engine="\n".join(_read(f"{name}.js") for name in ENGINE),
        script=_read("page.js"),
    )


def _read(name: str) -> str:
    return (BROWSER / name).read_text(encoding="utf-8")


def _describe(model: Model) -> str:
    weights = sum(parameter.numel() for parameter in model.denoiser.network.parameters())
    size = "×".join(map(str, model.space.image_shape[1:]))
    return f"A network of {weights:,} weights draws {size} images on this device. This file needs no connection."


def _facts(model: Model, run: str, guidance_scale: float) -> dict[str, Any]:
    spec = model.spec
    guided = spec.classes > 0 and spec.label_drop > 0 and spec.student is None
    samplers = _samplers(model)
    flag = "--checkpoint" if run.endswith(".safetensors") else "--run"
    weights = ["--weights", "raw"] if model.origin is not None and model.origin.weights == "raw" else []
    usual = next((index for index, row in enumerate(samplers) if (row["name"], row["steps"]) == USUAL), 0)
    named = [{"label": label, "name": spec.class_names[label]} for label in spec.trained]
    return {
        "source": shlex.join([flag, run, *weights]),
        "shape": model.space.shape,
        "bounds": model.space.bounds,
        "imageShape": model.space.image_shape,
        "greyLevels": model.space.grey_levels or (0, 255),
        "initialNoise": spec.initial_noise,
        "nullLabel": spec.classes,
        "images": (named or [{"label": None, "name": str(index)} for index in range(UNLABELLED)])[:MOST_CLASSES],
        "guided": guided,
        "guidance": guidance_scale if guided else 1.0,
        "samplers": samplers,
        "sampler": usual,
    }


def _samplers(model: Model) -> list[dict[str, Any]]:
    """Return the moves of all offered samplers that fit the model. A student has one."""
    rows, student = [], model.spec.student
    offered = OFFERED if student is None else {"ddim": ("that of the student", (student.evaluations,))}
    for name, (title, steps) in offered.items():
        for count in steps:
            sampling = Sampling(name, count)
            try:
                sampling.check(model)
            except UserError:
                continue  # A chain may have fewer steps, and some initial noises rule out samplers that add noise.
            moves = trace_sampler(model, sampling)
            nfe = sum("evaluate" in move for move in moves)
            rows.append({"name": name, "title": title, "steps": count, "nfe": nfe, "moves": moves})
    return rows


def _graph_facts(graph: Graph) -> dict[str, Any]:
    return {
        "inputs": graph.inputs,
        "constants": [{"shape": list(constant.tensor.shape), "half": constant.learned} for constant in graph.constants],
        "operations": graph.operations,
        "output": graph.output,
    }


def _encoded(graph: Graph) -> str:
    """Return the values of the constants, one after the other, in base64. Learned ones are in half precision."""
    content = bytearray()
    for tensor, learned in graph.constants:
        stored = tensor.half() if learned else tensor.float()
        if learned and not stored.isfinite().all():
            raise UserError("`to html`: a weight is not finite in half precision", "use `to onnx`")
        content += stored.contiguous().numpy().tobytes()
    return base64.b64encode(content).decode()
