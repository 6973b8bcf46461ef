"""Options that several commands share."""

from __future__ import annotations

import sys
from collections.abc import Callable
from datetime import UTC, datetime
from functools import wraps
from inspect import Parameter, signature
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from edgebus.contracts import Split
from edgebus_samples.details import DetailQuery

_SHOWN = 10


Data = Annotated[
    Path,
    typer.Option(
        "--data", "-d", metavar="FOLDER", help="The retrainer's data folder, on this host."
    ),
]
Which = Annotated[str, typer.Argument(metavar="ID", help="A sample's id, or an end of it.")]
Accept = Annotated[
    float,
    typer.Option(
        "--accept", min=0, max=1, help="Lowest score at which a teacher's box is a label."
    ),
]


def choosing(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options that choose samples, in place of its parameter `query`.

    Typer reads a command's options off its signature, so that is where they have to stand.
    """
    choice = signature(_query, eval_str=True).parameters
    own = signature(command, eval_str=True)
    shown: list[Parameter] = []
    for name, parameter in own.parameters.items():
        shown += choice.values() if name == "query" else [parameter]

    @wraps(command)
    def run(**given: Any) -> None:
        command(query=_query(**{name: given.pop(name) for name in choice}), **given)

    run.__annotations__ = {one.name: one.annotation for one in shown}
    run.__signature__ = own.replace(parameters=shown)  # type: ignore[attr-defined]
    return run


def _query(
    *,
    model: Annotated[str | None, typer.Option(help="Only samples of this model.")] = None,
    camera: Annotated[str | None, typer.Option(help="Only of this camera.")] = None,
    policy: Annotated[str | None, typer.Option(help="Only those this policy chose.")] = None,
    split: Annotated[Split | None, typer.Option(help="Only of this split.")] = None,
    since: Annotated[datetime | None, typer.Option(help="Captured then or later (UTC).")] = None,
    before: Annotated[datetime | None, typer.Option(help="Captured earlier (UTC).")] = None,
    labelled: Annotated[
        bool | None,
        typer.Option(
            "--labelled/--unlabelled",
            help="Only those that truth or an operator has labelled, or not.",
        ),
    ] = None,
    by: Annotated[
        Literal["operator", "truth"] | None, typer.Option(help="Only those labelled by these.")
    ] = None,
    conflict: Annotated[
        bool,
        typer.Option("--conflict", help="Only those whose label sources contradict each other."),
    ] = False,
) -> DetailQuery:
    """The query of the options."""
    return DetailQuery(
        model=model,
        stream=camera,
        policy=policy,
        split=split,
        since=_utc(since),
        before=_utc(before),
        labelled=labelled,
        by=by,
        conflict=conflict,
    )


def _utc(time: datetime | None) -> datetime | None:
    """A time of the command line; without a zone it is UTC."""
    if time is None or time.tzinfo is not None:
        return time
    return time.replace(tzinfo=UTC)


def report_unreadable(lines: list[str]) -> None:
    """Name on standard error what was left out, the first ten of many."""
    for line in lines[:_SHOWN]:
        sys.stderr.write(f"left out: {line}\n")
    if len(lines) > _SHOWN:
        sys.stderr.write(f"left out: {len(lines) - _SHOWN} more\n")
