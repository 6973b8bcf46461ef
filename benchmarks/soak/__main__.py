"""``python -m benchmarks.soak``: runs that take long, one command each."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from benchmarks.soak.runner import Plan, report, run, write

app = typer.Typer(no_args_is_help=True, add_completion=False, help=__doc__)


@app.callback()
def main() -> None:
    """Runs that take long, one command each."""


@app.command()
def fuzz(
    cases: Annotated[int, typer.Option(help="How many in total.")] = 1_000_000,
    processes: Annotated[int, typer.Option(help="Side by side.")] = os.cpu_count() or 1,
    seed: Annotated[int, typer.Option(help="Another seed, other cases.")] = 0,
    only: Annotated[str, typer.Option(help="Targets whose name holds this.")] = "",
    first: Annotated[int, typer.Option(help="Number of the first call, to repeat one.")] = 0,
    out: Annotated[Path | None, typer.Option(help="Write the figures here, as JSON.")] = None,
) -> None:
    """Hostile input against every parser and every service; ends with 1 if anything was found."""
    console = Console()
    plan = Plan(cases=cases, processes=processes, seed=seed, only=only, first=first)
    result = run(plan, console=console)
    report(result, console=console)
    if out is not None:
        write(result, out)
    raise typer.Exit(1 if result.faults else 0)


if __name__ == "__main__":
    app()
