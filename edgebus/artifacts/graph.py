"""The ONNX graph without its weights, and the check that graph and weights belong together.

Weights are declared in the graph as external data in `weights.safetensors`, with the offsets of
that file: ONNX Runtime can load the folder by path, and an engine that hands the tensors over by
name (`add_external_initializers`) never looks at the offsets. EdgeBus does the latter.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

import onnx
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import DecodeError, Message

from edgebus.artifacts.errors import BundleFormatError, BundlePathError, BundleTensorError
from edgebus.artifacts.index import GRAPH, WEIGHTS
from edgebus.artifacts.tensors import TensorEntry, TensorFile

_TYPES: Final[dict[int, str]] = {
    onnx.TensorProto.FLOAT: "F32",
    onnx.TensorProto.DOUBLE: "F64",
    onnx.TensorProto.FLOAT16: "F16",
    onnx.TensorProto.INT64: "I64",
    onnx.TensorProto.INT32: "I32",
    onnx.TensorProto.UINT8: "U8",
    onnx.TensorProto.INT16: "I16",
    onnx.TensorProto.INT8: "I8",
    onnx.TensorProto.BOOL: "BOOL",
}

# Python's int() takes '+1', ' 1' and '1_0' as well, and refuses five thousand digits its own way.
_NUMBER: Final = re.compile(r"[0-9]{1,18}")


@dataclass(frozen=True, slots=True)
class PortFacts:
    """An input or output: dimensions are None where the graph leaves them open."""

    name: str
    dtype: str
    shape: tuple[int | None, ...]


@dataclass(frozen=True, slots=True)
class GraphFacts:
    """Declarations of a graph.

    Attributes:
        inputs, outputs: Without the initializers that old exporters list as inputs.
        external: Tensors that lie in the weights file.
        operators: Sorted names, those of other domains as ``domain::name``.
        opset: Version of the default operator set.
        ir_version: Version of the file format.
    """

    inputs: tuple[PortFacts, ...]
    outputs: tuple[PortFacts, ...]
    external: dict[str, TensorEntry]
    operators: tuple[str, ...]
    opset: int
    ir_version: int


def inspect_graph(data: bytes) -> GraphFacts:
    """Read a graph without loading any weights.

    Raises:
        BundleFormatError: The bytes are no ONNX model.
        BundlePathError: It wants data from a file that is not the bundle's weights.
        BundleTensorError: An external tensor has no place or a strange type.
    """
    model = onnx.ModelProto()
    try:
        model.ParseFromString(data)
    except DecodeError as error:
        raise BundleFormatError(file=GRAPH, reason=f"is no ONNX model: {error}") from error
    _check_text(model)
    if not model.graph.node:
        raise BundleFormatError(file=GRAPH, reason="is no ONNX model: it has no operators")
    external = {
        tensor.name: _place(tensor) for tensor in model.graph.initializer if _is_external(tensor)
    }
    operators: set[str] = set()
    for number, graph in enumerate(_graphs(model.graph)):
        operators |= {_operator(node) for node in graph.node}
        inner = graph.initializer if number else ()
        for tensor in (*inner, *_constants(graph)):
            if _is_external(tensor):
                reason = "is external in a sub-graph or attribute; only initializers may be"
                raise BundleTensorError(file=GRAPH, tensor=tensor.name, reason=reason)
    initializers = {tensor.name for tensor in model.graph.initializer}
    default = [item.version for item in model.opset_import if item.domain in {"", "ai.onnx"}]
    return GraphFacts(
        inputs=tuple(_port(item) for item in model.graph.input if item.name not in initializers),
        outputs=tuple(_port(item) for item in model.graph.output),
        external=external,
        operators=tuple(sorted(operators)),
        opset=max(default, default=1),
        ir_version=max(1, model.ir_version),
    )


def _check_text(message: Message) -> None:
    """Check that every name is text: protobuf gives bytes for what is no UTF-8.

    Raises:
        BundleFormatError: One is not.
    """
    for field, value in message.ListFields():
        values = value if field.is_repeated else (value,)
        if field.type == FieldDescriptor.TYPE_STRING:
            if not all(isinstance(item, str) for item in values):
                reason = f"is no ONNX model: a {field.name} in it is no UTF-8"
                raise BundleFormatError(file=GRAPH, reason=reason)
        elif field.type == FieldDescriptor.TYPE_MESSAGE:
            for item in values:
                _check_text(item)


def verify_weights(external: Mapping[str, TensorEntry], weights: TensorFile) -> None:
    """Check that the weights are exactly those that the graphs declare.

    Raises:
        BundleTensorError: A tensor is missing, is too many, or differs in dtype, shape or offset.
    """

    def wrong(name: str, reason: str) -> BundleTensorError:
        return BundleTensorError(file=WEIGHTS, tensor=name, reason=reason)

    for name, wanted in external.items():
        found = weights.entries.get(name)
        if found is None:
            raise wrong(name, "is missing; the graph needs it")
        if (found.dtype, found.shape) != (wanted.dtype, wanted.shape):
            needs = f"the graph needs {wanted.dtype} {list(wanted.shape)}"
            raise wrong(name, f"is {found.dtype} {list(found.shape)}, {needs}")
    for name in weights.entries:
        if name not in external:
            raise wrong(name, "is not in the graph")
    for name, found in weights.entries.items():
        place = external[name]
        if (found.start, found.end) != (place.start, place.end):
            raise wrong(name, f"lies at byte {found.start}, the graph looks at {place.start}")


def declare_external(model: onnx.ModelProto, weights: TensorFile) -> None:
    """Replace the data of each tensor in `weights` by a reference into that file, in place."""
    for tensor in model.graph.initializer:
        entry = weights.entries.get(tensor.name)
        if entry is None:
            continue
        shape = list(tensor.dims)
        kind, name = tensor.data_type, tensor.name
        tensor.Clear()
        tensor.name, tensor.data_type = name, kind
        tensor.dims.extend(shape)
        tensor.data_location = onnx.TensorProto.EXTERNAL
        for key, value in (
            ("location", WEIGHTS),
            ("offset", str(entry.start)),
            ("length", str(entry.end - entry.start)),
        ):
            tensor.external_data.add(key=key, value=value)


def _graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """The graph itself first, then those of its control flow."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from _graphs(attribute.g)
            for inner in attribute.graphs:
                yield from _graphs(inner)


