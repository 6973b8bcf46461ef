"""Rules of the operators that move data about or make constants."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from edgebus.training.graph._node import NodeView, NotSupported, Op, ints, rule

DTYPES: dict[int, torch.dtype] = {
    1: torch.float32,
    2: torch.uint8,
    3: torch.int8,
    5: torch.int16,
    6: torch.int32,
    7: torch.int64,
    9: torch.bool,
    11: torch.float64,
}
"""onnx.TensorProto.DataType of the types that the interpreter computes with."""


def _axes(node: NodeView, index: int = 1) -> list[int] | None:
    """Axes: an attribute in older operator sets, an input in newer ones."""
    value = node.constant(index, "axes")
    if value is not None:
        return ints(value)
    attribute = node.get("axes", None)
    return None if attribute is None else [int(a) for a in attribute]


@rule("Concat", attributes=("axis",))
def _concat(node: NodeView) -> Op:
    axis = int(node.get("axis", 0))
    return lambda *parts: torch.cat(parts, axis)


@rule("Reshape", attributes=("allowzero",))
def _reshape(node: NodeView) -> Op:
    node.must_be(allowzero=0)
    shape = node.constant(1, "shape")
    if shape is None:
        msg = "no shape"
        raise NotSupported(msg)
    wanted = ints(shape)
    # Zero means: as the input has it.
    return lambda x, *_: x.reshape([x.shape[i] if n == 0 else n for i, n in enumerate(wanted)])


@rule("Flatten", attributes=("axis",))
def _flatten(node: NodeView) -> Op:
    axis = int(node.get("axis", 1))

    def run(x: Tensor) -> Tensor:
        at = axis if axis >= 0 else axis + x.ndim
        rows = 1
        for size in x.shape[:at]:
            rows *= size
        return x.reshape(rows, -1)

    return run


@rule("Transpose", attributes=("perm",))
def _transpose(node: NodeView) -> Op:
    perm = node.get("perm", None)
    return lambda x: x.permute(perm if perm is not None else tuple(reversed(range(x.ndim))))


@rule("Squeeze", attributes=("axes",))
def _squeeze(node: NodeView) -> Op:
    axes = _axes(node)
    if axes is None:
        msg = "no axes: which ones go would depend on the picture's batch"
        raise NotSupported(msg)
    return lambda x, *_: x.squeeze(tuple(axes))


@rule("Unsqueeze", attributes=("axes",))
def _unsqueeze(node: NodeView) -> Op:
    axes = _axes(node)
    if axes is None:
        msg = "no axes"
        raise NotSupported(msg)

    def run(x: Tensor, *_: Any) -> Tensor:
        rank = x.ndim + len(axes)
        for axis in sorted(a if a >= 0 else a + rank for a in axes):
            x = x.unsqueeze(axis)
        return x

    return run


@rule("Slice", attributes=("starts", "ends", "axes"))
def _slice(node: NodeView) -> Op:
    if node.opset >= 10:
        values = [node.constant(i, w) for i, w in ((1, "starts"), (2, "ends"))]
        starts, ends = ([] if v is None else ints(v) for v in values)
        axes = _axes(node, 3)
        steps_value = node.constant(4, "steps")
        steps = [1] * len(starts) if steps_value is None else ints(steps_value)
    else:
        starts, ends = list(node.get("starts", [])), list(node.get("ends", []))
        axes, steps = _axes(node, 99), [1] * len(starts)
    if any(step < 1 for step in steps):
        msg = f"steps = {steps}; known: positive ones"
        raise NotSupported(msg)
    where = axes if axes is not None else list(range(len(starts)))
    cuts = {a: slice(s, e, t) for a, s, e, t in zip(where, starts, ends, steps, strict=True)}

    def run(x: Tensor, *_: Any) -> Tensor:
        index = [slice(None)] * x.ndim
        for axis, cut in cuts.items():
            index[axis] = cut
        return x[tuple(index)]

    return run


@rule("Split", attributes=("axis", "split", "num_outputs"))
def _split(node: NodeView) -> Op:
    axis = int(node.get("axis", 0))
    value = node.constant(1, "split")
    sizes = ints(value) if value is not None else node.get("split", None)
    count = len(node.outputs)

    def run(x: Tensor, *_: Any) -> tuple[Tensor, ...]:
        if sizes is not None:
            return tuple(torch.split(x, list(sizes), axis))
        # Equal parts; only the last may be smaller (operator set 18).
        return tuple(torch.split(x, -(-x.shape[axis] // count), axis))

    return run


@rule("Gather", attributes=("axis",))
def _gather(node: NodeView) -> Op:
    axis = int(node.get("axis", 0))
    index = node.constant(1, "indices")
    if index is None:
        msg = "no indices"
        raise NotSupported(msg)
    if index.ndim > 1:
        msg = f"indices of shape {tuple(index.shape)}; known: a number or a list"
        raise NotSupported(msg)
    if index.ndim == 0:
        at = int(index)
        return lambda x, _: x.select(axis, at)
    picks = ints(index)

    def run(x: Tensor, _: Tensor) -> Tensor:
        size = x.shape[axis]
        chosen = torch.tensor([p % size for p in picks], device=x.device)
        return x.index_select(axis, chosen)

    return run


@rule("Pad", attributes=("mode", "pads", "value"))
def _pad(node: NodeView) -> Op:
    node.must_be(mode="constant")
    if node.has_input(3):
        msg = "axes given; known: pads for every axis"
        raise NotSupported(msg)
    pads_value, fill_value = node.constant(1, "pads"), node.constant(2, "constant_value")
    pads = ints(pads_value) if pads_value is not None else list(node.get("pads", []))
    fill = float(fill_value) if fill_value is not None else float(node.get("value", 0.0))
    half = len(pads) // 2
    flat = [p for axis in reversed(range(half)) for p in (pads[axis], pads[axis + half])]
    return lambda x, *_: F.pad(x, flat, value=fill) if any(flat) else x


@rule("Expand")
def _expand(node: NodeView) -> Op:
    shape = node.constant(1, "shape")
    if shape is None:
        msg = "no shape"
        raise NotSupported(msg)
    wanted = ints(shape)
    # Each size is 1 or equal on one of the two sides.
    return lambda x, _: x * torch.ones(wanted, dtype=x.dtype, device=x.device)


@rule(
    "ReduceMean", "ReduceMax", "ReduceSum", attributes=("axes", "keepdims", "noop_with_empty_axes")
)
def _reduce(node: NodeView) -> Op:
    node.must_be(noop_with_empty_axes=0)
    axes, keep = _axes(node), bool(node.get("keepdims", 1))
    function: Any = {"ReduceMean": torch.mean, "ReduceMax": torch.amax, "ReduceSum": torch.sum}[
        node.op
    ]

    def run(x: Tensor, *_: Any) -> Tensor:
        where = tuple(axes) if axes is not None else tuple(range(x.ndim))
        result: Tensor = function(x, dim=where, keepdim=keep)
        return result

    return run


@rule("Shape", attributes=("start", "end"))
def _shape(node: NodeView) -> Op:
    shape = node.shape(0)
    if shape is None:
        msg = f"the shape of {node.inputs[0]!r} is not known beforehand"
        raise NotSupported(msg)
    part = shape[node.get("start", 0) : node.get("end", None)]
    if None in part:
        msg = f"the shape of {node.inputs[0]!r} is {shape}; known: fixed sizes"
        raise NotSupported(msg)
    sizes = [n for n in part if n is not None]
    return lambda _: torch.tensor(sizes, dtype=torch.int64)


@rule("Cast", attributes=("to",))
def _cast(node: NodeView) -> Op:
    dtype = DTYPES.get(node.get("to", 0))
    if dtype is None:
        msg = f"attribute to = {node.get('to', 0)}; known: {sorted(DTYPES)}"
        raise NotSupported(msg)
    return lambda x: x.to(dtype)


@rule("Constant", attributes=("value", "value_float", "value_floats", "value_int", "value_ints"))
def _constant(node: NodeView) -> Op:
    if len(node.attributes) != 1:
        msg = f"attributes {sorted(node.attributes)}; known: one value"
        raise NotSupported(msg)
    (name, value), *_ = node.attributes.items()
    if name == "value":
        result: Tensor = value
    else:
        dtype = torch.float32 if "float" in name else torch.int64
        result = torch.tensor(value, dtype=dtype)
    return lambda: result


@rule("ConstantOfShape", attributes=("value",))
def _constant_of_shape(node: NodeView) -> Op:
    shape = node.constant(0, "shape")
    if shape is None:
        msg = "no shape"
        raise NotSupported(msg)
    value = node.get("value", torch.zeros(1))
    size = ints(shape)
    return lambda _: torch.full(size, value.reshape(-1)[0].item(), dtype=value.dtype)
