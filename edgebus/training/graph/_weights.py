"""Which tensors of a graph are weights, and which of them a training run may change."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import onnx
from onnx import TensorProto

from edgebus.training.graph._errors import GraphError

TrainScope = Literal["biases", "biases+scales", "head", "all"]
"""What to train: biases only; biases and one factor per output channel; the last layers; all."""

HEAD_DEPTH = 6
"""Layers before the outputs that count as the head: stem, two separable convolutions, prediction
(the decoupled head of YOLOX; other heads are shorter)."""

Kind = Literal["weight", "bias", "gain", "statistic"]

_SLOTS: Mapping[str, Mapping[int, Kind]] = {
    "Conv": {1: "weight", 2: "bias"},
    "ConvTranspose": {1: "weight", 2: "bias"},
    "Gemm": {1: "weight", 2: "bias"},
    "MatMul": {0: "weight", 1: "weight"},
    "BatchNormalization": {1: "gain", 2: "bias", 3: "statistic", 4: "statistic"},
}


@dataclass(frozen=True, slots=True)
class Weight:
    """A tensor that belongs to a layer.

    Attributes:
        name: Name in the graph and in the bundle's weights.
        shape: Its shape.
        kind: weight of a layer, bias, gain or statistic of a batch normalisation.
        scalable: Its first axis is the output channel, so one factor per channel makes sense.
        depth: Layers with weights from here to the outputs, this one included; the longest way.
    """

    name: str
    shape: tuple[int, ...]
    kind: Kind
    scalable: bool
    depth: int


@dataclass(frozen=True, slots=True)
class Choice:
    """What a training run changes: tensors as a whole, and tensors by factors per channel."""

    replaced: tuple[str, ...]
    scaled: tuple[str, ...]


def find_weights(
    nodes: Sequence[onnx.NodeProto],
    initializers: Mapping[str, TensorProto],
    outputs: Sequence[str],
) -> dict[str, Weight]:
    """The float32 initializers that feed a layer: the ones that a bundle keeps apart.

    Args:
        nodes: The nodes in order of computation.
        initializers: All initializers, by name.
        outputs: Names of the outputs, where the depth is counted from.
    """
    depth_of: dict[str, int] = dict.fromkeys(outputs, 0)
    found: dict[str, Weight] = {}
    for node in reversed(nodes):
        slots = {
            index: kind
            for index, kind in _SLOTS.get(node.op_type, {}).items()
            if index < len(node.input)
            and node.input[index] in initializers
            and initializers[node.input[index]].data_type == TensorProto.FLOAT
        }
        depth = max((depth_of.get(output, 0) for output in node.output), default=0) + bool(slots)
        for name in node.input:
            depth_of[name] = max(depth_of.get(name, 0), depth)
        for index, kind in slots.items():
            name = node.input[index]
            known = found.get(name)
            scalable = _scalable(node, index) and (known is None or known.scalable)
            found[name] = Weight(
                name=name,
                shape=tuple(initializers[name].dims),
                kind=kind,
                scalable=scalable,
                depth=depth if known is None else max(depth, known.depth),
            )
    return dict(reversed(found.items()))


def _scalable(node: onnx.NodeProto, index: int) -> bool:
    if index != 1:
        return False
    if node.op_type == "Gemm":
        return any(a.name == "transB" and a.i == 1 for a in node.attribute)
    return node.op_type == "Conv"


def choose(
    weights: Mapping[str, Weight], scope: TrainScope, *, head_depth: int = HEAD_DEPTH
) -> Choice:
    """The tensors that a scope trains.

    Raises:
        GraphError: No such scope, or the graph has nothing that it trains.
    """
    if scope not in get_args(TrainScope):
        msg = f"scope {scope!r}; known: {', '.join(get_args(TrainScope))}"
        raise GraphError(msg)
    trainable = [w for w in weights.values() if w.kind != "statistic"]
    if scope == "all":
        replaced = [w.name for w in trainable]
    elif scope == "head":
        replaced = [w.name for w in trainable if w.depth <= head_depth]
    else:
        replaced = [w.name for w in trainable if w.kind == "bias"]
    scaled = [w.name for w in trainable if w.scalable] if scope == "biases+scales" else []
    if not replaced and not scaled:
        msg = f"scope {scope!r} trains nothing in this graph; try 'all'"
        raise GraphError(msg)
    return Choice(replaced=tuple(replaced), scaled=tuple(scaled))
