"""Mining of frames that the model got wrong: examples, policies, tracking."""

from collections.abc import Collection, Iterable
from typing import TypeAlias

from edgebus import mining
from edgebus_detection.messages import Box, Detections, Frame, GroundTruth

__all__ = ["Example", "boxes_of", "certainty"]

Example: TypeAlias = mining.Example[Frame, Detections, GroundTruth]
"""One frame with everything that is known of it."""


def certainty(box: Box) -> float:
    """Its score; a box without one is certain."""
    return 1.0 if box.score is None else box.score


def boxes_of(
    boxes: Iterable[Box], *, least: float = 0.0, classes: Collection[str] | None = None
) -> list[Box]:
    """The boxes of at least a certainty and, where classes are named, of these."""
    return [
        box
        for box in boxes
        if certainty(box) >= least and (classes is None or box.label in classes)
    ]
