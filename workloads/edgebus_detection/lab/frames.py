"""The frames of one camera: truth, detections, latency and rolling accuracy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from edgebus.contracts import split_of
from edgebus.lab import StreamState
from edgebus_detection.messages import Box, Detections, FrameRecord, GroundTruth
from edgebus_detection.metrics import RollingAp
from edgebus_detection.vision import Detected, Truth, corners

_MAX_FRAMES = 20_000
"""Frames remembered per camera; 40 minutes at 8 fps. Older ones leave the figures."""

ROLLING_WINDOW = 48
"""Frames that the rolling accuracy looks back on."""


def severity_of(effects: Mapping[str, float]) -> float:
    """Strength of the scripted drift: that of its strongest effect, from 0 to 1."""
    return max(effects.values(), default=0.0)


@dataclass(slots=True)
class FrameEntry:
    """One frame of a camera.

    Attributes:
        id: Its id.
        index: Number of the frame in its camera.
        captured: When the camera took it.
        truth: Ground truth, where it is known.
        answer: The first detections that came for it.
        torn: Detections of two different models came for it.
        sent: It was on the bus. A camera that dies between the two has published its truth only.
    """

    id: str
    index: int
    captured: datetime
    truth: GroundTruth | None = None
    answer: Detections | None = None
    torn: bool = False
    sent: bool = True

    @property
    def held_out(self) -> bool:
        """Whether it may be measured on: answered, with truth, never trained on."""
        return (
            self.answer is not None
            and self.truth is not None
            and split_of(self.truth.camera, self.index) == "holdout"
        )


class ClassNumbers:
    """Class names as numbers, in the order in which they were first seen."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self._numbers: dict[str, int] = {}

    def number(self, name: str) -> int:
        """The number of a class."""
        if name not in self._numbers:
            self._numbers[name] = len(self.names)
            self.names.append(name)
        return self._numbers[name]

    def detected(self, boxes: tuple[Box, ...]) -> Detected:
        """Detections as arrays."""
        import numpy as np

        return Detected(
            np.array([[b.x1, b.y1, b.x2, b.y2] for b in boxes], np.float32).reshape(-1, 4),
            np.array([b.score if b.score is not None else 1.0 for b in boxes], np.float32),
            np.array([self.number(b.label) for b in boxes], np.int64),
        )

    def truth(self, boxes: tuple[Box, ...]) -> Truth:
        """Ground truth as arrays."""
        found = self.detected(tuple(box for box in boxes if not box.ignore))
        return Truth(found.boxes, found.labels, corners([box for box in boxes if box.ignore]))


@dataclass
class CameraFrames(StreamState):
    """The frames of one camera.

    Attributes:
        classes: Numbers of the class names.
        frames: Frames by id, in the order in which they were first seen.
        rolling: AP50 over the newest frames, all splits: a frame is answered before anybody can
            train on it, so this is test-then-train (prequential) accuracy.
    """

    classes: ClassNumbers = field(default_factory=ClassNumbers)
    frames: dict[str, FrameEntry] = field(default_factory=dict)
    frame_bytes: int = 0
    condition: str = ""
    effects: dict[str, float] = field(default_factory=dict)
    dropped: int = 0
    rolling: RollingAp = field(default_factory=lambda: RollingAp(window=ROLLING_WINDOW))
    history: list[tuple[datetime, float, int]] = field(default_factory=list)

    def add_frame(self, record: FrameRecord, size: int) -> None:
        """Add a frame that was on the bus."""
        self._entry(record.id, record.index, record.captured).sent = True
        self.frame_bytes += size

    def add_truth(self, truth: GroundTruth) -> None:
        """Add the ground truth of a frame."""
        entry = self._entry(truth.frame, truth.index, truth.captured)
        entry.truth = truth
        self.condition = truth.condition
        self.effects = dict(truth.effects)
        self._measure(entry)

    def add_answer(self, answer: Detections) -> bool:
        """Add the detections of a frame.

        Returns:
            Whether it is the first answer of another version.
        """
        entry = self._entry(answer.frame, answer.index, answer.captured)
        if entry.answer is not None:
            entry.torn |= entry.answer.model.digest != answer.model.digest
            return False
        entry.answer = answer
        self.dropped = answer.dropped
        swapped = self.count_prediction(
            answer.model.version, captured=answer.captured, predicted=answer.detected
        )
        self._measure(entry)
        return swapped

    def _entry(self, identifier: str, index: int, captured: datetime) -> FrameEntry:
        entry = self.frames.get(identifier)
        if entry is None:
            entry = self.frames[identifier] = FrameEntry(identifier, index, captured, sent=False)
            self.count_input(captured)
            if len(self.frames) > _MAX_FRAMES:
                del self.frames[next(iter(self.frames))]
        return entry

    def _measure(self, entry: FrameEntry) -> None:
        """Add a frame to the rolling accuracy, once it has truth and detections."""
        if entry.truth is None or entry.answer is None:
            return
        self.rolling.add(
            self.classes.detected(entry.answer.boxes), self.classes.truth(entry.truth.boxes)
        )
        if len(self.rolling) >= 12 and self.answered % 4 == 0 and self.rolling.value is not None:
            self.history.append(
                (entry.answer.detected, self.rolling.value, entry.answer.model.version)
            )
