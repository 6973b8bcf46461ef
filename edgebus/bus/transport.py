"""The seam between the bus and whatever carries its messages.

A transport opens connections; everything that outlives a connection (subscriptions, outbox,
retries, reconnecting) belongs to the bus. All calls come from one event loop.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol, TypeAlias

from edgebus.bus.event import RawMessage
from edgebus.contracts import Qos


class Outgoing(NamedTuple):
    """One message to publish.

    Attributes:
        topic: Concrete topic.
        payload: Bytes; empty together with `retain` clears the retained value.
        qos: Quality of service.
        retain: Whether the broker keeps it for late subscribers.
        content_type: MIME type, sent where MQTT 5 is spoken.
        expiry_s: Seconds after which the broker may forget it (MQTT 5).
        traceparent: W3C trace context, sent as a user property where MQTT 5 is spoken.
    """

    topic: str
    payload: bytes
    qos: Qos
    retain: bool = False
    content_type: str = ""
    expiry_s: int | None = None
    traceparent: str | None = None

    @property
    def packet_bytes(self) -> int:
        """Upper bound of the MQTT packet's size: MQTT 5.0 §3.3, all properties in use."""
        size = len(self.payload) + len(self.topic.encode()) + len(self.content_type) + 32
        return size if self.traceparent is None else size + 80


@dataclass(frozen=True, slots=True, kw_only=True)
class Will:
    """Message that the broker publishes for a client that is gone without a DISCONNECT."""

    topic: str
    payload: bytes
    qos: Qos
    retain: bool
    content_type: str = "application/json"


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectOptions:
    """Options of one connection.

    Attributes:
        client_id: Unique on the broker; a second connection with it ends the first.
        session_expiry_s: How long the broker keeps subscriptions and events; 0: no session;
            None: as configured.
        receive_maximum: Events that the broker may send ahead (MQTT 5); None: as configured.
        will: The last will.
    """

    client_id: str
    session_expiry_s: int | None = None
    receive_maximum: int | None = None
    will: Will | None = None


@dataclass(frozen=True, slots=True)
class Loss:
    """End of a connection.

    Attributes:
        kind: ``taken_over``: another client uses this id (MQTT 5 reports it); ``closed``: the
            other side closed it without a reason; ``failed``: anything else, see `reason`.
        reason: In words.
    """

    kind: Literal["taken_over", "closed", "failed"]
    reason: str


Acknowledged: TypeAlias = Callable[[str | None], None]
"""Called with None when the broker has a message, or with its reason when it refused it."""


class Receiver(Protocol):
    """Owner of a connection, called by it. Neither call may block or raise."""

    def received(self, message: RawMessage, /) -> None:
        """A message came in."""
        ...

    def lost(self, loss: Loss, /) -> None:
        """The connection ended and was not closed by its owner; called once."""
        ...


class Connection(Protocol):
    """One connection to a broker, from CONNACK to its end."""

    @property
    def session_present(self) -> bool:
        """True where the broker knew this client and kept its subscriptions and events."""
        ...

    @property
    def packet_limit(self) -> int | None:
        """Largest packet that may be sent, in bytes."""
        ...

    @property
    def send_window(self) -> int:
        """Events that may be sent ahead of their acknowledgement."""
        ...

    def start(self) -> None:
        """Begin to deliver to the receiver, first what came since CONNACK."""
        ...

    def publish(self, message: Outgoing, acknowledged: Acknowledged | None = None) -> None:
        """Send a message; `acknowledged` is called for QoS 1 only, not after a loss."""
        ...

    async def writable(self) -> None:
        """Return once the send buffer has room; at once where it has, or after a loss."""
        ...

    async def subscribe(self, filters: Sequence[tuple[str, Qos]]) -> None:
        """Subscribe and wait for the broker's answer.

        Raises:
            SubscribeRefusedError: The broker refuses one of them.
            ConnectionLostError: The connection ended meanwhile.
        """
        ...

    async def unsubscribe(self, filters: Sequence[str]) -> None:
        """Unsubscribe and wait for the broker's answer.

        Raises:
            ConnectionLostError: The connection ended meanwhile.
        """
        ...

    def acknowledge(self, token: int) -> None:
        """Acknowledge a QoS 1 message to the broker; nothing after a loss."""
        ...

    def pause_reading(self) -> None:
        """Stop reading from the network."""
        ...

    def resume_reading(self) -> None:
        """Read on."""
        ...

    async def close(self) -> None:
        """Disconnect (no will is sent) and close."""
        ...

    def abort(self) -> None:
        """Cut the connection without a word, as a crash does; `lost` is not called."""
        ...


class Transport(Protocol):
    """Opens connections to one broker."""

    @property
    def url(self) -> str:
        """The broker's address, without credentials, for people to read."""
        ...

    @property
    def packet_limit(self) -> int | None:
        """Largest packet that may be sent as far as it is known before connecting."""
        ...

    async def connect(self, options: ConnectOptions, receiver: Receiver) -> Connection:
        """Open a connection; nothing is delivered to `receiver` before its `start()`.

        Raises:
            BrokerUnreachableError: Nobody answers.
            BrokerRefusedError: The broker does not want this client.
        """
        ...
