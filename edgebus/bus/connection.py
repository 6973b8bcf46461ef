"""What the owner of a bus sees of its connection."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Literal, TypeAlias

__all__ = ["ConnectionChange", "ConnectionListener", "ConnectionState"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionChange:
    """The connection came or went.

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
    """Whether the bus is connected, and a way to wait for it."""

    def __init__(self) -> None:
        self.session = 0
        self.connects = 0
        self.reason = ""
        self._up = asyncio.Event()
        self._down = asyncio.Event()
        self._down.set()

    @property
    def connected(self) -> bool:
        """Whether the broker is there and the subscriptions are live."""
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
