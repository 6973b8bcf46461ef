"""A full disk under the outbox, under the collector's spool and under the retrainer's store.

``python -m tests.soak.smalldisk FOLDER EVENTS`` plays it in a process of its own and says
what came of it as one line of JSON. Where this user may mount, FOLDER is a small tmpfs that is
filled to the last byte; else the process gives itself a limit (RLIMIT_FSIZE) under which every
write to a file fails, as with a full disk, but with another error number.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import resource
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import structlog
from sqlalchemy.exc import DBAPIError

from edgebus.bus import (
    Bus,
    BusSettings,
    Event,
    MemoryBroker,
    MemoryTransport,
    OutboxSettings,
)
from edgebus.contracts import ServiceState, topics, utc_now
from edgebus.samples import SampleFiles, SampleStore, open_database
from edgebus.service import NodeSettings, Service, ServiceSettings
from edgebus.service.errors import ServiceError
from edgebus.service.runtime import Runtime
from edgebus.workload import load_workload
from edgebus_collector.spool import Spool, SpoolSettings
from tests.soak.field import Outcome
from tests.soak.fullservices import MODEL, collector, picture, retrainer, sample
from tests.soak.ledger import Ledger
from tests.soak.traffic import EVENT, READER, SENDER, SOURCES, Load
from tests.soak.virtual import run_virtually

__all__ = ["main"]

_BALLAST = "ballast"
_STEPS = (65_536, 4096, 1)
_ROOM_S = 60.0
_LOOKS, _LOOK_S = 1200, 0.1
_SAMPLES = 20


class Disk:
    """A disk that can be full.

    Args:
        folder: On it.
        limit: There is no small file system; no file may grow instead.
    """

    def __init__(self, folder: Path, *, limit: bool) -> None:
        self.folder = folder
        self._limit = limit
        self._hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]

    def fill(self) -> None:
        """Nothing more fits."""
        if self._limit:
            resource.setrlimit(resource.RLIMIT_FSIZE, (0, self._hard))
            return
        with (self.folder / _BALLAST).open("ab", buffering=0) as file:
            for step in _STEPS:
                with contextlib.suppress(OSError):
                    while True:
                        file.write(bytes(step))

    def make_room(self) -> None:
        """As before."""
        if self._limit:
            resource.setrlimit(resource.RLIMIT_FSIZE, (self._hard, self._hard))
        else:
            (self.folder / _BALLAST).unlink()


class SenderSettings(ServiceSettings):
    """None."""


class Sender(Service[SenderSettings]):
    """Publishes what it is told to."""

    name = "sender"


class _Life:
    """One life of the sending service, in which it may be killed.

    Args:
        folder: The node's data.
        broker: What it talks to.
    """

    def __init__(self, folder: Path, broker: MemoryBroker) -> None:
        room = BusSettings(outbox=OutboxSettings(max_messages=1_000_000))
        node = NodeSettings(site=SENDER.site, node=SENDER.node, data_dir=folder, bus=room)
        self.runtime = Runtime(
            Sender, node=node, settings=SenderSettings(), transport=MemoryTransport(broker)
        )
        self._stop = asyncio.Event()
        self._task = asyncio.create_task(self.runtime.run(self._stop, look_first=False))

    async def bus(self) -> Bus:
        """Its bus, once the service has started."""
        await self.state("ready", "degraded")
        assert self.runtime.service is not None
        return self.runtime.service.bus

    async def state(self, *states: str) -> str:
        """The reason it gives, once it is in one of these states.

        Raises:
            RuntimeError: It is not within two virtual minutes.
        """
        presence = self.runtime.presence
        for _ in range(_LOOKS):
            if presence.state in states:
                return presence.reason
            await asyncio.sleep(_LOOK_S)
        msg = f"the service is {presence.state}, and should be {' or '.join(states)}"
        raise RuntimeError(msg)

    async def kill(self) -> None:
        """End it without a word to anybody."""
        assert self.runtime.service is not None
        await self.runtime.service.bus.crash()
        self._stop.set()
        with contextlib.suppress(ServiceError):
            await self._task

    async def end(self) -> None:
        """End it well."""
        self._stop.set()
        await self._task


async def outbox(disk: Disk, events: int) -> Outcome:
    """A service whose outbox finds the disk full, first without a broker and then with one."""
    broker = MemoryBroker()
    ledger = Ledger(SOURCES)
    said: list[ServiceState] = []
    outcome = Outcome(verdict=ledger.verdict(), faults=2)

    async def handle(event: Event[Any]) -> None:
        ledger.handle(event.payload.origin, event.payload.n)

    async def see(event: Event[ServiceState]) -> None:
        said.append(event.payload)

    async def publish(bus: Bus, total: int) -> None:
        first = {name: ledger.next_of(name) for name in SOURCES}
        load = Load(bus, run="x", accepted=ledger.accept, first=first)
        load.allow(total)
        load.finish()
        await load.run()

    reader = Bus(MemoryTransport(broker), identity=READER)
    async with reader:
        subscription = await reader.subscribe(EVENT.any(site=SENDER.site), handle)
        await reader.subscribe(
            topics.SERVICE_STATE.any(site=SENDER.site, service="sender"), see, deduplicate=False
        )
        broker.stop(forget=False)
        life = _Life(disk.folder, broker)
        bus = await life.bus()
        await publish(bus, events // 4)
        outcome.expect(bus.outbox.durable, "the outbox was not on disk")
        disk.fill()
        await publish(bus, events // 2)
        outcome.notes.append(f"degraded: {await life.state('degraded')}")
        disk.make_room()
        await life.state("ready")
        outcome.expect(bus.outbox.durable, "the outbox did not come back to disk")
        await life.kill()

        life = _Life(disk.folder, broker)
        bus = await life.bus()
        await publish(bus, events * 3 // 4)
        disk.fill()
        await publish(bus, events)
        await life.state("degraded")
        broker.start()
        await bus.connected(_ROOM_S)
        # `drain` would take no message any more, the service's own state neither.
        while bus.stats.outbox_messages:
            await asyncio.sleep(_LOOK_S)
        await ledger.settled(patience_s=_ROOM_S)
        disk.make_room()
        await life.state("ready")
        await life.end()
        outcome.duplicates = subscription.stats.duplicates
    outcome.verdict = ledger.verdict()
    words = [state.state for state in said]
    outcome.expect(
        "degraded" in words and "ready" in words[words.index("degraded") :],
        f"the service did not say degraded and then ready on the bus: {words}",
    )
    return outcome


def spool(disk: Disk) -> Outcome:
    """The collector's spool: what it accepted stays whole, what it refused leaves nothing."""
    ledger = Ledger(["spool"])
    outcome = Outcome(verdict=ledger.verdict(), faults=1)
    folder = disk.folder / "spool"

    def open_spool() -> Spool:
        return Spool(folder, SpoolSettings(max_samples=1000, overflow="drop_newest"))

    kept = open_spool()
    for n in range(_SAMPLES):
        if n == _SAMPLES // 2:
            disk.fill()
            try:
                kept.put("refused", picture(n))
            except OSError as error:
                outcome.notes.append(f"spool: {error.strerror}")
            else:
                outcome.expect(False, "the spool took a sample on a full disk")
            disk.make_room()
        kept.put(f"{n:09}", picture(n))
        ledger.accept("spool", n)
    # As after a kill: nothing was closed.
    again = open_spool()
    while (item := again.oldest()) is not None:
        n = int(item.id)
        if item.path.read_bytes() == picture(n):
            ledger.handle("spool", n)
        again.remove(item.id)
    outcome.expect(not list(folder.iterdir()), "something is left in the spool's folder")
    outcome.verdict = ledger.verdict()
    return outcome


