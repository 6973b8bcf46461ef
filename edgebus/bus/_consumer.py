"""A subscription's queue and the workers behind it."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict, deque
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from dataclasses import dataclass, replace
from math import inf
from typing import Any, Literal, Protocol, cast

import structlog

from edgebus.bus._calls import Call, RunningCalls, is_ours
from edgebus.bus._delivery import Delivery, Item, Route
from edgebus.bus.event import Cleared, ClearedHandler, Event, RawMessage
from edgebus.bus.queues import Buffer, Latest, QueuePolicy
from edgebus.bus.settings import RetryPolicy
from edgebus.bus.state import SubscriptionStats
from edgebus.contracts import (
    Command,
    Message,
    Payload,
    PayloadError,
    RawBytes,
    RecordPayload,
    utc_now,
)


class SeenIds:
    """The last `limit` ids, oldest forgotten first."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        # A plain dict is slow to find its first key once many of its first keys are gone.
        self._ids: OrderedDict[tuple[str, str], None] = OrderedDict()

    def __contains__(self, key: tuple[str, str]) -> bool:
        return key in self._ids

    def __len__(self) -> int:
        return len(self._ids)

    def add(self, key: tuple[str, str]) -> None:
        """Remember an id; one that is known becomes the youngest."""
        ids = self._ids
        if key in ids:
            ids.move_to_end(key)
            return
        ids[key] = None
        if len(ids) > self._limit:
            ids.popitem(last=False)


_MAX_SEEN_RETAINED = 10_000
_MAX_GIVEN_UP = 1000
_AGAIN_S = 5.0


