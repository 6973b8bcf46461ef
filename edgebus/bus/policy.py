"""What a subscription does when messages come faster than its handler."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from edgebus.bus.event import RawMessage

__all__ = ["DropOldest", "Latest", "QueuePolicy", "Wait"]

_MIB = 1024 * 1024


def _topic(message: RawMessage) -> str:
    return message.topic


@dataclass(frozen=True, slots=True, kw_only=True)
class Latest:
    """Only the newest message per key waits; an older one is dropped for it and counted.

    A newer message takes over the place in the line of the one it replaces, so that a fast camera
    does not starve a slow one.

    Attributes:
        key: What counts as the same thing; by default the topic.
        messages: Most keys that wait at a time; beyond it the oldest is dropped.
        bytes: Most bytes that wait at a time; beyond it the oldest is dropped.
        on_drop: Told of each message that is dropped, for counting per key; must not block.
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
