"""One stream of inputs during a run: its predictions, their versions, rate and latency."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from datetime import datetime


@dataclass
class StreamState:
    """Counts of one stream.

    Attributes:
        node: Its node.
        name: Its name on that node.
        total: Inputs on the bus.
        answered: Inputs with a prediction.
        first_captured: Time of the first input.
        first_version: Version of the first prediction.
        version: Version of the newest prediction.
        answered_later: Inputs with a prediction of a later version than the first.
        latencies: Milliseconds from input to prediction, of the newest.
        answer_times: Times of the newest predictions.
    """

    node: str
    name: str
    total: int = 0
    answered: int = 0
    first_captured: datetime | None = None
    first_version: int | None = None
    version: int | None = None
    answered_later: int = 0
    latencies: deque[float] = field(default_factory=lambda: deque(maxlen=200))
    answer_times: deque[datetime] = field(default_factory=lambda: deque(maxlen=200))

    @property
    def key(self) -> str:
        """``node/stream``."""
        return f"{self.node}/{self.name}"

    def count_input(self, captured: datetime) -> None:
        """Count an input."""
        self.total += 1
        self.first_captured = min(self.first_captured or captured, captured)

    def count_prediction(self, version: int, *, captured: datetime, predicted: datetime) -> bool:
        """Count a prediction.

        Returns:
            Whether another version than the one before made it.
        """
        before, self.version = self.version, version
        if self.first_version is None:
            self.first_version = version
        self.answered += 1
        self.answered_later += version > self.first_version
        self.latencies.append((predicted - captured).total_seconds() * 1e3)
        self.answer_times.append(predicted)
        return before is not None and before != version

    def rate(self, now: datetime) -> float:
        """Predictions per second, over the last five seconds."""
        recent = sum((now - time).total_seconds() <= 5 for time in self.answer_times)
        return recent / 5

    def latency_ms(self, *, newest: int = 50) -> float | None:
        """Median of the newest latencies, in milliseconds."""
        values = sorted(list(self.latencies)[-newest:])
        return values[(len(values) - 1) // 2] if values else None
