"""Separation of an ONNX file, as exporters write it, into a graph and its weights, and back."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from typing import TYPE_CHECKING, Final

import numpy as np
import onnx
from onnx import numpy_helper

from edgebus.artifacts.graph import declare_external
from edgebus.artifacts.index import WEIGHTS
from edgebus.artifacts.tensors import Array, TensorFile, dump_tensors

if TYPE_CHECKING:
    from pydantic import JsonValue

    from edgebus.artifacts.bundle import Bundle

# What a weight feeds, and from which input on. Other float initializers (the scales of Resize,
# say) decide shapes: ONNX Runtime wants those inline.
_WEIGHT_INPUTS: Final = {
    "Conv": 1,
    "ConvTranspose": 1,
    "Gemm": 1,
    "MatMul": 0,
    "BatchNormalization": 1,
}

_HALVES: Final = frozenset({onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16})
_INTEGERS: Final = frozenset(
    {
        "ConvInteger",
        "DequantizeLinear",
        "DynamicQuantizeLinear",
        "MatMulInteger",
        "QuantizeLinear",
    }
)


def split_weights(model: onnx.ModelProto) -> tuple[bytes, bytes]:
    """Take the weights out of a model.

    Float32 initializers that feed only convolutions, matrix products and batch normalisations
    become tensors of the weights file; all else stays in the graph. Weights that an old exporter
    lists as inputs are no longer inputs.

    Args:
        model: A model with all its data loaded. It is changed.

    Returns:
        The graph, and the weights file. No weights at all give a file without tensors.
    """
    graph = model.graph
    initializers = {tensor.name for tensor in graph.initializer}
    inputs = [item for item in graph.input if item.name not in initializers]
    if len(inputs) != len(graph.input):
        del graph.input[:]
        graph.input.extend(inputs)
        # Before version 4 of the format, every initializer had to be an input too.
        model.ir_version = max(4, model.ir_version)
    names = _weights(graph)
    tensors: dict[str, Array] = {
        tensor.name: numpy_helper.to_array(tensor)
        for tensor in graph.initializer
        if tensor.name in names and tensor.data_type == onnx.TensorProto.FLOAT
    }
    weights = dump_tensors(tensors)
    declare_external(model, TensorFile.parse(weights, file=WEIGHTS))
    return model.SerializeToString(deterministic=True), weights


def join_weights(bundle: Bundle) -> bytes:
    """Put the weights back into a bundle's first graph: an ONNX file that stands alone.

    What the manifest says of the model goes into the file's metadata, as JSON: `edgebus` names the
    version, each part of the workload has its own key.
    """
    model = onnx.load_model_from_string(bundle.graph_bytes())
    weights = bundle.tensors()
    for tensor in model.graph.initializer:
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            tensor.CopyFrom(numpy_helper.from_array(weights[tensor.name], tensor.name))
    manifest = bundle.manifest
    facts: dict[str, JsonValue] = {
        **manifest.workload,
        "edgebus": {
            "name": manifest.name,
            "version": manifest.version,
            "task": manifest.task,
            "digest": bundle.digest,
        },
    }
    known = {item.key for item in model.metadata_props}
    for key, value in facts.items():
        if key not in known:
            model.metadata_props.add(key=key, value=json.dumps(value))
    return model.SerializeToString(deterministic=True)


def fold_half_weights(model: onnx.ModelProto) -> int:
    """Turn float16 initializers that a Cast makes float32 into float32 initializers, in place.

    Halved files do so to be small; the arithmetic is float32 either way, and float16 fits into
    float32 without loss.

    Returns:
        How many tensors were folded.
    """
    graph = model.graph
    halves = {
        tensor.name: tensor
        for tensor in graph.initializer
        if tensor.data_type == onnx.TensorProto.FLOAT16
    }
    folded: set[str] = set()
    kept: list[onnx.NodeProto] = []
    for node in graph.node:
        target = next((item.i for item in node.attribute if item.name == "to"), 0)
        source = halves.get(node.input[0]) if node.op_type == "Cast" else None
        if source is None or target != onnx.TensorProto.FLOAT:
            kept.append(node)
            continue
        full = numpy_helper.to_array(source).astype(np.float32)
        graph.initializer.append(numpy_helper.from_array(full, node.output[0]))
        folded.add(source.name)
    still = {name for node in kept for name in node.input}
    initializers = [item for item in graph.initializer if item.name not in folded - still]
    inputs = [item for item in graph.input if item.name not in folded - still]
    for field, values in (("node", kept), ("initializer", initializers), ("input", inputs)):
        copies = [type(value).FromString(value.SerializeToString()) for value in values]
        model.graph.ClearField(field)
        getattr(model.graph, field).extend(copies)
    return len(folded)


def widen_halves(model: onnx.ModelProto) -> None:
    """Make float32 of every float16 in a model, in place; float32 holds each of its values."""
    for graph in _all_graphs(model.graph):
        for tensor in graph.initializer:
            _widen(tensor)
        for item in (*graph.input, *graph.output, *graph.value_info):
            if item.type.tensor_type.elem_type in _HALVES:
                item.type.tensor_type.elem_type = onnx.TensorProto.FLOAT
        for node in graph.node:
            for attribute in node.attribute:
                if attribute.HasField("t"):
                    _widen(attribute.t)
                if attribute.name in {"to", "dtype"} and attribute.i in _HALVES:
                    attribute.i = onnx.TensorProto.FLOAT


def _widen(tensor: onnx.TensorProto) -> None:
    if tensor.data_type in _HALVES:
        full = numpy_helper.to_array(tensor).astype(np.float32)
        tensor.CopyFrom(numpy_helper.from_array(full, tensor.name))


def sort_nodes(model: onnx.ModelProto) -> None:
    """Put nodes behind those that they read, in place, as the format wants it.

    Converters to float16 leave them out of order. Where that cannot be (a cycle), nothing changes.
    """
    nodes = list(model.graph.node)
    made = {name: number for number, node in enumerate(nodes) for name in node.output if name}
    reads = [
        {made[name] for name in (*node.input, *_inner_reads(node)) if name in made}
        for node in nodes
    ]
    if all(other < number for number, others in enumerate(reads) for other in others):
        return
    try:
        order = list(TopologicalSorter(dict(enumerate(reads))).static_order())
    except CycleError:
        return
    copies = [onnx.NodeProto.FromString(nodes[number].SerializeToString()) for number in order]
    model.graph.ClearField("node")
    model.graph.node.extend(copies)


def is_quantized(node: onnx.NodeProto) -> bool:
    """True for a node that computes in integers, or turns numbers into such."""
    return node.op_type in _INTEGERS or node.op_type.startswith(("QLinear", "QGemm"))


def _all_graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                if inner.node:
                    yield from _all_graphs(inner)


def _inner_reads(node: onnx.NodeProto) -> set[str]:
    """Names that the sub-graphs of a node read."""
    inners = (inner for item in node.attribute for inner in (item.g, *item.graphs))
    return {name for inner in inners for name in _reads(inner)}


def _weights(graph: onnx.GraphProto) -> set[str]:
    """Names that feed only weight inputs."""
    fine: dict[str, bool] = defaultdict(lambda: True)
    for node in graph.node:
        first = _WEIGHT_INPUTS.get(node.op_type, len(node.input))
        for position, name in enumerate(node.input):
            fine[name] &= position >= first
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                for name in _reads(inner):
                    fine[name] = False
    for output in graph.output:
        fine[output.name] = False
    return {name for name, weight in fine.items() if weight}


def _reads(graph: onnx.GraphProto) -> set[str]:
    """Every name that the nodes of a sub-graph read."""
    names: set[str] = set()
    for node in graph.node:
        names.update(node.input)
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                names |= _reads(inner)
    return names
