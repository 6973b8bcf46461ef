"""Mining of frames that the model got wrong: examples, policies, tracking."""

from collections.abc import Collection, Iterable
from typing import TypeAlias

from edgebus import mining
from edgebus_detection.messages import Box, Detections, Frame, GroundTruth
from edgebus_detection.vision import certainty

__all__ = ["Example", "boxes_of"]

Example: TypeAlias = mining.Example[Frame, Detections, GroundTruth]
"""One frame with everything that is known of it."""


def boxes_of(
    boxes: Iterable[Box], *, least: float = 0.0, classes: Collection[str] | None = None
) -> list[Box]:
    """The boxes of at least a certainty and, where classes are named, of these."""
    return [
        box
        for box in boxes
        if certainty(box) >= least and (classes is None or box.label in classes)
    ]
