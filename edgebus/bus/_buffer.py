"""The bounded line of messages in front of a handler."""

from __future__ import annotations

from collections import OrderedDict
from typing import Generic, Protocol, TypeVar

from edgebus.bus.event import RawMessage
from edgebus.bus.policy import Latest, QueuePolicy, Wait

__all__ = ["Buffer", "Queued"]


class Queued(Protocol):
    """Something that waits in line and has a message."""

    @property
    def message(self) -> RawMessage:
        """The message that waits."""
        ...


T = TypeVar("T", bound=Queued)


class Buffer(Generic[T]):
    """A line with a declared overflow policy, bounded in messages and in bytes.

    One message always fits, however large it is: a bound that lets nothing pass helps nobody.
    """

    def __init__(self, policy: QueuePolicy) -> None:
        self._policy = policy
        self._key = policy.key if isinstance(policy, Latest) else None
        self._keeps_events = isinstance(policy, Wait)
        self._max_messages = policy.messages
        self._max_bytes = policy.bytes
        # For Latest the key is what counts as the same thing, else a running number.
        self._line: OrderedDict[object, T] = OrderedDict()
        self._number = 0
        self.bytes = 0

    def __len__(self) -> int:
        return len(self._line)

    def put(self, item: T) -> list[T]:
        """Add an item and return those that were dropped for it, possibly itself."""
        size = len(item.message.payload)
        dropped: list[T] = []
        key: object
        if self._key is None:
            self._number = key = self._number + 1
        else:
            key = self._key(item.message)
            older = self._line.get(key)
            if older is not None:
                self.bytes -= len(older.message.payload)
                dropped.append(older)
        self._line[key] = item
        self.bytes += size
        if len(self._line) > self._max_messages or self.bytes > self._max_bytes:
            self._shrink(dropped)
        return dropped

    def take(self) -> T:
        """Remove and return the next item; KeyError where there is none."""
        _, item = self._line.popitem(last=False)
        self.bytes -= len(item.message.payload)
        return item

    def _shrink(self, dropped: list[T]) -> None:
        for key in list(self._line):
            fits = len(self._line) <= self._max_messages and self.bytes <= self._max_bytes
            if fits or len(self._line) == 1:
                return
            item = self._line[key]
            if self._keeps_events and item.message.qos:
                continue  # the broker stops sending when these are not acknowledged
            del self._line[key]
            self.bytes -= len(item.message.payload)
            dropped.append(item)
