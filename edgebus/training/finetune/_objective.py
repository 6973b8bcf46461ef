"""Objectives: items as inputs of a graph, and the loss of its outputs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from edgebus.training.graph import TorchGraph

Item = TypeVar("Item")
Row = TypeVar("Row")
Outputs: TypeAlias = dict[str, Tensor]
"""Outputs of the graph by name, the batch first."""
Total: TypeAlias = Callable[[Sequence[float]], list[float]]
"""Sums of numbers over the processes that share a batch; `list` where one has all of it."""


@dataclass(frozen=True, slots=True)
class Loss:
    """The loss of a batch, or of a process's share of it.

    Attributes:
        total: What is minimised, a scalar.
        parts: What it is made of, for whoever watches; shares add up to the batch's.
    """

    total: Tensor
    parts: Mapping[str, float] = field(default_factory=dict)


class Objective(Generic[Item, Row]):
    """Rows of a batch from items, and the loss of the graph's outputs.

    An item is whatever a workload learns from, kept small; a row is the item loaded, changed at
    random where it is trained on, ready to be stacked.

    Attributes:
        compares: Whether `loss` needs the outputs from before the run.
    """

    compares: bool = False

    def name(self, item: Item) -> str:
        """Name of an item in errors."""
        raise NotImplementedError

    def digest(self, item: Item) -> bytes:
        """Bytes that differ where something else would be learnt of an item: name and labels."""
        return self.name(item).encode()

    def labels(self, item: Item) -> Iterable[int]:
        """The kinds of labels that an item has, by which `balance` draws; none by default."""
        return ()

    def load(self, item: Item, rng: np.random.Generator | None) -> Row:
        """Load an item.

        Args:
            item: The item.
            rng: Decides how it is changed; None: not at all, for validation.

        Raises:
            UnreadableItemError: It is damaged; it is left out.
            OSError: It is not there; it is left out.
        """
        raise NotImplementedError

    def inputs(self, rows: Sequence[Row]) -> npt.NDArray[Any]:
        """Stack rows as the graph takes them: float32 [B, ...]."""
        raise NotImplementedError

    def outputs(self, graph: TorchGraph, inputs: Tensor) -> Outputs:
        """Outputs of the graph, with logits in place of scores."""
        return graph(inputs, logits=True)  # type: ignore[no-any-return]

    def loss(
        self,
        outputs: Outputs,
        rows: Sequence[Row],
        *,
        before: Outputs | None = None,
        earlier: Sequence[bool] = (),
        total: Total = list,
    ) -> Loss:
        """Loss of the outputs.

        Args:
            outputs: Of the rows.
            rows: The rows, or this process's share of a batch.
            before: The outputs from before the run; None unless `compares`.
            earlier: Whether each row is of earlier data; empty: none is.
            total: Sums over the processes of a batch: what is divided by counts for all of it. It
                has to be called as often in each process.
        """
        raise NotImplementedError

    def distillation(self, outputs: Outputs, before: Outputs, *, total: Total = list) -> Tensor:
        """Distance of the outputs from those before the run; 0: none.

        Mean squared difference by default (learning without forgetting, arXiv:1606.09282).

        Args:
            outputs: Of rows of earlier data, perhaps of none.
            before: The same before the run.
            total: As for `loss`.
        """
        squares = ((outputs[name] - was).square().flatten(1) for name, was in before.items())
        distance = torch.stack([each.mean(1).sum() for each in squares]).sum()
        rows = len(next(iter(before.values())))
        return distance / max(1.0, *total([rows]))
