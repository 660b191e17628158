"""Translations of torch's operations into operations of the page's interpreter. LOWERINGS lists all translations.

Each translation takes the graph, the traced result, and the arguments of torch's operation that it supports, by their
names. All other arguments must have their defaults, except those in IGNORED.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from models.export.graph import Graph, Lacking, Value, sizes_of

# Arguments that do not change the result of a network in eval mode.
IGNORED = frozenset(
    "memory_format copy non_blocking device dtype cudnn_enabled cudnn_enable implicit p train padding_idx sparse "
    "scale_grad_by_freq count_include_pad "
    # These follow from the sizes of the result.
    "shape size dim output_size chunks split_size split_sizes end".split()
)


def _reshape(graph: Graph, result: Tensor, self: Any) -> Value:
    """Translate views, copies and casts, which keep the order of the elements. A cast to uint8 truncates."""
    if result.dtype == torch.uint8:
        return graph.emit("trunc", [self], result)
    if result.dtype != torch.float32:
        raise Lacking(f"a tensor of {result.dtype}")
    sizes = sizes_of(result)
    return self if isinstance(self, Value) and self.sizes == sizes else graph.emit("reshape", [self], sizes)


def _identity(graph: Graph, result: Tensor, input: Any) -> Any:
    return input


def _expand(graph: Graph, result: Tensor, self: Any) -> Value:
    return graph.emit("expand", [self], result)


def _permute(graph: Graph, result: Tensor, self: Any, dims: Sequence[int]) -> Value:
    return graph.emit("permute", [self], result, dims=[dim % result.dim() for dim in dims])


def _transpose(graph: Graph, result: Tensor, self: Any, dim0: int, dim1: int) -> Value:
    dims = list(range(result.dim()))
    dims[dim0], dims[dim1] = dims[dim1], dims[dim0]
    return graph.emit("permute", [self], result, dims=dims)


def _parts(graph: Graph, result: Sequence[Tensor], self: Any, dim: int) -> list[Value]:
    """Cut a tensor along `dim` into parts of the sizes of `result`."""
    parts, start = [], 0
    for part in result:
        parts.append(graph.emit("slice", [self], part, dim=dim % part.dim(), start=start, step=1))
        start += int(part.shape[dim])
    return parts


def _unbind(graph: Graph, result: Sequence[Tensor], self: Any, dim: int) -> list[Value]:
    return [_select(graph, part, self, dim, index) for index, part in enumerate(result)]


def _select(graph: Graph, result: Tensor, self: Any, dim: int, index: int) -> Value:
    sizes, dim = sizes_of(result), dim % (result.dim() + 1)
    cut = graph.emit("slice", [self], [*sizes[:dim], 1, *sizes[dim:]], dim=dim, start=index, step=1)
    return graph.emit("reshape", [cut], sizes)


def _slice(graph: Graph, result: Tensor, self: Any, dim: int, start: int | None, step: int) -> Value:
    return graph.emit("slice", [self], result, dim=dim % result.dim(), start=start or 0, step=step)


def _cat(graph: Graph, result: Tensor, tensors: Sequence[Any], dim: int) -> Value:
    return graph.emit("cat", tensors, result, dim=dim % result.dim())


def _pad(graph: Graph, result: Tensor, self: Any, pad: Sequence[int], value: float | None) -> Any:
    if not any(pad):
        return self
    if value or min(pad) < 0:
        raise Lacking("aten.pad with a value other than 0, or a negative width")
    before = [0] * (result.dim() - len(pad) // 2) + list(pad[::2])[::-1]
    return graph.emit("pad", [self], result, before=before)


def _fold(graph: Graph, result: Tensor, self: Value, downscale_factor: int) -> Value:
    n, channels, height, width = self.sizes
    p, rows, columns = downscale_factor, height // downscale_factor, width // downscale_factor
    cut = graph.emit("reshape", [self], [n, channels, rows, p, columns, p])
    moved = graph.emit("permute", [cut], [n, channels, p, p, rows, columns], dims=[0, 1, 3, 5, 2, 4])
    return graph.emit("reshape", [moved], result)


def _unfold(graph: Graph, result: Tensor, self: Value, upscale_factor: int) -> Value:
    n, _, rows, columns = self.sizes
    p, channels = upscale_factor, int(result.shape[1])
    cut = graph.emit("reshape", [self], [n, channels, p, p, rows, columns])
    moved = graph.emit("permute", [cut], [n, channels, rows, p, columns, p], dims=[0, 1, 4, 2, 5, 3])
    return graph.emit("reshape", [moved], result)


def _function(name: str) -> Callable[..., Value]:
    """Return the translation of an elementwise function."""

    def lower(graph: Graph, result: Tensor, self: Any) -> Value:
        return graph.emit(name, [self], result)

    return lower


def _arithmetic(name: str) -> Callable[..., Value]:
    """Return the translation of an operation on two tensors that broadcast, or on a tensor and a number."""

    def lower(graph: Graph, result: Tensor, self: Any, other: Any) -> Value:
        return graph.emit(name, [self, other], result)

    return lower


def _clamp(graph: Graph, result: Tensor, self: Any, min: float | None, max: float | None) -> Value:
    return graph.emit("clamp", [self], result, min=min, max=max)


def _addcmul(graph: Graph, result: Tensor, self: Any, tensor1: Any, tensor2: Any) -> Value:
    return graph.emit("add", [self, graph.emit("mul", [tensor1, tensor2], result)], result)


def _linear(graph: Graph, result: Tensor, input: Any, weight: Tensor, bias: Tensor | None) -> Value:
    return graph.emit("linear", [input, weight, *_given(bias)], result)


def _conv2d(
    graph: Graph,
    result: Tensor,
    input: Any,
    weight: Tensor,
    bias: Tensor | None,
    stride: list[int],
    padding: list[int] | str,
    groups: int,
) -> Value:
    if isinstance(padding, str):
        raise Lacking(f"aten.conv2d with padding {padding!r}")
    if groups > 1 and not weight.shape[1] == 1 == result.shape[1] // groups:
        raise Lacking(f"aten.conv2d with {groups} groups of several channels")
    options = {"stride": _pair(stride), "padding": _pair(padding), "groups": groups}
    return graph.emit("conv", [input, weight, *_given(bias)], result, **options)


def _group_norm(graph: Graph, result: Tensor, input: Any, num_groups: int, weight: Any, bias: Any, eps: float) -> Value:
    """Normalise in every group, then scale and shift every channel."""
    normed = graph.emit("normalise", [input], result, rows=-num_groups, centred=True, eps=eps)
    shape = [1, int(result.shape[1]), *[1] * (result.dim() - 2)]
    scale, shift = (None if part is None else graph.emit("reshape", [part], shape) for part in (weight, bias))
    return _scaled(graph, result, normed, scale, shift)


def _layer_norm(
    graph: Graph, result: Tensor, input: Any, normalized_shape: list[int], weight: Any, bias: Any, eps: float
) -> Value:
    rows = _rows(result, normalized_shape)
    normed = graph.emit("normalise", [input], result, rows=rows, centred=True, eps=eps)
    return _scaled(graph, result, normed, weight, bias)


def _rms_norm(
    graph: Graph, result: Tensor, input: Any, normalized_shape: list[int], weight: Any, eps: float | None
) -> Value:
    eps, rows = torch.finfo(torch.float32).eps if eps is None else eps, _rows(result, normalized_shape)
    normed = graph.emit("normalise", [input], result, rows=rows, centred=False, eps=eps)
    return _scaled(graph, result, normed, weight, None)


def _rows(result: Tensor, normalized_shape: list[int]) -> int:
    """Return the number of rows that are normalised separately; -k for k times the batch size, as in `Sizes`."""
    rows = 1
    for size in sizes_of(result)[: result.dim() - len(normalized_shape)]:
        rows *= size
    return rows


def _scaled(graph: Graph, result: Tensor, normed: Value, scale: Any, shift: Any) -> Value:
    normed = normed if scale is None else graph.emit("mul", [normed, scale], result)
    return normed if shift is None else graph.emit("add", [normed, shift], result)


def _attention(graph: Graph, result: Tensor, query: Value, key: Any, value: Any, scale: float | None) -> Value:
    if not _sizes(query)[:-2] == _sizes(key)[:-2] == _sizes(value)[:-2]:
        raise Lacking("aten.scaled_dot_product_attention of tensors that broadcast")
    scale = query.sizes[-1] ** -0.5 if scale is None else scale
    return graph.emit("attention", [query, key, value], result, scale=scale)


def _mean_pool(
    graph: Graph,
    result: Tensor,
    self: Any,
    kernel_size: list[int],
    stride: list[int],
    padding: int | list[int],
    ceil_mode: bool,
) -> Value:
    if _pair(padding) != [0, 0]:
        raise Lacking("aten.avg_pool2d with padding")
    return graph.emit("mean_pool", [self], result, kernel=_pair(kernel_size), stride=_pair(stride or kernel_size))


def _nearest(graph: Graph, result: Tensor, input: Any, scale_factors: Sequence[float] | None) -> Value:
    if any(factor != int(factor) for factor in scale_factors or ()):
        raise Lacking(f"aten.upsample_nearest2d with scale factors {scale_factors}")
    return graph.emit("nearest", [input], result)


def _embedding(graph: Graph, result: Tensor, weight: Tensor, indices: Any) -> Value:
    return graph.emit("rows", [weight, indices], result)


def _sizes(operand: Value | Tensor) -> list[int]:
    return operand.sizes if isinstance(operand, Value) else sizes_of(operand)


def _given(bias: Tensor | None) -> list[Tensor]:
    return [] if bias is None else [bias]


def _pair(value: int | list[int]) -> list[int]:
    return [value, value] if isinstance(value, int) else [*value] if len(value) == 2 else [*value, *value]


LOWERINGS: dict[str, Callable[..., Any]] = {
    **{
        f"aten.{name}": _reshape
        for name in "reshape view unsqueeze squeeze flatten contiguous clone alias detach to _to_copy".split()
    },
    "aten.dropout": _identity,
    "aten.expand": _expand,
    "aten.permute": _permute,
    "aten.transpose": _transpose,
    "aten.chunk": _parts,
    "aten.split": _parts,
    "aten.split_with_sizes": _parts,
    "aten.unbind": _unbind,
    "aten.select": _select,
    "aten.slice": _slice,
    "aten.cat": _cat,
    "aten.pad": _pad,
    "aten.pixel_unshuffle": _fold,
    "aten.pixel_shuffle": _unfold,
    **{f"aten.{name}": _function(name) for name in "exp sin cos silu gelu sigmoid relu round".split()},
    **{f"aten.{name}": _arithmetic(name) for name in "add sub mul div".split()},
    "aten.clamp": _clamp,
    "aten.addcmul": _addcmul,
    "aten.linear": _linear,
    "aten.conv2d": _conv2d,
    "aten.group_norm": _group_norm,
    "aten.layer_norm": _layer_norm,
    "aten.rms_norm": _rms_norm,
    "aten.scaled_dot_product_attention": _attention,
    "aten.avg_pool2d": _mean_pool,
    "aten.upsample_nearest2d": _nearest,
    "aten.embedding": _embedding,
}
