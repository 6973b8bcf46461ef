"""The third part: pictures that say when to stop, neither trained on nor measured by the gate."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from edgebus_detection.datasets import Labelled

__all__ = ["set_aside"]


def set_aside(
    pictures: Sequence[Labelled], *, share: float, min_boxes: int
) -> tuple[tuple[Labelled, ...], tuple[Labelled, ...]]:
    """Split training pictures into those to train on and those to validate on.

    Whole groups of neighbours are set aside, drawn by a digest of their names, so that the same
    pictures always fall on the same side. Nothing is where that leaves fewer than `min_boxes`
    pictures with boxes: a loss on a handful of pictures is chance, and few samples are better
    learnt from.

    Args:
        pictures: Training pictures.
        share: Part to set aside, at most.
        min_boxes: Pictures with boxes that are needed to validate on.

    Returns:
        To train on, and to validate on, both in the given order.
    """
    groups: dict[str, int] = {}
    for picture in pictures:
        groups[picture.group] = groups.get(picture.group, 0) + 1
    chosen: set[str] = set()
    room = share * len(pictures)
    for group in sorted(groups, key=lambda name: hashlib.sha256(name.encode()).digest()):
        if groups[group] <= room:
            chosen.add(group)
            room -= groups[group]
    aside = tuple(picture for picture in pictures if picture.group in chosen)
    if sum(bool(len(picture.truth.labels)) for picture in aside) < min_boxes:
        return tuple(pictures), ()
    return tuple(picture for picture in pictures if picture.group not in chosen), aside
