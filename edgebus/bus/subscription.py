"""A handler's tie to the bus."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from edgebus.bus._consumer import Consumer
from edgebus.bus._delivery import Route
from edgebus.bus._link import Link
from edgebus.bus.stats import SubscriptionStats

__all__ = ["Subscription"]


class Subscription:
    """What `Bus.subscribe` returns."""

    def __init__(self, *, consumer: Consumer, forget: Callable[[Subscription], None]) -> None:
        self.consumer = consumer
        self.routes: list[tuple[Link, Route]] = []
        self.workers: list[asyncio.Task[None]] = []
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
        """Get no more messages; those that were accepted are handled first."""
        for link, route in self.routes:
            await link.remove(route)
        if self.workers:
            await self.consumer.idle()
        for task in self.workers:
            task.cancel()
        self.consumer.discard()
        self._forget(self)