def _constants(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    """Tensors that are no initializers."""
    for sparse in graph.sparse_initializer:
        yield sparse.values
        yield sparse.indices
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors


def _is_external(tensor: onnx.TensorProto) -> bool:
    return tensor.data_location == onnx.TensorProto.EXTERNAL


def _operator(node: onnx.NodeProto) -> str:
    return node.op_type if node.domain in {"", "ai.onnx"} else f"{node.domain}::{node.op_type}"


def _place(tensor: onnx.TensorProto) -> TensorEntry:
    fields = {item.key: item.value for item in tensor.external_data}
    if fields.get("location") != WEIGHTS:
        reason = f"tensor {tensor.name!r} wants its data from {fields.get('location')!r}"
        raise BundlePathError(file=GRAPH, reason=f"{reason}; only {WEIGHTS} may hold data")
    kind = _TYPES.get(tensor.data_type)
    offset, length = fields.get("offset", ""), fields.get("length", "")
    if kind is None or not (_NUMBER.fullmatch(offset) and _NUMBER.fullmatch(length)):
        reason = f"has type {tensor.data_type}, offset {offset!r} and length {length!r}"
        raise BundleTensorError(file=GRAPH, tensor=tensor.name, reason=reason)
    return TensorEntry(
        dtype=kind,
        shape=tuple(tensor.dims),
        start=int(offset),
        end=int(offset) + int(length),
    )


def _port(item: onnx.ValueInfoProto) -> PortFacts:
    kind = item.type.tensor_type
    return PortFacts(
        name=item.name,
        dtype=_TYPES.get(kind.elem_type, str(kind.elem_type)),
        shape=tuple(
            dim.dim_value if dim.HasField("dim_value") and dim.dim_value > 0 else None
            for dim in kind.shape.dim
        ),
    )
