"""Received messages on their way through their handlers, acknowledged in arrival order."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import takewhile
from typing import Any

from edgebus.bus.event import RawMessage
from edgebus.contracts import Payload, PayloadError, Topic


class Slot:
    """The place of one received event in the order of acknowledgements."""

    __slots__ = ("delivery", "done", "since", "token", "window")

    def __init__(self, window: AckWindow, token: int, since: float) -> None:
        self.window = window
        self.token = token
        self.since = since
        self.done = False
        self.delivery: Delivery | None = None


class AckWindow:
    """The events received over one connection that are not acknowledged yet.

    Handlers finish in any order; an acknowledgement leaves once everything that arrived before it
    is done as well. A new connection gets a new window: what the old one held back comes again.
    """

    def __init__(self, acknowledge: Callable[[int], None]) -> None:
        self._acknowledge = acknowledge
        self._slots: deque[Slot] = deque()
        self._tokens: set[int] = set()

    def __len__(self) -> int:
        return len(self._slots)

    def holds(self, token: int) -> bool:
        """True where an event with this token is here: then one that comes is a copy of it.

        A broker may not use a packet id for another message before it is acknowledged (§2.2.1),
        but some send a message again when its acknowledgement takes long.
        """
        return token in self._tokens

    def arrived(self, token: int, now: float) -> Slot:
        """Give the next event its place."""
        slot = Slot(self, token, now)
        self._tokens.add(token)
        self._slots.append(slot)
        return slot

    def late(self, before: float) -> list[tuple[Slot, Delivery]]:
        """Messages that arrived before a time and are not done, oldest first."""
        old = takewhile(lambda slot: slot.since <= before, self._slots)
        return [
            (slot, slot.delivery)
            for slot in old
            if slot.delivery is not None and slot.delivery.when_done is None
        ]

    def finish(self, slot: Slot) -> None:
        """An event is done; acknowledge all that are free to go."""
        slot.done = True
        slot.delivery = None  # not to be waited for by the garbage collector
        slots = self._slots
        while slots and slots[0].done:
            token = slots.popleft().token
            self._tokens.discard(token)
            self._acknowledge(token)


_CACHED_TOPICS = 4096


@dataclass(frozen=True, slots=True)
class _Unreadable:
    """Reason why a payload cannot be read.

    Not the error itself: its traceback holds frames, those hold the message, and bytes would wait
    for the garbage collector, which counts objects and not megabytes.
    """

    schema: str
    reason: str


class Delivery:
    """A message and how many handlers still work on it.

    It is decoded at most once per payload class, and only when a handler gets to it, so that a
    message that is dropped costs nothing.
    """

    __slots__ = ("_decoded", "_remaining", "_slot", "dead_letter_sent", "message", "when_done")

    def __init__(self, message: RawMessage, slot: Slot | None) -> None:
        self.message = message
        self.dead_letter_sent = False
        self.when_done: Callable[[], None] | None = None
        """Called once no handler works on it any more; None: it was not set aside."""
        self._slot = slot
        if slot is not None:
            slot.delivery = self
        self._remaining = 1  # the router's own share, given back once every handler has it
        self._decoded: tuple[tuple[type[Payload], Payload | _Unreadable], ...] = ()

    def hold(self) -> None:
        """One more handler works on it."""
        self._remaining += 1

    def release(self) -> None:
        """A handler is done; the last one acknowledges it."""
        self._remaining -= 1
        if self._remaining:
            return
        if self._slot is not None:
            self._slot.window.finish(self._slot)
        self.forget()

    def forget(self) -> None:
        """It is not set aside, or no longer."""
        done, self.when_done = self.when_done, None
        if done is not None:
            done()

    def decode(self, kind: type[Payload]) -> Payload:
        """The payload as `kind`.

        Raises:
            PayloadError: It is not one.
        """
        for known, found in self._decoded:
            if known is kind:
                if isinstance(found, _Unreadable):
                    raise PayloadError(schema=found.schema, reason=found.reason)
                return found
        try:
            payload = kind.decode(self.message.payload)
        except PayloadError as error:
            self._decoded += ((kind, _Unreadable(error.schema, error.reason)),)
            raise
        except (Exception, SystemExit) as error:  # a payload class of a third party
            schema, reason = kind.schema_id(), repr(error)
            self._decoded += ((kind, _Unreadable(schema, reason)),)
            raise PayloadError(schema=schema, reason=reason) from error
        self._decoded += ((kind, payload),)
        return payload


@dataclass(slots=True, eq=False)
class Route:
    """A filter that leads to a consumer.

    Attributes:
        filter: Topic filter as sent to the broker.
        topic: What its messages are; None for raw messages.
        consumer: Who gets them.
    """

    filter: str
    topic: Topic[Any] | None
    consumer: Any
    # Topics whose retained value this route has had on the present connection: a broker sends them
    # again to everybody on the connection whenever someone subscribes to the same filter.
    seen: set[str] = field(default_factory=set)
    _places: tuple[tuple[int, str], ...] = ()
    _named: dict[str, dict[str, str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.topic is not None:
            self._places = tuple(
                (number, level[1:-1])
                for number, level in enumerate(self.topic.levels)
                if level.startswith("{")
            )

    def names(self, topic: str) -> dict[str, str]:
        """The placeholders' values in a topic that this route matches."""
        found = self._named.get(topic)
        if found is None:
            parts = topic.split("/")
            found = {name: parts[number] for number, name in self._places}
            if len(self._named) >= _CACHED_TOPICS:
                self._named.clear()
            self._named[topic] = found
        return found.copy()  # it goes to handlers, who may change it


@dataclass(slots=True, eq=False)
class Item:
    """A delivery in the line of one consumer."""

    delivery: Delivery
    route: Route

    @property
    def message(self) -> RawMessage:
        """The message that waits."""
        return self.delivery.message
