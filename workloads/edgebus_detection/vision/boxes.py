"""Boxes as arrays: overlap, clipping and non-maximum suppression."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

import cv2
import numpy as np
import numpy.typing as npt

Boxes: TypeAlias = npt.NDArray[np.float32]
"""float32 [n, 4]: x1, y1, x2, y2 in pixels, origin top left, bottom right exclusive."""

Labels: TypeAlias = npt.NDArray[np.int64]


def _no_boxes() -> Boxes:
    return np.zeros((0, 4), np.float32)


@dataclass(frozen=True, slots=True)
class Detected:
    """Boxes that a model predicted in one picture.

    Attributes:
        boxes: float32 [n, 4], x1 y1 x2 y2 in pixels.
        scores: float32 [n], 0 to 1.
        labels: int64 [n], indices of the model's classes.
    """

    boxes: Boxes
    scores: npt.NDArray[np.float32]
    labels: Labels

    def __post_init__(self) -> None:
        number = len(self.scores)
        if self.boxes.shape != (number, 4) or self.labels.shape != (number,):
            msg = (
                f"boxes {self.boxes.shape}, scores {self.scores.shape} and labels "
                f"{self.labels.shape} do not belong together; expected [n, 4], [n], [n]"
            )
            raise ValueError(msg)

    def __len__(self) -> int:
        return len(self.scores)

    @classmethod
    def none(cls) -> Detected:
        """Nothing seen."""
        return cls(_no_boxes(), np.zeros(0, np.float32), np.zeros(0, np.int64))

    def take(self, which: npt.NDArray[np.bool_] | npt.NDArray[np.int64]) -> Detected:
        """The detections that a mask or an index array selects."""
        return Detected(self.boxes[which], self.scores[which], self.labels[which])


@dataclass(frozen=True, slots=True)
class Truth:
    """True boxes of one picture.

    Attributes:
        boxes: float32 [n, 4], x1 y1 x2 y2 in pixels.
        labels: int64 [n].
        ignore: float32 [m, 4]: detections there count neither for nor against.
    """

    boxes: Boxes
    labels: Labels
    ignore: Boxes = field(default_factory=_no_boxes)

    @classmethod
    def none(cls) -> Truth:
        """An empty picture."""
        return cls(_no_boxes(), np.zeros(0, np.int64))

    def __post_init__(self) -> None:
        number = len(self.labels)
        if self.boxes.shape != (number, 4) or self.ignore.shape[1:] != (4,):
            msg = (
                f"boxes {self.boxes.shape}, labels {self.labels.shape} and ignore "
                f"{self.ignore.shape} do not fit; expected [n, 4], [n], [m, 4]"
            )
            raise ValueError(msg)


def iou(first: Boxes, second: Boxes) -> npt.NDArray[np.float32]:
    """Intersection over union of every pair.

    Args:
        first: [n, 4].
        second: [m, 4].

    Returns:
        float32 [n, m]; 0 where both have no area.
    """
    inter = _intersection(first, second)
    union = _area(first)[:, None] + _area(second)[None] - inter
    ratio: npt.NDArray[np.float32] = np.divide(
        inter, union, out=np.zeros_like(inter), where=union > 0
    )
    return ratio


def coverage(boxes: Boxes, regions: Boxes) -> npt.NDArray[np.float32]:
    """The share of each box that lies in each region: float32 [n, m]."""
    inter = _intersection(boxes, regions)
    area = np.broadcast_to(_area(boxes)[:, None], inter.shape)
    share: npt.NDArray[np.float32] = np.divide(
        inter, area, out=np.zeros_like(inter), where=area > 0
    )
    return share


def clip_boxes(detected: Detected, *, width: float, height: float) -> Detected:
    """Cut boxes at the picture's borders; those without area inside are gone."""
    limit = np.array([width, height, width, height], np.float32)
    boxes = np.clip(detected.boxes, np.float32(0), limit)
    inside = (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
    return replace(detected, boxes=boxes).take(inside)


def suppress(detected: Detected, *, iou: float, limit: int = 300) -> Detected:
    """Non-maximum suppression within each class, best first.

    Args:
        detected: Candidates.
        iou: Of two boxes of a class that overlap more than this, the lower score goes.
        limit: At most this many are kept.
    """
    if not len(detected):
        return detected
    sizes = detected.boxes[:, 2:] - detected.boxes[:, :2]
    # OpenCV takes arrays, and is faster with them; its type stubs only know sequences.
    rectangles: Any = np.concatenate([detected.boxes[:, :2], sizes], axis=1).astype(np.float64)
    scores: Any = detected.scores
    labels: Any = detected.labels.astype(np.int32)
    kept = cv2.dnn.NMSBoxesBatched(rectangles, scores, labels, 0.0, iou)
    index = np.asarray(kept, np.int64).reshape(-1)
    order = index[np.argsort(-detected.scores[index], kind="stable")][:limit]
    return detected.take(order)


def _intersection(first: Boxes, second: Boxes) -> npt.NDArray[np.float32]:
    low = np.maximum(first[:, None, :2], second[None, :, :2])
    high = np.minimum(first[:, None, 2:], second[None, :, 2:])
    sides = np.clip(high - low, 0, None)
    inter: npt.NDArray[np.float32] = sides[..., 0] * sides[..., 1]
    return inter


def _area(boxes: Boxes) -> npt.NDArray[np.float32]:
    area: npt.NDArray[np.float32] = np.clip(boxes[:, 2] - boxes[:, 0], 0, None) * np.clip(
        boxes[:, 3] - boxes[:, 1], 0, None
    )
    return area