class DeadLetterSink(Protocol):
    """Receiver of messages that could not be handled."""

    async def accept(
        self,
        message: RawMessage,
        *,
        expected: str,
        media_type: str,
        reason: Literal["invalid", "failed"],
        error: str,
        attempts: int,
        handler: str,
    ) -> None:
        """Keep a message; returns once it is safe to acknowledge it."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ConsumerOptions:
    """Treatment of a consumer's messages; see `Bus.subscribe`.

    Attributes:
        dedup_ids: Ids of handled messages to remember; 0: each message is handled.
        limit_s: Seconds that one call of the handler may take.
        on_expired: Called with commands that came too late, instead of the handler.
        internal: One of the bus itself, served also while the bus drains.
    """

    name: str
    policy: QueuePolicy
    retry: RetryPolicy
    concurrency: int = 1
    dedup_ids: int = 0
    limit_s: float = inf
    on_cleared: ClearedHandler | None = None
    on_expired: Callable[[Event[Any]], Awaitable[None]] | None = None
    internal: bool = False


class Consumer:
    """Messages in, handler calls out: in order, retried, at most `concurrency` at a time.

    Without a handler it is pulled from (`pull`) instead of running workers.
    """

    def __init__(
        self,
        *,
        options: ConsumerOptions,
        handler: Callable[[Any], Awaitable[None]] | None,
        sink: DeadLetterSink,
    ) -> None:
        self.options = options
        self._counts = SubscriptionStats()
        self._handler = handler
        self._sink = sink
        self._buffer: Buffer[Item] = Buffer(options.policy)
        self._on_drop = options.policy.on_drop if isinstance(options.policy, Latest) else None
        self._seen = SeenIds(options.dedup_ids) if options.dedup_ids else None
        self._calls = RunningCalls(limit_s=options.limit_s)
        # Redeliveries of messages whose handler still runs; they are done when it is.
        self._running: dict[tuple[str, str], list[Delivery]] = {}
        # When messages became dead letters, so that they can be replayed.
        self._given_up: dict[tuple[str, str], float] = {}
        self._waiters: deque[asyncio.Future[None]] = deque()
        self._idle = asyncio.Event()
        self._idle.set()
        self._active = 0
        self._failure: BaseException | None = None
        self._log = structlog.get_logger("edgebus.bus").bind(subscription=options.name)

    @property
    def stats(self) -> SubscriptionStats:
        """A copy of the counters."""
        return replace(
            self._counts,
            queued=len(self._buffer),
            queued_bytes=self._buffer.bytes,
            active=self._active,
        )

    @property
    def pulled(self) -> bool:
        """True: its owner takes messages at will; there is no handler to wait for."""
        return self._handler is None

    @property
    def unfinished(self) -> int:
        """Messages accepted and not handled."""
        return len(self._buffer) + self._active

    @property
    def held_bytes(self) -> int:
        """Payload bytes that wait."""
        return self._buffer.bytes

    def offer(self, delivery: Delivery, route: Route) -> None:
        """Take a message into the line; what is dropped for it is done."""
        message = delivery.message
        if route.topic is None or route.topic.retain:
            if message.retained and message.topic in route.seen:
                return
            if message.retained or route.topic is not None:
                if len(route.seen) >= _MAX_SEEN_RETAINED:
                    route.seen.clear()
                route.seen.add(message.topic)
        self._counts.received += 1
        delivery.hold()
        self._idle.clear()
        for dropped in self._buffer.put(Item(delivery, route)):
            self._counts.dropped += 1
            if self._on_drop is not None:
                self._on_drop(dropped.message)
            dropped.delivery.release()
        while self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.done():
                waiter.set_result(None)
                break

    async def idle(self) -> None:
        """Return once nothing waits and no handler runs."""
        await self._idle.wait()

    def fail(self, error: BaseException) -> None:
        """The bus is gone: whoever waits for a message gets `error`."""
        self._failure = error
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_exception(error)

    def discard(self) -> None:
        """Nobody will take what waits; it counts as done."""
        while self._buffer:
            self._buffer.take().delivery.release()

    async def work(self) -> None:
        """Handle messages one after the other, for ever; run `concurrency` of these."""
        buffer = self._buffer
        while True:
            if not buffer:
                await self._more()
                continue
            self._active += 1
            try:
                replaced = not await self._handle(buffer.take())
            except BaseException:
                self._finished()
                raise
            if replaced:
                return
            self._finished()

    def excuse(self, seconds: float) -> None:
        """Nobody got to work for so long, which is no handler's fault."""
        self._calls.excuse(seconds)

    def check(self, now: float) -> list[Coroutine[Any, Any, None]]:
        """Cancel calls that take too long.

        Args:
            now: Time on the loop's clock.

        Returns:
            Workers to run in place of those whose handler ignores that.
        """
        return [self._replace(call) for call in self._calls.check(now)]

    async def _replace(self, call: Call) -> None:
        """Give up on a message whose handler cannot be ended, and work in its place."""
        self._log.error("handler ignores that it is cancelled", topic=call.item.message.topic)
        self._counts.failed += 1
        try:
            text = f"{self._calls.overdue_text}. It still runs, although it was cancelled"
            await self._bury(call.item, reason="failed", error=text, attempts=call.attempt)
            self._settle(call.item, call.key, handled=False)
        finally:
            self._finished()
        await self.work()

    async def pull(self) -> Event[Any]:
        """The next valid message; it counts as done at once."""
        while True:
            while not self._buffer:
                await self._more()
            self._active += 1
            item = self._buffer.take()
            try:
                event = self._event(item)
            except PayloadError:
                self._counts.invalid += 1
                continue
            finally:
                item.delivery.release()
                self._finished()
            if event is not None and self._fresh(event):
                self._counts.handled += 1
                return event

    async def events(self) -> AsyncIterator[Event[Any]]:
        """Valid messages, for ever."""
        while True:
            yield await self.pull()

    async def _more(self) -> None:
        """Wait for a message; another worker may be quicker."""
        if self._failure is not None:
            raise self._failure
        waiter = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        await waiter

    def _finished(self) -> None:
        self._active -= 1
        if not self._active and not self._buffer:
            self._idle.set()

    async def _handle(self, item: Item) -> bool:
        """Handle a message; False: another worker has taken over meanwhile."""
        delivery, route = item.delivery, item.route
        try:
            event = self._event(item)
        except PayloadError as error:
            self._counts.invalid += 1
            await self._bury(item, reason="invalid", error=error.reason, attempts=0)
            delivery.release()
            return True
        if event is None:
            handled: bool | None = True
            if self.options.on_cleared is not None:
                topic = item.message.topic
                cleared = Cleared(topic, route.names(topic))
                handled = await self._call(item, None, self.options.on_cleared, cleared)
            if handled is not None:
                delivery.release()
            return handled is not None
        key = self._key(event)
        if key is not None:
            if key in self._running:
                self._counts.duplicates += 1
                self._running[key].append(delivery)
                return True
            if self._seen is not None and key in self._seen and not self._again(key):
                self._counts.duplicates += 1
                delivery.release()
                return True
            self._running[key] = []
        handled = True
        if self._expired(event):
            self._counts.expired += 1
            if self.options.on_expired is not None:
                handled = await self._call(item, key, self.options.on_expired, event)
        else:
            call = cast("Callable[[Any], Awaitable[None]]", self._handler)
            subject = item.message if route.topic is None else event
            handled = await self._call(item, key, call, subject)
        if handled is not None:
            self._settle(item, key, handled=handled)
        return handled is not None

    def _settle(self, item: Item, key: tuple[str, str] | None, *, handled: bool) -> None:
        """A message is done, and so are the copies of it that came meanwhile."""
        self._remember(key, handled=handled)
        item.delivery.release()
        for again in self._running.pop(key, ()) if key is not None else ():
            again.release()

    async def _call(
        self,
        item: Item,
        key: tuple[str, str] | None,
        call: Callable[[Any], Awaitable[None]],
        subject: Any,
    ) -> bool | None:
        """Call a handler until it succeeds or the message is a dead letter; whether it did.

        None: its time was up, it could not be ended, and another worker has taken over.
        """
        retry = self.options.retry
        for attempt in range(1, retry.attempts + 1):
            running = self._calls.begin(item, key, attempt)
            try:
                await call(subject)
            except BaseException as error:
                if running.abandoned:
                    return None
                self._calls.end(running)
                if is_ours(error):
                    raise
                if attempt < retry.attempts and not running.overdue:
                    self._counts.retried += 1
                    await asyncio.sleep(retry.delay(attempt))
                    continue
                self._counts.failed += 1
                self._log.warning("handler failed", topic=item.message.topic, exc_info=True)
                text = f"{type(error).__name__}: {error}"
                if running.overdue:
                    text = self._calls.overdue_text
                await self._bury(item, reason="failed", error=text, attempts=attempt)
                return False
            if running.abandoned:
                return None
            self._calls.end(running)
            self._counts.handled += 1
            return True
        return False

    def _remember(self, key: tuple[str, str] | None, *, handled: bool) -> None:
        """A message is done; one that is a dead letter may be sent again by a person."""
        if key is None or self._seen is None:
            return
        self._seen.add(key)
        if handled:
            return
        self._given_up[key] = time.monotonic()
        if len(self._given_up) > _MAX_GIVEN_UP:
            del self._given_up[next(iter(self._given_up))]

    def _again(self, key: tuple[str, str]) -> bool:
        """True for a dead letter that is worth another try.

        A copy that a broker sends right away is none: one per overlapping filter, for example.
        """
        since = self._given_up.get(key)
        if since is None or time.monotonic() - since < _AGAIN_S:
            return False
        del self._given_up[key]
        return True

    async def _bury(
        self, item: Item, *, reason: Literal["invalid", "failed"], error: str, attempts: int
    ) -> None:
        # One letter per message for bytes that no handler can read, not one per handler.
        if reason == "invalid":
            if item.delivery.dead_letter_sent:
                return
            item.delivery.dead_letter_sent = True
        topic = item.route.topic
        await self._sink.accept(
            item.message,
            expected=topic.payload.schema_id() if topic is not None else "bytes/1",
            media_type=topic.payload.content_type if topic is not None else "",
            reason=reason,
            error=error,
            attempts=attempts,
            handler=self.options.name,
        )

    def _event(self, item: Item) -> Event[Any] | None:
        """The typed event; None: an empty payload cleared a retained topic."""
        message, topic = item.message, item.route.topic
        if topic is None:
            return _raw_event(message)
        if not message.payload and topic.retain:
            return None
        payload = item.delivery.decode(topic.payload)
        topic.check_source(message.topic, payload)
        return Event(
            payload=payload,
            topic=message.topic,
            names=item.route.names(message.topic),
            retained=message.retained,
            duplicate=message.duplicate,
            received=message.received,
            size=len(message.payload),
        )

    def _key(self, event: Event[Any]) -> tuple[str, str] | None:
        if self._seen is None:
            return None
        identifier = _message_id(event.payload)
        return None if identifier is None else (event.topic, identifier)

    def _fresh(self, event: Event[Any]) -> bool:
        key = self._key(event)
        if key is None or self._seen is None:
            return True
        if key in self._seen:
            self._counts.duplicates += 1
            return False
        self._seen.add(key)
        return True

    @staticmethod
    def _expired(event: Event[Any]) -> bool:
        payload = event.payload
        if not isinstance(payload, Command) or payload.expires is None:
            return False
        return payload.expires <= utc_now()


def _message_id(payload: Payload) -> str | None:
    if isinstance(payload, Message):
        return payload.id
    if isinstance(payload, RecordPayload):
        return cast("str", payload.record.id)
    return None


def _raw_event(message: RawMessage) -> Event[Any]:
    return Event(
        payload=RawBytes(message.payload),
        topic=message.topic,
        names={},
        retained=message.retained,
        duplicate=message.duplicate,
        received=message.received,
        size=len(message.payload),
    )
