"""Publishing over a connection that comes and goes."""

from __future__ import annotations

import asyncio
import time
from functools import partial

import structlog

from edgebus.bus._journal import Journal, Stored
from edgebus.bus._outbox import OVERFLOW, Entry, Outbox
from edgebus.bus.errors import MessageTooLargeError, OutboxFullError, PublishRefusedError
from edgebus.bus.settings import BusSettings
from edgebus.bus.transport import Connection, Outgoing

_MAX_RETAINED = 1000


class Publisher:
    """Sends what is published, keeps events until the broker has them, repeats retained state.

    Args:
        settings: Limits.
        packet_limit: Largest packet as far as it is known before the broker announces its own.
        journal: Keeps on disk what waits; None: memory only.
    """

    def __init__(
        self,
        *,
        settings: BusSettings,
        packet_limit: int | None,
        journal: Journal | None = None,
    ) -> None:
        self.published = 0
        self.published_bytes = 0
        self.offline_dropped = 0
        self.refused = 0
        self.dropped = 0
        limits = settings.outbox
        self.outbox = Outbox(max_messages=limits.max_messages, max_bytes=limits.max_bytes)
        self._drop_oldest = limits.overflow == "drop_oldest"
        self._dropping = False
        self._journal = journal
        self._packet_limit = packet_limit
        self._connection: Connection | None = None
        self._retained: dict[str, Outgoing] = {}
        self._waiting: set[asyncio.Future[None]] = set()
        self._line = asyncio.Lock()
        self._in_line = 0
        self._room = asyncio.Event()
        self._room.set()
        self._empty = asyncio.Event()
        self._empty.set()
        self._log = structlog.get_logger("edgebus.bus")

    async def open(self) -> None:
        """Take over what a process before left on disk: it is sent before anything else."""
        if self._journal is None:
            return
        for number, message, expires in await self._journal.open():
            deadline = None
            if expires is not None:
                left = expires - time.time()
                deadline = time.monotonic() + left
                message = message._replace(expiry_s=max(1, round(left)))  # noqa: PLW2901
            entry = self.outbox.restore(message, number=number, deadline=deadline)
            entry.done = partial(self._settled, entry, None)
            self._empty.clear()
        if not self._journal.is_open:
            self._journal = None

    async def close(self, *, flush: bool) -> None:
        """Bring what waits to the disk and let go of it.

        Args:
            flush: Whether to write; not after a crash.
        """
        if self._journal is not None:
            await self._journal.close(flush=flush)

    def up(self, connection: Connection) -> None:
        """A connection is there: repeat retained state, then send what waited."""
        self._connection = connection
        self._dropping = False
        if connection.packet_limit is not None:
            self._packet_limit = connection.packet_limit
        waiting = self.outbox.topics()
        for topic, message in reversed(self._retained.items()):
            if topic in waiting:
                continue
            if not message.qos:
                connection.publish(message)
                continue
            try:
                entry = self.outbox.put(message, first=True)
            except OutboxFullError:
                self._log.warning("retained state not repeated: outbox full", topic=topic)
            else:
                entry.done = partial(self._settled, entry, None)
                self._empty.clear()
        self._pump()

    def down(self) -> None:
        """The connection is gone; whoever waits for the broker need not: the outbox has it."""
        self._connection = None
        self.outbox.rewind()
        for future in self._waiting:
            if not future.done():
                future.set_result(None)
        self._room.set()

    async def publish(
        self,
        message: Outgoing,
        *,
        lifetime_s: float | None = None,
        wait: bool = False,
        remember: bool = True,
        durable: bool = True,
    ) -> None:
        """Send a message; see `Bus.publish`.

        Args:
            message: What to send.
            lifetime_s: An event is not sent any more after this many seconds in the outbox.
            wait: Wait for room in the outbox even while the broker is away.
            remember: Repeat a retained value after each reconnect.
            durable: Keep an event on disk while it waits, where there is a journal; retained
                values never are, their publisher repeats them.

        Raises:
            MessageTooLargeError: Nothing was sent.
            OutboxFullError: The broker is away and the outbox is full.
            PublishRefusedError: The broker refused it.
        """
        self._check_size(message)
        if message.retain and remember:
            self._remember(message)
        connection = self._connection
        if not message.qos:
            if connection is None:
                self.offline_dropped += 1
                return
            connection.publish(message)
            self.published += 1
            self.published_bytes += len(message.payload)
            await connection.writable()
            return
        deadline = None if lifetime_s is None else time.monotonic() + lifetime_s
        entry = await self._accept(message, deadline, wait=wait)
        journal = self._journal
        if journal is not None and durable and not message.retain:
            entry.durable = True
            expires = None if lifetime_s is None else time.time() + lifetime_s
            journal.add(Stored(entry.number, message, expires))
        if self._connection is None:
            entry.done = partial(self._settled, entry, None)
            if journal is not None:
                await journal.written(entry.number)
            return
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        entry.done = partial(self._settled, entry, future)
        self._waiting.add(future)
        self._pump()
        try:
            await future
        finally:
            self._waiting.discard(future)
        if journal is not None:
            # Where the connection broke, the outbox has it only now.
            await journal.written(entry.number)

    async def flushed(self) -> None:
        """Return once the broker has everything."""
        await self._empty.wait()

    async def _accept(self, message: Outgoing, deadline: float | None, *, wait: bool) -> Entry:
        if not self._in_line and (entry := self._put(message, deadline, wait=wait)) is not None:
            return entry
        if wait:
            # A dead letter may wait for long; others must not have to wait behind it.
            return await self._put_when_room(message, deadline, wait=wait)
        # First come, first served, also where room appears while somebody new comes: else events
        # that were published in one order would be sent in another.
        self._in_line += 1
        try:
            async with self._line:
                return await self._put_when_room(message, deadline, wait=wait)
        finally:
            self._in_line -= 1

    async def _put_when_room(
        self, message: Outgoing, deadline: float | None, *, wait: bool
    ) -> Entry:
        while (entry := self._put(message, deadline, wait=wait)) is None:
            self._room.clear()
            await self._room.wait()
        return entry

    def _put(self, message: Outgoing, deadline: float | None, *, wait: bool) -> Entry | None:
        """Into the outbox; None: it is full, and to be waited for."""
        try:
            entry = self.outbox.put(
                message,
                deadline=deadline,
                make_room=self._drop_oldest and self._connection is None,
            )
        except OutboxFullError:
            if self._connection is None and not wait:
                raise
            return None
        self._empty.clear()
        return entry

    def _settled(self, entry: Entry, future: asyncio.Future[None] | None, why: str | None) -> None:
        """The outbox let go of an entry."""
        message = entry.message
        if entry.durable and self._journal is not None:
            self._journal.remove(entry.number)
        if why is None:
            self.published += 1
            self.published_bytes += len(message.payload)
        elif why is OVERFLOW:
            self.dropped += 1
            if not self._dropping:
                self._log.warning("outbox full, dropping the oldest", topic=message.topic)
            self._dropping = True
        else:
            self.refused += 1
            if future is None or future.done():
                self._log.warning("event not delivered", topic=message.topic, reason=why)
        if future is not None and not future.done():
            if why is None:
                future.set_result(None)
            else:
                future.set_exception(PublishRefusedError(topic=message.topic, reason=why))

    def _pump(self) -> None:
        """Send as much as the broker's window takes."""
        connection = self._connection
        if connection is None:
            return
        window = connection.send_window
        while (entry := self.outbox.next(window=window, now=time.monotonic())) is not None:
            limit = self._packet_limit
            if limit is not None and entry.message.packet_bytes > limit:
                # Accepted while the broker, and so its limit, was not known.
                size = entry.message.packet_bytes
                self.outbox.settle(entry, f"{size} bytes, the broker takes {limit}")
                continue
            connection.publish(entry.message, partial(self._acknowledged, entry))
        self._note_room()

    def _acknowledged(self, entry: Entry, refusal: str | None) -> None:
        self.outbox.settle(entry, refusal)
        self._pump()

    def _note_room(self) -> None:
        if self.outbox.has_room:
            self._room.set()
        if not len(self.outbox):
            self._empty.set()

    def _check_size(self, message: Outgoing) -> None:
        size, limit = message.packet_bytes, self._packet_limit
        if limit is not None and size > limit:
            raise MessageTooLargeError(topic=message.topic, size=size, limit=limit)

    def _remember(self, message: Outgoing) -> None:
        # Clearings too: brokers exist that confirm one and have the old value after a crash.
        self._retained.pop(message.topic, None)
        self._retained[message.topic] = message
        if len(self._retained) > _MAX_RETAINED:
            del self._retained[next(iter(self._retained))]
