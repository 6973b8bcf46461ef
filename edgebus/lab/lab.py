"""Observation, view and report of a run; a workload extends them."""

from __future__ import annotations

import pkgutil
from collections.abc import Callable, Iterable
from datetime import datetime
from pathlib import Path
from typing import ClassVar, Unpack

from rich.console import RenderableType

from edgebus.bus import Bus
from edgebus.lab.observer import observe
from edgebus.lab.report import write_run
from edgebus.lab.rounds import Round
from edgebus.lab.run_state import RunEvent, RunState
from edgebus.lab.summary import RunFacts, Summary, summarize
from edgebus.lab.view import service_lines, service_table, summary_table
from edgebus.workload import WorkloadUnknownError, load_workload

__all__ = ["DEFAULT_WORKLOAD", "Lab", "load_lab"]

DEFAULT_WORKLOAD = "detection"
"""The workload of `edgebus up` where neither the command line nor the topology names one."""


class Lab:
    """Observation, view and report of one run, from the framework's messages alone.

    This is enough for any workload: services, models, samples, jobs, releases, rounds and dead
    letters. A workload with figures of its own names a subclass in `edgebus.workload.Workload.lab`.

    Args:
        on_event: Called for each event of the history.

    Attributes:
        assets: Folder that replaces ``{assets}`` in topologies; its ``demo.yaml`` is what
            `edgebus up` runs without a topology. None: there is no demo.
        state_type: The class of `state`.
        state: The run so far.
        summary: Its figures, once it is over.
    """

    assets: ClassVar[Path | None] = None
    state_type: ClassVar[type[RunState]] = RunState

    state: RunState
    summary: Summary

    def __init__(self, *, on_event: Callable[[RunEvent], None] = lambda _event: None) -> None:
        self.state = self.state_type(on_event=on_event)

    @classmethod
    def command(cls) -> Callable[..., None]:
        """The function behind `edgebus up`; its parameters are the options."""
        from edgebus.lab.cli import up

        return up

    async def observe(self, bus: Bus, *, site: str) -> None:
        """Subscribe to all that the run is measured by.

        Args:
            bus: A connected bus.
            site: The site of the run.
        """
        await observe(bus, self.state, site=site)

    def draw_streams(self, now: datetime) -> RenderableType:
        """The middle of the live view."""
        return service_table(self.state)

    def list_streams(self, now: datetime) -> Iterable[str]:
        """The same as lines of text."""
        return service_lines(self.state)

    def finish(self, **facts: Unpack[RunFacts]) -> None:
        """Take the figures, while the services still run: `summary`."""
        self.summary = summarize(self.state, **facts)

    def write(self, folder: Path) -> list[Path]:
        """Write summary, tables, pictures and report; the report is the first of the files."""
        return write_run(self.state, self.summary, folder)

    def table(self) -> RenderableType:
        """The table at the end of the run."""
        return summary_table(self.summary, self.rounds)

    @property
    def rounds(self) -> list[Round]:
        """The rounds of learning that ended in this run."""
        return self.state.rounds.all(since=self.summary.started)


def load_lab(workload: str | None = None) -> type[Lab]:
    """The lab of a workload.

    Args:
        workload: Its name; by default `DEFAULT_WORKLOAD`, or none at all where that is not
            installed.

    Raises:
        WorkloadUnknownError: No installed package has one of that name.
        TypeError: What the workload names is no `Lab`.
    """
    try:
        place = load_workload(workload or DEFAULT_WORKLOAD).lab
    except WorkloadUnknownError:
        if workload is None:
            return Lab
        raise
    lab = pkgutil.resolve_name(place)
    if not (isinstance(lab, type) and issubclass(lab, Lab)):
        msg = f"{place} is no subclass of edgebus.lab.Lab"
        raise TypeError(msg)
    return lab
