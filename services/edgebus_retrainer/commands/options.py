"""Options that several commands share, and what they have in common."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from edgebus.contracts import Split
from edgebus_retrainer.samples import Query

__all__ = [
    "Accept",
    "Before",
    "By",
    "Camera",
    "Conflict",
    "Data",
    "Labelled",
    "LabelledBy",
    "Model",
    "Policy",
    "Since",
    "SplitName",
    "SplitOption",
    "Which",
    "query_of",
    "report_unreadable",
    "utc",
]

_SHOWN = 10


class SplitName(StrEnum):
    """What a sample is for."""

    TRAIN = "train"
    HOLDOUT = "holdout"


class LabelledBy(StrEnum):
    """Who labelled a sample."""

    OPERATOR = "operator"
    TRUTH = "truth"


Data = Annotated[
    Path,
    typer.Option(
        "--data", "-d", metavar="FOLDER", help="The retrainer's data folder, on this host."
    ),
]
Which = Annotated[str, typer.Argument(metavar="ID", help="A sample's id, or an end of it.")]
Model = Annotated[str | None, typer.Option("--model", help="Only samples of this model.")]
Camera = Annotated[str | None, typer.Option("--camera", help="Only of this camera.")]
Policy = Annotated[str | None, typer.Option("--policy", help="Only those this policy chose.")]
SplitOption = Annotated[SplitName | None, typer.Option("--split", help="Only of this split.")]
Since = Annotated[datetime | None, typer.Option("--since", help="Captured then or later (UTC).")]
Before = Annotated[datetime | None, typer.Option("--before", help="Captured earlier (UTC).")]
Labelled = Annotated[
    bool | None,
    typer.Option(
        "--labelled/--unlabelled", help="Only those that truth or an operator has labelled, or not."
    ),
]
By = Annotated[LabelledBy | None, typer.Option("--by", help="Only those labelled by these.")]
Conflict = Annotated[
    bool, typer.Option("--conflict", help="Only those of which voices contradict each other.")
]
Accept = Annotated[
    float,
    typer.Option("--accept", min=0, max=1, help="A teacher is sure of boxes from this score on."),
]


def utc(time: datetime | None) -> datetime | None:
    """A time of the command line; without a zone it is UTC."""
    if time is None or time.tzinfo is not None:
        return time
    return time.replace(tzinfo=UTC)


def query_of(
    *,
    model: str | None = None,
    camera: str | None = None,
    policy: str | None = None,
    split: SplitName | None = None,
    since: datetime | None = None,
    before: datetime | None = None,
    labelled: bool | None = None,
    by: LabelledBy | None = None,
    conflict: bool = False,
    distinct: bool = False,
) -> Query:
    """The query that the options make."""
    which: Split | None = None
    if split is not None:
        which = "train" if split is SplitName.TRAIN else "holdout"
    return Query(
        model=model,
        camera=camera,
        policy=policy,
        split=which,
        since=utc(since),
        before=utc(before),
        labelled=labelled,
        by=None if by is None else ("operator" if by is LabelledBy.OPERATOR else "truth"),
        conflict=conflict,
        distinct=distinct,
    )


def report_unreadable(lines: list[str]) -> None:
    """Name on standard error what was left out, the first ten of many."""
    for line in lines[:_SHOWN]:
        sys.stderr.write(f"left out: {line}\n")
    if len(lines) > _SHOWN:
        sys.stderr.write(f"left out: {len(lines) - _SHOWN} more\n")
