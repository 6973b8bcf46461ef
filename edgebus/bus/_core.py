"""The parts of a bus, and its life from opening to closing."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import structlog

from edgebus.bus._consumer import ConsumerOptions
from edgebus.bus._dead_letters import DeadLetterPublisher
from edgebus.bus._inbox import Inbox
from edgebus.bus._journal import EventFile, Journal
from edgebus.bus._link import IdentityCheck, Link, Links, WillFactory
from edgebus.bus._publisher import Publisher
from edgebus.bus._requests import Requests
from edgebus.bus._tasks import Tasks
from edgebus.bus.errors import BusClosedError, DrainTimeoutError
from edgebus.bus.event import Event
from edgebus.bus.queues import DropOldest
from edgebus.bus.settings import BusSettings, RetryPolicy
from edgebus.bus.state import (
    BusStats,
    ConnectionChange,
    ConnectionListener,
    ConnectionState,
    OutboxState,
)
from edgebus.bus.subscription import Registry
from edgebus.bus.transport import Connection, Transport
from edgebus.contracts import Filter, Identity

_WATCH_S = 0.25
# Fewer than any broker sends ahead; Mosquitto sends 20 on MQTT 3.1.1.
_PRESSURE = 16


class Core:
    """The parts of a bus, tied together; `Bus` is their public face.

    Args:
        transport: What carries the messages.
        identity: Who publishes.
        settings: Limits and times.
        will: Makes the last will of the connection with the given session number.
        on_connection: Awaited after each change of the connection.
        identity_check: See `Bus`.
    """

    def __init__(
        self,
        transport: Transport,
        *,
        identity: Identity,
        settings: BusSettings,
        will: WillFactory | None,
        on_connection: ConnectionListener | None,
        identity_check: IdentityCheck | None,
    ) -> None:
        self.connection = ConnectionState()
        self.outbox = OutboxState()
        self._journal = _journal("outbox", identity, settings, self.outbox)
        # Its trouble costs no event: what cannot be noted is not acknowledged.
        self._notes = _journal("inbox", identity, settings, OutboxState())
        self.inbox = Inbox(
            settings.inbox,
            journal=self._notes,
            careless=settings.ephemeral,
            pressure=_PRESSURE,
        )
        self.publisher = Publisher(
            settings=settings, packet_limit=transport.packet_limit, journal=self._journal
        )
        self.dead_letters = DeadLetterPublisher(
            publisher=self.publisher, identity=identity, settings=settings
        )
        self.tasks = Tasks(owner=identity.source, failed=self._failed)
        self.links = Links(
            transport=transport,
            identity=identity,
            settings=settings,
            tasks=self.tasks,
            will=will,
            changed=self._changed,
            down=self.publisher.down,
            patient=identity_check is not None,
        )
        self.registry = Registry(
            tasks=self.tasks,
            sink=self.dead_letters,
            main=self.links.main,
            open_link=self._open_link,
            close_link=self.links.close,
        )
        self.requests = Requests(registry=self.registry, tasks=self.tasks)
        self._connect_wait_s = settings.connect_wait_s
        self._watch_s = min(_WATCH_S, settings.handler_s / 4)
        self._will = will
        self._on_connection = on_connection
        self._identity_check = identity_check
        self._log = structlog.get_logger("edgebus.bus").bind(source=identity.source)

    async def open(self) -> None:
        """Connect; go on without a connection after a while."""
        self.tasks.open()
        await self.publisher.open()
        if self._journal is not None and self._journal.is_open:
            self.tasks.spawn(self._journal.run(), name="outbox")
        if self._will is not None and self._identity_check is not None:
            await self._watch_identity(self._will, self._identity_check)
        await self._open_inbox()
        self.tasks.spawn(self.registry.watch(every_s=self._watch_s), name="watch")
        self.links.start()
        await self._settle(self.connection.up())

    async def _open_inbox(self) -> None:
        router = self.links.main.router
        router.restore(await self.inbox.open())
        if self._notes is not None and self._notes.is_open:
            self.tasks.spawn(self._notes.run(), name="inbox")
        self.tasks.spawn(self.inbox.watch(router), name="late events")

    async def stop(self, *, politely: bool) -> None:
        """End everything.

        Args:
            politely: Disconnect properly, so that the broker sends no will.
        """
        await self.tasks.cancel()
        await self.links.stop(politely=politely)
        self.publisher.down()
        self.registry.fail(BusClosedError())
        self.connection.update(
            ConnectionChange(kind="lost", session=self.connection.session, reason="closed")
        )
        left = len(self.publisher.outbox)
        self.tasks.close()
        await self.publisher.close(flush=politely)
        if self._notes is not None:
            await self._notes.close(flush=politely)
        if left:
            kept = self.outbox.durable
            self._log.warning("closed with events in the outbox", count=left, on_disk=kept)

    async def drain(self, timeout: float) -> None:
        """See `Bus.drain`."""
        for link in self.links.all:
            link.router.taking = False
        subscriptions = self.registry.subscriptions.values()
        consumers = [s.consumer for s in subscriptions if not s.consumer.pulled]
        try:
            async with asyncio.timeout(timeout):
                for consumer in consumers:
                    await consumer.idle()
                await self._outbox_safe()
        except TimeoutError as error:
            unfinished = {c.options.name: c.unfinished for c in consumers if c.unfinished}
            raise DrainTimeoutError(
                timeout=timeout, unfinished=unfinished, outbox=len(self.publisher.outbox)
            ) from error

    async def _outbox_safe(self) -> None:
        """Return once the broker has everything, or is away and the next process can send it."""
        flushed = asyncio.create_task(self.publisher.flushed())
        away = asyncio.create_task(self.connection.down())
        try:
            await asyncio.wait((flushed, away), return_when=asyncio.FIRST_COMPLETED)
            if not self.outbox.durable:  # asked afterwards: a disk may fail meanwhile
                await flushed
        finally:
            flushed.cancel()
            away.cancel()

    def stats(self) -> BusStats:
        """The counters as of now."""
        publisher = self.publisher
        routers = [link.router for link in self.links.all]
        return BusStats(
            published=publisher.published,
            published_bytes=publisher.published_bytes,
            received=sum(router.received for router in routers),
            received_bytes=sum(router.received_bytes for router in routers),
            offline_dropped=publisher.offline_dropped,
            refused=publisher.refused,
            outbox_dropped=publisher.dropped,
            unrouted=sum(router.unrouted for router in routers),
            dead_letters=self.dead_letters.accepted,
            dead_letters_suppressed=self.dead_letters.suppressed,
            connects=self.connection.connects,
            outbox_messages=len(publisher.outbox),
            outbox_bytes=publisher.outbox.bytes,
            inbox_messages=len(self.inbox),
            subscriptions={name: s.stats for name, s in self.registry.subscriptions.items()},
        )

    async def _changed(self, change: ConnectionChange, connection: Connection | None) -> None:
        """The main connection came or went, or another one lost its session."""
        if change.kind == "connected" and connection is self.links.main.connection and connection:
            self.publisher.up(connection)
        # Where it went again meanwhile, `lost` follows.
        self.connection.update(change)
        if self._on_connection is not None:
            await self._on_connection(change)

    async def _watch_identity(self, will: WillFactory, check: IdentityCheck) -> None:
        """Subscribe to the will's topic, and give the identity up where `check` finds another."""
        address, _ = will(0)

        async def observe(event: Event[Any]) -> None:
            own = self.links.first_will
            other = None if own is None else check(event, own)
            if other is not None:
                self.links.give_up(other)

        options = ConsumerOptions(
            name=self.registry.free_name("identity check"),
            policy=DropOldest(messages=64),
            retry=RetryPolicy(attempts=1),
            internal=True,
        )
        wanted = Filter(address.name, address.topic)
        await self.registry.add([(wanted.name, wanted)], observe, options=options)

    async def _open_link(self, name: str, receive_maximum: int) -> Link:
        link, state = self.links.open(name, receive_maximum)
        await self._settle(state.up())
        return link

    async def _settle(self, up: Coroutine[Any, Any, None]) -> None:
        """Wait for a connection for a while; go on without one, stop on a fatal error."""
        if not await self.tasks.settle(up, timeout=self._connect_wait_s):
            await self.stop(politely=True)
            await self.tasks.ended()

    def _failed(self, error: BaseException) -> None:
        self.registry.fail(error)


def _journal(
    what: str, identity: Identity, settings: BusSettings, state: OutboxState
) -> Journal | None:
    """The store of an identity's waiting events; None for tools, which no next process follows."""
    folder = settings.outbox.path
    if folder is None or settings.ephemeral or not settings.outbox.durable:
        return None
    name = ".".join((identity.base, identity.site, identity.node, identity.service))
    return Journal(EventFile(folder / f"{what}.{name}.sqlite"), what=what, state=state)
