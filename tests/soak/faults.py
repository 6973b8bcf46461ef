"""Every kind of fault, one after the other, and one table with what came of it."""

from __future__ import annotations

import asyncio
import json
import tempfile
import time
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from tests.soak.by_broker import mosquitto_killed, nats_killed, nats_killed_ahead
from tests.soak.by_clock import clock_set
from tests.soak.by_disk import disk_full
from tests.soak.by_link import link_cut, link_fragments, link_lossy, link_slow, link_stalled
from tests.soak.by_outage import outage_dropping, outage_refusing
from tests.soak.by_process import publisher_killed, reader_killed
from tests.soak.field import Outcome, Scene

__all__ = ["PHASES", "Phase", "report", "run_faults", "write"]

_LEGEND = """\
lost: accepted and never handled. twice: handled again by the same process. disorder: handled
after a newer one of its source. copies: left out by the de-duplication. again: handled by a
process and, since that was killed before it could acknowledge, by the next one. by broker: lost
after the broker had acknowledged it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Phase:
    """One kind of fault.

    Attributes:
        name: For the table and for ``--only``.
        share: Of all events.
        faults: How often it is made in a long run.
        run: Makes it.
    """

    name: str
    share: float
    faults: int
    run: Callable[[Scene], Outcome]


def _now(run: Callable[[Scene], Coroutine[Any, Any, Outcome]]) -> Callable[[Scene], Outcome]:
    """In real time; those in virtual time have a loop of their own."""
    return lambda scene: asyncio.run(run(scene))


PHASES = (
    Phase(name="Mosquitto kill -9", share=0.15, faults=20, run=_now(mosquitto_killed)),
    Phase(name="NATS kill -9", share=0.1, faults=20, run=_now(nats_killed)),
    Phase(name="NATS kill -9, 1,024 ahead", share=0.05, faults=20, run=_now(nats_killed_ahead)),
    Phase(name="link cut", share=0.1, faults=40, run=_now(link_cut)),
    Phase(name="link half-open", share=0.04, faults=20, run=_now(link_stalled)),
    Phase(name="link slow", share=0.04, faults=10, run=_now(link_slow)),
    Phase(name="link lossy", share=0.02, faults=20, run=_now(link_lossy)),
    Phase(name="link in single bytes", share=0.02, faults=1, run=_now(link_fragments)),
    Phase(name="publisher kill -9", share=0.1, faults=20, run=_now(publisher_killed)),
    Phase(name="reader kill -9", share=0.1, faults=20, run=_now(reader_killed)),
    Phase(name="10 min outage, refusing", share=0.12, faults=1, run=outage_refusing),
    Phase(name="10 min outage, dropping", share=0.12, faults=1, run=outage_dropping),
    Phase(name="clock set by a day", share=0.02, faults=8, run=_now(clock_set)),
    Phase(name="disk full", share=0.02, faults=1, run=_now(disk_full)),
)


def run_faults(
    phases: Sequence[Phase], *, events: int, console: Console
) -> list[tuple[Phase, Outcome]]:
    """Run phases one after the other, with a progress bar.

    Args:
        phases: Which.
        events: Of a whole run; each phase gets its share.
        console: For the bar.

    Raises:
        StuckError: Something that should come does not come.
        BrokerFailedError: A broker is missing.
    """
    done: list[tuple[Phase, Outcome]] = []
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    total = sum(round(phase.share * events) for phase in phases)
    with Progress(*columns, TimeElapsedColumn(), console=console) as progress:
        bar = progress.add_task("events", total=total)
        for phase in phases:
            progress.update(bar, description=phase.name)
            with tempfile.TemporaryDirectory(prefix="edgebus-soak-") as folder:
                scene = Scene(
                    events=round(phase.share * events),
                    faults=phase.faults,
                    folder=Path(folder),
                    news=lambda: progress.advance(bar),
                )
                began = time.monotonic()
                outcome = phase.run(scene)
                outcome.seconds = time.monotonic() - began
            done.append((phase, outcome))
            if not console.is_terminal:  # no bar is seen there
                words = "all promises kept" if outcome.good else "WRONG"
                line = f"{phase.name}: {outcome.verdict.handled:,} events, {words}"
                console.print(f"{line}, {outcome.seconds:.0f} s", highlight=False)
    return done


def report(done: Sequence[tuple[Phase, Outcome]], *, console: Console) -> None:
    """Print the table and whatever is wrong."""
    names = ("times", "events", "lost", "twice", "disorder", "copies", "again", "by broker", "s")
    table = Table("fault", *names)
    for phase, outcome in done:
        verdict = outcome.verdict
        table.add_row(
            phase.name,
            f"{outcome.faults:,}",
            f"{verdict.accepted:,}",
            f"{verdict.lost:,}",
            f"{verdict.twice:,}",
            f"{verdict.disorder:,}",
            f"{outcome.duplicates:,}",
            f"{verdict.again:,}",
            f"{outcome.lost_by_broker:,}",
            f"{outcome.seconds:.0f}",
        )
    console.print(table)
    console.print(_LEGEND, highlight=False, soft_wrap=True)
    for phase, outcome in done:
        if outcome.notes:
            notes = "; ".join(outcome.notes)
            console.print(f"{phase.name}: {notes}", highlight=False, soft_wrap=True)
    for phase, outcome in done:
        for words in (*outcome.wrong, *outcome.verdict.examples):
            console.print(f"WRONG in {phase.name}: {words}", markup=False, highlight=False)
    verdicts = [outcome.verdict for _, outcome in done]
    console.print(
        f"{sum(outcome.faults for _, outcome in done):,} faults, "
        f"{sum(v.accepted for v in verdicts):,} events: {sum(v.lost for v in verdicts):,} lost, "
        f"{sum(v.twice for v in verdicts):,} handled twice, "
        f"{sum(v.disorder for v in verdicts):,} out of order; "
        f"{sum(outcome.seconds for _, outcome in done):.0f} s",
        highlight=False,
    )


def write(done: Sequence[tuple[Phase, Outcome]], path: Path) -> None:
    """Keep the figures as JSON."""
    document = {phase.name: asdict(outcome) for phase, outcome in done}
    path.write_text(json.dumps(document, indent=1) + "\n")
