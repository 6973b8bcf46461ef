"""Validation split for early stopping: neither trained on nor measured by the gate."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from edgebus.training.trainer import ItemT, count_labelled


def validation_split(
    items: Sequence[ItemT], *, share: float, min_labelled: int
) -> tuple[tuple[ItemT, ...], tuple[ItemT, ...]]:
    """Split training items into those to train on and those to validate on.

    Whole groups of neighbours are set aside, drawn by a digest of their names, so that the same
    items always fall on the same side. Nothing is where that leaves fewer than `min_labelled`
    items with labels: a loss on a handful of items is chance, and few samples are better
    learnt from.

    Args:
        items: Training items.
        share: Part to set aside, at most.
        min_labelled: Items with labels that are needed to validate on.

    Returns:
        To train on, and to validate on, both in the given order.
    """
    groups: dict[str, int] = {}
    for item in items:
        groups[item.group] = groups.get(item.group, 0) + 1
    chosen: set[str] = set()
    room = share * len(items)
    for group in sorted(groups, key=lambda name: hashlib.sha256(name.encode()).digest()):
        if groups[group] <= room:
            chosen.add(group)
            room -= groups[group]
    aside = tuple(item for item in items if item.group in chosen)
    if count_labelled(aside) < min_labelled:
        return tuple(items), ()
    return tuple(item for item in items if item.group not in chosen), aside
