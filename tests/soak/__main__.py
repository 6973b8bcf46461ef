"""``python -m tests.soak``: runs that take long, one command each."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import tempfile
from pathlib import Path
from typing import Annotated

import structlog
import typer
from rich.console import Console

from tests.soak.by_damage import damage_services, report_damages
from tests.soak.by_kill import kill_services, report_kills
from tests.soak.by_load import load_services, report_growth
from tests.soak.by_year import set_clocks
from tests.soak.faults import PHASES, run_faults
from tests.soak.faults import report as report_faults
from tests.soak.faults import write as write_faults
from tests.soak.household import SERVICES
from tests.soak.on_cluster import ClusterPlan, report_cluster, soak_cluster, write_cluster
from tests.soak.runner import Plan, report, run, write

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


@app.command()
def faults(
    events: Annotated[int, typer.Option(help="How many in total.")] = 100_000,
    only: Annotated[str, typer.Option(help="Faults whose name holds this.")] = "",
    log: Annotated[bool, typer.Option(help="Show what the bus logs.")] = False,
    out: Annotated[Path | None, typer.Option(help="Write the figures here, as JSON.")] = None,
) -> None:
    """Events while everything breaks; ends with 1 if one is lost, handled twice or in disorder."""
    console = Console(width=None if sys.stdout.isatty() else 120)
    phases = [phase for phase in PHASES if only.lower() in phase.name.lower()]
    if not phases:
        known = ", ".join(phase.name for phase in PHASES)
        raise typer.BadParameter(f"no fault has {only!r} in its name; there are: {known}")
    level = logging.INFO if log else logging.CRITICAL
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(level))
    done = run_faults(phases, events=events, console=console)
    report_faults(done, console=console)
    if out is not None:
        write_faults(done, out)
    raise typer.Exit(0 if all(outcome.good for _, outcome in done) else 1)


@app.command()
def cluster(
    events: Annotated[int, typer.Option(help="At least so many.")] = 10_000,
    rounds: Annotated[int, typer.Option(help="Each one kills every node, one by one.")] = 2,
    rate: Annotated[float, typer.Option(help="Events per second.")] = 300.0,
    log: Annotated[bool, typer.Option(help="Show what the bus logs.")] = False,
    out: Annotated[Path | None, typer.Option(help="Write the figures here, as JSON.")] = None,
) -> None:
    """Nodes of a broker cluster killed under load; ends with 1 if an event is lost or twice."""
    console = Console()
    level = logging.INFO if log else logging.CRITICAL
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(level))
    plan = ClusterPlan(events=events, kills=3 * rounds, rate=rate)
    with tempfile.TemporaryDirectory() as folder:
        result = asyncio.run(soak_cluster(plan, folder=Path(folder), say=print))
    report_cluster(plan, result, console=console)
    if out is not None:
        write_cluster(plan, result, out)
    raise typer.Exit(1 if result.faults else 0)


@app.command()
def kills(
    number: Annotated[int, typer.Option("--kills", help="Of each service.")] = 60,
    only: Annotated[str, typer.Option(help="Services whose name holds this.")] = "",
    seed: Annotated[int, typer.Option(help="Other moments.")] = 1,
) -> None:
    """Services killed with SIGKILL while they work; ends with 1 if something is lost or left."""
    _quiet()
    chosen = tuple(name for name in SERVICES if only in name)
    with tempfile.TemporaryDirectory() as folder:
        result = asyncio.run(kill_services(Path(folder), kills=number, only=chosen, seed=seed))
    report_kills(result, console=Console())
    raise typer.Exit(1 if result.wrong else 0)


@app.command()
def damage(only: Annotated[str, typer.Option(help="Services whose name holds this.")] = "") -> None:
    """Each file that a service keeps, damaged in each way; ends with 1 if one is not told."""
    _quiet()
    chosen = tuple(name for name in SERVICES if only in name)
    with tempfile.TemporaryDirectory() as folder:
        done = asyncio.run(damage_services(Path(folder), only=chosen, say=print))
    report_damages(done, console=Console())
    raise typer.Exit(0 if all(one.good for one in done) else 1)


@app.command()
def clocks(only: Annotated[str, typer.Option(help="Services whose name holds this.")] = "") -> None:
    """The clock of one service after the other a year off; ends with 1 if one stands still."""
    _quiet()
    chosen = tuple(name for name in SERVICES if only in name)
    with tempfile.TemporaryDirectory() as folder:
        done = asyncio.run(set_clocks(Path(folder), only=chosen, say=print))
    raise typer.Exit(1 if any(one.wrong for one in done) else 0)


@app.command()
def load(minutes: Annotated[float, typer.Option(help="How long.")] = 20.0) -> None:
    """Accelerated load; ends with 1 if memory, descriptors, files or retained topics grow."""
    _quiet()
    with tempfile.TemporaryDirectory() as folder:
        growth = asyncio.run(load_services(Path(folder), minutes=minutes))
    report_growth(growth, console=Console())
    raise typer.Exit(1 if any(grows for *_, grows in growth.rows()) else 0)


def _quiet() -> None:
    level = structlog.make_filtering_bound_logger(logging.CRITICAL)
    structlog.configure(wrapper_class=level)


if __name__ == "__main__":
    app()
