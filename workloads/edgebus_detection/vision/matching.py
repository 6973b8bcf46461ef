"""Matching of boxes by overlap: predictions to true boxes, and one source's boxes to another's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from edgebus_detection.messages import Box
from edgebus_detection.vision.boxes import coverage, iou
from edgebus_detection.vision.conversions import certainty, corners

_INSIDE = 0.5


def pair(
    overlap: npt.NDArray[np.float32], *, min_iou: float, rank: npt.NDArray[Any]
) -> list[tuple[int, int]]:
    """Pairs of a row and a column, each at most once: of the lowest rank first, then the best.

    Args:
        overlap: IoU [n, m]; what must not be paired is below `min_iou`.
        min_iou: Least overlap of a pair.
        rank: Precedence of each pair, [n, m] or of a shape that broadcasts to it.
    """
    rows, columns = np.nonzero(overlap >= min_iou)
    ranks = np.broadcast_to(rank, overlap.shape)[rows, columns]
    order = np.lexsort((-overlap[rows, columns], ranks))
    pairs: list[tuple[int, int]] = []
    used: tuple[set[int], set[int]] = set(), set()
    for row, column in zip(rows[order].tolist(), columns[order].tolist(), strict=True):
        if row not in used[0] and column not in used[1]:
            used[0].add(row)
            used[1].add(column)
            pairs.append((row, column))
    return pairs


def pair_boxes(
    first: Sequence[Box], second: Sequence[Box], *, min_iou: float = 0.5
) -> list[tuple[int, int]]:
    """Boxes of the same object: pairs of indices, each box at most once.

    Same classes first, the best overlap first; what is left is paired whatever its class.
    """
    if not first or not second:
        return []
    return pair(iou(corners(first), corners(second)), min_iou=min_iou, rank=_differ(first, second))


@dataclass(frozen=True, slots=True, kw_only=True)
class Matching:
    """Detections matched to true boxes.

    Attributes:
        hits: Detections that match a true box of their class.
        misses: True boxes that no detection matches.
        false_alarms: Detections that match no true box.
    """

    hits: tuple[Box, ...]
    misses: tuple[Box, ...]
    false_alarms: tuple[Box, ...]


def match_boxes(detections: Sequence[Box], truth: Sequence[Box], *, min_iou: float) -> Matching:
    """Match each detection to the best free true box of its class.

    Greedy, the surest detection first, as in the Pascal VOC protocol (Everingham et al. 2010,
    section 4.2).

    Args:
        detections: Boxes with scores; those without one count as sure.
        truth: True boxes; what is detected in a region to ignore is no false alarm.
        min_iou: Overlap below this is no match.
    """
    surest = sorted(detections, key=certainty, reverse=True)
    regions = [box for box in truth if box.ignore]
    truth = [box for box in truth if not box.ignore]
    pairs: list[tuple[int, int]] = []
    if surest and truth:
        overlap = iou(corners(surest), corners(truth))
        overlap[_differ(surest, truth)] = -1
        pairs = pair(overlap, min_iou=min_iou, rank=np.arange(len(surest))[:, None])
    hit, found = {row for row, _ in pairs}, {column for _, column in pairs}
    return Matching(
        hits=tuple(box for n, box in enumerate(surest) if n in hit),
        misses=tuple(box for n, box in enumerate(truth) if n not in found),
        false_alarms=tuple(
            outside_of(regions, [box for n, box in enumerate(surest) if n not in hit])
        ),
    )


def outside_of(regions: Sequence[Box], boxes: Sequence[Box]) -> list[Box]:
    """The boxes that do not lie in a region by half or more."""
    if not regions or not boxes:
        return list(boxes)
    inside = coverage(corners(boxes), corners(regions)).max(axis=1) >= _INSIDE
    return [box for box, hidden in zip(boxes, inside.tolist(), strict=True) if not hidden]


def _differ(first: Sequence[Box], second: Sequence[Box]) -> npt.NDArray[np.bool_]:
    """Difference of the classes of each pair, [n, m]."""
    return np.array([[a.label != b.label for b in second] for a in first])
