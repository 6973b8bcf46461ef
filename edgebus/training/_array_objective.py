"""The objective of `ArrayTrainer`. Needs torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from edgebus.training.array_trainer import ArrayItem
from edgebus.training.finetune import Loss, Objective, Outputs, Total


class ArrayObjective(Objective[ArrayItem, ArrayItem]):
    """Mean loss of the graph's first output.

    Args:
        loss: Loss of each row, from outputs and targets of a batch.
    """

    def __init__(self, loss: Callable[[Tensor, Tensor], Tensor]) -> None:
        self._loss = loss

    def name(self, item: ArrayItem) -> str:
        """Id of the sample."""
        return item.key

    def digest(self, item: ArrayItem) -> bytes:
        """Id and target."""
        return item.key.encode() + np.ascontiguousarray(item.target).tobytes()

    def load(self, item: ArrayItem, rng: np.random.Generator | None) -> ArrayItem:
        """The item, unchanged."""
        return item

    def inputs(self, rows: Sequence[ArrayItem]) -> npt.NDArray[Any]:
        """float32 [B, ...]."""
        return np.stack([row.inputs for row in rows])

    def loss(
        self,
        outputs: Outputs,
        rows: Sequence[ArrayItem],
        *,
        before: Outputs | None = None,
        earlier: Sequence[bool] = (),
        total: Total = list,
    ) -> Loss:
        """Sum over the rows by their number in the whole batch."""
        (count,) = total([len(rows)])
        output = next(iter(outputs.values()))
        if not rows:
            return Loss(output.sum() * 0)
        target = torch.from_numpy(np.stack([row.target for row in rows])).to(output.device)
        return Loss(self._loss(output, target).sum() / max(1.0, count))
