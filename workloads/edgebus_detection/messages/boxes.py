"""Labelled rectangles, and their provenance."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from edgebus.contracts.labels import LabelSet, Provenance
from edgebus.contracts.payload import Record

Pixels = Annotated[float, Field(ge=0, le=2**16)]
Fraction = Annotated[float, Field(ge=0, le=1)]


MOST_BOXES = 4096
"""Boxes of one picture at most."""


class Box(Record):
    """A labelled rectangle in pixels of its frame, origin top left.

    Attributes:
        label: Class name, for example ``car``.
        x1, y1: Top left corner.
        x2, y2: Bottom right corner, exclusive.
        score: Confidence, absent on ground truth.
        ignore: It marks a region whose content does not count, such as a crowd: neither object
            nor background. Of true labels only.
    """

    label: Annotated[str, Field(min_length=1, max_length=96)]
    x1: Pixels
    y1: Pixels
    x2: Pixels
    y2: Pixels
    score: Fraction | None = None
    ignore: Literal[True] | None = None

    @model_validator(mode="after")
    def _has_area(self) -> Self:
        if self.x2 <= self.x1 or self.y2 <= self.y1:
            msg = f"box ({self.x1}, {self.y1}, {self.x2}, {self.y2}) has no area"
            raise ValueError(msg)
        return self


class SourcedBox(Record):
    """A box and its provenance: ``truth``, ``teacher:<digest>`` or ``operator:<who>``.

    An operator who left a teacher's box as it was has agreed with it; it stays the teacher's.
    """

    box: Box
    by: Provenance


class BoxLabels(LabelSet):
    """All boxes of one picture, as an operator set them."""

    labels: Annotated[tuple[SourcedBox, ...], Field(max_length=MOST_BOXES)]

    @classmethod
    def of(cls, labels: LabelSet) -> Self:
        """The label set of a store, its boxes read."""
        return cls.model_validate(labels.model_dump())
