"""Labels: what a model shall learn of a picture, from truth or from a teacher."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from edgebus.contracts import Box
from edgebus.vision import Truth, to_truth

__all__ = ["ImpossibleBoxError", "LabelBuilder", "Labelled", "checked_box", "from_teacher"]


class ImpossibleBoxError(ValueError):
    """A label's box cannot be.

    Attributes:
        where: File and line, or picture.
        reason: What is wrong with it.
    """

    def __init__(self, *, where: str, reason: str) -> None:
        super().__init__(f"impossible box in {where}: {reason}")
        self.where = where
        self.reason = reason


@dataclass(frozen=True, slots=True, kw_only=True)
class Labelled:
    """One picture with its labels.

    Attributes:
        path: The picture.
        truth: Boxes with class indices of the model, and regions to ignore; picture pixels.
        provenance: Where the labels come from: ``truth``, ``teacher`` or the name of a data set.
        key: Names the picture for good: a sample's id, or a file's path in its data set.
    """

    path: Path
    truth: Truth
    provenance: str
    key: str


@dataclass(slots=True)
class LabelBuilder:
    """Turns named boxes into a model's labels.

    A box of a class that the model does not know becomes an ignore region: whatever the model
    says there is neither right nor wrong. Trained as background it would unlearn what looks
    alike (a teacher that says "cell phone" for the car it saw a frame earlier).

    Args:
        classes: The model's classes, in order.
        aliases: Other names of its classes.
    """

    classes: Sequence[str]
    aliases: Mapping[str, str] = field(default_factory=dict)

    def build(
        self, boxes: Iterable[Box], *, width: float, height: float, ignore: Iterable[Box] = ()
    ) -> Truth:
        """Labels of one picture; boxes are cut at its border.

        Args:
            boxes: Boxes with class names.
            width: Width of the picture in pixels.
            height: Its height.
            ignore: Boxes that are uncertain.
        """
        named = [
            box.model_copy(update={"label": self.aliases[box.label]})
            if box.label in self.aliases
            else box
            for box in boxes
        ]
        truth = to_truth(named, self.classes, ignore=list(ignore))
        limit = np.array([width, height, width, height], np.float32)
        return Truth(np.minimum(truth.boxes, limit), truth.labels, np.minimum(truth.ignore, limit))


def from_teacher(
    said: Iterable[Box], builder: LabelBuilder, *, width: float, height: float, accept: float
) -> Truth:
    """Labels from a larger model's detections.

    Args:
        said: Its detections down to the lowest score that may be something.
        builder: The model's classes.
        width: Width of the picture in pixels.
        height: Its height.
        accept: Boxes of at least this score are labels; the others are regions to ignore.
    """
    boxes = list(said)
    sure = [box for box in boxes if box.score is None or box.score >= accept]
    unsure = [box for box in boxes if box.score is not None and box.score < accept]
    return builder.build(sure, width=width, height=height, ignore=unsure)


def checked_box(
    label: str,
    corners: tuple[float, float, float, float],
    *,
    size: tuple[float, float],
    where: Callable[[], str],
) -> Box:
    """A box from a data set's file, cut at the picture's border.

    Args:
        label: Class name.
        corners: x1, y1, x2, y2 in pixels.
        size: Width and height of the picture.
        where: Says where the box stands, for the error.

    Raises:
        ImpossibleBoxError: It is not finite, has no area, or lies outside the picture.
    """
    if not all(math.isfinite(value) for value in corners):
        raise ImpossibleBoxError(where=where(), reason=f"{corners} is not finite")
    x1, y1, x2, y2 = corners
    if x2 <= x1 or y2 <= y1:
        raise ImpossibleBoxError(where=where(), reason=f"{corners} has no area")
    width, height = size
    left, top, right, bottom = max(0.0, x1), max(0.0, y1), min(width, x2), min(height, y2)
    if right - left <= 0 or bottom - top <= 0:
        reason = f"{corners} lies outside the picture of {width:g} x {height:g}"
        raise ImpossibleBoxError(where=where(), reason=reason)
    return Box(label=label, x1=left, y1=top, x2=right, y2=bottom)
