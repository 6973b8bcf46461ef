"""The state of a detection run: the framework's, and every frame of every camera."""

from __future__ import annotations

from typing import ClassVar

from edgebus.lab import RunState, service_of
from edgebus_detection.lab.frames import CameraFrames, ClassNumbers, severity_of
from edgebus_detection.messages import CAMERA_FRAME, Detections, FrameRecord, GroundTruth


class DetectionState(RunState):
    """Frames, truth and detections per camera, beside the state of every run.

    Attributes:
        classes: Numbers of the class names.
        cameras: The streams, by ``node/camera``.
    """

    serving_services: ClassVar[frozenset[str]] = frozenset({"detector"})

    def __init__(self) -> None:
        super().__init__()
        self.classes = ClassNumbers()
        self.cameras: dict[str, CameraFrames] = {}
        self.streams = self.cameras
        self.observes_streams = True

    def camera(self, node: str, name: str) -> CameraFrames:
        """The frames of a camera."""
        key = f"{node}/{name}"
        if key not in self.cameras:
            self.cameras[key] = CameraFrames(node, name, classes=self.classes)
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
            self.log_event(truth.captured, camera.key, "drift", f"{names} begins, as scripted")
        elif before and truth.condition != before:
            self.log_event(truth.captured, camera.key, "condition", f"now {truth.condition}")

    def on_detections(self, node: str, answer: Detections) -> None:
        """Detections of a frame."""
        camera = self.camera(node, answer.camera)
        if camera.add_answer(answer):
            self.log_swap(camera, answer.index, at=answer.detected)

    @property
    def drift_is_known(self) -> bool:
        """Whether ground truth reports the condition of some camera."""
        return any(camera.condition for camera in self.cameras.values())

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
