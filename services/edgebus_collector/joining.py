"""Joins a frame, its detections and its ground truth, which arrive in any order."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field

from edgebus_detection.messages import Detections, Frame, GroundTruth
from edgebus_detection.mining.examples import Example

__all__ = ["Joiner"]


@dataclass(slots=True)
class _Parts:
    frame: Frame | None = None
    detections: Detections | None = None
    truth: GroundTruth | None = None

    def example(self) -> Example | None:
        """What is there so far, if it is enough to be judged."""
        if self.frame is None or self.detections is None:
            return None
        return Example(frame=self.frame, detections=self.detections, truth=self.truth)


@dataclass(slots=True)
class _Camera:
    """The frames of one camera that are not complete yet, oldest first, by frame id."""

    pending: OrderedDict[str, _Parts] = field(default_factory=OrderedDict)
    size: int = 0
    has_truth: bool = False


_MAX_CAMERAS = 256


class Joiner:
    """Keeps the last frames of each camera until their detections are there.

    Frames travel at QoS 0 and the detector skips frames, so most parts never find their
    partners: each camera's buffer is bounded in frames and bytes, the oldest goes first. A camera
    that has ever told the truth is waited for; when a frame is pushed out while only its truth
    is missing, it is handed out without. Of more than 256 cameras, far more than a node has, the
    one that was silent longest is forgotten.

    Args:
        frames: The most frames per camera.
        size: The most bytes of pictures per camera.
    """

    def __init__(self, *, frames: int, size: int) -> None:
        self._max_frames = frames
        self._max_size = size
        self._cameras: OrderedDict[str, _Camera] = OrderedDict()
        self.expired = 0
        """Frames that were pushed out before their detections came."""

    @property
    def cameras(self) -> tuple[str, ...]:
        """Cameras that were heard of."""
        return tuple(sorted(self._cameras))

    @property
    def pending(self) -> int:
        """Frames that wait for a part."""
        return sum(len(camera.pending) for camera in self._cameras.values())

    def add_frame(self, frame: Frame) -> list[Example]:
        """A picture arrived; the examples that are complete now."""
        camera = self._camera(frame.record.camera)
        parts = self._parts(camera, frame.record.id)
        if parts.frame is None:
            camera.size += len(frame.jpeg)
        parts.frame = frame
        return self._complete(camera, frame.record.id)

    def add_detections(self, detections: Detections) -> list[Example]:
        """Detections arrived; the examples that are complete now."""
        camera = self._camera(detections.camera)
        self._parts(camera, detections.frame).detections = detections
        return self._complete(camera, detections.frame)

    def add_truth(self, truth: GroundTruth) -> list[Example]:
        """Ground truth arrived; the examples that are complete now."""
        camera = self._camera(truth.camera)
        camera.has_truth = True
        self._parts(camera, truth.frame).truth = truth
        return self._complete(camera, truth.frame)

    def _camera(self, name: str) -> _Camera:
        camera = self._cameras.setdefault(name, _Camera())
        self._cameras.move_to_end(name)
        if len(self._cameras) > _MAX_CAMERAS:
            _, silent = self._cameras.popitem(last=False)
            self.expired += sum(parts.frame is not None for parts in silent.pending.values())
        return camera

    @staticmethod
    def _parts(camera: _Camera, frame: str) -> _Parts:
        return camera.pending.setdefault(frame, _Parts())

    def _complete(self, camera: _Camera, frame: str) -> list[Example]:
        done: list[Example] = []
        parts = camera.pending[frame]
        complete = parts.example()
        if complete is not None and (complete.truth is not None or not camera.has_truth):
            self._remove(camera, frame)
            done.append(complete)
        while len(camera.pending) > self._max_frames or camera.size > self._max_size:
            oldest = next(iter(camera.pending))
            parts = self._remove(camera, oldest)
            complete = parts.example()
            if complete is not None:
                done.append(complete)
            elif parts.frame is not None:
                self.expired += 1
        return done

    @staticmethod
    def _remove(camera: _Camera, frame: str) -> _Parts:
        parts = camera.pending.pop(frame)
        if parts.frame is not None:
            camera.size -= len(parts.frame.jpeg)
        return parts
