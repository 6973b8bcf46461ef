"""Which detections are right: boxes matched to ground truth by overlap."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from edgebus_detection.messages import Box

__all__ = ["Matching", "iou", "match"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Matching:
    """The outcome of matching detections to truth.

    Attributes:
        hits: Detections that match a true box of their class.
        misses: True boxes that no detection matches.
        false_alarms: Detections that match no true box.
    """

    hits: tuple[Box, ...]
    misses: tuple[Box, ...]
    false_alarms: tuple[Box, ...]


def iou(a: Box, b: Box) -> float:
    """Intersection over union of two boxes, 0 to 1 (Jaccard index)."""
    width = min(a.x2, b.x2) - max(a.x1, b.x1)
    height = min(a.y2, b.y2) - max(a.y1, b.y1)
    if width <= 0 or height <= 0:
        return 0.0
    shared = width * height
    return shared / (_area(a) + _area(b) - shared)


def match(detections: Sequence[Box], truth: Sequence[Box], *, min_iou: float) -> Matching:
    """Match each detection to the best free true box of its class.

    Greedy, the surest detection first, as in the Pascal VOC protocol (Everingham et al. 2010,
    section 4.2).

    Args:
        detections: Boxes with scores; those without one count as sure.
        truth: True boxes.
        min_iou: Overlap below this is no match.
    """
    free = list(truth)
    hits: list[Box] = []
    false_alarms: list[Box] = []
    for box in sorted(detections, key=lambda b: 1.0 if b.score is None else b.score, reverse=True):
        best = max(
            (other for other in free if other.label == box.label),
            key=lambda other: iou(box, other),
            default=None,
        )
        if best is None or iou(box, best) < min_iou:
            false_alarms.append(box)
        else:
            # By identity: two equal boxes are two objects.
            free = [other for other in free if other is not best]
            hits.append(box)
    return Matching(hits=tuple(hits), misses=tuple(free), false_alarms=tuple(false_alarms))


def _area(box: Box) -> float:
    return (box.x2 - box.x1) * (box.y2 - box.y1)
