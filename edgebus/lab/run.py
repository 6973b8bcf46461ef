"""One run of a topology: broker, set-up, services, observer, view, report."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack, suppress
from datetime import datetime
from pathlib import Path
from urllib.parse import urlsplit

import yaml
from rich.console import Console

from edgebus.addresses import hide_credentials
from edgebus.artifacts import ArtifactError, export_bundle
from edgebus.bus import BrokerSettings, Bus, BusSettings
from edgebus.contracts import Identity, rfc3339, utc_now
from edgebus.files import check_room, write_file, writing
from edgebus.lab.broker import BrokerStartError, EmbeddedBroker, is_free, usual_port
from edgebus.lab.end_condition import RunEnd, check_end
from edgebus.lab.lab import Lab
from edgebus.lab.run_state import RunEvent
from edgebus.lab.supervisor import (
    ProcessEvent,
    ProcessSpec,
    ServiceFailedError,
    Supervisor,
    run_setup,
)
from edgebus.lab.view import LiveView, PlainView
from edgebus.mqtt import MqttTransport
from edgebus.service.sources import SECRET_VARIABLE
from edgebus.topology import (
    MAX_PACKET_BYTES,
    Topology,
    fill_placeholders,
    node_configs,
    take_secrets,
)
from edgebus.transfer import fetch_bundle

_LEAD_S = 8.0
"""Inputs start this long after the services, so that none of the first is missed."""

LEAST_ROOM = 64 * 2**20
"""Bytes that have to be free where a run begins; the demo leaves some 30 MB behind."""

_REFRESH_S = 0.33

_TAKE_HOME_S = 20.0
"""Seconds for fetching the model that was made."""


class Run:
    """Runs a topology once.

    Args:
        topology: What to run.
        lab: Observes, shows and reports it.
        folder: Run folder; exists.
        plain: Lines instead of the live view.
        echo: Prints a line.

    Attributes:
        lab: Holds the run's state and, at its end, its summary.
        failed: Whether a service could not start, or died again and again.
        models: Folders of the models that were made in the run and released.
    """

    def __init__(
        self,
        topology: Topology,
        lab: Lab,
        *,
        folder: Path,
        plain: bool,
        echo: Callable[[str], None],
    ) -> None:
        self.lab = lab
        lab.state.on_event = self._show
        self.failed = False
        self.models: list[Path] = []
        self._topology = topology
        self._folder = folder.resolve()
        self._plain = plain
        self._echo = echo
        self._view: LiveView | PlainView | None = None
        self._interrupted = asyncio.Event()
        # Now: one that was hung up calls itself no terminal.
        self._terminals = [number for number in (1, 2) if os.isatty(number)]

    async def go(self) -> list[Path]:
        """Run it to its end, Ctrl-C included.

        Returns:
            The files that it leaves behind, the report first.

        Raises:
            BrokerNotInstalledError: The embedded broker is missing.
            BrokerStartError: It does not come up.
            SetupFailedError: A set-up command failed.
        """
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._interrupted.set)
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # as nohup sets it
            loop.add_signal_handler(signal.SIGHUP, self._hang_up)
        started = utc_now()
        try:
            async with AsyncExitStack() as stack:
                broker = await self._broker(stack)
                url = broker.url if broker else self._topology.broker.url or ""
                self._echo(f"broker {hide_credentials(url)}")
                for line in self._look(url):
                    self._echo(line)
                environment = {
                    **os.environ,
                    "PYTHONUNBUFFERED": "1",
                    **self._topology.environment,
                }
                topology = self._filled(start_s=0)
                for command in topology.setup:
                    self._echo(hide_credentials(f"setting up: {' '.join(command)}"))
                    log = self._folder / "logs" / "setup.log"
                    await run_setup(command, log=log, environment=environment)
                topology = self._filled(start_s=time.time() + _LEAD_S)
                specs = self._specs(topology, url, environment)
                bus = await self._observe(stack, url)
                supervisor = Supervisor(specs, broker=broker, on_event=self._process_event)
                await self._live(supervisor, bus, url, started)
        finally:
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                loop.remove_signal_handler(number)
        with writing(self._folder):
            return await asyncio.to_thread(self.lab.write, self._folder)

    def _hang_up(self) -> None:
        """The terminal went away: end as by Ctrl-C, with a report, and write to it no more."""
        nowhere = os.open(os.devnull, os.O_WRONLY)
        for number in self._terminals:
            os.dup2(nowhere, number)
        os.close(nowhere)
        self._interrupted.set()

    async def _broker(self, stack: AsyncExitStack) -> EmbeddedBroker | None:
        choice = self._topology.broker
        if not choice.embedded:
            return None
        while True:
            port = usual_port(choice.host) if choice.port is None else choice.port
            broker = EmbeddedBroker(self._folder / "broker", host=choice.host, port=port)
            try:
                return await stack.enter_async_context(broker)
            except BrokerStartError:
                # Another run took the port in between: the next one, where none was asked for.
                if choice.port is not None or port == 0 or is_free(port, host=choice.host):
                    raise

    async def _observe(self, stack: AsyncExitStack, url: str) -> Bus:
        topology = self._topology
        settings = BrokerSettings(
            url=url,
            version=topology.broker.mqtt_version,
            profile=topology.broker.profile,
            max_packet_bytes=MAX_PACKET_BYTES,
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
        await self.lab.observe(bus, site=topology.site)
        return bus

    async def _live(self, supervisor: Supervisor, bus: Bus, url: str, started: datetime) -> None:
        """Run the services until the run is over, and take the figures at that moment."""
        supervising = asyncio.create_task(supervisor.run(), name="supervisor")
        try:
            with self._make_view(url) as view:
                self._view = view
                end = await self._until_over(supervising, view)
                self._view = None
                self.failed = end.failed
            # Before the services stop: what they do not answer from now on is no failure.
            self.lab.finish(
                name=self._topology.name,
                started=started,
                finished=utc_now(),
                closed=end.closed,
                outcome=end.outcome,
            )
            await self._take_home(bus)
        finally:
            self._echo("stopping the services")
            supervising.cancel()
            with suppress(asyncio.CancelledError, ExceptionGroup):
                await supervising

    def _look(self, url: str) -> list[str]:
        """Commands that show what is being said, to be copied into another terminal."""
        base, site = self._topology.base, self._topology.site
        address = urlsplit(url)
        lines = [f"look: edgebus topics watch '{base}/{site}/+/+/state' --broker {url}"]
        if address.scheme != "mqtt" or "@" in url or not address.hostname:
            return [] if "@" in url else lines
        where = "" if address.hostname == "127.0.0.1" else f" -h {address.hostname}"
        return [
            *lines,
            *(
                f"look: mosquitto_sub{where} -p {address.port or 1883} {words}"
                for words in self.lab.look(base=base, site=site)
            ),
        ]

    async def _take_home(self, bus: Bus) -> None:
        """Write each model that was made in this run and released: as a bundle, and as ONNX."""
        made = {job.candidate.digest for job in self.lab.state.accepted if job.candidate}
        newest = {
            release.bundle.model.name: release.bundle
            for release in self.lab.state.releases.values()
            if release.bundle.model.digest in made
        }
        for name, reference in newest.items():
            folder = self._folder / "models" / f"{name}-v{reference.model.version}"
            try:
                bundle = await fetch_bundle(bus, reference, timeout_s=_TAKE_HOME_S)
                await asyncio.to_thread(export_bundle, bundle, folder)
                await asyncio.to_thread(
                    export_bundle, bundle, folder.with_name(f"{folder.name}.onnx")
                )
            except (ArtifactError, OSError) as error:
                self._echo(f"the model {name} could not be written: {error}")
            else:
                self.models.append(folder)

    def _make_view(self, url: str) -> LiveView | PlainView:
        console = Console(highlight=False)
        if self._plain or not console.is_terminal:
            return PlainView(self.lab.state, self.lab.list_streams, echo=self._echo)
        title = f"{self._topology.name}  {hide_credentials(url)}"
        return LiveView(self.lab.state, self.lab.draw_streams, title=title, console=console)

    async def _until_over(
        self, supervising: asyncio.Task[None], view: LiveView | PlainView
    ) -> RunEnd:
        loop = asyncio.get_running_loop()
        began = loop.time()
        waits = ""
        while True:
            try:
                view.refresh(waits)
            except OSError:  # before the signal says so
                self._hang_up()
            end = check_end(self.lab.state, self._topology, elapsed_s=loop.time() - began)
            if end.over:
                return end
            waits = self._waits(end)
            if self._interrupted.is_set():
                return RunEnd(over=True, closed=end.closed, outcome=f"stopped; {end.outcome}")
            if supervising.done():
                return _failure(supervising)
            with suppress(TimeoutError):
                async with asyncio.timeout(_REFRESH_S):
                    await self._interrupted.wait()

    def _waits(self, end: RunEnd) -> str:
        """What the run waits for, and until when."""
        until = self._topology.until
        if until is not None and until.seconds is not None:
            return f"{end.waits or 'the loop closed'}; the run ends after {until.seconds:g} s"
        if until is not None and until.timeout_s is not None and end.waits:
            return f"{end.waits}; the run ends after {until.timeout_s:g} s at the latest"
        return end.waits

    def _show(self, event: RunEvent) -> None:
        if self._view is not None:
            self._view.show(event)

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
        values = {"run": str(self._folder), "start": f"{start_s:.3f}"}
        if self.lab.assets is not None:
            values["assets"] = str(self.lab.assets)
        tree = fill_placeholders(self._topology.model_dump(exclude_unset=True), values)
        return Topology.parse(tree, source=self._topology.name)

    def _specs(
        self, topology: Topology, url: str, environment: Mapping[str, str]
    ) -> list[ProcessSpec]:
        folder = self._folder / "config"
        folder.mkdir(parents=True, exist_ok=True)
        secrets: dict[str, str] = {}
        configs = node_configs(topology, url=url, data=self._folder / "data")
        for number, (node, config) in enumerate(configs.items()):
            bare, taken = take_secrets(config, prefix=f"{SECRET_VARIABLE}{number}_")
            secrets |= taken
            text = yaml.safe_dump(bare, sort_keys=False)
            write_file(folder / f"{node}.yaml", text.encode(), private=True)
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
                environment={**environment, **secrets},
            )
            for node, service in topology.services
        ]


def _failure(supervising: asyncio.Task[None]) -> RunEnd:
    """Why the services ended on their own."""
    error = supervising.exception()
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    if error is None:
        return RunEnd(over=True, closed=False, outcome="every service ended on its own")
    if not isinstance(error, ServiceFailedError):
        raise error
    return RunEnd(over=True, closed=False, outcome=str(error), failed=True)


def make_run_folder(parent: Path, *, name: str) -> Path:
    """A new folder ``{time}-{name}``, and a link `latest` to it beside it."""
    check_room(parent, least=LEAST_ROOM)
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
