"""A network as a short list of operations, for an interpreter outside of Python.

`tracing.py` makes the graph, with the translations in `lowerings.py`. `browser/interpreter.js` executes the graph.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

Sizes = list[int]  # Sizes of a tensor. -k means k times the batch size.


class Lacking(Exception):
    """Operation, or option of an operation, that the interpreter lacks."""


class Constant(NamedTuple):
    """Tensor of a graph. learned: True for a parameter of the network, which is stored in half precision."""

    tensor: Tensor
    learned: bool


class Value(NamedTuple):
    """Input of a graph, or result of one of its operations."""

    number: int
    sizes: Sizes


@dataclass
class Graph:
    """Operations of a network.

    Values are numbered: the inputs from 0 on, then the results of the operations; the constants from -1 downwards.
    inputs: the sizes of each input. operations: the name (op), the numbers of the operands (in), the sizes of the
    result (shape), and options. output: the number of the network's output.
    """

    inputs: list[Sizes]
    constants: list[Constant] = field(default_factory=list)
    operations: list[dict[str, Any]] = field(default_factory=list)
    output: int = 0
    learned: set[int] = field(default_factory=set)  # ids of the parameters
    numbers: dict[int, int] = field(default_factory=dict)  # of the constants, by the ids of their tensors

    def emit(self, op: str, operands: Sequence[Any], result: Tensor | Sizes, **options: Any) -> Value:
        """Append an operation. operands: values, tensors or numbers. result: a tensor, or its sizes."""
        sizes = result if isinstance(result, list) else sizes_of(result)
        numbers = [self.number(operand) for operand in operands]
        self.operations.append({"op": op, "in": numbers, "shape": sizes, **options})
        return Value(len(self.inputs) + len(self.operations) - 1, sizes)

    def number(self, operand: Any) -> int:
        """Return the number of a value. Tensors and Python numbers become constants."""
        if isinstance(operand, Value):
            return operand.number
        tensor = operand if isinstance(operand, Tensor) else torch.tensor(float(operand))
        if id(tensor) not in self.numbers:
            self.constants.append(Constant(tensor, id(tensor) in self.learned))
            self.numbers[id(tensor)] = -len(self.constants)
        return self.numbers[id(tensor)]


def sizes_of(tensor: Tensor) -> Sizes:
    """Return the sizes of a traced tensor. Raises Lacking for a size neither fixed nor a multiple of the batch size."""
    return [_size(size) for size in tensor.shape]


def _size(size: int | torch.SymInt) -> int:
    if isinstance(size, int):
        return size
    expression: Any = size.node.expr
    symbols = expression.free_symbols
    multiple = expression / next(iter(symbols), 1)
    if len(symbols) > 1 or not multiple.is_Integer:
        raise Lacking(f"a tensor of size {size}")
    return -int(multiple) if symbols else int(multiple)
