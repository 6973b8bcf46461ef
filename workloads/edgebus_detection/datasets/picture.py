"""Pictures and boxes of a data set, whatever its format."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from edgebus_detection.messages import Box, Sample, SourcedBox

Style = Literal["coco", "yolo", "labelstudio"]
Part = Literal["train", "val", "unlabelled"]
Corners = tuple[float, float, float, float]

_ROUNDING = 0.01  # what tools write beyond 1, as Ultralytics takes it
_SHAPE = 0.01  # difference of two ratios of sides that rounding explains
_LEAST_INSIDE = 0.5
_LEAST_SIDE = 8  # pixels; a picture of fewer may have a box of one
_MAX_LABEL = 96

PICTURES: Final = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp"})
"""Suffixes of the files that are taken for pictures."""

PROVENANCE_FILE = "provenance.json"

_BY = re.compile(r"truth|teacher:\S+|operator:\S.*")
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
        msg = f"{_shown(corners)} is not finite"
        raise ValueError(msg)
    width, height = size or (math.inf, math.inf)
    x1, y1 = max(0.0, corners[0]), max(0.0, corners[1])
    x2, y2 = min(float(width), corners[2]), min(float(height), corners[3])
    return Box(label=label, x1=x1, y1=y1, x2=x2, y2=y2) if x2 > x1 and y2 > y1 else None


def checked_box(
    label: str, corners: Corners, *, size: tuple[float, float], where: Callable[[], str]
) -> Box:
    """As `clip_box`, but a box that cannot be in the picture is an error.

    Annotators draw over the border, and some tools guess the hidden part of what it cuts off; a
    box that lies outside for the most part is a mistake of scale.

    Args:
        label: Class name.
        corners: x1, y1, x2, y2 in pixels.
        size: Width and height of the picture.
        where: Place of the box, for the error.

    Raises:
        ImpossibleBoxError: It is not finite, has no area, less than half of it lies inside
            the picture, or its class has no name or one that is too long.
    """
    if not 1 <= len(label) <= _MAX_LABEL:
        reason = f"class {label[:_MAX_LABEL]!r} has {len(label)} letters; 1 to {_MAX_LABEL} may be"
        raise ImpossibleBoxError(where=where(), reason=reason)
    if corners[2] <= corners[0] or corners[3] <= corners[1]:
        reason = f"{_shown(corners)} has no area: x1, y1, x2, y2"
        raise ImpossibleBoxError(where=where(), reason=reason)
    try:
        box = clip_box(label, corners, size=size)
    except ValueError as error:
        raise ImpossibleBoxError(where=where(), reason=str(error)) from error
    drawn = (corners[2] - corners[0]) * (corners[3] - corners[1])
    if box is None or (box.x2 - box.x1) * (box.y2 - box.y1) < _LEAST_INSIDE * drawn:
        how = "lies" if box is None else "mostly lies"
        reason = f"{_shown(corners)} {how} outside the picture of {size[0]:g} x {size[1]:g}"
        raise ImpossibleBoxError(where=where(), reason=reason)
    return box


def _shown(corners: Corners) -> str:
    return f"({', '.join(f'{value:.6g}' for value in corners)})"


@dataclass(frozen=True, slots=True, kw_only=True)
class DatasetBox:
    """A box of a data set, not checked yet.

    Attributes:
        label: Class name.
        corners: x1, y1, x2, y2; in pixels, or in parts of the picture's size if `relative`.
        relative: Whether `corners` go from 0 to 1.
        ignore: It marks a group of objects, or one too hard to count: neither object nor
            background (COCO's `iscrowd`, VOC's `difficult`).
        by: Provenance, where the data set has it.
        where: File and place, for reports.
    """

    label: str
    corners: Corners
    relative: bool = False
    ignore: bool = False
    by: str | None = None
    where: str

    def place(self, stated: tuple[float, float], size: tuple[float, float]) -> Box:
        """The box in a picture's pixels.

        Args:
            stated: Width and height of the picture that the numbers are of.
            size: Width and height of the picture.

        Raises:
            ImpossibleBoxError: Its numbers cannot be in their unit.
        """
        x1, y1, x2, y2 = self.corners
        if self.relative:
            stated = 1.0, 1.0
            middle = (x1 + x2) / 2, (y1 + y2) / 2
            values = (*middle, x2 - x1, y2 - y1)
            if all(map(math.isfinite, values)) and not all(
                -_ROUNDING <= value <= 1 + _ROUNDING for value in values
            ):
                reason = (
                    f"{', '.join(f'{value:.6g}' for value in values)} (middle, width, height) do "
                    "not lie between 0 and 1, as parts of the picture's size; are they pixels?"
                )
                raise ImpossibleBoxError(where=self.where, reason=reason)
        elif 0 <= x1 < x2 <= 1 and 0 <= y1 < y2 <= 1 and min(size) > _LEAST_SIDE:
            reason = (
                f"{_shown(self.corners)} lies within one pixel; the numbers look like parts of the "
                "picture's size, and should be pixels"
            )
            raise ImpossibleBoxError(where=self.where, reason=reason)
        across, down = size[0] / stated[0], size[1] / stated[1]
        corners = x1 * across, y1 * down, x2 * across, y2 * down
        box = checked_box(self.label, corners, size=size, where=lambda: self.where)
        return box.model_copy(update={"ignore": True}) if self.ignore else box


@dataclass(frozen=True, slots=True, kw_only=True)
class PlacedBoxes:
    """The labels of a picture in its own pixels.

    Attributes:
        boxes: Objects.
        by: Provenance of each, where the data set has it.
        ignore: Regions that are neither object nor background, as boxes that say so.
        wrong: Reasons why the labels cannot be right; the picture is then one without labels.
    """

    boxes: tuple[Box, ...] = ()
    by: tuple[str | None, ...] = ()
    ignore: tuple[Box, ...] = ()
    wrong: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class DatasetPicture:
    """A picture of a data set.

    Attributes:
        name: As the data set has it.
        file: Its file; None where it was not found.
        boxes: All its boxes; None where nobody has labelled it.
        size: Width and height, where the data set states them.
        sample: Id of its sample, by its name; None if it has none.
        confirmed: A person has submitted it.
        where: File and place, for reports.
        wrong: Labels of it that cannot be read.
        grid: Pixels by which the format may have moved a corner.
    """

    name: str
    file: Path | None
    boxes: tuple[DatasetBox, ...] | None
    size: tuple[float, float] | None = None
    sample: str | None = None
    confirmed: bool = False
    where: str
    wrong: tuple[str, ...] = ()
    grid: float = 0.0

    @property
    def is_lost(self) -> bool:
        """Whether its label file names a picture that is not there."""
        # A text file of YOLO names none.
        return self.file is None and self.name != self.where

    def place(self, size: tuple[int, int]) -> PlacedBoxes:
        """Its boxes in a picture of that width and height, scaled where it was labelled in another.

        What cannot be is not left out: a picture without one of its boxes would say that there is
        nothing.
        """
        wrong = list(self.wrong)
        stated = self.size or size
        if not _same_shape(stated, size):
            wrong.append(
                f"{self.where}: it says that {self.name} is {stated[0]:g} x {stated[1]:g}, but the "
                f"picture is {size[0]} x {size[1]}: of another shape (cropped, or turned by Exif?)"
            )
            return PlacedBoxes(wrong=tuple(wrong))
        boxes: list[Box] = []
        by: list[str | None] = []
        ignore: list[Box] = []
        for each in self.boxes or ():
            try:
                box = each.place(stated, size)
            except ImpossibleBoxError as error:
                wrong.append(str(error))
                continue
            if each.ignore:
                ignore.append(box)
            elif box not in boxes:  # a line that is there twice is one object
                boxes.append(box)
                by.append(each.by)
        if wrong:
            return PlacedBoxes(wrong=tuple(wrong))
        return PlacedBoxes(boxes=tuple(boxes), by=tuple(by), ignore=tuple(ignore))


def _same_shape(stated: tuple[float, float], size: tuple[float, float]) -> bool:
    """Whether one is the other, scaled and rounded."""
    across, down = size[0] / stated[0], size[1] / stated[1]
    near = abs(across / down - 1) <= _SHAPE
    return near or abs(stated[0] * down - size[0]) <= 1 or abs(stated[1] * across - size[1]) <= 1


def stated_size(width: object, height: object) -> tuple[float, float] | None:
    """A picture's size as a label file has it; None where it has none, or zeros.

    Raises:
        ValueError: It is no size.
    """
    if width is None or height is None:
        return None
    found = float(str(width)), float(str(height))
    if not all(math.isfinite(side) and side >= 0 for side in found):
        msg = f"a picture cannot be {width} x {height}"
        raise ValueError(msg)
    return found if all(found) else None


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

    @property
    def part(self) -> Part:
        """The part of a data set that it belongs to: to train on, to measure on, to label."""
        if self.source == "none":
            return "unlabelled"
        return "train" if self.sample.record.split == "train" else "val"


def bounds(points: Sequence[tuple[float, float]]) -> Corners:
    """The upright box around points.

    Raises:
        ValueError: There are none.
    """
    across, down = [x for x, _ in points], [y for _, y in points]
    return min(across), min(down), max(across), max(down)


def provenance_of(value: object) -> str | None:
    """The provenance that a data set has of a box; None where it has none."""
    return value if isinstance(value, str) and _BY.fullmatch(value) else None


def sample_id_in(text: str) -> str | None:
    """The id of a sample in a file name or a URL; labelling tools put words before it."""
    found = _ID.findall(text.lower())
    return found[-1] if found else None
