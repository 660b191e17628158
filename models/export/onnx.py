"""A denoising network as ONNX, with the moves of a sampler and the lines of numpy that sample from both."""

import json
from pathlib import Path

import torch

from models.export.rendering import render
from models.export.sampling import trace_sampler
from models.export.tracing import export_program
from models.generation import Sampling
from models.model import Model
from models.runs.files import write_text

NETWORK, SAMPLER, README = "network.onnx", "sampler.json", "README.md"
# Draws of the noise at t = 1 with numpy, by the name of the distribution.
DRAWS = {
    "gaussian": "rng.standard_normal(shape)",
    "uniform": "rng.uniform(-(3**0.5), 3**0.5, shape)",
    "bernoulli": "rng.choice([-1.0, 1.0], shape)",
}


def write_onnx(model: Model, folder: Path, run: str, sampling: Sampling) -> None:
    """Write network.onnx, sampler.json and README.md into a folder. Needs the packages onnx and onnxscript.

    run: name of the model's run. sampling: the sampler whose moves are written; its guidance scale is the README's.
    Raises UserError if the network cannot be traced.
    """
    spec = model.spec
    program, examples = export_program(model)
    names = {"input_names": ["noisy", "t", "label"], "output_names": ["output"]}
    exported = torch.onnx.export(program, examples, dynamo=True, verbose=False, **names)
    assert exported is not None
    exported.save(str(folder / NETWORK))
    settings = {
        "shape": model.space.shape,
        "bounds": model.space.bounds,
        "grey_levels": model.space.grey_levels,
        "null_label": spec.classes,
        "moves": trace_sampler(model, sampling),
    }
    write_text(folder / SAMPLER, json.dumps(settings) + "\n")
    text = render(
        "onnx.md",
        run=run,
        spec=spec,
        shape=" × ".join(map(str, model.space.shape)),
        sampling=sampling,
        nfe=sum("evaluate" in move for move in settings["moves"]),
        first_noise=DRAWS[spec.initial_noise],
    )
    write_text(folder / README, text)
