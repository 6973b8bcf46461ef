"""Watches the statistics of every camera of a node."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Literal

from edgebus.contracts import Drift, DriftState
from edgebus_collector.drift.changes import Change, ChangeMonitor
from edgebus_detection.messages import Detections

if TYPE_CHECKING:
    from river.base import DriftDetector

__all__ = ["DriftWatch", "Statistic"]

Statistic = Literal["confidence", "novelty"]

LEAST: Final[Mapping[Statistic, float]] = {"confidence": 0.1, "novelty": 0.12}
"""How far from normal a mean has to be, on the scale that is watched."""

_MAX_CAMERAS = 256


@dataclass(slots=True)
class _Camera:
    model: str
    monitors: dict[Statistic, ChangeMonitor] = field(default_factory=dict)


class DriftWatch:
    """Looks at every answer of the model; no clock, no I/O.

    A camera's statistics are calibrated anew for each model that serves it: another model has
    other confidences, and what it was released for is normal to it. Of more than 256 cameras, the
    one that was silent longest is forgotten.

    Args:
        detector: Makes a new change detector.
        name: What the detector is called on the bus.
        statistics: ``confidence``: mean score of a frame's boxes; ``novelty``: logarithm of one
            plus the distance that the detector reports.
        calibration: Frames to calibrate with.
        max_block: The longest block of frames that is averaged.
        least: How far from normal the means have to be; `LEAST` for those that are not named.
        empty: Whether a frame without boxes has confidence 0; otherwise it has none.
    """

    def __init__(
        self,
        detector: Callable[[], DriftDetector],
        *,
        name: str,
        statistics: Sequence[Statistic],
        calibration: int,
        max_block: int,
        least: Mapping[Statistic, float],
        empty: bool,
    ) -> None:
        self._make = detector
        self._name = name
        self._statistics = tuple(statistics)
        self._calibration = calibration
        self._max_block = max_block
        self._least = dict(LEAST) | dict(least)
        self._empty = empty
        self._cameras: OrderedDict[str, _Camera] = OrderedDict()

    @property
    def cameras(self) -> dict[str, int]:
        """Cameras that are watched, with the number of their statistics that have changed."""
        return {name: len(self._away(name)) for name in self._cameras}

    @property
    def drifted(self) -> tuple[str, ...]:
        """Cameras with a statistic that is not what it was."""
        return tuple(sorted(name for name in self._cameras if self._away(name)))

    def state(self, camera: str) -> DriftState | None:
        """What is known of a camera; None before its first answer."""
        known = self._cameras.get(camera)
        if known is None:
            return None
        means = {name: monitor.mean for name, monitor in known.monitors.items()}
        since = [monitor.since for monitor in known.monitors.values() if monitor.since]
        return DriftState(
            drifted=self._away(camera),
            since=min(since, default=None),
            means={name: mean for name, mean in means.items() if mean is not None},
        )

    def look(self, detections: Detections, *, source: str) -> list[Drift]:
        """Take the next answer; the changes that it reveals.

        Args:
            detections: The answer.
            source: Identity of who says so.
        """
        camera = self._camera(detections.camera, detections.model.digest)
        found: list[Drift] = []
        for statistic in self._statistics:
            value = self._value(statistic, detections)
            if value is None:
                continue
            monitor = camera.monitors.get(statistic)
            if monitor is None:
                monitor = camera.monitors[statistic] = ChangeMonitor(
                    self._make,
                    calibration=self._calibration,
                    max_block=self._max_block,
                    least=self._least[statistic],
                )
            change = monitor.update(value, at=detections.captured)
            if change is not None:
                found.append(self._drift(detections, statistic, change, source=source))
        return found

    def _camera(self, name: str, model: str) -> _Camera:
        camera = self._cameras.get(name)
        if camera is None or camera.model != model:
            camera = self._cameras[name] = _Camera(model=model)
        self._cameras.move_to_end(name)
        if len(self._cameras) > _MAX_CAMERAS:
            self._cameras.popitem(last=False)
        return camera

    def _away(self, camera: str) -> tuple[str, ...]:
        monitors = self._cameras[camera].monitors
        return tuple(name for name, monitor in monitors.items() if monitor.since is not None)

    def _value(self, statistic: Statistic, detections: Detections) -> float | None:
        if statistic == "novelty":
            return None if detections.novelty is None else math.log1p(detections.novelty)
        scores = [box.score for box in detections.boxes if box.score is not None]
        if not scores:
            return 0.0 if self._empty else None
        return sum(scores) / len(scores)

    def _drift(
        self, detections: Detections, statistic: Statistic, change: Change, *, source: str
    ) -> Drift:
        # The novelty is watched on a logarithmic scale and told on its own.
        plain = math.expm1 if statistic == "novelty" else float
        return Drift(
            source=source,
            traceparent=detections.traceparent,
            stream=detections.camera,
            statistic=statistic,
            method=self._name,
            before=plain(change.before),
            after=plain(change.after),
            count=change.count,
            input=detections.frame,
            index=detections.index,
            since=change.since,
            returned=change.returned,
            model=detections.model,
        )
