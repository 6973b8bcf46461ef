"""State of a bus for its owner: connection, outbox, counters."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Literal, TypeAlias


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionChange:
    """A connection that came or went.

    Attributes:
        kind: ``connected``: subscriptions are live; ``session_lost``: comes right before
            ``connected`` where the broker forgot what it kept for this client, so events may be
            missing; ``lost``: the connection is gone, and a new one is being tried.
        session: Number of the connection, in its will and its birth. Grows with each one.
        session_present: Whether the broker kept this client's subscriptions and events.
        reason: Why it was lost.
    """

    kind: Literal["connected", "session_lost", "lost"]
    session: int
    session_present: bool = False
    reason: str = ""


ConnectionListener: TypeAlias = Callable[[ConnectionChange], Awaitable[None]]


class ConnectionState:
    """State of the connection, and a way to wait for it."""

    def __init__(self) -> None:
        self.session = 0
        self.connects = 0
        self.reason = ""
        self._up = asyncio.Event()
        self._down = asyncio.Event()
        self._down.set()

    @property
    def connected(self) -> bool:
        """True while the broker is there and the subscriptions are live."""
        return self._up.is_set()

    async def up(self) -> None:
        """Return once connected."""
        await self._up.wait()

    async def down(self) -> None:
        """Return once not connected."""
        await self._down.wait()

    def update(self, change: ConnectionChange) -> None:
        """Follow a change; called by the bus only."""
        if change.kind == "session_lost":
            return
        self.session = change.session
        if change.kind == "connected":
            self.connects += 1
            self.reason = ""
            self._down.clear()
            self._up.set()
        else:
            self.reason = change.reason
            self._up.clear()
            self._down.set()


class OutboxState:
    """The state of the outbox's file.

    Attributes:
        durable: Whether events that wait are on disk, or soon will be.
        trouble: Why they are in memory only although they should not be; empty: all is well.
    """

    def __init__(self) -> None:
        self.durable = False
        self.trouble = ""
        self._news = asyncio.Event()

    async def changed(self) -> None:
        """Return once it changed since the last call."""
        await self._news.wait()
        self._news.clear()

    def update(self, *, durable: bool, trouble: str = "") -> None:
        """Follow a change; called by the bus only."""
        if (durable, trouble) != (self.durable, self.trouble):
            self.durable = durable
            self.trouble = trouble
            self._news.set()


@dataclass(slots=True)
class SubscriptionStats:
    """Counters of a subscription's messages; they only grow.

    Attributes:
        received: Messages that reached the subscription.
        handled: Handler calls that succeeded.
        failed: Messages whose handler failed for good; they are dead letters.
        retried: Further calls after a failed one.
        invalid: Messages that did not validate; they are dead letters.
        dropped: Messages dropped by the overflow policy.
        duplicates: Messages not handled because their id was handled before.
        expired: Commands not acted upon because they came too late.
        queued: Messages waiting now.
        queued_bytes: Bytes waiting now.
        active: Handler calls running now.
    """

    received: int = 0
    handled: int = 0
    failed: int = 0
    retried: int = 0
    invalid: int = 0
    dropped: int = 0
    duplicates: int = 0
    expired: int = 0
    queued: int = 0
    queued_bytes: int = 0
    active: int = 0


@dataclass(slots=True)
class BusStats:
    """Counters of the bus; they only grow.

    Attributes:
        published: Messages given to the network or, for events, acknowledged by the broker.
        published_bytes: Their payload bytes.
        received: Messages that came in.
        received_bytes: Their payload bytes.
        offline_dropped: QoS 0 messages published while the broker was away.
        refused: Events that expired in the outbox, were too large for the broker or refused by it.
        outbox_dropped: Events that gave way to newer ones in a full outbox.
        unrouted: Events that no handler wanted.
        dead_letters: Dead letters published.
        dead_letters_suppressed: Dead letters beyond what a subscription may write per second.
        connects: Connections made, the first included.
        outbox_messages: Events waiting for the broker now.
        outbox_bytes: Their payload bytes.
        inbox_messages: Events acknowledged and not handled yet.
        subscriptions: By the subscription's name.
    """

    published: int = 0
    published_bytes: int = 0
    received: int = 0
    received_bytes: int = 0
    offline_dropped: int = 0
    refused: int = 0
    outbox_dropped: int = 0
    unrouted: int = 0
    dead_letters: int = 0
    dead_letters_suppressed: int = 0
    connects: int = 0
    outbox_messages: int = 0
    outbox_bytes: int = 0
    inbox_messages: int = 0
    subscriptions: dict[str, SubscriptionStats] = field(default_factory=dict)
