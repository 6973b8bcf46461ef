"""Whether events outlive the process, for the bus's owner to see."""

from __future__ import annotations

import asyncio

__all__ = ["OutboxState"]


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
