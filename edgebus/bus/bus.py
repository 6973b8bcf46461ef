"""The bus: typed publish and subscribe with promises that hold when things go wrong."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from types import TracebackType
from typing import Any, Self, TypeVar, cast

from edgebus.bus._consumer import ConsumerOptions
from edgebus.bus._core import Core
from edgebus.bus._link import IdentityCheck, WillFactory
from edgebus.bus._requests import reply_address
from edgebus.bus._router import check_filter, check_topic
from edgebus.bus.errors import BrokerUnreachableError, RequestTimeoutError
from edgebus.bus.event import ClearedHandler, Event, Handler, RawHandler
from edgebus.bus.queues import DropOldest, QueuePolicy, Wait
from edgebus.bus.settings import BusSettings, RetryPolicy
from edgebus.bus.state import BusStats, ConnectionListener, ConnectionState, OutboxState
from edgebus.bus.subscription import Subscription, Wanted
from edgebus.bus.transport import Outgoing, Transport
from edgebus.contracts import (
    Address,
    Command,
    CommandAddress,
    Filter,
    Identity,
    Message,
    Qos,
    RecordPayload,
    Reply,
    utc_now,
)
from edgebus.contracts.payload import P
from edgebus.contracts.trace import CURRENT

__all__ = ["Bus", "IdentityCheck", "WillFactory"]

C = TypeVar("C", bound=Command)
R = TypeVar("R", bound=Reply)
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
        identity_check: Called with each message on the will's topic and with the first will; a
            description of another process with this identity ends this bus with
            `IdentityTakenError`.
            Without it only a broker that reports a take-over ends a fight (MQTT 5).
    """

    def __init__(
        self,
        transport: Transport,
        *,
        identity: Identity,
        settings: BusSettings | None = None,
        will: WillFactory | None = None,
        on_connection: ConnectionListener | None = None,
        identity_check: IdentityCheck | None = None,
    ) -> None:
        self.identity = identity
        self._source = identity.source
        self._url = transport.url
        self._settings = settings or BusSettings()
        self._core = Core(
            transport,
            identity=identity,
            settings=self._settings,
            will=will,
            on_connection=on_connection,
            identity_check=identity_check,
        )
        self._registry = self._core.registry

    @property
    def handler_s(self) -> float:
        """Seconds that a handler may take for one message."""
        return self._settings.handler_s

    @property
    def connection(self) -> ConnectionState:
        """State of the connection, and a way to wait for it."""
        return self._core.connection

    @property
    def outbox(self) -> OutboxState:
        """State of the outbox: whether events outlive the process, and what is wrong if not."""
        return self._core.outbox

    @property
    def stats(self) -> BusStats:
        """The counters as of now."""
        return self._core.stats()

    # Life

    async def __aenter__(self) -> Self:
        await self._core.open()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._core.stop(politely=True)

    async def crash(self) -> None:
        """Drop everything where it stands, without a word to the broker, as `kill -9` does."""
        await self._core.stop(politely=False)

    async def watch(self) -> None:
        """Return when the bus is closed.

        Raises:
            IdentityTakenError: Another process uses this identity; this one has given up.
            Exception: Whatever else ended one of the bus's tasks: a bug, or a listener's error.
        """
        await self._core.tasks.ended()

    async def connected(self, timeout: float | None = None) -> None:
        """Return once connected.

        Raises:
            BrokerUnreachableError: Not within `timeout` seconds.
        """
        try:
            await asyncio.wait_for(self.connection.up(), timeout)
        except TimeoutError as error:
            why = self._core.links.main.trouble
            reason = f"no connection within {timeout:g} s" + (f"; {why}" if why else "")
            raise BrokerUnreachableError(url=self._url, reason=reason) from error

    def subscribing(self, more: bool) -> None:
        """Say whether more subscriptions are to come.

        While there are, events that a session or a process before left behind wait for theirs,
        however long it takes to get ready for them; afterwards for `settings.orphan_grace_s`.
        """
        self._core.links.main.subscribing = more

    async def drain(self, timeout: float) -> None:
        """Take no more messages, finish what was accepted, and bring the outbox to the broker.

        Publishing still works afterwards, for a last word. Events that come meanwhile stay
        unacknowledged: the broker gives them to the next connection.

        Raises:
            DrainTimeoutError: Something is unfinished after `timeout` seconds.
        """
        await self._core.drain(timeout)

    # Publishing

    async def publish(
        self, address: Address[P], payload: P, *, expires_in_s: float | None = None
    ) -> None:
        """Publish a message with its topic's quality of service and retain flag.

        QoS 0 returns once the network has room; while the broker is away it is dropped, counted.
        QoS 1 returns once the broker has it, or, where that is away, once it waits in the outbox
        (on disk, with `outbox.path`), which is sent in order after the reconnect.

        A message that says not who sent it is from whoever's topic it is; one that names no trace
        belongs to the trace of what is being done (`Tracer.step`, or the handled message).

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
        stamped, trace = self._stamp(payload, address.sender)
        await self._send(address, stamped.encode(), expires_in_s, trace)

    def stamp(self, payload: P) -> P:
        """The payload as `publish` sends it: with source and traceparent.

        For whoever keeps a message before it is published, such as a spool.
        """
        return self._stamp(payload)[0]

    def _stamp(self, payload: P, source: str = "") -> tuple[P, str | None]:
        """A payload with source and traceparent, and the latter for the transport."""
        record = payload.record if isinstance(payload, RecordPayload) else payload
        if not isinstance(record, Message):
            return payload, None
        trace = record.traceparent or CURRENT.get()
        if not record.source or trace != record.traceparent:
            values = {"source": source or self._source, "traceparent": trace}
            payload = cast("P", cast("Message", payload).stamp(values))
        return payload, trace

    async def publish_raw(
        self,
        topic: str,
        payload: bytes,
        *,
        qos: Qos = 0,
        retain: bool = False,
        content_type: str = "",
    ) -> None:
        """Publish bytes on any topic, of third parties too: the counterpart of `tap`.

        For tools that repeat messages, such as a replay; services publish typed messages.

        Raises:
            ContractError: It is no topic to publish to.
            MessageTooLargeError: The broker would not take it; nothing was sent.
            OutboxFullError: The broker is away and the outbox is full.
            PublishRefusedError: The broker refuses it (MQTT 5).
            BusClosedError: The bus is not open.
        """
        self._core.tasks.check()
        check_topic(topic)
        message = Outgoing(
            topic=topic, payload=payload, qos=qos, retain=retain, content_type=content_type
        )
        await self._core.publisher.publish(message)

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

    async def _send(
        self,
        address: Address[Any],
        data: bytes,
        expires_in_s: float | None,
        traceparent: str | None = None,
        *,
        durable: bool = True,
    ) -> None:
        self._core.tasks.check()
        topic = address.topic
        message = Outgoing(
            topic=address.name,
            payload=data,
            qos=topic.qos,
            retain=topic.retain,
            content_type=topic.payload.content_type,
            expiry_s=None if expires_in_s is None else max(1, round(expires_in_s)),
            traceparent=traceparent,
        )
        await self._core.publisher.publish(
            message, lifetime_s=expires_in_s, durable=durable and topic.durable
        )

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
        limit_s: float | None = None,
        name: str | None = None,
        on_cleared: ClearedHandler | None = None,
        on_expired: Handler[P] | None = None,
    ) -> Subscription:
        """Call `handler` for every message that matches.

        An event is acknowledged after all its handlers are done. A payload that does not validate
        becomes a dead letter; a handler that raises is called again within the limits of `retry`,
        and its message becomes a dead letter after that. Commands past their `expires` are not
        handled.

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
            limit_s: Seconds that one call of the handler may take, then it is cancelled and the
                message a dead letter; by default the setting `handler_s`.
            name: For logs, counters and dead letters; by default the filter.
            on_cleared: Awaited when a retained value was taken away.
            on_expired: Awaited with a command that came past its `expires`, in the handler's place.

        Raises:
            SubscribeRefusedError: The broker does not allow it.
            BusClosedError: The bus is not open.
        """
        options = ConsumerOptions(
            name=self._registry.free_name(name or filter.name),
            policy=policy or (Wait() if filter.topic.qos else DropOldest()),
            retry=retry or RetryPolicy(),
            concurrency=concurrency,
            dedup_ids=self._settings.dedup_ids if deduplicate else 0,
            limit_s=self._settings.handler_s if limit_s is None else limit_s,
            on_cleared=on_cleared,
            on_expired=on_expired,
        )
        return await self._registry.add([(filter.name, filter)], handler, options=options)

    async def tap(
        self,
        filter: str | Sequence[str],  # noqa: A002 MQTT's word for it
        handler: RawHandler,
        *,
        policy: QueuePolicy | None = None,
        retry: RetryPolicy | None = None,
        qos: Qos = 0,
        name: str | None = None,
    ) -> Subscription:
        """Call `handler` with the raw messages of any topic filter, of third parties too.

        With several filters a message that more than one of them matches comes once.

        Raises:
            SubscribeRefusedError: It is no topic filter, or the broker does not allow it.
            BusClosedError: The bus is not open.
        """
        filters = [filter] if isinstance(filter, str) else list(dict.fromkeys(filter))
        options = ConsumerOptions(
            name=self._registry.free_name(name or " ".join(filters)),
            policy=policy or DropOldest(),
            retry=retry or _NO_RETRY,
            limit_s=self._settings.handler_s,
        )
        wanted: list[Wanted] = [(check_filter(text), None) for text in filters]
        return await self._registry.add(wanted, handler, options=options, qos=qos)

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
        wanted: list[Wanted] = [
            (check_filter(item), None) if isinstance(item, str) else (item.name, item)
            for item in filters
        ]
        options = ConsumerOptions(
            name=self._registry.free_name(name or "stream " + " ".join(text for text, _ in wanted)),
            policy=policy or DropOldest(),
            retry=_NO_RETRY,
            dedup_ids=self._settings.dedup_ids,
        )
        subscription = await self._registry.add(wanted, None, options=options)
        try:
            yield subscription.consumer.events()
        finally:
            await subscription.unsubscribe()

    # Commands

    async def request(self, address: CommandAddress[C, R], command: C, *, timeout: float) -> R:
        """Send a command and wait for its answer, which is of the type that its topic names.

        The answer comes below the prefix of the service that answers, which needs no right to
        write elsewhere for it. The command expires with the time-out and waits on no disk.

        Args:
            address: Topic of the command.
            command: The command; `reply_to` and `expires` are filled in.
            timeout: Seconds to wait.

        Raises:
            RequestTimeoutError: No answer in time; it may have been carried out nevertheless.
            CommandFailedError: The answer is a plain no and not of the type asked for.
            PayloadError: The answer does not validate.
            BusClosedError: The bus is not open.
        """
        self._core.tasks.check()
        expires = command.expires or utc_now() + timedelta(seconds=timeout)
        try:
            async with asyncio.timeout(timeout):
                expected = self._core.requests.expect(address, command, address.topic.reply)
                async with expected as (reply_to, answer):
                    filled = {"reply_to": reply_to, "expires": expires}
                    asked, trace = self._stamp(command.model_copy(update=filled))
                    await self._send(address, asked.encode(), timeout, trace, durable=False)
                    return await answer
        except TimeoutError as error:
            raise RequestTimeoutError(topic=address.name, timeout=timeout) from error

    def check_reply(self, event: Event[Any]) -> None:
        """Check that a command can be answered, before it is acted upon.

        Raises:
            ContractError: The command asks for an answer neither below its source's prefix nor
                below this service's.
        """
        reply_address(event.payload, identity=self.identity)

    async def reply(self, event: Event[Any], reply: Reply) -> None:
        """Answer a command, whose id the answer gets; nothing where the sender asked for none.

        Raises:
            ContractError: The command asks for an answer neither below its source's prefix nor
                below this service's.
            PublishRefusedError: The broker lets this service not write there (MQTT 5).
            BusClosedError: The bus is not open.
        """
        command: Command = event.payload
        address = reply_address(command, identity=self.identity)
        if address is not None:
            await self.publish(address, reply.stamp({"request": command.id}))
