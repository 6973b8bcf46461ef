"""Messages as handlers get them, raw and typed."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Generic, NamedTuple, TypeAlias

from edgebus.contracts.payload import P


# Tuples: a frozen dataclass takes several times as long to make, and these come by the thousands.
class RawMessage(NamedTuple):
    """A message as it came from the broker.

    Attributes:
        topic: Concrete topic.
        payload: Bytes, may be empty.
        qos: Quality of service of this delivery, 0 or 1.
        retained: The broker kept it for late subscribers; it may be old.
        duplicate: The broker sent it before and got no acknowledgement.
        received: When this process had it, UTC.
        content_type: MIME type, where the broker speaks MQTT 5 and the publisher set it.
        token: The transport's handle for the acknowledgement.
        via: The filters that this copy was sent for, where the broker reports them (MQTT 5
            subscription identifiers); brokers send one copy per overlapping filter or one for all.
    """

    topic: str
    payload: bytes
    qos: int
    retained: bool
    duplicate: bool
    received: datetime
    content_type: str | None = None
    token: int = 0
    via: tuple[str, ...] = ()


class Event(NamedTuple, Generic[P]):
    """A typed message with its circumstances.

    Attributes:
        payload: The message, validated.
        topic: Concrete topic.
        names: The topic's placeholders: ``{"base": …, "site": …, "node": …, "service": …}``.
        retained: The broker kept it for late subscribers; it may be old.
        duplicate: The broker sent it before and got no acknowledgement.
        received: When this process had it, UTC.
        size: Bytes of the payload on the wire.
    """

    payload: P
    topic: str
    names: dict[str, str]
    retained: bool
    duplicate: bool
    received: datetime
    size: int


@dataclass(frozen=True, slots=True)
class Cleared:
    """The retained value of a topic was taken away (an empty payload).

    Attributes:
        topic: Concrete topic.
        names: The topic's placeholders.
    """

    topic: str
    names: dict[str, str]


Handler: TypeAlias = Callable[[Event[P]], Awaitable[None]]
RawHandler: TypeAlias = Callable[[RawMessage], Awaitable[None]]
ClearedHandler: TypeAlias = Callable[[Cleared], Awaitable[None]]
