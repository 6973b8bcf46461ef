"""Rules of operators that work on each element alone."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from edgebus.training.graph._node import RULES, NodeView, NotSupported, Op, Rule, rule

__all__: list[str] = []


def _divide(a: Tensor, b: Tensor) -> Tensor:
    # ONNX divides integers towards zero.
    if not a.is_floating_point() and not b.is_floating_point():
        return torch.div(a, b, rounding_mode="trunc")
    return a / b


_PLAIN: dict[str, Callable[..., Tensor]] = {
    "Abs": torch.abs,
    "Add": torch.add,
    "Ceil": torch.ceil,
    "Div": _divide,
    "Erf": torch.erf,
    "Exp": torch.exp,
    "Floor": torch.floor,
    "HardSwish": F.hardswish,
    "Identity": lambda x: x,
    "Log": torch.log,
    "Mul": torch.mul,
    "Neg": torch.neg,
    "Pow": torch.pow,
    "Reciprocal": torch.reciprocal,
    "Relu": F.relu,
    "Sigmoid": torch.sigmoid,
    "Softplus": F.softplus,
    "Sqrt": torch.sqrt,
    "Sub": torch.sub,
    "Tanh": torch.tanh,
}


def _plain(function: Callable[..., Tensor]) -> Callable[[NodeView], Op]:
    def build(node: NodeView) -> Op:
        if node.opset < 7 and node.op in {"Add", "Sub", "Mul", "Div", "Pow"}:
            msg = f"operator set {node.opset} broadcasts differently; known: 7 and later"
            raise NotSupported(msg)
        return function

    return build


RULES.update(
    {op: Rule(build=_plain(function), attributes=frozenset()) for op, function in _PLAIN.items()}
)


@rule("Min", "Max")
def _extreme(node: NodeView) -> Op:
    pick = torch.minimum if node.op == "Min" else torch.maximum

    def run(first: Tensor, *rest: Tensor) -> Tensor:
        for other in rest:
            first = pick(first, other)
        return first

    return run


@rule("LeakyRelu", attributes=("alpha",))
def _leaky_relu(node: NodeView) -> Op:
    slope = float(node.get("alpha", 0.01))
    return lambda x: F.leaky_relu(x, slope)


@rule("Elu", attributes=("alpha",))
def _elu(node: NodeView) -> Op:
    alpha = float(node.get("alpha", 1.0))
    return lambda x: F.elu(x, alpha)


@rule("PRelu")
def _prelu(_node: NodeView) -> Op:
    return lambda x, slope: torch.where(x >= 0, x, x * slope)


@rule("HardSigmoid", attributes=("alpha", "beta"))
def _hard_sigmoid(node: NodeView) -> Op:
    alpha, beta = float(node.get("alpha", 0.2)), float(node.get("beta", 0.5))
    return lambda x: (x * alpha + beta).clamp(0.0, 1.0)


@rule("Clip", attributes=("min", "max"))
def _clip(node: NodeView) -> Op:
    # Bounds are attributes before operator set 11 and inputs from then on.
    bounds: list[float | None] = []
    for index, name in ((1, "min"), (2, "max")):
        value = node.constant(index, name)
        bounds.append(float(value) if value is not None else node.get(name, None))
    low, high = bounds
    return lambda x, *_: x if low is None and high is None else x.clamp(low, high)


@rule("Softmax", attributes=("axis",))
def _softmax(node: NodeView) -> Op:
    if node.opset >= 13:
        axis = int(node.get("axis", -1))
        return lambda x: F.softmax(x, axis)
    first = int(node.get("axis", 1))

    def over_all_from_axis(x: Tensor) -> Tensor:
        # Before operator set 13 everything from the axis on is one softmax.
        at = first if first >= 0 else first + x.ndim
        return F.softmax(x.flatten(at), -1).reshape(x.shape)

    return over_all_from_axis


@rule("Dropout", attributes=("ratio", "seed"))
def _dropout(node: NodeView) -> Op:
    if len(node.outputs) > 1:
        msg = "second output (mask); known: the first output only"
        raise NotSupported(msg)
    training = node.constant(2, "training_mode")
    if training is not None and bool(training):
        msg = "training_mode = true; known: false"
        raise NotSupported(msg)
    return lambda x, *_: x
