"""A network as a short list of operations, for an interpreter outside of Python. `torch.export` traces the network.

What depends on constants alone is computed here. `lowerings.py` translates each operation of torch, and
`browser/operations.js` executes the result.
"""

import inspect
import operator
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx, nn
from torch._ops import OpOverload

from models.errors import UserError

Sizes = list[int]  # Sizes of a tensor. -k means k times the batch size.


class Constant(NamedTuple):
    """Tensor of a graph. learned: it is a parameter of the network, and may be stored in half precision."""

    tensor: Tensor
    learned: bool


@dataclass
class Graph:
    """Operations of a network.

    Values are numbered: the inputs from 0 on, then the results of the operations; the constants from -1 downwards.
    operations: the name (op), the numbers of the operands (in), the sizes of the result (shape), and options.
    output: the number of the network's output.
    """

    inputs: int
    constants: list[Constant] = field(default_factory=list)
    operations: list[dict[str, Any]] = field(default_factory=list)
    output: int = 0


class Value(NamedTuple):
    """Value that depends on the inputs."""

    number: int
    sizes: Sizes


class Lacking(Exception):
    """Operation, or option of an operation, that the interpreter lacks."""


def trace(network: nn.Module, examples: Sequence[Tensor]) -> Graph:
    """Return the operations of a network. examples: its inputs, for a batch of two or more.

    Raises UserError if the network cannot be traced or needs an operation that is not in LOWERINGS.
    """
    batch = torch.export.Dim("batch", min=1, max=4096)
    try:
        with torch.no_grad():
            program = torch.export.export(network, tuple(examples), dynamic_shapes=tuple({0: batch} for _ in examples))
    except (RuntimeError, ValueError, AssertionError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(f"`to`: torch.export cannot trace the network: {reason}", "use `to folder`") from None
    try:
        return GraphBuilder(program).build()
    except Lacking as error:
        raise UserError(f"`to html`: the page cannot compute {error}", "use `to onnx`") from None


class GraphBuilder:
    """Translates the nodes of an exported program into a graph. values: results of the nodes; tensors are constant."""

    def __init__(self, program: torch.export.ExportedProgram) -> None:
        self.program = program
        self.values: dict[fx.Node, Any] = {}
        self.numbers: dict[int, int] = {}  # of the constants, by the id of their tensors
        self.learned: set[int] = set()
        self.graph = Graph(len(program.graph_signature.user_inputs))

    def build(self) -> Graph:
        self._read_inputs()
        for node in self.program.graph.nodes:
            if node.op == "call_function":
                self.values[node] = self._call(node)
            elif node.op == "output":
                output = node.args[0]
                assert isinstance(output, tuple) and isinstance(output[0], fx.Node)
                self.graph.output = self.number(self.values[output[0]])
        return self.graph

    def emit(self, op: str, operands: Sequence[Any], result: Tensor | Sizes, **options: Any) -> Value:
        """Append an operation. operands: values, tensors or numbers. result: its sizes, or a tensor that has them."""
        sizes = result if isinstance(result, list) else sizes_of(result)
        numbers = [self.number(operand) for operand in operands]
        self.graph.operations.append({"op": op, "in": numbers, "shape": sizes, **options})
        return Value(self.graph.inputs + len(self.graph.operations) - 1, sizes)

    def number(self, operand: Any) -> int:
        """Return the number of a value. Tensors and Python numbers become constants."""
        if isinstance(operand, Value):
            return operand.number
        tensor = operand if isinstance(operand, Tensor) else torch.tensor(float(operand))
        if id(tensor) not in self.numbers:
            self.graph.constants.append(Constant(tensor, id(tensor) in self.learned))
            self.numbers[id(tensor)] = -len(self.graph.constants)
        return self.numbers[id(tensor)]

    def _read_inputs(self) -> None:
        signature = self.program.graph_signature
        tensors = {**self.program.state_dict, **self.program.constants}
        held = {**signature.inputs_to_buffers, **signature.inputs_to_lifted_tensor_constants}
        for node in self.program.graph.nodes:
            if node.op != "placeholder":
                continue
            if node.name in signature.inputs_to_parameters:
                self.values[node] = tensors[signature.inputs_to_parameters[node.name]].detach()
                self.learned.add(id(self.values[node]))
            elif node.name in held:
                self.values[node] = tensors[held[node.name]].detach()
            else:
                self.values[node] = Value(signature.user_inputs.index(node.name), sizes_of(node.meta["val"]))

    def _call(self, node: fx.Node) -> Any:
        """Return the result of a node: a tensor, a Value, a list of these, or None for arithmetic on sizes."""
        args, kwargs = fx.node.map_arg((node.args, node.kwargs), self.values.__getitem__)
        if node.target is operator.getitem:
            return args[0][args[1]]
        if not isinstance(node.target, OpOverload) or node.meta.get("val") is None or _is_size(node.meta["val"]):
            return None
        sources = [self.values[source] for source in node.all_input_nodes]
        if all(isinstance(source, Tensor) and id(source) not in self.learned for source in sources):
            return node.target(*args, **kwargs)
        return self._lower(node.target._schema, node.meta["val"], args, kwargs)

    def _lower(self, schema: Any, result: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
        from models.export.lowerings import IGNORED, LOWERINGS

        name = schema.name.replace("::", ".")
        if name not in LOWERINGS:
            raise Lacking(name)
        given = {argument.name: argument.default_value for argument in schema.arguments if argument.has_default_value()}
        given |= dict(zip((argument.name for argument in schema.arguments), args, strict=False)) | kwargs
        known = inspect.signature(LOWERINGS[name]).parameters
        for argument in schema.arguments:
            if argument.name not in known and argument.name not in IGNORED:
                if given.pop(argument.name) != argument.default_value:
                    raise Lacking(f"{name} with {argument.name} other than {argument.default_value}")
        return LOWERINGS[name](self, result, **{key: value for key, value in given.items() if key in known})


def _is_size(value: Any) -> bool:
    return isinstance(value, (int, torch.SymInt))


def sizes_of(tensor: Tensor) -> Sizes:
    """Return the sizes of a traced tensor. Raises Lacking for a size that is neither fixed nor a multiple of N."""
    return [_size(size) for size in tensor.shape]


def _size(size: int | torch.SymInt) -> int:
    if isinstance(size, int):
        return size
    expression = size.node.expr
    symbols = expression.free_symbols
    if len(symbols) == 0:
        return int(expression)
    multiple = expression / next(iter(symbols))
    if len(symbols) > 1 or not multiple.is_Integer:
        raise Lacking(f"a tensor of size {size}")
    return -int(multiple)