def store(disk: Disk) -> Outcome:
    """The retrainer's sample store: what it acknowledged is there, once, after any error."""
    ledger = Ledger(["store"])
    outcome = Outcome(verdict=ledger.verdict(), faults=1)
    folder = disk.folder / "store"
    folder.mkdir()

    def open_store() -> SampleStore:
        engine = open_database(folder / "samples.db")
        return SampleStore(
            engine,
            SampleFiles(folder / "samples"),
            load_workload("detection"),
            max_samples=1000,
            max_bytes=2**30,
        )

    kept = open_store()
    samples = [sample(n) for n in range(_SAMPLES)]
    for n, one in enumerate(samples):
        if n == _SAMPLES // 2:
            disk.fill()
            try:
                kept.add(one, received=utc_now())
            except (OSError, DBAPIError) as error:
                outcome.notes.append(f"store: {type(error).__name__}")
            else:
                outcome.expect(False, "the store took a sample on a full disk")
            disk.make_room()
        outcome.expect(kept.add(one, received=utc_now()) == "added", f"sample {n} not added")
        ledger.accept("store", n)
    found = {stored.id: stored for stored in open_store().all(MODEL.name)}
    for n, one in enumerate(samples):
        stored = found.get(one.record.id)
        if stored is not None and stored.path.read_bytes() == one.encode():
            ledger.handle("store", n)
    outcome.verdict = ledger.verdict()
    return outcome


def main(folder: str, events: str, kind: str) -> None:
    """Play everything and print one line of JSON."""
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    sys.dont_write_bytecode = True  # a module that is first used on a full disk
    disk = Disk(Path(folder), limit=kind == "limit")
    said = {
        "outbox": run_virtually(lambda _: outbox(disk, int(events))),
        "spool": spool(disk),
        "store": store(disk),
        "collector": run_virtually(lambda _: collector(disk)),
        "retrainer": run_virtually(lambda _: retrainer(disk)),
    }
    line = json.dumps({name: asdict(outcome) for name, outcome in said.items()})
    os.write(1, f"{line}\n".encode())


if __name__ == "__main__":
    main(*sys.argv[1:])
