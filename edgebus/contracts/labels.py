"""Labels: their provenance, and the report of a job's label sources."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field

from edgebus.contracts.payload import MOST, Count, Key, Record, Tally, Timestamp

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
    """Lowest score at which a teacher's predictions of a class are labels, and how good they are.

    Precision and recall were measured where truth or an operator had labelled; they are of the
    very predictions that the threshold was chosen on.
    """

    label: Key = Field(description="Class name.")
    accept: Fraction | None = Field(
        default=None,
        description="Predictions of at least this score are labels; absent: none of this class is.",
    )
    why: Literal["calibrated", "too few", "never"] = Field(
        description="calibrated: the lowest score that reaches the wanted precision; too few: not "
        "enough predictions, the setting counts; never: no score reaches it."
    )
    precision: Fraction | None = Field(default=None, description="At `accept`.")
    recall: Fraction | None = Field(default=None, description="At `accept`.")
    predicted: Count = Field(description="The teacher's predictions of this class.")
    actual: Count = Field(description="True labels of this class.")


class LabelReport(Record):
    """Label sources of a job, and their conflicts."""

    inputs: Tally = Field(
        default_factory=dict, description="Inputs by label source: operator, truth, teacher."
    )
    labels: Tally = Field(
        default_factory=dict,
        description="Labels by provenance: truth, teacher:DIGEST, operator:WHO.",
    )
    ignored: Count = Field(default=0, description="Uncertain labels, left out of the training.")
    inconsistent: Count = Field(
        default=0,
        description="Labels that the teacher did not repeat on a nearly equal input; ignored.",
    )
    conflicts: Tally = Field(
        default_factory=dict,
        description="What was overruled, such as `operator over teacher: denied`.",
    )
    thresholds: Annotated[
        tuple[TeacherThreshold, ...],
        AfterValidator(lambda found: found[:MOST]),
        Field(json_schema_extra={"maxItems": MOST}),
    ] = Field(default=(), description="Of the first 256 classes.")
