"""A handler's tie to the bus."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from edgebus.bus._consumer import Consumer
from edgebus.bus._delivery import Route
from edgebus.bus._link import Link
from edgebus.bus.stats import SubscriptionStats

__all__ = ["Subscription"]


class Subscription:
    """What `Bus.subscribe` returns."""

    def __init__(
        self, *, consumer: Consumer, forget: Callable[[Subscription], Awaitable[None]]
    ) -> None:
        self.consumer = consumer
        self.routes: list[tuple[Link, Route]] = []
        self.workers: list[asyncio.Task[None]] = []
        self.own_link: Link | None = None
        self._forget = forget

    @property
    def name(self) -> str:
        """Its name in logs, counters and dead letters."""
        return self.consumer.options.name

    @property
    def stats(self) -> SubscriptionStats:
        """Its counters as of now."""
        return self.consumer.stats

    async def unsubscribe(self) -> None:
        """Get no more messages; those that were accepted are handled first.

        From within its own handler it does not wait for them: that would be for ever.
        """
        for link, route in self.routes:
            await link.remove(route)
        current = asyncio.current_task()
        if self.workers and current not in self.workers:
            await self.consumer.idle()
        for task in self.workers:
            if task is not current:
                task.cancel()
        self.consumer.discard()
        await self._forget(self)
