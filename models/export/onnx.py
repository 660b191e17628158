"""Export to ONNX: the network, a sampler as a list of moves, and a README with numpy code that samples with both."""

import json
from pathlib import Path

import torch

from models.export.rendering import render
from models.export.sampling import trace_sampler
from models.export.tracing import Exported, export_decoder, export_network
from models.generation import Sampling
from models.model import Model
from models.runs.files import write_text

NETWORK, DECODER, SAMPLER, README = "network.onnx", "decoder.onnx", "sampler.json", "README.md"
# Lines of numpy that draw the noise at t = 1, by the name of the distribution.
DRAWS = {
    "gaussian": "rng.standard_normal(shape)",
    "uniform": "rng.uniform(-(3**0.5), 3**0.5, shape)",
    "bernoulli": "rng.choice([-1.0, 1.0], shape)",
}


def write_onnx(model: Model, folder: Path, run: str, sampling: Sampling) -> None:
    """Write network.onnx, sampler.json and README.md into a folder, and decoder.onnx for a model in latents.

    Needs the packages onnx and onnxscript.

    run: name of the model's run. sampling: the sampler to export; the README uses its guidance scale.
    Raises UserError if the network cannot be traced.
    """
    spec = model.spec
    _write(folder / NETWORK, export_network(model), ["noisy", "t", "label"], "output")
    if model.space.grey_levels is None:
        _write(folder / DECODER, export_decoder(model.space), ["clean"], "images")
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
        decoder=model.space.grey_levels is None,
        sampling=sampling,
        nfe=sum("evaluate" in move for move in settings["moves"]),
        first_noise=DRAWS[spec.initial_noise],
    )
    write_text(folder / README, text)


def _write(file: Path, exported: Exported, inputs: list[str], output: str) -> None:
    program, examples = exported
    made = torch.onnx.export(program, examples, dynamo=True, verbose=False, input_names=inputs, output_names=[output])
    assert made is not None
    made.save(str(file))
