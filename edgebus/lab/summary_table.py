"""The table that `edgebus up` prints at its end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from edgebus.lab.report import human_size
from edgebus.lab.round_report import round_summary
from edgebus.lab.rounds import Round
from edgebus.lab.summary import Summary

__all__ = ["summary_table"]


def summary_table(
    summary: Summary,
    rounds: Sequence[Round] = (),
    *,
    above: Sequence[RenderableType] = (),
    rows: Mapping[str, str] | None = None,
) -> RenderableType:
    """Outcome, edges, bytes, time and rounds of a run.

    Args:
        summary: Its figures.
        rounds: Its rounds of learning.
        above: A workload's own tables.
        rows: A workload's own rows, by name.
    """
    seconds = summary.seconds
    stages = [f"{name} {value:.0f} s" for name, value in seconds.stages.items()]
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="bold", no_wrap=True)
    grid.add_column()
    grid.add_row("outcome", Text(summary.outcome, "bold green" if summary.closed else "bold red"))
    grid.add_row("edges", f"{summary.edges.converged} of {summary.edges.total} on the last release")
    for name, text in (rows or {}).items():
        grid.add_row(name, text)
    grid.add_row(
        "bytes", f"{human_size(summary.bytes.up)} up, {human_size(summary.bytes.down)} down"
    )
    grid.add_row("seconds", f"{seconds.total:.0f}: " + ", ".join(stages))
    for one in rounds:
        grid.add_row("round", round_summary(one))
    return Group(*above, grid)
