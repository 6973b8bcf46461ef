"""Subscriptions: a handler's tie to the bus, and the registry of all of them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from edgebus.bus._consumer import Consumer, ConsumerOptions, DeadLetterSink
from edgebus.bus._delivery import Route
from edgebus.bus._link import Link
from edgebus.bus._tasks import Tasks
from edgebus.bus.queues import Wait
from edgebus.bus.state import SubscriptionStats
from edgebus.contracts import Filter, Qos


class Subscription:
    """A handler's tie to the bus."""

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


Wanted = tuple[str, Filter[Any] | None]
"""A filter, and what its messages are; None for raw ones."""


class Registry:
    """The subscriptions of a bus.

    Args:
        tasks: Runs the handlers.
        sink: Takes dead letters.
        main: The connection that subscriptions share.
        open_link: Opens a further connection by name, with the given receive maximum.
        close_link: Closes one of those.
    """

    def __init__(
        self,
        *,
        tasks: Tasks,
        sink: DeadLetterSink,
        main: Link,
        open_link: Callable[[str, int], Awaitable[Link]],
        close_link: Callable[[Link], Awaitable[None]],
    ) -> None:
        self.subscriptions: dict[str, Subscription] = {}
        self._tasks = tasks
        self._sink = sink
        self._main = main
        self._open_link = open_link
        self._close_link = close_link

    async def add(
        self,
        wanted: list[Wanted],
        handler: Callable[[Any], Awaitable[None]] | None,
        *,
        options: ConsumerOptions,
        qos: Qos = 0,
    ) -> Subscription:
        """Subscribe.

        Args:
            wanted: What to; raw filters are subscribed to with `qos`.
            handler: Who is called; None: the messages are pulled.
            options: How; the name must be `free_name`.
            qos: Of raw filters.

        Raises:
            SubscribeRefusedError: The broker does not allow it.
            BusClosedError: The bus is not open.
        """
        self._tasks.check()
        name, policy = options.name, options.policy
        consumer = Consumer(options=options, handler=handler, sink=self._sink)
        subscription = Subscription(consumer=consumer, forget=self._forget)
        self.subscriptions[name] = subscription
        try:
            link = self._main
            if isinstance(policy, Wait) and policy.own_connection:
                link = await self._open_link(name, policy.messages)
                subscription.own_link = link
            if handler is not None:
                for number in range(options.concurrency):
                    task = self._tasks.spawn(consumer.work(), name=f"{name} {number}")
                    subscription.workers.append(task)
            for text, typed in wanted:
                route = Route(text, typed.topic if typed else None, consumer)
                subscription.routes.append((link, route))
                await link.add(route, typed.topic.qos if typed else qos)
        except BaseException:
            await subscription.unsubscribe()
            raise
        return subscription

    def free_name(self, name: str) -> str:
        """`name`, with a number where it is taken."""
        number, free = 1, name
        while free in self.subscriptions:
            number += 1
            free = f"{name} #{number}"
        return free

    async def watch(self, *, every_s: float) -> None:
        """Keep handlers to their time, for ever."""
        loop = asyncio.get_running_loop()
        last = loop.time()
        while True:
            await asyncio.sleep(every_s)
            late, last = loop.time() - last - every_s, loop.time()
            for name, subscription in list(self.subscriptions.items()):
                if late > every_s:
                    subscription.consumer.excuse(late)
                for worker in subscription.consumer.check(last):
                    task = self._tasks.spawn(worker, name=f"{name} in place of a hanging one")
                    subscription.workers.append(task)

    def fail(self, error: BaseException) -> None:
        """The bus is gone; whoever waits for a message gets `error`."""
        for subscription in self.subscriptions.values():
            subscription.consumer.fail(error)

    async def _forget(self, subscription: Subscription) -> None:
        self.subscriptions.pop(subscription.name, None)
        if subscription.own_link is not None:
            await self._close_link(subscription.own_link)
