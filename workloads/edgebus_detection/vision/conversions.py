"""Conversions between messages with class names and arrays with class indices."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edgebus_detection.messages import Box
from edgebus_detection.vision.boxes import Boxes, Detected, Truth


def certainty(box: Box) -> float:
    """Its score; a box without one is certain."""
    return 1.0 if box.score is None else box.score


def corners(boxes: Sequence[Box]) -> Boxes:
    """Corners of boxes, float32 [n, 4]: x1, y1, x2, y2 in pixels."""
    rows = [(box.x1, box.y1, box.x2, box.y2) for box in boxes]
    return np.array(rows, np.float32).reshape(-1, 4)


def to_boxes(detected: Detected, classes: Sequence[str]) -> tuple[Box, ...]:
    """Detections as messages carry them: hundredths of a pixel, scores of four digits.

    Boxes that have no area at that precision are left out.
    """
    rounded = np.round(detected.boxes.astype(np.float64), 2).tolist()
    scores = np.round(detected.scores.astype(np.float64), 4).tolist()
    return tuple(
        Box(label=classes[label], x1=x1, y1=y1, x2=x2, y2=y2, score=min(1.0, score))
        for (x1, y1, x2, y2), score, label in zip(
            rounded, scores, detected.labels.tolist(), strict=True
        )
        if x2 > x1 and y2 > y1
    )


def to_detected(boxes: Sequence[Box], classes: Sequence[str]) -> Detected:
    """Boxes of a message as arrays; classes that are not in `classes` are left out."""
    index = {name: number for number, name in enumerate(classes)}
    known = [box for box in boxes if box.label in index]
    return Detected(
        corners(known),
        np.array([certainty(box) for box in known], np.float32),
        np.array([index[box.label] for box in known], np.int64),
    )


def to_truth(boxes: Sequence[Box], classes: Sequence[str], *, ignore: Sequence[Box] = ()) -> Truth:
    """True boxes as arrays; classes that are not in `classes` become ignore regions, too.

    Args:
        boxes: What is really there.
        classes: The model's classes.
        ignore: Further regions of unknown content.
    """
    index = {name: number for number, name in enumerate(classes)}
    known = [box for box in boxes if box.label in index and not box.ignore]
    unknown = [box for box in boxes if box.label not in index or box.ignore]
    return Truth(
        corners(known),
        np.array([index[box.label] for box in known], np.int64),
        corners([*unknown, *ignore]),
    )
