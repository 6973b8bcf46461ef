"""Calibration of a teacher: score thresholds, measured on pictures whose truth is known."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from edgebus.contracts import TeacherThreshold
from edgebus_detection.messages import Box
from edgebus_detection.vision import certainty, corners, iou, pair

_LEAST = 10
"""A precision of fewer boxes is chance."""

_MIN_IOU = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """A teacher's boxes of one picture, and the true ones."""

    predicted: Sequence[Box]
    actual: Sequence[Box]


def calibrate(
    pictures: Iterable[Compared], *, precision: float, fallback: float, min_boxes: int
) -> dict[str, TeacherThreshold]:
    """The accept threshold of each class for a wanted precision.

    A box of the teacher is right if it overlaps a box of its class by IoU 0.5 that no better
    scored one has taken, as in average precision. The threshold is the lowest score from which
    on the teacher's boxes are right often enough: the most labels at that precision. Precision
    there is measured on the boxes that chose it, so a little flattered.

    Args:
        pictures: Pictures whose truth is known.
        precision: Wanted, 0 to 1.
        fallback: The threshold of classes with too few boxes to tell.
        min_boxes: Boxes of the teacher that a threshold needs.

    Returns:
        A threshold for each class that the teacher named or that is there.
    """
    marks: dict[str, list[tuple[float, bool]]] = defaultdict(list)
    there: dict[str, int] = defaultdict(int)
    for picture in pictures:
        for box in picture.actual:
            there[box.label] += 1
        for label in {box.label for box in picture.predicted}:
            marks[label] += _marks(
                [box for box in picture.predicted if box.label == label],
                [box for box in picture.actual if box.label == label],
            )
    return {
        label: _threshold(
            label,
            sorted(marks[label], key=lambda mark: -mark[0]),
            there[label],
            precision=precision,
            fallback=fallback,
            min_boxes=min_boxes,
        )
        for label in sorted({*marks, *there})
    }


def _marks(predicted: Sequence[Box], actual: Sequence[Box]) -> list[tuple[float, bool]]:
    """Score and correctness of each of the teacher's boxes."""
    best_first = sorted(predicted, key=lambda box: -certainty(box))
    if not actual:
        return [(certainty(box), False) for box in best_first]
    overlap = iou(corners(best_first), corners(actual))
    pairs = pair(overlap, min_iou=_MIN_IOU, rank=np.arange(len(best_first))[:, None])
    right = {row for row, _ in pairs}
    return [(certainty(box), number in right) for number, box in enumerate(best_first)]


def _threshold(
    label: str,
    marks: Sequence[tuple[float, bool]],
    there: int,
    *,
    precision: float,
    fallback: float,
    min_boxes: int,
) -> TeacherThreshold:
    def at(score: float) -> tuple[float | None, float | None]:
        kept = [right for mark, right in marks if mark >= score]
        return (
            sum(kept) / len(kept) if kept else None,
            sum(kept) / there if there else None,
        )

    chosen: float | None = None
    why: Literal["too few", "never", "calibrated"] = "too few"
    if len(marks) < min_boxes:
        chosen = fallback
    else:
        right = 0
        for number, (score, good) in enumerate(marks, start=1):
            right += good
            # Equal scores stand or fall together.
            last = number == len(marks) or marks[number][0] < score
            if last and number >= _LEAST and right / number >= precision:
                chosen = score
        why = "never" if chosen is None else "calibrated"
    reached, recall = (None, None) if chosen is None else at(chosen)
    return TeacherThreshold(
        label=label,
        accept=chosen,
        why=why,
        precision=reached,
        recall=recall,
        predicted=len(marks),
        actual=there,
    )
