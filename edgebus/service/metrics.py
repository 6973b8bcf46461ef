"""Counters, gauges and timings of a service."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field

_WINDOW = 512


@dataclass(frozen=True, slots=True)
class MetricsSnapshot:
    """The registry at one moment."""

    counters: dict[str, float]
    gauges: dict[str, float]


@dataclass(slots=True)
class _Timing:
    count: int = 0
    total_ms: float = 0.0
    recent_ms: deque[float] = field(default_factory=lambda: deque(maxlen=_WINDOW))


class MetricsRegistry:
    """Counters, gauges and timings of a service; the runtime sends them with each heartbeat.

    Names are dotted and lower-case, for example ``frames.dropped``. A name belongs to one kind.
    """

    def __init__(self) -> None:
        self._counters: dict[str, float] = {}
        self._gauges: dict[str, float] = {}
        self._timings: dict[str, _Timing] = {}

    def counter(self, name: str, by: float = 1.0) -> None:
        """Add to a counter.

        Raises:
            ValueError: `by` is negative or not finite; a counter only grows.
        """
        if not (by >= 0 and math.isfinite(by)):
            msg = f"counter {name} cannot grow by {by}; use a gauge for what goes down"
            raise ValueError(msg)
        self._counters[name] = self._counters.get(name, 0.0) + by

    def gauge(self, name: str, value: float) -> None:
        """Set a gauge to its present value; one that is not finite is unknown and not sent."""
        if math.isfinite(value):
            self._gauges[name] = float(value)
        else:
            self._gauges.pop(name, None)

    def observe(self, name: str, ms: float) -> None:
        """Add one duration in milliseconds.

        It shows as the counters ``name.count`` and ``name.ms`` (total) and, over the last 512
        observations, as the gauges ``name.p50_ms``, ``name.p95_ms`` and ``name.max_ms``.

        Raises:
            ValueError: `ms` is no duration.
        """
        if not (ms >= 0 and math.isfinite(ms)):
            msg = f"{name} cannot have taken {ms} ms"
            raise ValueError(msg)
        timing = self._timings.setdefault(name, _Timing())
        timing.count += 1
        timing.total_ms += ms
        timing.recent_ms.append(ms)

    def snapshot(self) -> MetricsSnapshot:
        """Everything at this moment, timings spelled out as counters and gauges."""
        counters = dict(self._counters)
        gauges = dict(self._gauges)
        for name, timing in self._timings.items():
            counters[f"{name}.count"] = float(timing.count)
            counters[f"{name}.ms"] = timing.total_ms
            ordered = sorted(timing.recent_ms)
            gauges[f"{name}.p50_ms"] = _quantile(ordered, 0.50)
            gauges[f"{name}.p95_ms"] = _quantile(ordered, 0.95)
            gauges[f"{name}.max_ms"] = ordered[-1]
        return MetricsSnapshot(counters=counters, gauges=gauges)


def _quantile(ordered: list[float], fraction: float) -> float:
    """The nearest-rank quantile of a sorted, non-empty list."""
    return ordered[min(len(ordered) - 1, int(fraction * len(ordered)))]
