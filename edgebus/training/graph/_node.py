"""One node as its rule sees it, and the table of rules."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

Op = Callable[..., Tensor | tuple[Tensor, ...]]
"""Computes a node: called with the node's inputs in order, None for an absent optional one."""

Shape = tuple[int | None, ...]


class NotSupported(Exception):
    """Raised by a rule: this variant of the operator is not known."""


@dataclass(frozen=True, slots=True)
class NodeView:
    """A node of the graph with everything that is known before the first picture.

    Attributes:
        op: Operator type.
        name: Name of the node, or of its first output.
        opset: Version of the ONNX operator set.
        inputs: Names of the inputs, empty for an absent optional one.
        outputs: Names of the outputs.
        attributes: Attribute values: numbers, strings, lists or tensors.
        constants: Every value known before the first picture, by name.
        shapes: Inferred shapes by name; None for a dimension that is not fixed.
    """

    op: str
    name: str
    opset: int
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any]
    constants: Mapping[str, Tensor]
    shapes: Mapping[str, Shape]

    def get(self, attribute: str, default: Any) -> Any:
        """Value of an attribute or its default."""
        return self.attributes.get(attribute, default)

    def has_input(self, index: int) -> bool:
        """Whether an optional input is there."""
        return index < len(self.inputs) and self.inputs[index] != ""

    def constant(self, index: int, what: str) -> Tensor | None:
        """An input that must be known beforehand, or None where it is absent."""
        if not self.has_input(index):
            return None
        value = self.constants.get(self.inputs[index])
        if value is None:
            msg = f"{what} is computed by the graph ({self.inputs[index]!r}); it must be constant"
            raise NotSupported(msg)
        return value

    def shape(self, index: int) -> Shape | None:
        """Inferred shape of an input, None where it is not known."""
        return self.shapes.get(self.inputs[index])

    def must_be(self, **allowed: Any) -> None:
        """Refuse every value of an attribute but the given ones (its default included).

        Args:
            **allowed: A value, or a tuple of values, per attribute.
        """
        for attribute, values in allowed.items():
            accepted = values if isinstance(values, tuple) else (values,)
            value = self.attributes.get(attribute, accepted[0])
            if value not in accepted:
                choice = " or ".join(repr(v) for v in accepted)
                msg = f"attribute {attribute} = {value!r}; known: {choice}"
                raise NotSupported(msg)


@dataclass(frozen=True, slots=True)
class Rule:
    """How to build one operator."""

    build: Callable[[NodeView], Op]
    attributes: frozenset[str]


RULES: dict[str, Rule] = {}


def rule(
    *ops: str, attributes: tuple[str, ...] = ()
) -> Callable[[Callable[[NodeView], Op]], Callable[[NodeView], Op]]:
    """Register the rule of one or more operators.

    Args:
        *ops: Operator types.
        attributes: The attributes that the rule looks at; a node with any other is refused, so
            that a variant nobody thought of is never computed wrongly in silence.
    """

    def register(build: Callable[[NodeView], Op]) -> Callable[[NodeView], Op]:
        for op in ops:
            RULES[op] = Rule(build=build, attributes=frozenset(attributes))
        return build

    return register


def ints(value: Tensor) -> list[int]:
    """A constant tensor of integers as a list."""
    return [int(v) for v in value.reshape(-1).to(torch.int64).tolist()]
