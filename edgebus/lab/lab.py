"""Observation, view and report of a run; a workload extends them."""

from __future__ import annotations

import pkgutil
from collections.abc import Callable, Iterable
from datetime import datetime
from pathlib import Path
from typing import Any, ClassVar, Unpack

from rich.console import RenderableType

from edgebus.bus import Bus, DropOldest, Event, Wait
from edgebus.contracts import Topic
from edgebus.lab.observer import observe
from edgebus.lab.report import write_run
from edgebus.lab.rounds import Round
from edgebus.lab.run_state import RunState
from edgebus.lab.summary import RunFacts, Summary, summarize
from edgebus.lab.view import stream_lines, stream_table, summary_table
from edgebus.workload import Workload, WorkloadUnknownError, load_workload

DEFAULT_WORKLOAD = "detection"
"""The workload of `edgebus up` where neither the command line nor the topology names one."""

ROOMY = DropOldest(messages=20_000)
"""Room for a pause of the whole machine: what is missed would count as unanswered."""

_INPUTS = DropOldest(messages=2_000, bytes=128 * 2**20)


class Lab:
    """Observation, view and report of one run.

    This is enough for any workload: services, models, streams, samples, jobs, releases, rounds and
    dead letters. A workload with figures of its own names a subclass in
    `edgebus.workload.Workload.lab`.

    Args:
        workload: Whose inputs, predictions and samples are counted; None: nobody's.

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

    def __init__(self, workload: Workload | None = None) -> None:
        self.workload = workload
        self.state = self.state_type()

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
        at = {"base": bus.identity.base, "site": site}
        handlers = (
            ("samples", self._on_sample, Wait()),
            ("inputs", self.on_input, _INPUTS),
            ("predictions", self.on_prediction, ROOMY),
        )
        for name, handler, policy in handlers:
            topic: Topic[Any] | None = getattr(self.workload, name, None)
            if topic is not None:
                await bus.subscribe(topic.any(**at), handler, policy=policy)
                self.state.observes_streams |= name == "predictions"

    async def on_input(self, event: Event[Any]) -> None:
        """Take an input of the workload."""
        record = getattr(event.payload, "record", event.payload)
        self.state.on_input(event.names["node"], self._stream(event), captured=record.captured)

    async def on_prediction(self, event: Event[Any]) -> None:
        """Take a prediction of the workload."""
        self.state.on_prediction(event.names["node"], self._stream(event), event.payload)

    async def _on_sample(self, event: Event[Any]) -> None:
        record = getattr(event.payload, "record", event.payload)
        self.state.on_sample(event.names["node"], record, size=event.size)

    def _stream(self, event: Event[Any]) -> str:
        return event.names[self.workload.stream_level if self.workload else "stream"]

    def look(self, *, base: str, site: str) -> list[str]:
        """What mosquitto_sub must be told to show the predictions: arguments for a shell."""
        topic: Topic[Any] | None = getattr(self.workload, "predictions", None)
        return [] if topic is None else [f"-t '{topic.any(base=base, site=site)}'"]

    def draw_streams(self, now: datetime) -> RenderableType:
        """The middle of the live view."""
        return stream_table(self.state, now)

    def list_streams(self, now: datetime) -> Iterable[str]:
        """The same as lines of text."""
        return stream_lines(self.state, now)

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


def load_lab(workload: str | None = None) -> Lab:
    """A lab for one run of a workload.

    Args:
        workload: Its name; by default `DEFAULT_WORKLOAD`, or none at all where that is not
            installed.

    Raises:
        WorkloadUnknownError: No installed package has one of that name.
        TypeError: What the workload names is no `Lab`.
    """
    try:
        found = load_workload(workload or DEFAULT_WORKLOAD)
    except WorkloadUnknownError:
        if workload is None:
            return Lab()
        raise
    lab = pkgutil.resolve_name(found.lab)
    if not (isinstance(lab, type) and issubclass(lab, Lab)):
        msg = f"{found.lab} is no subclass of edgebus.lab.Lab"
        raise TypeError(msg)
    return lab(found)
