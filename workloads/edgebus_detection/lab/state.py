"""The state of a detection run: the framework's, and every frame of every camera."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import ClassVar

from edgebus.lab import RunEvent, RunState, service_of
from edgebus.topology import Until
from edgebus_detection.lab.frames import CameraFrames, ClassNumbers, severity_of
from edgebus_detection.messages import (
    CAMERA_FRAME,
    Detections,
    FrameRecord,
    GroundTruth,
)

__all__ = ["DetectionState"]


class DetectionState(RunState):
    """Frames, truth and detections per camera, beside the state of every run.

    Args:
        on_event: Called for each event of the history.

    Attributes:
        classes: Numbers of the class names.
        cameras: By ``node/camera``.
    """

    serving_services: ClassVar[frozenset[str]] = frozenset({"detector"})

    def __init__(self, *, on_event: Callable[[RunEvent], None] = lambda _event: None) -> None:
        super().__init__(on_event=on_event)
        self.classes = ClassNumbers()
        self.cameras: dict[str, CameraFrames] = {}

    def camera(self, node: str, name: str) -> CameraFrames:
        """The frames of a camera."""
        key = f"{node}/{name}"
        if key not in self.cameras:
            self.cameras[key] = CameraFrames(node, name, self.classes)
        return self.cameras[key]

    def on_frame(self, node: str, record: FrameRecord, *, size: int) -> None:
        """A frame of a camera."""
        self.camera(node, record.camera).add_frame(record, size)

    def on_truth(self, node: str, truth: GroundTruth) -> None:
        """Ground truth of a frame."""
        camera = self.camera(node, truth.camera)
        before, began = camera.condition, severity_of(camera.effects) > 0
        camera.add_truth(truth)
        severity = severity_of(truth.effects)
        if severity > 0 and not began:
            self.drift_at = min(self.drift_at or truth.captured, truth.captured)
            names = ", ".join(name for name, value in truth.effects.items() if value > 0)
            self.log_event(truth.captured, camera.key, "drift", f"{names} begins")
        elif before and truth.condition != before:
            self.log_event(truth.captured, camera.key, "condition", f"now {truth.condition}")

    def on_detections(self, node: str, answer: Detections) -> None:
        """Detections of a frame."""
        camera = self.camera(node, answer.camera)
        before, version = camera.version, answer.model.version
        if camera.add_answer(answer) and before is not None and before != version:
            text = f"frame {answer.index} is the first answered by version {version}"
            self.log_event(answer.detected, camera.key, "swap", text)

    def first_version(self) -> int | None:
        """The lowest version that answered a camera's first frame."""
        first = [camera.first_version for camera in self.cameras.values()]
        return min((version for version in first if version is not None), default=None)

    def first_input(self) -> datetime | None:
        """Time of the first frame."""
        captured = [
            frame.captured
            for camera in self.cameras.values()
            for frame in list(camera.frames.values())[:1]
        ]
        return min(captured, default=None)

    @property
    def drift_is_known(self) -> bool:
        """Whether ground truth reports the condition of some camera."""
        return any(camera.condition for camera in self.cameras.values())

    def missing_input(self) -> str:
        """The frames or detections that are still missing, in words."""
        if not self.cameras:
            return "waiting for the first frame"
        return "" if self.first_version() is not None else "waiting for the first detections"

    def missing_measure(self, version: int, until: Until) -> str:
        """Cameras with fewer frames answered by a later version than asked for."""
        counts = {key: camera.answered_later for key, camera in self.cameras.items()}
        few = [f"{key} {count}" for key, count in counts.items() if count < until.after_inputs]
        if not few:
            return ""
        return f"measuring version {version}: {', '.join(few)} of {until.after_inputs} frames"

    def dead_frames(self, node: str, camera: str) -> int:
        """Frames of a camera that the detector could not handle."""
        return sum(
            names is not None and names["node"] == node and names["camera"] == camera
            for names in (
                CAMERA_FRAME.parse(letter.topic)
                for letter in self.dead_letters
                if service_of(letter.source).endswith("/detector")
            )
        )
