"""Pictures and boxes of a data set, whatever its format."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from edgebus_detection.messages import Box, Sample, SourcedBox

Style = Literal["coco", "yolo", "labelstudio"]
Corners = tuple[float, float, float, float]

PICTURES: Final = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp"})
"""Suffixes of the files that are taken for pictures."""

PROVENANCE_FILE = "provenance.json"

_ID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")


class SourceError(ValueError):
    """A source of pictures or of their labels cannot be read.

    Attributes:
        source: Its path, address or device number.
        reason: Why, and the way out.
    """

    exit_code = 2

    def __init__(self, *, source: str, reason: str) -> None:
        super().__init__(f"{source}: {reason}")
        self.source = source
        self.reason = reason


class ImpossibleBoxError(ValueError):
    """A box of a data set that cannot be.

    Attributes:
        where: File and line, or picture.
        reason: What is wrong with it.
    """

    def __init__(self, *, where: str, reason: str) -> None:
        super().__init__(f"impossible box in {where}: {reason}")
        self.where = where
        self.reason = reason


def clip_box(label: str, corners: Corners, *, size: tuple[float, float] | None) -> Box | None:
    """A box cut at the picture's border; None where nothing of it is inside.

    Args:
        label: Class name.
        corners: x1, y1, x2, y2 in pixels.
        size: Width and height of the picture, where they are known.

    Raises:
        ValueError: A number is not finite.
    """
    if not all(map(math.isfinite, corners)):
        msg = f"{corners} is not finite"
        raise ValueError(msg)
    width, height = size or (math.inf, math.inf)
    x1, y1 = max(0.0, corners[0]), max(0.0, corners[1])
    x2, y2 = min(float(width), corners[2]), min(float(height), corners[3])
    return Box(label=label, x1=x1, y1=y1, x2=x2, y2=y2) if x2 > x1 and y2 > y1 else None


def checked_box(
    label: str, corners: Corners, *, size: tuple[float, float], where: Callable[[], str]
) -> Box:
    """As `clip_box`, but a box with nothing inside is an error.

    Args:
        label: Class name.
        corners: x1, y1, x2, y2 in pixels.
        size: Width and height of the picture.
        where: Place of the box, for the error.

    Raises:
        ImpossibleBoxError: It is not finite, has no area, or lies outside the picture.
    """
    try:
        box = clip_box(label, corners, size=size)
    except ValueError as error:
        raise ImpossibleBoxError(where=where(), reason=str(error)) from error
    if box is None:
        reason = f"{corners} lies outside the picture of {size[0]:g} x {size[1]:g}"
        if corners[2] <= corners[0] or corners[3] <= corners[1]:
            reason = f"{corners} has no area"
        raise ImpossibleBoxError(where=where(), reason=reason)
    return box


@dataclass(frozen=True, slots=True, kw_only=True)
class DatasetBox:
    """A box of a data set, not checked yet.

    Attributes:
        label: Class name.
        corners: x1, y1, x2, y2; in pixels, or in parts of the picture's size if `relative`.
        relative: Whether `corners` go from 0 to 1.
        crowd: It marks a group of objects.
        by: Provenance, where the data set has it.
        where: File and place, for reports.
    """

    label: str
    corners: Corners
    relative: bool = False
    crowd: bool = False
    by: str | None = None
    where: str

    def pixels(self, size: tuple[float, float]) -> Corners:
        """The corners in pixels of a picture of that width and height."""
        if not self.relative:
            return self.corners
        (x1, y1, x2, y2), (width, height) = self.corners, size
        return x1 * width, y1 * height, x2 * width, y2 * height

    def check(self, size: tuple[float, float]) -> Box:
        """The box in a picture of that size; see `checked_box`."""
        return checked_box(self.label, self.pixels(size), size=size, where=lambda: self.where)


@dataclass(frozen=True, slots=True, kw_only=True)
class DatasetPicture:
    """A picture of a data set.

    Attributes:
        name: As the data set has it.
        file: Its file; None where it was not found.
        boxes: All its boxes.
        size: Width and height, where the data set has them.
        sample: Id of its sample, by its name; None if it has none.
        confirmed: A person has submitted it.
        where: File and place, for reports.
    """

    name: str
    file: Path | None
    boxes: tuple[DatasetBox, ...]
    size: tuple[float, float] | None = None
    sample: str | None = None
    confirmed: bool = False
    where: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportPicture:
    """A sample that is written out.

    Attributes:
        sample: Its file, with the record inside.
        source: Source of the boxes: operator, truth, teacher; none where it has no labels.
        boxes: The boxes with their provenance.
    """

    sample: Sample
    source: Literal["operator", "truth", "teacher", "none"]
    boxes: tuple[SourcedBox, ...]

    @property
    def name(self) -> str:
        """Name of its picture's file: the sample's id identifies it."""
        return f"{self.sample.record.id}.jpg"


def sample_id_in(text: str) -> str | None:
    """The id of a sample in a file name or a URL; labelling tools put words before it."""
    found = _ID.findall(text.lower())
    return found[-1] if found else None
