"""Pictures of a data set, whatever its format."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from edgebus_detection.messages import Sample, SourcedBox

__all__ = [
    "PROVENANCE_FILE",
    "DatasetError",
    "ExportPicture",
    "IncomingBox",
    "IncomingPicture",
    "Style",
    "sample_id_in",
]

Style = Literal["coco", "yolo", "labelstudio"]

PROVENANCE_FILE = "provenance.json"

_ID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")


class DatasetError(ValueError):
    """A file or folder is no data set of that format.

    Attributes:
        path: The file or folder.
        reason: What is wrong, and what is expected.
    """

    exit_code = 2

    def __init__(self, *, path: Path, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.path = path
        self.reason = reason


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
        """Name of its picture's file: the sample's id tells where it belongs."""
        return f"{self.sample.record.id}.jpg"


@dataclass(frozen=True, slots=True, kw_only=True)
class IncomingBox:
    """A box of a data set, not checked yet.

    Attributes:
        label: Class name.
        corners: x1, y1, x2, y2; in pixels, or in parts of the picture's size if `relative`.
        relative: Whether `corners` go from 0 to 1.
        by: Provenance, where the data set tells it.
        where: File and place, for reports.
    """

    label: str
    corners: tuple[float, float, float, float]
    relative: bool
    by: str | None
    where: str


@dataclass(frozen=True, slots=True, kw_only=True)
class IncomingPicture:
    """A picture of a data set.

    Attributes:
        name: As the data set has it.
        sample: Id of its sample, by its name; None if it has none.
        file: Where the picture lies; None where it was not found.
        boxes: All its boxes.
        confirmed: A person has submitted it.
        where: File and place, for reports.
    """

    name: str
    sample: str | None
    file: Path | None
    boxes: tuple[IncomingBox, ...]
    confirmed: bool = False
    where: str


def sample_id_in(text: str) -> str | None:
    """The id of a sample in a file name or a URL; labelling tools put words before it."""
    found = _ID.findall(text.lower())
    return found[-1] if found else None
