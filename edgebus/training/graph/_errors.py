"""What can be wrong with a graph or its weights."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Final

_WHOLE: Final = frozenset({"graph", "initializer"})
"""Stand for an operator where the graph itself or its weights are the problem."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing in a graph that the interpreter does not know.

    Attributes:
        op: Operator, with its domain unless it is the ONNX one.
        node: Name of the node, or of its first output where it has none.
        reason: What is not known, with the value found.
    """

    op: str
    node: str
    reason: str

    def __str__(self) -> str:
        return f"{self.op} (node {self.node!r}): {self.reason}"


class GraphError(ValueError):
    """Base of the errors of this package."""


class UnsupportedGraphError(GraphError):
    """The graph holds something that the interpreter would not compute as ONNX Runtime does.

    Attributes:
        problems: Every unsupported operator, attribute variant and node, not only the first.
        summary: The most important one, and the number of the others.
    """

    def __init__(self, problems: tuple[Problem, ...]) -> None:
        self.problems = problems
        self.summary = _summary(problems)
        shown = "\n".join(f"  - {problem}" for problem in problems[:40])
        more = f"\n  … and {len(problems) - 40} more" if len(problems) > 40 else ""
        super().__init__(
            f"this graph cannot be trained, {len(problems)} thing(s) are not supported:\n"
            f"{shown}{more}\nIt can still be served; to train it, re-export it without them."
        )


def _summary(problems: tuple[Problem, ...]) -> str:
    """The kind that most nodes have, what concerns the whole graph before it."""
    counts = Counter(problem.op for problem in problems)
    first = min(problems, key=lambda each: (each.op not in _WHOLE, -counts[each.op]))
    others = len(problems) - 1
    return f"{first}" + (f", and {others} more" if others else "")


class GraphWeightsError(GraphError):
    """A tensor does not fit the graph.

    Attributes:
        name: Name of the tensor.
        reason: What does not fit, with both sides.
    """

    def __init__(self, *, name: str, reason: str) -> None:
        self.name = name
        self.reason = reason
        super().__init__(f"tensor {name!r}: {reason}; use the weights that belong to this graph")
