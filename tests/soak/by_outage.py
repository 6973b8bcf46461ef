"""Ten minutes without a broker, in virtual time: longer than the outbox is large."""

from __future__ import annotations

import asyncio
import itertools
from typing import Any, Literal

from edgebus.bus import (
    Bus,
    BusSettings,
    ConnectOptions,
    Event,
    MemoryBroker,
    MemoryTransport,
    OutboxFullError,
    OutboxSettings,
    Receiver,
)
from edgebus.contracts import ServiceState, topics
from edgebus.service import NodeSettings, Service, ServiceSettings
from edgebus.service.runtime import Runtime
from tests.soak.field import Outcome, Scene
from tests.soak.ledger import Ledger
from tests.soak.traffic import EVENT, READER, SOURCES, numbered
from tests.soak.virtual import run_virtually

__all__ = ["outage_dropping", "outage_refusing"]

_OUTAGE_S = 600.0
_BEFORE_S = 5.0
_BACKOFF_S = 30.0
_SITE = "soak"

Overflow = Literal["refuse", "drop_oldest"]


def outage_refusing(scene: Scene) -> Outcome:
    """A full outbox refuses: whoever publishes has to wait, and nothing that it took is lost."""
    return run_virtually(lambda _: _outage(scene, overflow="refuse"))


def outage_dropping(scene: Scene) -> Outcome:
    """A full outbox drops its oldest: the newest arrive, and what is gone is counted."""
    return run_virtually(lambda _: _outage(scene, overflow="drop_oldest"))


class SenderSettings(ServiceSettings):
    """None."""


class Sender(Service[SenderSettings]):
    """Publishes what it is told to."""

    name = "sender"


class _Watched(MemoryTransport):
    """Keeps the times at which a connection was tried."""

    def __init__(self, broker: MemoryBroker) -> None:
        super().__init__(broker)
        self.tried: list[float] = []

    async def connect(self, options: ConnectOptions, receiver: Receiver) -> Any:
        self.tried.append(asyncio.get_running_loop().time())
        return await super().connect(options, receiver)


class _Site:
    """A sending service and a reader on one broker, and the time that passes there.

    Args:
        scene: What the phase got.
        overflow: What a full outbox does.
    """

    def __init__(self, scene: Scene, *, overflow: Overflow) -> None:
        self.broker = MemoryBroker()
        self.transport = _Watched(self.broker)
        # As many events as the default outbox holds come in 500 of the 600 seconds.
        self.room = scene.events * 10_000 // 12_000
        outbox = OutboxSettings.model_validate({"max_messages": self.room, "overflow": overflow})
        node = NodeSettings(
            site=_SITE,
            node="pi-01",
            data_dir=scene.folder,
            bus=BusSettings(outbox=outbox),
        )
        self.runtime = Runtime(
            Sender, node=node, settings=SenderSettings(), transport=self.transport
        )
        self.ledger = Ledger(SOURCES, news=scene.news)
        self.refused = 0
        self.states: list[ServiceState] = []
        self._interval_s = _OUTAGE_S * len(SOURCES) / scene.events
        self._each = scene.events // len(SOURCES)

    @property
    def service(self) -> Sender:
        """The service itself."""
        assert isinstance(self.runtime.service, Sender)
        return self.runtime.service

    async def publish(self, source: str) -> None:
        """Publish one source's events at their times; one that is refused is offered again."""
        loop = asyncio.get_running_loop()
        start = loop.time()
        for n in range(self._each):
            await asyncio.sleep(start + n * self._interval_s - loop.time())
            while True:
                try:
                    await self.service.bus.publish(
                        EVENT.at(self.service.identity, origin=source), numbered(source, n, run="x")
                    )
                except OutboxFullError:
                    self.refused += 1
                    await asyncio.sleep(5.0)
                else:
                    break
            self.ledger.accept(source, n)

    async def handle(self, event: Event[Any]) -> None:
        """The reader's handler."""
        self.ledger.handle(event.payload.origin, event.payload.n)

    async def see(self, event: Event[ServiceState]) -> None:
        """The reader's view of the service."""
        self.states.append(event.payload)


async def _outage(scene: Scene, *, overflow: Overflow) -> Outcome:
    site = _Site(scene, overflow=overflow)
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    settings = BusSettings()
    async with Bus(MemoryTransport(site.broker), identity=READER, settings=settings) as reader:
        subscription = await reader.subscribe(EVENT.any(site=_SITE), site.handle)
        await reader.subscribe(
            topics.SERVICE_STATE.any(site=_SITE, service="sender"), site.see, deduplicate=False
        )
        async with asyncio.TaskGroup() as tasks:
            life = tasks.create_task(site.runtime.run(stop, look_first=False), name="sender")
            await asyncio.sleep(_BEFORE_S)
            first = site.runtime.presence.session
            # The link goes, so the broker says the will; then the broker goes as well.
            for client in site.broker.clients():
                if "sender" in client:
                    site.broker.cut(client)
            await asyncio.sleep(0.001)
            site.broker.stop(forget=False)
            gone = loop.time()
            sources = [tasks.create_task(site.publish(name), name=name) for name in SOURCES]
            await asyncio.sleep(_OUTAGE_S)
            waiting = site.service.bus.stats.outbox_messages
            on_disk = site.service.bus.outbox.durable
            site.broker.start()
            back = loop.time()
            await site.service.bus.connected(2 * _BACKOFF_S)
            after = loop.time() - back
            await asyncio.wait(sources)
            await site.service.bus.drain(_BACKOFF_S)
            await site.ledger.settled(patience_s=2 * _BACKOFF_S)
            stats = site.service.bus.stats
            stop.set()
            await life
        copies = subscription.stats.duplicates
    verdict = site.ledger.verdict()
    outcome = Outcome(
        verdict=verdict.but(lost=verdict.lost - stats.outbox_dropped), faults=1, duplicates=copies
    )
    tried = [at for at in site.transport.tried if gone <= at <= back + after]
    pauses = [later - at for at, later in itertools.pairwise(tried)]
    outcome.expect(max(pauses) <= _BACKOFF_S, f"paused {max(pauses):.1f} s between two attempts")
    outcome.expect(after <= _BACKOFF_S, f"back only {after:.1f} s after the broker")
    outcome.expect(waiting == site.room, f"{waiting} events waited, there was room for {site.room}")
    outcome.expect(on_disk, "the outbox was not on disk")
    if overflow == "refuse":
        outcome.expect(site.refused > 0, "a full outbox refused nothing")
        outcome.expect(not stats.outbox_dropped, f"{stats.outbox_dropped} dropped, unasked")
        outcome.notes.append(f"{site.refused} times a full outbox refused")
    else:
        oldest = verdict.accepted - site.room
        outcome.expect(
            stats.outbox_dropped == oldest, f"{stats.outbox_dropped} dropped instead of {oldest}"
        )
        outcome.expect(site.ledger.missing_are_oldest(), "not the oldest were dropped")
        outcome.notes.append(f"{stats.outbox_dropped} oldest dropped, counted")
    said = [(state.state, state.session) for state in site.states]
    births = [session for state, session in said if state == "ready" and session > first]
    outcome.expect(("offline", first) in said, "no will")
    outcome.expect(bool(births), f"no birth with a newer session than {first}: {said}")
    outcome.notes.append(
        f"{len(tried)} attempts in {back - gone:.0f} virtual s, longest pause {max(pauses):.1f} s, "
        f"connected {after:.1f} s after the broker was back"
    )
    return outcome
