"""Graph of a network. `torch.export` traces the network, and LOWERINGS translates each operation of the trace.

Values that depend neither on inputs nor on parameters are computed during the translation.
"""

import inspect
import logging
import operator
from collections.abc import Sequence
from contextlib import redirect_stderr
from io import StringIO
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch._ops import OpOverload
from torch.export import Dim, ExportedProgram, export
from torch.fx.node import map_arg

from models.errors import UserError
from models.export.graph import Graph, Lacking, Value, sizes_of
from models.export.lowerings import IGNORED, LOWERINGS
from models.model import Model
from models.spaces import Space

Exported = tuple[ExportedProgram, tuple[Tensor, ...]]


class _Decoder(nn.Module):
    """Conversion of clean images to uint8 images, as a module."""

    def __init__(self, space: Space) -> None:
        super().__init__()
        self.space = space

    def forward(self, clean: Tensor) -> Tensor:
        return self.space.decode(clean)


def export_network(model: Model) -> Exported:
    """Return the model's network, traced by torch.export for batch sizes 1 to 4096, and the inputs of the trace.

    The inputs are noisy images (N, C, H, W), times (N,) and labels (N,). Raises UserError if tracing fails.
    """
    examples = torch.zeros(2, *model.space.shape), torch.full((2,), 0.5), torch.zeros(2, dtype=torch.int64)
    return _export(model.denoiser.network, examples)


def export_decoder(space: Space) -> Exported:
    """Return the conversion of clean images (N, *space.shape) to uint8 images, traced as in `export_network`."""
    clean = torch.zeros(2, *space.shape)
    space.decode(clean)  # The first call fills the space's caches, so that the trace does not fill them.
    return _export(_Decoder(space), (clean,))


def _export(module: nn.Module, examples: tuple[Tensor, ...]) -> Exported:
    sizes = ({0: Dim("batch", min=1, max=4096)},) * len(examples)
    logging.disable(logging.ERROR)  # torch logs and prints pages about a network that it cannot trace
    try:
        with torch.no_grad(), redirect_stderr(StringIO()):
            return export(module, examples, dynamic_shapes=sizes), examples
    except (RuntimeError, ValueError, AssertionError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(f"`to`: torch.export cannot trace the network: {reason}", "use `to folder`") from None
    finally:
        logging.disable(logging.NOTSET)


def build_graph(program: ExportedProgram) -> Graph:
    """Return the operations of a traced network. Raises UserError for an operation that LOWERINGS does not support."""
    try:
        return _Translation(program).graph
    except Lacking as error:
        raise UserError(f"`to html`: the page cannot compute {error}", "use `to onnx`") from None


class _Translation:
    """Graph of an exported program. values: for each node, a tensor if it is a parameter or constant, else a Value."""

    def __init__(self, program: ExportedProgram) -> None:
        self.graph = Graph([])
        self.values: dict[fx.Node, Any] = {}
        self._read_inputs(program)
        for node in program.graph.nodes:
            if node.op == "call_function":
                self.values[node] = self._call(node)
            elif node.op == "output":
                (self.graph.output,) = (self.graph.number(self.values[output]) for output in node.args[0])

    def _read_inputs(self, program: ExportedProgram) -> None:
        signature, tensors = program.graph_signature, {**program.state_dict, **program.constants}
        held = {**signature.inputs_to_buffers, **signature.inputs_to_lifted_tensor_constants}
        for node in program.graph.nodes:
            if node.op != "placeholder":
                continue
            name = signature.inputs_to_parameters.get(node.name) or held.get(node.name)
            if name is None:
                sizes = sizes_of(node.meta["val"])
                self.values[node] = Value(len(self.graph.inputs), sizes)
                self.graph.inputs.append(sizes)
                continue
            self.values[node] = tensors[name].detach()
            if isinstance(tensors[name], nn.Parameter):
                self.graph.learned.add(id(self.values[node]))

    def _call(self, node: fx.Node) -> Any:
        """Return the value of a node; a list if torch's operation returns several, None for arithmetic on sizes."""
        args: Any = map_arg(node.args, self.values.__getitem__)
        kwargs: Any = map_arg(node.kwargs, self.values.__getitem__)
        if node.target is operator.getitem:
            return args[0][args[1]]
        result = node.meta.get("val")
        if not isinstance(node.target, OpOverload) or result is None or isinstance(result, (int, torch.SymInt)):
            return None  # Not needed: the sizes of each result are known.
        sources = [self.values[source] for source in node.all_input_nodes]
        if all(isinstance(source, Tensor) and id(source) not in self.graph.learned for source in sources):
            return node.target(*args, **kwargs)
        return self._lower(node.target._schema, result, args, kwargs)

    def _lower(self, schema: Any, result: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
        name = schema.name.replace("::", ".")
        if name not in LOWERINGS:
            raise Lacking(name)
        given = {argument.name: argument.default_value for argument in schema.arguments if argument.has_default_value()}
        given |= dict(zip((argument.name for argument in schema.arguments), args, strict=False)) | kwargs
        known = inspect.signature(LOWERINGS[name]).parameters
        for argument in schema.arguments:
            supported = argument.name in known or argument.name in IGNORED
            if not supported and given[argument.name] != argument.default_value:
                raise Lacking(f"{name} with {argument.name}={given[argument.name]}")
        return LOWERINGS[name](self.graph, result, **{key: value for key, value in given.items() if key in known})
