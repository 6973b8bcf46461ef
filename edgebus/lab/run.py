"""One run of a topology: broker, set-up, services, observer, view, report."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from datetime import datetime
from importlib import resources
from pathlib import Path

import yaml

from edgebus.bus import BrokerSettings, Bus, BusSettings
from edgebus.contracts import Identity, rfc3339, utc_now
from edgebus.lab.broker import EmbeddedBroker
from edgebus.lab.supervisor import (
    ProcessEvent,
    ProcessSpec,
    ServiceFailedError,
    Supervisor,
    run_setup,
)
from edgebus.mqtt import MqttTransport
from edgebus.topology import MAX_PACKET_BYTES, Topology, fill_placeholders, node_configs
from edgebus_detection.lab.end_condition import Verdict, judge
from edgebus_detection.lab.measure import build_summary
from edgebus_detection.lab.observer import Observer
from edgebus_detection.lab.pictures import PictureKeeper
from edgebus_detection.lab.report import write_run
from edgebus_detection.lab.rounds import Round
from edgebus_detection.lab.run_state import LogLine, Tracker
from edgebus_detection.lab.summary import Summary
from edgebus_detection.lab.view import LiveView, PlainView

__all__ = ["Finished", "Run", "make_run_folder"]

_LEAD_S = 8.0
"""Inputs start this long after the services, so that none of the first is missed."""

_REFRESH_S = 0.33

View = LiveView | PlainView


@dataclass(frozen=True, slots=True)
class Finished:
    """What a run left behind.

    Attributes:
        summary: Its figures.
        files: The report first.
        rounds: Its rounds of learning.
        failed: Whether a service could not start, or died again and again.
    """

    summary: Summary
    files: list[Path]
    rounds: list[Round]
    failed: bool = False


class Run:
    """Runs a topology once.

    Args:
        topology: What to run.
        folder: Run folder; exists.
        make_view: Makes the view, once the broker is there.
        echo: Prints a line before there is a view.
    """

    def __init__(
        self,
        topology: Topology,
        *,
        folder: Path,
        make_view: Callable[[Tracker, str], View],
        echo: Callable[[str], None],
    ) -> None:
        self._topology = topology
        self._folder = folder.resolve()
        self._make_view = make_view
        self._echo = echo
        self._view: View | None = None
        self._tracker = Tracker(on_line=self._line)
        self._keeper = PictureKeeper()
        self._interrupted = asyncio.Event()
        self._failed = False

    async def go(self) -> Finished:
        """Run it to its end, Ctrl-C included.

        Raises:
            BrokerNotInstalledError: The embedded broker is missing.
            BrokerStartError: It does not come up.
            SetupFailedError: A set-up command failed.
        """
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._interrupt)
        started = utc_now()
        try:
            async with AsyncExitStack() as stack:
                broker = await self._broker(stack)
                url = broker.url if broker else self._topology.broker.url or ""
                self._echo(f"broker {url}")
                environment = self._environment()
                topology = self._filled(start_s=0)
                for command in topology.setup:
                    self._echo(f"setting up: {' '.join(command)}")
                    await run_setup(
                        command,
                        python=sys.executable,
                        log=self._folder / "logs" / "setup.log",
                        environment=environment,
                    )
                topology = self._filled(start_s=time.time() + _LEAD_S)
                specs = self._specs(topology, url, environment)
                await self._observe(stack, url)
                supervisor = Supervisor(specs, broker=broker, on_event=self._process_event)
                summary = await self._live(supervisor, url, started)
        finally:
            for number in (signal.SIGINT, signal.SIGTERM):
                loop.remove_signal_handler(number)
        files = await asyncio.to_thread(
            write_run, self._tracker, summary, self._keeper, self._folder
        )
        rounds = self._tracker.rounds.all(since=summary.started)
        return Finished(summary, files, rounds, self._failed)

    async def _broker(self, stack: AsyncExitStack) -> EmbeddedBroker | None:
        choice = self._topology.broker
        if not choice.embedded:
            return None
        broker = EmbeddedBroker(self._folder / "broker", host=choice.host, port=choice.port)
        return await stack.enter_async_context(broker)

    async def _observe(self, stack: AsyncExitStack, url: str) -> None:
        topology = self._topology
        settings = BrokerSettings(
            url=url, version=topology.broker.mqtt_version, max_packet_bytes=MAX_PACKET_BYTES
        )
        identity = Identity(base=topology.base, site=topology.site, node="lab", service="observer")
        bus = await stack.enter_async_context(
            Bus(
                MqttTransport(settings),
                identity=identity,
                settings=BusSettings(ephemeral=True, backoff_max_s=2.0),
            )
        )
        await bus.connected(10.0)
        observer = Observer(bus, site=topology.site, tracker=self._tracker, keeper=self._keeper)
        await observer.start()

    async def _live(self, supervisor: Supervisor, url: str, started: datetime) -> Summary:
        """Run the services until the run is over; the figures at that moment."""
        supervising = asyncio.create_task(supervisor.run(), name="supervisor")
        try:
            with self._make_view(self._tracker, f"{self._topology.name}  {url}") as view:
                self._view = view
                verdict = await self._until_over(supervising, view)
                self._view = None
                self._failed = verdict.failed
            # Before the services stop: what they do not answer from now on is no failure.
            return build_summary(
                self._tracker,
                name=self._topology.name,
                started=started,
                finished=utc_now(),
                closed=verdict.closed,
                outcome=verdict.words,
            )
        finally:
            self._echo("stopping the services")
            supervising.cancel()
            with suppress(asyncio.CancelledError, ExceptionGroup):
                await supervising

    async def _until_over(self, supervising: asyncio.Task[None], view: View) -> Verdict:
        loop = asyncio.get_running_loop()
        began = loop.time()
        while True:
            view.refresh()
            verdict = judge(self._tracker, self._topology, elapsed_s=loop.time() - began)
            if verdict.over:
                return verdict
            if self._interrupted.is_set():
                return Verdict(over=True, closed=verdict.closed, words=f"stopped; {verdict.words}")
            if supervising.done():
                return _verdict_of(supervising)
            with suppress(TimeoutError):
                async with asyncio.timeout(_REFRESH_S):
                    await self._interrupted.wait()

    def _interrupt(self) -> None:
        self._interrupted.set()

    def _line(self, line: LogLine) -> None:
        if self._view is not None:
            self._view.line(line)

    def _process_event(self, event: ProcessEvent) -> None:
        words = [event.kind, event.name]
        if event.pid:
            words.append(f"pid {event.pid}")
        if event.code is not None:
            words.append(f"code {event.code}")
        if event.wait_s:
            words.append(f"again in {event.wait_s:g} s")
        log = self._folder / "logs" / "supervisor.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("a") as file:
            file.write(f"{rfc3339(utc_now())} {' '.join(words)}\n")

    def _filled(self, *, start_s: float) -> Topology:
        """The topology with its placeholders replaced."""
        assets = Path(str(resources.files("edgebus_detection.lab"))) / "assets"
        values = {
            "run": str(self._folder),
            "assets": str(assets),
            "start": f"{start_s:.3f}",
        }
        tree = fill_placeholders(self._topology.model_dump(exclude_unset=True), values)
        return Topology.parse(tree, source=self._topology.name)

    def _environment(self) -> Mapping[str, str]:
        return {**os.environ, "PYTHONUNBUFFERED": "1", **self._topology.environment}

    def _specs(
        self, topology: Topology, url: str, environment: Mapping[str, str]
    ) -> list[ProcessSpec]:
        folder = self._folder / "config"
        folder.mkdir(parents=True, exist_ok=True)
        for node, config in node_configs(topology, url=url, data=self._folder / "data").items():
            (folder / f"{node}.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
        return [
            ProcessSpec(
                name=f"{node}/{service}",
                command=(
                    sys.executable,
                    "-m",
                    "edgebus.cli",
                    "run",
                    service,
                    "--config",
                    str(folder / f"{node}.yaml"),
                ),
                log=self._folder / "logs" / f"{node}-{service}.log",
                environment=environment,
            )
            for node, service in topology.services
        ]


def _verdict_of(supervising: asyncio.Task[None]) -> Verdict:
    """Why the services ended on their own."""
    error = supervising.exception()
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    if error is None:
        return Verdict(over=True, closed=False, words="every service ended on its own")
    if not isinstance(error, ServiceFailedError):
        raise error
    return Verdict(over=True, closed=False, words=str(error), failed=True)


def make_run_folder(parent: Path, *, name: str) -> Path:
    """A new folder ``{time}-{name}``, and a link `latest` to it beside it."""
    stamp = utc_now().strftime("%Y%m%d-%H%M%S")
    folder = parent / f"{stamp}-{name}"
    number = 1
    while folder.exists():
        number += 1
        folder = parent / f"{stamp}-{name}-{number}"
    folder.mkdir(parents=True)
    latest = parent / "latest"
    with suppress(OSError):  # no links here: the folder's name is printed anyway
        if latest.is_symlink() or not latest.exists():
            latest.unlink(missing_ok=True)
            latest.symlink_to(folder.name)
    return folder
