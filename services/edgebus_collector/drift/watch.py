"""Drift watch over the statistics of every stream of a node."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Self

from cachetools import LRUCache
from pydantic import Field, model_validator

from edgebus.contracts import STRANGE, Drift, DriftState, Segment
from edgebus.mining import Predicted, Statistic
from edgebus.service import ServiceSettings
from edgebus_collector.drift.changes import Change, ChangeMonitor
from edgebus_collector.drift.detectors import DetectorName, check_parameter, make_detector

_MAX_STREAMS = 256
Positive = Annotated[float, Field(gt=0)]


class DriftSettings(ServiceSettings):
    """Watch for drift of the workload's statistics."""

    statistics: Annotated[tuple[Segment, ...], Field(min_length=1)] | None = None
    """Names of the statistics that are watched; null: all that the workload derives."""
    method: DetectorName = "adwin"
    """Change detector."""
    parameter: Positive | None = None
    """Sensitivity of the method: delta of ADWIN (0.0002), threshold of Page-Hinkley (25), alpha
    of KSWIN (1e-7)."""
    calibration: Annotated[int, Field(ge=30, le=100_000)] = 200
    """Inputs of each stream after which it is known what is normal; anew for each model."""
    max_block: Annotated[int, Field(ge=1, le=1000)] = 5
    """Inputs that are averaged at most, where neighbours are alike: longer blocks make fewer
    false alarms, and later ones."""
    min_change: dict[Segment, Positive] = Field(default_factory=dict)
    """Distance from normal, by statistic, below which a change is sure but small and no drift;
    the workload's by default. Of a logarithmic statistic x, of log(1 + x)."""
    zero_if_absent: tuple[Segment, ...] = ()
    """Statistics that are 0 where a prediction has none, such as the confidence of an empty one;
    otherwise such a prediction does not count."""

    @model_validator(mode="after")
    def _parameter_fits(self) -> Self:
        check_parameter(self.method, self.parameter)
        return self

    def check(self, known: Mapping[str, Statistic]) -> None:
        """Compare the names of statistics with those that a workload has.

        Raises:
            ValueError: It has none, or one is not among them.
        """
        named = {*(self.statistics or ()), *self.min_change, *self.zero_if_absent}
        if not known or named - known.keys():
            msg = (
                f"drift of {', '.join(sorted(named - known.keys())) or 'nothing'} cannot be "
                f"watched; the workload derives: {', '.join(known) or 'no statistics'}"
            )
            raise ValueError(msg)


@dataclass(slots=True)
class _Stream:
    model: str
    monitors: dict[str, ChangeMonitor] = field(default_factory=dict)


class DriftWatch:
    """Monitors of every statistic of every stream; no clock, no I/O.

    A stream's statistics are calibrated anew for each model that serves it: another model has
    other confidences, and what it was released for is normal to it. Of more than 256 streams, the
    one that was silent longest is forgotten.

    Args:
        settings: What is watched, and how.
        statistics: What the workload derives from a prediction, by name.
    """

    def __init__(self, settings: DriftSettings, statistics: Mapping[str, Statistic]) -> None:
        self._settings = settings
        names = statistics if settings.statistics is None else settings.statistics
        self._statistics = {name: statistics[name] for name in names}
        self._streams: LRUCache[str, _Stream] = LRUCache(_MAX_STREAMS)
        self.failed = 0
        """Values that could not be computed, or that are no numbers."""

    @property
    def streams(self) -> dict[str, int]:
        """Streams that are watched, with the number of their statistics that have changed."""
        return {name: len(_away(stream)) for name, stream in self._streams.items()}

    def state(self, stream: str) -> DriftState | None:
        """State of a stream; None before its first prediction."""
        known = self._streams.get(stream)
        if known is None:
            return None
        means = {name: monitor.mean for name, monitor in known.monitors.items()}
        since = [monitor.since for monitor in known.monitors.values() if monitor.since]
        return DriftState(
            drifted=_away(known),
            since=min(since, default=None),
            means={name: mean for name, mean in means.items() if mean is not None},
        )

    def update(self, prediction: Predicted) -> list[Drift]:
        """Take the next prediction; the changes that it reveals."""
        monitors = self._monitors(prediction)
        found: list[Drift] = []
        for name, statistic in self._statistics.items():
            value = self._value(name, prediction)
            if value is None:
                continue
            monitor = monitors.get(name)
            if monitor is None:
                monitor = monitors[name] = self._monitor(name, statistic)
            change = monitor.update(value, at=prediction.captured)
            if change is not None:
                found.append(self._drift(prediction, name, change))
        return found

    def _value(self, name: str, prediction: Predicted) -> float | None:
        """A statistic, on the scale that is watched; None where there is none."""
        statistic = self._statistics[name]
        try:
            value = statistic.value(prediction)
            if value is None:
                return 0.0 if name in self._settings.zero_if_absent else None
            scaled = math.log1p(value) if statistic.logarithmic else float(value)
        except STRANGE:  # a stranger's code
            scaled = math.nan
        if math.isfinite(scaled):
            return scaled
        self.failed += 1
        return None

    def _monitors(self, prediction: Predicted) -> dict[str, ChangeMonitor]:
        model = prediction.model.digest
        stream = self._streams.get(prediction.stream)
        if stream is None or stream.model != model:
            stream = self._streams[prediction.stream] = _Stream(model=model)
        return stream.monitors

    def _monitor(self, name: str, statistic: Statistic) -> ChangeMonitor:
        settings = self._settings
        return ChangeMonitor(
            lambda: make_detector(settings.method, settings.parameter),
            calibration=settings.calibration,
            max_block=settings.max_block,
            least=settings.min_change.get(name, statistic.min_change),
        )

    def _drift(self, prediction: Predicted, name: str, change: Change) -> Drift:
        plain = math.expm1 if self._statistics[name].logarithmic else float
        return Drift(
            traceparent=prediction.traceparent,
            stream=prediction.stream,
            statistic=name,
            method=self._settings.method,
            before=plain(change.before),
            after=plain(change.after),
            count=change.count,
            input=prediction.input,
            index=prediction.index,
            since=change.since,
            returned=change.returned,
            model=prediction.model,
        )


def _away(stream: _Stream) -> tuple[str, ...]:
    return tuple(name for name, monitor in stream.monitors.items() if monitor.since is not None)
