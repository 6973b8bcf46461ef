"""Numbered events from several sources, and the handler that notes what arrives."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Sequence

from edgebus.bus import (
    Bus,
    BusSettings,
    ConnectionChange,
    Event,
    Subscription,
    Transport,
)
from edgebus.contracts import Identity, Message, Topic

__all__ = ["EVENT", "READER", "SENDER", "SOURCES", "Load", "Numbered", "Reader", "numbered"]

SENDER = Identity(site="soak", node="pi-01", service="sender")
READER = Identity(site="soak", node="gpu-01", service="reader")
SOURCES = ("front", "back", "left", "right")
_AHEAD = 40


class Numbered(Message, version=1):
    """An event that its receiver can count."""

    origin: str
    n: int


EVENT = Topic("{node}/{service}/soak/{origin}", Numbered, qos=1, doc="A numbered event.")


def numbered(origin: str, n: int, *, run: str | None = None) -> Numbered:
    """Event `n` of a source; with `run`, it has the same id whenever it is made.

    A process that is killed does not know whether its last events were accepted. The next one
    publishes them again, and the id tells that they are the same ones.
    """
    if run is None:
        return Numbered(source=SENDER.source, origin=origin, n=n)
    digest = hashlib.blake2b(f"{run}/{origin}/{n}".encode(), digest_size=10).hexdigest()
    start = f"{0x019A_0000_0000 + n:012x}"
    identifier = f"{start[:8]}-{start[8:]}-7{digest[:3]}-8{digest[3:6]}-{digest[6:18]}"
    return Numbered(id=identifier, source=SENDER.source, origin=origin, n=n)


class Load:
    """Publishes events of several sources as fast as allowed, each source in order.

    The outbox needs room for all of them: what is refused while later ones are on their way could
    only be offered again out of order. `tests.soak.by_outage` is about outboxes that fill up.

    Args:
        bus: Publishes.
        run: Part of the events' ids; None: ids as everybody makes them.
        accepted: Called when `publish` has returned.
        sources: Names of the sources; each gets the same share.
        first: Number of each source's first event.
        ahead: Publishes of one source that may wait for the broker at a time.
    """

    def __init__(
        self,
        bus: Bus,
        *,
        run: str | None,
        accepted: Callable[[str, int], None],
        sources: Sequence[str] = SOURCES,
        first: dict[str, int] | None = None,
        ahead: int = _AHEAD,
    ) -> None:
        self._bus = bus
        self._run = run
        self._accepted = accepted
        self._next = {name: (first or {}).get(name, 0) for name in sources}
        self._room = {name: asyncio.Semaphore(ahead) for name in sources}
        self._allowed = 0
        self._more = asyncio.Event()
        self._ended = False

    def allow(self, total: int) -> None:
        """Publish up to so many events in total, over all sources."""
        self._allowed = total
        self._more.set()

    def finish(self) -> None:
        """Nothing beyond what is allowed will be asked for."""
        self._ended = True
        self._more.set()

    async def run(self) -> None:
        """Publish until `finish` was called and everything that is allowed was accepted."""
        async with asyncio.TaskGroup() as group:
            for name in self._next:
                group.create_task(self._source(name, group), name=f"source {name}")

    async def _source(self, name: str, group: asyncio.TaskGroup) -> None:
        place = list(self._next).index(name)
        while True:
            while self._next[name] * len(self._next) + place >= self._allowed:
                if self._ended:
                    return
                self._more.clear()
                await self._more.wait()
            await self._room[name].acquire()
            n = self._next[name]
            self._next[name] = n + 1
            group.create_task(self._publish(name, n), name=f"publish {name} {n}")

    async def _publish(self, name: str, n: int) -> None:
        event = numbered(name, n, run=self._run)
        try:
            await self._bus.publish(EVENT.at(SENDER, origin=name), event)
        finally:
            self._room[name].release()
        self._accepted(name, n)


class Reader:
    """The consumer: one durable subscription with de-duplication.

    Args:
        transport: To the broker.
        settings: Of its bus.
        handled: Called by the handler with source and number.
        changed: Told of the connection.
    """

    def __init__(
        self,
        transport: Transport,
        *,
        settings: BusSettings,
        handled: Callable[[str, int], None],
        changed: Callable[[ConnectionChange], None] = lambda _: None,
    ) -> None:
        async def listen(change: ConnectionChange) -> None:
            changed(change)

        self.bus = Bus(transport, identity=READER, settings=settings, on_connection=listen)
        self._handled = handled

    async def subscribe(self) -> Subscription:
        """Begin to handle events; the bus has to be open."""
        return await self.bus.subscribe(EVENT.any(site="soak"), self._handle, name="soak")

    async def _handle(self, event: Event[Numbered]) -> None:
        self._handled(event.payload.origin, event.payload.n)
