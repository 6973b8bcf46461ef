"""Labels: their provenance, and the report of a job's label sources."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from edgebus.contracts.payload import Count, Record, Timestamp

__all__ = [
    "TRUTH",
    "LabelReport",
    "LabelSet",
    "Provenance",
    "TeacherThreshold",
    "operator",
    "teacher",
]

Fraction = Annotated[float, Field(ge=0, le=1)]

TRUTH = "truth"
"""Provenance of a labelled source's own labels."""

Provenance = Annotated[str, Field(pattern=r"^(truth|teacher:\S+|operator:\S.*)$", max_length=140)]
"""Source of a label: ``truth``, ``teacher:<digest>`` or ``operator:<who>``."""


def operator(who: str) -> str:
    """Provenance of an operator's labels; a name may come from anywhere, and is cut to fit."""
    return f"operator:{' '.join(who.split())[:120] or 'unknown'}"


def teacher(digest: str) -> str:
    """Provenance of a teacher's labels: the first 16 digits of its model's digest."""
    return f"teacher:{digest[:16]}"


class LabelSet(Record):
    """All labels that an operator gave one sample; none at all is an answer too.

    A workload narrows `labels` to its own kind in a subclass.
    """

    labels: tuple[Any, ...]
    by: Provenance
    time: Timestamp
    note: Annotated[str, Field(max_length=500)] = ""


class TeacherThreshold(Record):
    """From which score on a teacher's boxes of a class are labels, and how good they are there.

    Precision and recall were measured where truth or an operator had said what is there; they
    are of the very boxes that the threshold was chosen on.
    """

    label: str = Field(description="Class name.")
    accept: Fraction | None = Field(
        default=None,
        description="Boxes of at least this score are labels; absent: none of this class is.",
    )
    why: Literal["calibrated", "too few", "never"] = Field(
        description="calibrated: the lowest score that reaches the wanted precision; too few: not "
        "enough boxes to tell, the setting counts; never: no score reaches it."
    )
    precision: Fraction | None = Field(default=None, description="At `accept`.")
    recall: Fraction | None = Field(default=None, description="At `accept`.")
    said: Count = Field(description="The teacher's boxes of this class that were compared.")
    there: Count = Field(description="Boxes of this class that are really there.")


class LabelReport(Record):
    """What a job's labels were made of."""

    pictures: dict[str, Count] = Field(
        default_factory=dict, description="Pictures by who labelled them: operator, truth, teacher."
    )
    boxes: dict[str, Count] = Field(
        default_factory=dict,
        description="Boxes by provenance: truth, teacher:DIGEST, operator:WHO.",
    )
    ignored: Count = Field(default=0, description="Regions where nobody knows.")
    flips: Count = Field(
        default=0,
        description="Boxes that the teacher did not stand by in a nearly equal picture; ignored.",
    )
    conflicts: dict[str, Count] = Field(
        default_factory=dict,
        description="What was overruled, such as `operator over teacher: denied`.",
    )
    thresholds: tuple[TeacherThreshold, ...] = ()
