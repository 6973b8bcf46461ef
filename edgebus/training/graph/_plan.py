"""From an ONNX graph to a list of steps that torch can run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import onnx
import torch
import torch.nn.functional as F
from onnx import AttributeProto, ModelProto, TensorProto, numpy_helper
from torch import Tensor

# Importing the rule modules fills RULES.
from edgebus.training.graph import _elementwise, _layers  # noqa: F401
from edgebus.training.graph._errors import GraphError, Problem, UnsupportedGraphError
from edgebus.training.graph._node import RULES, NodeView, NotSupported, Op, Shape
from edgebus.training.graph._shapes import DTYPES
from edgebus.training.graph._weights import Weight, find_weights

_MOVES = frozenset(
    [
        "Concat",
        "Flatten",
        "Gather",
        "Identity",
        "Reshape",
        "Slice",
        "Split",
        "Squeeze",
        "Transpose",
        "Unsqueeze",
    ]
)


@dataclass(frozen=True, slots=True)
class Step:
    """One operator to run.

    Attributes:
        op: Operator type.
        name: Name of the node.
        run: Computes the outputs from the inputs.
        inputs: Names of the inputs, empty for an absent one.
        outputs: Names of the outputs.
        to_score: A sigmoid behind which an output only moves data: left out to get logits.
        forget: Names that no later step reads.
    """

    op: str
    name: str
    run: Op
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    to_score: bool = False
    forget: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Plan:
    """A compiled graph.

    Attributes:
        input_name: Name of the one input.
        input_shape: Its shape; None for a dimension that is free.
        outputs: Names of what is computed.
        steps: What to run, in order.
        constants: Values known beforehand that a step reads.
        weights: The tensors that a bundle keeps apart from the graph, by name.
    """

    input_name: str
    input_shape: Shape
    outputs: tuple[str, ...]
    steps: tuple[Step, ...]
    constants: Mapping[str, Tensor]
    weights: Mapping[str, Weight]


def compile_plan(model: ModelProto, outputs: Sequence[str] | None = None) -> Plan:
    """Build the steps of a graph.

    Args:
        model: The graph; weights may be missing from it (external data).
        outputs: Names of tensors to compute instead of the graph's outputs.

    Raises:
        UnsupportedGraphError: Naming everything that has no rule.
        GraphError: A wanted output does not exist.
    """
    problems: list[Problem] = []
    opset = _opset(model, problems)
    initializers = {tensor.name: tensor for tensor in model.graph.initializer}
    input_name, input_shape = _input(model, initializers, problems)
    wanted = tuple(outputs) if outputs is not None else tuple(o.name for o in model.graph.output)
    nodes = _needed(model, wanted)
    weights = find_weights(nodes, initializers, wanted)
    constants = _constants(initializers, weights, nodes, problems)
    shapes = _shapes(model, initializers, problems)

    steps: list[Step] = []
    for node in nodes:
        name = node.name or next((o for o in node.output if o), "?")
        op_name = f"{node.domain}::{node.op_type}" if _is_foreign(node.domain) else node.op_type
        try:
            view = NodeView(
                op=node.op_type,
                name=name,
                opset=opset,
                inputs=tuple(node.input),
                outputs=tuple(node.output),
                attributes={a.name: _attribute(a) for a in node.attribute},
                constants=constants,
                shapes=shapes,
            )
            run = _build(view, foreign=_is_foreign(node.domain))
        except NotSupported as reason:
            problems.append(Problem(op=op_name, node=name, reason=str(reason)))
            continue
        if node.op_type == "Shape" or all(i == "" or i in constants for i in node.input):
            _fold(view, run, constants)
            continue
        steps.append(
            Step(node.op_type, name, run, inputs=tuple(node.input), outputs=tuple(node.output))
        )
    if problems:
        raise UnsupportedGraphError(tuple(problems))

    steps = _mark_scores(_fuse_silu(steps, wanted), wanted)
    read = {i for step in steps for i in step.inputs} | set(wanted)
    return Plan(
        input_name=input_name,
        input_shape=input_shape,
        outputs=wanted,
        steps=tuple(_with_lifetimes(steps, keep={*wanted, *constants, *weights, input_name})),
        constants={name: value for name, value in constants.items() if name in read},
        weights=weights,
    )


def _is_foreign(domain: str) -> bool:
    return domain not in {"", "ai.onnx"}


def _opset(model: ModelProto, problems: list[Problem]) -> int:
    for entry in model.opset_import:
        if not _is_foreign(entry.domain):
            return int(entry.version)
    problems.append(Problem(op="graph", node=model.graph.name, reason="no ONNX operator set"))
    return 0


def _input(
    model: ModelProto, initializers: Mapping[str, TensorProto], problems: list[Problem]
) -> tuple[str, Shape]:
    # Old exports list the weights as inputs too.
    inputs = [i for i in model.graph.input if i.name not in initializers]
    if len(inputs) != 1:
        names = [i.name for i in inputs]
        problems.append(Problem("graph", model.graph.name, f"inputs {names}; known: exactly one"))
        return "", ()
    tensor = inputs[0].type.tensor_type
    shape = tuple(d.dim_value if d.dim_value > 0 else None for d in tensor.shape.dim)
    if tensor.elem_type != TensorProto.FLOAT:
        kind = TensorProto.DataType.Name(tensor.elem_type)
        problems.append(Problem("graph", inputs[0].name, f"input of {kind}; known: FLOAT"))
    if shape and shape[0] not in {None, 1}:
        problems.append(
            Problem("graph", inputs[0].name, f"batch fixed to {shape[0]}; known: 1 or free")
        )
    return inputs[0].name, shape


def _needed(model: ModelProto, wanted: Sequence[str]) -> list[onnx.NodeProto]:
    """The nodes that the wanted tensors depend on, in the order of the graph."""
    made = {output for node in model.graph.node for output in node.output if output}
    if missing := [name for name in wanted if name not in made]:
        last = ", ".join(node.output[0] for node in model.graph.node[-5:])
        msg = f"the graph computes no tensor {missing}; its last ones are {last}"
        raise GraphError(msg)
    needed, nodes = set(wanted), []
    for node in reversed(model.graph.node):
        if needed.intersection(node.output):
            needed.update(node.input)
            nodes.append(node)
    return nodes[::-1]


def _constants(
    initializers: Mapping[str, TensorProto],
    weights: Mapping[str, Weight],
    nodes: Sequence[onnx.NodeProto],
    problems: list[Problem],
) -> dict[str, Tensor]:
    read = {name for node in nodes for name in node.input}
    constants: dict[str, Tensor] = {}
    strange: dict[str, list[str]] = {}
    for name, tensor in initializers.items():
        if name in weights or name not in read:
            continue
        if tensor.data_location == TensorProto.EXTERNAL:
            reason = "its data is outside the graph and no weight of a layer; keep it inside"
            problems.append(Problem("initializer", name, reason))
        elif tensor.data_type in DTYPES:
            constants[name] = torch.from_numpy(numpy_helper.to_array(tensor).copy())
        else:
            strange.setdefault(TensorProto.DataType.Name(tensor.data_type), []).append(name)
    # Halved files have hundreds of them: one line per type, not per tensor.
    for kind, names in strange.items():
        reason = f"{len(names)} tensor(s) of type {kind}; store them as FLOAT"
        problems.append(Problem("initializer", names[0], reason))
    return constants


def _shapes(
    model: ModelProto, initializers: Mapping[str, TensorProto], problems: list[Problem]
) -> dict[str, Shape]:
    try:
        inferred = onnx.shape_inference.infer_shapes(model).graph
    except onnx.shape_inference.InferenceError as error:
        problems.append(Problem("graph", model.graph.name, f"its shapes do not fit: {error}"))
        inferred = model.graph
    shapes: dict[str, Shape] = {
        value.name: tuple(
            d.dim_value if d.dim_value > 0 else None for d in value.type.tensor_type.shape.dim
        )
        for value in (*inferred.input, *inferred.value_info, *inferred.output)
        if value.type.tensor_type.HasField("shape")
    }
    shapes.update({name: tuple(tensor.dims) for name, tensor in initializers.items()})
    return shapes


def _attribute(attribute: AttributeProto) -> Any:
    if attribute.type in {AttributeProto.GRAPH, AttributeProto.GRAPHS}:
        msg = f"attribute {attribute.name} is a graph of its own"
        raise NotSupported(msg)
    value = onnx.helper.get_attribute_value(attribute)
    if attribute.type == AttributeProto.TENSOR:
        if value.data_type not in DTYPES:
            kind = TensorProto.DataType.Name(value.data_type)
            msg = f"attribute {attribute.name} of type {kind}"
            raise NotSupported(msg)
        return torch.from_numpy(numpy_helper.to_array(value).copy())
    if isinstance(value, bytes):
        return value.decode()
    return list(value) if attribute.type in {AttributeProto.INTS, AttributeProto.FLOATS} else value


def _build(view: NodeView, *, foreign: bool) -> Op:
    rule = None if foreign else RULES.get(view.op)
    if rule is None:
        msg = "operator not known"
        raise NotSupported(msg)
    if unknown := sorted(set(view.attributes) - rule.attributes):
        msg = f"attribute {', '.join(unknown)} not known"
        raise NotSupported(msg)
    return rule.build(view)


def _fold(view: NodeView, run: Op, constants: dict[str, Tensor]) -> None:
    """Compute a node whose inputs are known now, once and for all."""
    result = run(*(constants.get(i) if i else None for i in view.inputs))
    values = result if isinstance(result, tuple) else (result,)
    constants.update({o: v.contiguous() for o, v in zip(view.outputs, values, strict=True) if o})


def _fuse_silu(steps: Sequence[Step], wanted: Sequence[str]) -> list[Step]:
    """Replace x * sigmoid(x) by one step, which needs less time and memory."""
    uses = Counter(i for step in steps for i in step.inputs)
    sigmoids = {
        step.outputs[0]: step.inputs[0]
        for step in steps
        if step.op == "Sigmoid" and uses[step.outputs[0]] == 1 and step.outputs[0] not in wanted
    }
    fused: list[Step] = []
    gone: set[str] = set()
    for step in steps:
        source = _silu_source(step, sigmoids)
        if source is None:
            fused.append(step)
        else:
            gone.update(i for i in step.inputs if i in sigmoids and sigmoids[i] == source)
            fused.append(replace(step, op="Silu", run=F.silu, inputs=(source,)))
    return [step for step in fused if step.op != "Sigmoid" or step.outputs[0] not in gone]


def _silu_source(step: Step, sigmoids: Mapping[str, str]) -> str | None:
    if step.op != "Mul":
        return None
    a, b = step.inputs
    if sigmoids.get(b) == a:
        return a
    return b if sigmoids.get(a) == b else None


def _mark_scores(steps: Sequence[Step], wanted: Sequence[str]) -> list[Step]:
    maker = {output: step for step in steps for output in step.outputs}
    marked: set[str] = set()
    seen: set[str] = set()
    todo = list(wanted)
    while todo:
        name = todo.pop()
        step = maker.get(name)
        if step is None or name in seen:
            continue
        seen.add(name)
        if step.op == "Sigmoid":
            marked.add(step.outputs[0])
        elif step.op in _MOVES:
            todo.extend(step.inputs)
    return [replace(step, to_score=step.outputs[0] in marked) for step in steps]


def _with_lifetimes(steps: Sequence[Step], keep: set[str]) -> list[Step]:
    last = {name: index for index, step in enumerate(steps) for name in step.inputs if name}
    return [
        replace(
            step,
            forget=tuple(
                {n for n in step.inputs if n and n not in keep and last[n] == index}
                # Outputs that nobody reads.
                | {n for n in step.outputs if n and n not in keep and n not in last}
            ),
        )
        for index, step in enumerate(steps)
    ]
