"""What kind of mistakes a model makes: precision by recall, and which class it takes for which."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

from edgebus_detection.messages import Box
from edgebus_detection.metrics.average_precision import Matches
from edgebus_detection.vision.matching import outside_of, pair_boxes

NOTHING = "nothing"
"""The row of false alarms and the column of misses in a confusion matrix."""

Said = tuple[Sequence[Box], Sequence[Box]]
"""Detections of a picture, and its true boxes."""

Floats = npt.NDArray[np.float64]


def precision_recall(matches: Iterable[Matches]) -> tuple[Floats, Floats]:
    """Precision and recall over all classes together, at each score from the highest down.

    Returns:
        Recall and precision, float64 [n]; empty where there is no detection or no true box.
    """
    pictures = list(matches)
    truths = sum(len(picture.truths) for picture in pictures)
    if not truths:
        return np.empty(0), np.empty(0)
    scores = np.concatenate([picture.scores for picture in pictures])
    order = np.argsort(-scores, kind="stable")
    found = np.concatenate([picture.hits for picture in pictures])[order].cumsum()
    return found / truths, found / np.arange(1, len(found) + 1)


def confusion(
    pictures: Iterable[Said], labels: Sequence[str], *, score: float
) -> npt.NDArray[np.int64]:
    """How often an object of one class is taken for another.

    Args:
        pictures: Detections and true boxes.
        labels: Class names; others do not count.
        score: Detections below this are left out.

    Returns:
        int64 [n + 1, n + 1]: true classes by detected ones; in the last row, `NOTHING`, are false
        alarms, in the last column misses. Boxes are paired at IoU .50, of the same class first.
    """
    number = {label: at for at, label in enumerate(labels)}
    nothing = len(labels)
    matrix = np.zeros((nothing + 1, nothing + 1), np.int64)
    for boxes, truths in pictures:
        said = [box for box in boxes if (box.score or 0) >= score and box.label in number]
        said = outside_of([box for box in truths if box.ignore], said)
        right = [box for box in truths if box.label in number and not box.ignore]
        pairs = pair_boxes(right, said)
        for row, column in pairs:
            matrix[number[right[row].label], number[said[column].label]] += 1
        seen, used = {row for row, _ in pairs}, {column for _, column in pairs}
        for at, box in enumerate(right):
            matrix[number[box.label], nothing] += at not in seen
        for at, box in enumerate(said):
            matrix[nothing, number[box.label]] += at not in used
    return matrix
