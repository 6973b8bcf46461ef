"""Queue policies of subscriptions, and the bounded queue that applies them."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, Protocol, TypeAlias, TypeVar

from edgebus.bus.event import RawMessage

_MIB = 1024 * 1024


def _topic(message: RawMessage) -> str:
    return message.topic


@dataclass(frozen=True, slots=True, kw_only=True)
class Latest:
    """Only the newest message per key waits; an older one is dropped for it and counted.

    A newer message takes over the place in the line of the one it replaces, so that a fast source
    does not starve a slow one.

    Attributes:
        key: What counts as the same thing; by default the topic.
        messages: Most keys that wait at a time; beyond it the oldest is dropped.
        bytes: Most bytes that wait at a time; beyond it the oldest is dropped.
        on_drop: Called with each message that is dropped, for counting per key; must not block.
    """

    key: Callable[[RawMessage], str] = _topic
    messages: int = 1024
    bytes: int = 64 * _MIB
    on_drop: Callable[[RawMessage], None] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DropOldest:
    """Messages wait in line; when it is full the oldest is dropped and counted.

    Attributes:
        messages: Most messages that wait at a time.
        bytes: Most bytes that wait at a time.
    """

    messages: int = 1024
    bytes: int = 64 * _MIB


@dataclass(frozen=True, slots=True, kw_only=True)
class Wait:
    """No event is dropped: a full queue stops acknowledging, and the broker stops sending.

    The broker counts per connection. With `own_connection` the subscription gets a connection of
    its own with `messages` as its receive maximum (MQTT 5), so that a handler that stays behind
    for long holds up nobody but its own publishers. Without it, the connection's receive maximum
    is shared by all subscriptions, which suits handlers that are slow only now and then.

    The bounds hold for QoS 0 too, which no broker can hold back: the oldest is dropped, counted.

    Attributes:
        messages: Most messages that wait at a time.
        bytes: Most bytes that wait at a time, for QoS 0.
        own_connection: Whether the subscription has its own flow control.
    """

    messages: int = 1024
    bytes: int = 64 * _MIB
    own_connection: bool = False


QueuePolicy: TypeAlias = Latest | DropOldest | Wait


class Queued(Protocol):
    """Something that waits in line and has a message."""

    @property
    def message(self) -> RawMessage:
        """The message that waits."""
        ...


T = TypeVar("T", bound=Queued)


class Buffer(Generic[T]):
    """A queue with a declared overflow policy, bounded in messages and in bytes.

    One message always fits, however large it is: a bound that lets nothing pass helps nobody.
    """

    def __init__(self, policy: QueuePolicy) -> None:
        self._policy = policy
        self._key = policy.key if isinstance(policy, Latest) else None
        self._keeps_events = isinstance(policy, Wait)
        self._max_messages = policy.messages
        self._max_bytes = policy.bytes
        # One of the two is in use: by key for Latest, else a plain line.
        self._by_key: OrderedDict[str, T] = OrderedDict()
        self._line: deque[T] = deque()
        self._has_readings = False
        self.bytes = 0

    def __len__(self) -> int:
        return len(self._line) or len(self._by_key)

    def put(self, item: T) -> list[T]:
        """Add an item and return those that were dropped for it, possibly itself."""
        message = item.message
        self.bytes += len(message.payload)
        dropped: list[T] = []
        if self._key is None:
            self._line.append(item)
            count = len(self._line)
            if not message.qos:
                self._has_readings = True
        else:
            key = self._key(message)
            older = self._by_key.get(key)
            if older is not None:
                self.bytes -= len(older.message.payload)
                dropped.append(older)
            self._by_key[key] = item
            count = len(self._by_key)
        if count > self._max_messages or self.bytes > self._max_bytes:
            if self._keeps_events:
                if self._has_readings:
                    self._drop_readings(dropped)
            else:
                while self._exceeded() and len(self) > 1:
                    dropped.append(self.take())
        return dropped

    def take(self) -> T:
        """Remove and return the next item; an IndexError or KeyError where there is none."""
        item = self._line.popleft() if self._key is None else self._by_key.popitem(last=False)[1]
        self.bytes -= len(item.message.payload)
        return item

    def _exceeded(self) -> bool:
        return len(self) > self._max_messages or self.bytes > self._max_bytes

    def _drop_readings(self, dropped: list[T]) -> None:
        """Drop the oldest of QoS 0; the broker stops sending when events are not acknowledged."""
        kept: deque[T] = deque()
        while self._line and self._exceeded_with(kept):
            item = self._line.popleft()
            if item.message.qos or not (self._line or kept):
                kept.append(item)
            else:
                self.bytes -= len(item.message.payload)
                dropped.append(item)
        # Else only events are left, until the next reading comes.
        self._has_readings = bool(self._line) or len(kept) == 1
        self._line.extendleft(reversed(kept))

    def _exceeded_with(self, kept: deque[T]) -> bool:
        return len(self._line) + len(kept) > self._max_messages or self.bytes > self._max_bytes
