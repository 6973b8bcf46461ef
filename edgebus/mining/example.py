"""An input with what is known of it, and what policies and drift monitors derive from it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeAlias, TypeVar

from edgebus.contracts import ModelRef

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

Fingerprint: TypeAlias = "npt.NDArray[np.uint64]"
"""uint64 [n]: 64 n bits. Two differ in `np.bitwise_count(a ^ b).sum()` of them."""


class InputUnreadableError(ValueError):
    """An input's envelope is good and its content is corrupt."""


class AboutInput(Protocol):
    """A message about one input of a stream, such as its ground truth."""

    @property
    def stream(self) -> str:
        """Name of the series that the input belongs to."""
        ...

    @property
    def input(self) -> str:
        """Id of the input."""
        ...


class Predicted(AboutInput, Protocol):
    """A model's prediction for one input."""

    @property
    def index(self) -> int:
        """Number of the input in its stream."""
        ...

    @property
    def captured(self) -> datetime:
        """When the input was measured."""
        ...

    @property
    def model(self) -> ModelRef:
        """The model that predicted."""
        ...

    @property
    def traceparent(self) -> str | None:
        """W3C trace context."""
        ...


I = TypeVar("I")  # noqa: E741
P = TypeVar("P", bound=Predicted)
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)  # with slots, a generic one cannot be called by an alias
class Example(Generic[I, P, T]):
    """One input with everything that is known of it.

    Attributes:
        input: The payload that carries the input.
        prediction: What the model predicted for it.
        truth: What is right; None where nobody knows.
        reference: What a reference model predicted; None where it was not asked.
    """

    input: I
    prediction: P
    truth: T | None = None
    reference: Any = None

    @property
    def stream(self) -> str:
        """Name of the stream."""
        return self.prediction.stream

    @property
    def index(self) -> int:
        """Number of the input in its stream."""
        return self.prediction.index


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """A policy's judgement of one example.

    Attributes:
        wrong: Whether the model was wrong, or too unsure to be trusted.
        score: How wrong: higher is worse; comparable within a policy.
        reason: In words, for the person who looks at the sample.
    """

    wrong: bool
    score: float
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Statistic:
    """A figure of every prediction that is watched for drift.

    Attributes:
        value: Derives it from a prediction; None where that one has none.
        min_change: How far from normal its mean has to be, on the scale that is watched.
        logarithmic: It is watched as log(1 + x), and published as x.
    """

    value: Callable[[Any], float | None]
    min_change: float
    logarithmic: bool = False
