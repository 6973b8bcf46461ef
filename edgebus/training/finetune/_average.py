"""A moving average of weights."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class WeightAverage:
    """An exponential moving average of parameters (Polyak and Juditsky 1992, with a short memory).

    The learning rate bounds how far single batches pull the weights about; their mean over the
    last steps lies nearer to where they are pulled from all sides. The memory grows with the run
    at first, so that the weights of the start do not linger.

    Args:
        parameters: What is averaged.
        horizon: Steps that the memory reaches back; below 1 the average is the last weights.
    """

    def __init__(self, parameters: Sequence[nn.Parameter], *, horizon: float) -> None:
        self._parameters = list(parameters)
        self._decay = 1.0 - 1.0 / max(1.0, horizon)
        self.values = [parameter.detach().clone() for parameter in self._parameters]

    def add(self, step: int) -> None:
        """Take in the weights after a step, from 1."""
        decay = min(self._decay, step / (step + 10))
        with torch.no_grad():
            for value, parameter in zip(self.values, self._parameters, strict=True):
                value.lerp_(parameter, 1.0 - decay)

    def load(self, values: Sequence[Tensor]) -> None:
        """Take over an average that was kept."""
        for mine, value in zip(self.values, values, strict=True):
            mine.copy_(value)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """The parameters hold the average meanwhile."""
        kept = [parameter.detach().clone() for parameter in self._parameters]
        assign(self._parameters, self.values)
        try:
            yield
        finally:
            assign(self._parameters, kept)


def assign(parameters: Sequence[nn.Parameter], values: Sequence[Tensor]) -> None:
    """Write values into parameters."""
    with torch.no_grad():
        for parameter, value in zip(parameters, values, strict=True):
            parameter.copy_(value)
