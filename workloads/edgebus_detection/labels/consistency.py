"""Consistency of a teacher: its boxes of two nearly equal frames, compared."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from edgebus_detection.messages import Box
from edgebus_detection.vision import Grey, Image, pair_boxes

_SIDE = 640  # pixels: enough to see whether something has moved


@dataclass(frozen=True, slots=True, kw_only=True)
class TaughtFrame:
    """A frame and a teacher's boxes of it.

    Attributes:
        grey: The picture, perhaps smaller.
        factor: Pixels of `grey` per pixel of the boxes.
        sure: Its certain boxes.
        unsure: Its uncertain boxes.
    """

    grey: Grey
    factor: float
    sure: Sequence[Box]
    unsure: Sequence[Box]

    @classmethod
    def of(cls, image: Image, *, sure: Sequence[Box], unsure: Sequence[Box]) -> TaughtFrame:
        """The frame of a picture, which is kept at most 640 pixels wide."""
        grey: Grey = cv2.cvtColor(image, cv2.COLOR_BGR2GRAY).astype(np.uint8, copy=False)
        factor = min(1.0, _SIDE / grey.shape[1])
        if factor < 1:
            size = round(grey.shape[1] * factor), max(1, round(grey.shape[0] * factor))
            grey = cv2.resize(grey, size, interpolation=cv2.INTER_AREA).astype(np.uint8, copy=False)
        return cls(grey=grey, factor=factor, sure=sure, unsure=unsure)


def inconsistent_boxes(
    first: TaughtFrame, second: TaughtFrame, *, tolerance: float
) -> tuple[list[int], list[int]]:
    """Certain boxes of two frames that the teacher contradicts in the other frame.

    Only where both frames have the same pixels: the mean absolute difference inside of the box is
    at most `tolerance`. There it must have found the same object in the other frame too, if only
    as an uncertain one, and must not have been certain of another class.

    Args:
        first: A frame.
        second: Another one of the same camera.
        tolerance: Grey levels, 0 to 255; noise of sensor and JPEG lies below 4.

    Returns:
        Indices into `first.sure` and into `second.sure`.
    """
    if first.grey.shape != second.grey.shape:
        return [], []
    difference = cv2.absdiff(first.grey, second.grey).astype(np.float32)
    return (
        _unsupported(first, second, difference, tolerance),
        _unsupported(second, first, difference, tolerance),
    )


def _unsupported(
    mine: TaughtFrame, other: TaughtFrame, difference: npt.NDArray[np.float32], tolerance: float
) -> list[int]:
    theirs = [*other.sure, *other.unsure]
    partner = dict(pair_boxes(mine.sure, theirs))
    found: list[int] = []
    for number, box in enumerate(mine.sure):
        match = partner.get(number)
        if match is not None:
            same = theirs[match].label == box.label
            # An unsure answer of another class is no contradiction.
            if same or match >= len(other.sure):
                continue
        if _same_pixels(box, mine.factor, difference, tolerance):
            found.append(number)
    return found


def _same_pixels(
    box: Box, factor: float, difference: npt.NDArray[np.float32], tolerance: float
) -> bool:
    x1, y1 = int(box.x1 * factor), int(box.y1 * factor)
    x2, y2 = int(np.ceil(box.x2 * factor)), int(np.ceil(box.y2 * factor))
    inside = difference[y1:y2, x1:x2]
    return bool(inside.size and float(inside.mean()) <= tolerance)
