"""What operators say, held against the frames that are still in memory."""

from __future__ import annotations

from typing import Literal

from edgebus_collector.history import History, Seen
from edgebus_detection.messages import Feedback

__all__ = ["FeedbackRefusedError", "resolve"]

Cause = Literal["unknown", "late", "invalid", "repeated"]


class FeedbackRefusedError(Exception):
    """An operator's word leads nowhere.

    Attributes:
        cause: unknown: no such camera; late: its frame is gone; invalid: it speaks of a box that
            is not there; repeated: it was said before.
        reason: In words.
    """

    def __init__(self, *, cause: Cause, reason: str) -> None:
        super().__init__(reason)
        self.cause: Cause = cause
        self.reason = reason


def resolve(feedback: Feedback, history: History) -> Seen:
    """The frame that is meant, the verdict added to what was said of it.

    Raises:
        FeedbackRefusedError: There is none, or the verdict does not fit it.
    """
    seen = history.find(feedback.camera, feedback.frame)
    if seen is None:
        what = f"frame {feedback.frame}" if feedback.frame else "any frame"
        reason = (
            f"{what} of camera {feedback.camera} is not in memory (any more); the last "
            f"{len(history)} answered frames are: raise buffer.history_frames and history_bytes"
        )
        raise FeedbackRefusedError(cause="late" if feedback.frame else "unknown", reason=reason)
    detections = seen.example.detections
    if feedback.box is not None and feedback.box >= len(detections.boxes):
        reason = f"box {feedback.box} of {len(detections.boxes)}: they are counted from 0"
        raise FeedbackRefusedError(cause="invalid", reason=reason)
    at = feedback.at
    if at is not None and (at.x2 > detections.width + 1 or at.y2 > detections.height + 1):
        reason = (
            f"the object at ({at.x1:g}, {at.y1:g}, {at.x2:g}, {at.y2:g}) reaches outside of its "
            f"frame of {detections.width} x {detections.height}"
        )
        raise FeedbackRefusedError(cause="invalid", reason=reason)
    if not seen.add(feedback.said()):
        raise FeedbackRefusedError(cause="repeated", reason="it was said before")
    return seen
