"""The inbox: events whose handlers take long, noted on disk and acknowledged before they are done.

MQTT has a client acknowledge in the order of arrival (MQTT-4.6.0-2), and a broker sends only so
many events ahead. One that waits for its handler would hold up those of every other subscription of
the connection, for as long as the handler takes. So what is not done after a moment is written
down, acknowledged, and handled on; a process that dies meanwhile leaves it to the next one.
"""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from functools import partial

import structlog

from edgebus.bus._delivery import AckWindow, Delivery, Slot
from edgebus.bus._journal import Journal, Stored
from edgebus.bus._router import Router
from edgebus.bus.event import RawMessage
from edgebus.bus.settings import InboxSettings
from edgebus.bus.transport import Outgoing

# Without a disk it takes this many times as long.
_PATIENT = 5


class Inbox:
    """Sets late events aside.

    Args:
        settings: When, and how many.
        journal: Keeps them on disk; None: memory only.
        careless: Whether events may be acknowledged although a crash would lose them: a tool has no
            session, so the broker would not send them again either.
        pressure: Events not acknowledged from which on that is done in any case, where there is no
            disk: what a crash loses then is less than what would not come in at all.
    """

    def __init__(
        self, settings: InboxSettings, *, journal: Journal | None, careless: bool, pressure: int
    ) -> None:
        self._settings = settings
        self._journal = journal
        self._careless = careless
        self._pressure = pressure
        self._number = 0
        self._sizes: dict[int, int] = {}
        self._bytes = 0
        self._full = False
        self._log = structlog.get_logger("edgebus.bus")

    def __len__(self) -> int:
        return len(self._sizes)

    async def open(self) -> list[Delivery]:
        """Take the file; what the process before had not finished, oldest first."""
        if self._journal is None:
            return []
        deliveries = []
        for number, message, moment in await self._journal.open():
            received = RawMessage(
                topic=message.topic,
                payload=message.payload,
                qos=1,
                retained=False,
                duplicate=True,
                received=datetime.fromtimestamp(moment or 0.0, UTC),
                content_type=message.content_type or None,
            )
            delivery = Delivery(received, None)
            self._keep(number, delivery)
            deliveries.append(delivery)
            self._number = number
        if not self._journal.is_open:
            self._journal = None
        return deliveries

    async def watch(self, router: Router) -> None:
        """Relieve a connection of what its handlers are late with, for ever."""
        while True:
            await asyncio.sleep(self._settings.after_s / 4)
            await self.relieve(router.window, now=asyncio.get_running_loop().time())

    async def relieve(self, window: AckWindow, *, now: float) -> None:
        """Note what is late and acknowledge it.

        Args:
            window: What the connection has not acknowledged.
            now: Time on the loop's clock.
        """
        patience = self._settings.after_s
        safe = self._journal is not None or self._careless
        if not safe:
            patience *= _PATIENT
            safe = len(window) >= self._pressure
        aside: list[tuple[Slot, int | None]] = []
        for slot, delivery in window.late(now - patience):
            message = delivery.message
            if message.retained:  # the broker has it for the next process too
                aside.append((slot, None))
                continue
            if not safe:
                continue
            if not self._has_room(len(message.payload)):
                break
            self._number += 1
            self._keep(self._number, delivery)
            if self._journal is not None:
                self._journal.add(_stored(self._number, message))
            aside.append((slot, self._number))
        for slot, number in aside:
            if number is None or self._journal is None or await self._journal.kept(number):
                window.finish(slot)
            elif slot.delivery is not None:  # the disk does not take it: the broker keeps it
                slot.delivery.forget()

    def _keep(self, number: int, delivery: Delivery) -> None:
        size = len(delivery.message.payload)
        self._sizes[number] = size
        self._bytes += size
        delivery.when_done = partial(self._done, number)

    def _done(self, number: int) -> None:
        self._bytes -= self._sizes.pop(number)
        self._full = False
        if self._journal is not None:
            self._journal.remove(number)

    def _has_room(self, size: int) -> bool:
        limits = self._settings
        full = len(self) >= limits.max_messages or self._bytes + size > limits.max_bytes
        if full and not self._full:
            self._log.warning(
                "inbox full: handlers that are late hold up the others",
                messages=len(self),
                bytes=self._bytes,
            )
        self._full = full
        return not full


def _stored(number: int, message: RawMessage) -> Stored:
    outgoing = Outgoing(
        topic=message.topic,
        payload=message.payload,
        qos=1,
        content_type=message.content_type or "",
    )
    return Stored(number, outgoing, message.received.timestamp())
