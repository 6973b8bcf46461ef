"""The bus: typed publish and subscribe with promises that hold when things go wrong."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from datetime import timedelta
from types import TracebackType
from typing import Any, Self, TypeAlias, TypeVar
from urllib.parse import quote

import structlog

from edgebus.bus._consumer import Consumer, ConsumerOptions
from edgebus.bus._delivery import Route
from edgebus.bus._letters import LetterBox
from edgebus.bus._link import Link
from edgebus.bus._publisher import Publisher
from edgebus.bus._requests import Requests, reply_address, target_of
from edgebus.bus._trie import check_filter
from edgebus.bus.connection import ConnectionChange, ConnectionListener, ConnectionState
from edgebus.bus.errors import (
    BrokerUnreachableError,
    BusClosedError,
    DrainTimeoutError,
    RequestTimeoutError,
)
from edgebus.bus.event import ClearedHandler, Event, Handler, RawHandler
from edgebus.bus.policy import DropOldest, QueuePolicy, Wait
from edgebus.bus.settings import BusSettings, RetryPolicy
from edgebus.bus.stats import BusStats
from edgebus.bus.subscription import Subscription
from edgebus.bus.transport import Connection, ConnectOptions, Outgoing, Transport, Will
from edgebus.contracts import Address, Command, Filter, Identity, Payload, Qos, Reply, utc_now
from edgebus.contracts.payload import P
from edgebus.contracts.topics import REPLY

__all__ = ["Bus", "WillFactory"]

R = TypeVar("R", bound=Reply)
WillFactory: TypeAlias = Callable[[int], tuple[Address[Any], Payload]]

_NO_RETRY = RetryPolicy(attempts=1)


class Bus:
    """Publishes and subscribes for one identity, over a transport whose connection may come and go.

    Use it as an async context manager. Opening waits for the broker for at most
    `settings.connect_wait_s` and goes on without it: the bus keeps trying, for ever.

    Args:
        transport: What carries the messages.
        identity: Who publishes; also the base of the MQTT client id.
        settings: Limits and times.
        will: Makes the last will of the connection with the given session number.
        on_connection: Awaited after each change of the connection. On ``connected`` it is the
            place for the birth message: it may publish.
    """

    def __init__(
        self,
        transport: Transport,
        *,
        identity: Identity,
        settings: BusSettings | None = None,
        will: WillFactory | None = None,
        on_connection: ConnectionListener | None = None,
    ) -> None:
        self.identity = identity
        self.connection = ConnectionState()
        self._transport = transport
        self._settings = settings or BusSettings()
        self._will = will
        self._on_connection = on_connection
        self._suffix = f":{secrets.token_hex(6)}" if self._settings.ephemeral else ""
        self._publisher = Publisher(settings=self._settings, packet_limit=transport.packet_limit)
        self._letters = LetterBox(publisher=self._publisher, identity=identity)
        self._requests = Requests()
        self._answering: dict[str, asyncio.Task[None]] = {}
        self._subscriptions: dict[str, Subscription] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._over: asyncio.Future[None] | None = None
        self._log = structlog.get_logger("edgebus.bus").bind(source=identity.source)
        self._main = Link(
            transport=transport,
            options=self._main_options,
            settings=self._settings,
            changed=self._changed,
            down=self._down,
            name="main",
        )
        self._links = [self._main]

    # Life

    async def __aenter__(self) -> Self:
        self._over = asyncio.get_running_loop().create_future()
        self._spawn(self._main.run(), name="link main")
        await self._settle_down(self.connection.up())
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._stop(close=True)

    async def crash(self) -> None:
        """Drop everything where it stands, without a word to the broker, as `kill -9` does."""
        await self._stop(close=False)

    async def watch(self) -> None:
        """Return when the bus is closed.

        Raises:
            IdentityTakenError: Another process uses this identity; this one has given up.
            Exception: Whatever else ended one of the bus's tasks: a bug, or a listener's error.
        """
        if self._over is None:
            raise BusClosedError
        await asyncio.shield(self._over)

    async def connected(self, timeout: float | None = None) -> None:
        """Return once connected.

        Raises:
            BrokerUnreachableError: Not within `timeout` seconds.
        """
        try:
            await asyncio.wait_for(self.connection.up(), timeout)
        except TimeoutError as error:
            reason = f"no connection within {timeout:g} s"
            raise BrokerUnreachableError(url=self._transport.url, reason=reason) from error

    async def drain(self, timeout: float) -> None:
        """Take no more messages, finish what was accepted, and bring the outbox to the broker.

        Publishing still works afterwards, for a last word. Events that come meanwhile stay
        unacknowledged: the broker gives them to the next connection.

        Raises:
            DrainTimeoutError: Something is unfinished after `timeout` seconds.
        """
        for link in self._links:
            link.router.taking = False
        consumers = [s.consumer for s in self._subscriptions.values() if not s.consumer.pulled]
        try:
            async with asyncio.timeout(timeout):
                for consumer in consumers:
                    await consumer.idle()
                await self._publisher.flushed()
        except TimeoutError as error:
            unfinished = {c.options.name: c.unfinished for c in consumers if c.unfinished}
            raise DrainTimeoutError(
                timeout=timeout, unfinished=unfinished, outbox=len(self._publisher.outbox)
            ) from error

    # Publishing

    async def publish(
        self, address: Address[P], payload: P, *, expires_in_s: float | None = None
    ) -> None:
        """Publish a message with its topic's quality of service and retain flag.

        QoS 0 returns once the network has room; while the broker is away it is dropped, counted.
        QoS 1 returns once the broker has it, or, where the broker is away, once it waits in the
        outbox, which is sent in order after the reconnect.

        Args:
            address: Where to.
            payload: What.
            expires_in_s: Not to be delivered later than this (outbox; on MQTT 5 also the broker).

        Raises:
            MessageTooLargeError: The broker would not take it; nothing was sent.
            OutboxFullError: The broker is away and the outbox is full.
            PublishRefusedError: The broker refuses it (MQTT 5).
            BusClosedError: The bus is not open.
        """
        await self._send(address, payload.encode(), expires_in_s)

    async def clear(self, address: Address[Any]) -> None:
        """Take away the retained value of a topic.

        Raises:
            ValueError: The topic is not retained.
            OutboxFullError: The broker is away and the outbox is full.
        """
        if not address.topic.retain:
            msg = f"{address} is not a retained topic; there is nothing to clear"
            raise ValueError(msg)
        await self._send(address, b"", None)

    async def _send(self, address: Address[Any], data: bytes, expires_in_s: float | None) -> None:
        self._open()
        topic = address.topic
        message = Outgoing(
            topic=address.name,
            payload=data,
            qos=topic.qos,
            retain=topic.retain,
            content_type=topic.payload.content_type,
            expiry_s=None if expires_in_s is None else max(1, round(expires_in_s)),
        )
        await self._publisher.publish(message, lifetime_s=expires_in_s)

    # Subscribing

    async def subscribe(
        self,
        filter: Filter[P],  # noqa: A002 MQTT's word for it
        handler: Handler[P],
        *,
        policy: QueuePolicy | None = None,
        retry: RetryPolicy | None = None,
        concurrency: int = 1,
        deduplicate: bool = True,
        name: str | None = None,
        on_cleared: ClearedHandler | None = None,
    ) -> Subscription:
        """Call `handler` for every message that matches.

        An event is acknowledged after all its handlers are done. A payload that does not validate
        becomes a dead letter; a handler that raises is called again as `retry` says, and its
        message becomes a dead letter after that. Commands past their `expires` are not handled.

        Returns once the broker has confirmed, where it is there; else it is subscribed to with
        the next connection.

        Args:
            filter: What to subscribe to.
            handler: Awaited with each event.
            policy: What happens when messages come faster; by default `Wait` for QoS 1 topics
                and `DropOldest` for QoS 0.
            retry: How often a failing handler is called again.
            concurrency: Handler calls that may run at a time; with 1, order is kept.
            deduplicate: Whether a message whose id was handled is left out.
            name: For logs, counters and dead letters; by default the filter.
            on_cleared: Awaited when a retained value was taken away.

        Raises:
            SubscribeRefusedError: The broker does not allow it.
            BusClosedError: The bus is not open.
        """
        return await self._subscribe(
            [(filter.name, filter)],
            handler,
            policy=policy or (Wait() if filter.topic.qos else DropOldest()),
            retry=retry or RetryPolicy(),
            concurrency=concurrency,
            deduplicate=deduplicate,
            name=name or filter.name,
            on_cleared=on_cleared,
        )

    async def tap(
        self,
        filter: str,  # noqa: A002 MQTT's word for it
        handler: RawHandler,
        *,
        policy: QueuePolicy | None = None,
        retry: RetryPolicy | None = None,
        qos: Qos = 0,
        name: str | None = None,
    ) -> Subscription:
        """Call `handler` with the raw messages of any topic filter, of third parties too.

        Raises:
            SubscribeRefusedError: It is no topic filter, or the broker does not allow it.
            BusClosedError: The bus is not open.
        """
        return await self._subscribe(
            [(check_filter(filter), None)],
            handler,
            policy=policy or DropOldest(),
            retry=retry or _NO_RETRY,
            deduplicate=False,
            name=name or filter,
            qos=qos,
        )

    @asynccontextmanager
    async def stream(
        self,
        *filters: Filter[Any] | str,
        policy: QueuePolicy | None = None,
        name: str | None = None,
    ) -> AsyncIterator[AsyncIterator[Event[Any]]]:
        """The messages of some filters as an async iterator, for views and tools.

        Raw filters give events with a `RawBytes` payload. A message counts as done when the
        iterator has given it out; those that do not validate are left out, counted.

        Usage::

            async with bus.stream(SERVICE_STATE.any()) as events:
                async for event in events:
                    ...
        """
        wanted: list[tuple[str, Filter[Any] | None]] = [
            (check_filter(item), None) if isinstance(item, str) else (item.name, item)
            for item in filters
        ]
        subscription = await self._subscribe(
            wanted,
            None,
            policy=policy or DropOldest(),
            retry=_NO_RETRY,
            deduplicate=True,
            name=name or "stream " + " ".join(text for text, _ in wanted),
        )
        consumer = subscription.consumer

        async def events() -> AsyncIterator[Event[Any]]:
            while True:
                yield await consumer.pull()

        iterator = events()
        try:
            yield iterator
        finally:
            await subscription.unsubscribe()

    async def _subscribe(
        self,
        filters: list[tuple[str, Filter[Any] | None]],
        handler: Callable[[Any], Coroutine[Any, Any, None]] | Handler[Any] | RawHandler | None,
        *,
        policy: QueuePolicy,
        retry: RetryPolicy,
        deduplicate: bool,
        name: str,
        concurrency: int = 1,
        qos: Qos = 0,
        on_cleared: ClearedHandler | None = None,
        internal: bool = False,
    ) -> Subscription:
        self._open()
        name = self._unique(name)
        options = ConsumerOptions(
            name=name,
            policy=policy,
            retry=retry,
            concurrency=concurrency,
            deduplicate=deduplicate,
            dedup_ids=self._settings.dedup_ids,
            on_cleared=on_cleared,
            internal=internal,
        )
        consumer = Consumer(options=options, handler=handler, office=self._letters)
        link = self._main
        if isinstance(policy, Wait) and policy.own_connection:
            link = await self._open_link(name, policy.messages)
        subscription = Subscription(consumer=consumer, forget=self._forget)
        self._subscriptions[name] = subscription
        if handler is not None:
            for number in range(concurrency):
                task = self._spawn(consumer.work(), name=f"{name} {number}")
                subscription.workers.append(task)
        try:
            for text, wanted in filters:
                route = Route(text, wanted.topic if wanted else None, consumer)
                subscription.routes.append((link, route))
                await link.add(route, wanted.topic.qos if wanted else qos)
        except BaseException:
            await subscription.unsubscribe()
            raise
        return subscription

    def _forget(self, subscription: Subscription) -> None:
        self._subscriptions.pop(subscription.name, None)

    def _unique(self, name: str) -> str:
        number, unique = 1, name
        while unique in self._subscriptions:
            number += 1
            unique = f"{name} #{number}"
        return unique

    async def _open_link(self, name: str, receive_maximum: int) -> Link:
        """A connection of its own for one subscription."""
        state = ConnectionState()

        async def changed(change: ConnectionChange, _connection: Connection | None) -> None:
            state.update(change)
            if change.kind == "session_lost" and self._on_connection is not None:
                await self._on_connection(change)

        def options(_session: int) -> ConnectOptions:
            return ConnectOptions(
                client_id=f"{self._client_id()}:{quote(name, safe='')}",
                session_expiry_s=0 if self._settings.ephemeral else None,
                receive_maximum=min(receive_maximum, 65535),
            )

        link = Link(
            transport=self._transport,
            options=options,
            settings=self._settings,
            changed=changed,
            down=_nothing,
            name=name,
        )
        self._links.append(link)
        self._spawn(link.run(), name=f"link {name}")
        await self._settle_down(state.up())
        return link

    # Commands

    async def request(
        self, address: Address[Any], command: Command, *, reply: type[R], timeout: float
    ) -> R:
        """Send a command and wait for its answer.

        The answer comes below the prefix of the service that answers, so that a device needs no
        right to write elsewhere. The command expires with the time-out.

        Args:
            address: Topic of the command.
            command: The command; `reply_to` and `expires` are filled in.
            reply: Type of the answer.
            timeout: Seconds to wait.

        Raises:
            RequestTimeoutError: No answer in time; it may have been carried out nevertheless.
            CommandFailedError: The answer is a plain no and not of the type asked for.
            PayloadError: The answer does not validate.
            BusClosedError: The bus is not open.
        """
        self._open()
        target = target_of(address)
        reply_to = REPLY.at(target, request=command.id).name
        expires = command.expires or utc_now() + timedelta(seconds=timeout)
        command = command.model_copy(update={"reply_to": reply_to, "expires": expires})
        future = self._requests.expect(command.id, reply, topic=address.name)
        try:
            async with asyncio.timeout(timeout):
                await self._listen_to(target)
                await self.publish(address, command, expires_in_s=timeout)
                return await future
        except TimeoutError as error:
            raise RequestTimeoutError(topic=address.name, timeout=timeout) from error
        finally:
            self._requests.forget(command.id)

    async def reply(self, event: Event[Any], reply: Reply) -> None:
        """Answer a command; nothing happens where the sender asked for no answer.

        Raises:
            ContractError: The command asks for an answer outside this service's own prefix.
            BusClosedError: The bus is not open.
        """
        command: Command = event.payload
        if command.reply_to is None:
            return
        await self.publish(reply_address(command.reply_to, identity=self.identity), reply)

    async def _listen_to(self, target: Identity) -> None:
        """Subscribe to a service's answers, once."""
        if target.prefix not in self._answering:
            self._answering[target.prefix] = self._spawn(
                self._subscribe_answers(target), name=f"answers of {target}"
            )
        await asyncio.shield(self._answering[target.prefix])

    async def _subscribe_answers(self, target: Identity) -> None:
        wanted = REPLY.any(
            base=target.base, site=target.site, node=target.node, service=target.service
        )
        await self._subscribe(
            [(wanted.name, None)],
            self._requests.answered,
            policy=Wait(),
            retry=_NO_RETRY,
            deduplicate=False,
            name=f"answers of {target}",
            qos=1,
            internal=True,
        )

    # Figures

    @property
    def stats(self) -> BusStats:
        """The counters as of now."""
        publisher = self._publisher
        routers = [link.router for link in self._links]
        return BusStats(
            published=publisher.published,
            published_bytes=publisher.published_bytes,
            received=sum(router.received for router in routers),
            received_bytes=sum(router.received_bytes for router in routers),
            offline_dropped=publisher.offline_dropped,
            refused=publisher.refused,
            unrouted=sum(router.unrouted for router in routers),
            dead_letters=self._letters.accepted,
            connects=self.connection.connects,
            outbox_messages=len(publisher.outbox),
            outbox_bytes=publisher.outbox.bytes,
            subscriptions={name: s.stats for name, s in self._subscriptions.items()},
        )

    # Inside

    def _client_id(self) -> str:
        """MQTT client id: the identity without characters that brokers' ACLs refuse in ids."""
        identity = self.identity
        parts = (identity.base, identity.site, identity.node, identity.service)
        return ":".join(quote(part, safe="") for part in parts) + self._suffix

    def _main_options(self, session: int) -> ConnectOptions:
        will = None
        if self._will is not None:
            address, payload = self._will(session)
            will = Will(
                topic=address.name,
                payload=payload.encode(),
                qos=address.topic.qos,
                retain=address.topic.retain,
                content_type=address.topic.payload.content_type,
            )
        return ConnectOptions(
            client_id=self._client_id(),
            session_expiry_s=0 if self._settings.ephemeral else None,
            will=will,
        )

    async def _changed(self, change: ConnectionChange, connection: Connection | None) -> None:
        """The main connection came or went."""
        if change.kind == "connected" and connection is self._main.connection and connection:
            self._publisher.up(connection)
        # Where it went again meanwhile, `lost` follows.
        self.connection.update(change)
        if self._on_connection is not None:
            await self._on_connection(change)

    def _down(self) -> None:
        self._publisher.down()

    async def _settle_down(self, up: Coroutine[Any, Any, None]) -> None:
        """Wait for a connection for a while; go on without one, stop on a fatal error."""
        over = self._open()
        waiting = asyncio.ensure_future(up)
        await asyncio.wait(
            [waiting, over],
            timeout=self._settings.connect_wait_s,
            return_when=asyncio.FIRST_COMPLETED,
        )
        waiting.cancel()
        if over.done():
            await self._stop(close=True)
            over.result()

    def _open(self) -> asyncio.Future[None]:
        over = self._over
        if over is None or over.done():
            if over is not None and (error := over.exception()) is not None:
                raise BusClosedError from error
            raise BusClosedError
        return over

    def _spawn(self, work: Coroutine[Any, Any, None], *, name: str) -> asyncio.Task[None]:
        task = asyncio.create_task(work, name=f"bus {self.identity} {name}")
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if task.cancelled() or (error := task.exception()) is None:
            return
        if self._over is not None and not self._over.done():
            self._log.error("the bus has failed", task=task.get_name(), error=str(error))
            self._over.set_exception(error)
            for subscription in self._subscriptions.values():
                subscription.consumer.fail(error)

    async def _stop(self, *, close: bool) -> None:
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for link in self._links:
            if close:
                await link.close()
            else:
                link.abort()
        self._publisher.down()
        self.connection.update(
            ConnectionChange(kind="lost", session=self.connection.session, reason="closed")
        )
        if len(self._publisher.outbox):
            self._log.warning("closed with events in the outbox", count=len(self._publisher.outbox))
        if self._over is not None and not self._over.done():
            self._over.set_result(None)
        elif self._over is not None and self._over.exception() is not None:
            self._log.debug("closed after a failure")


def _nothing() -> None:
    """A link that publishes nothing has nothing to do when it goes down."""
