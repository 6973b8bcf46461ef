"""The protocol state of an MQTT client, without sockets and clocks (MQTT 5.0 §4)."""

from __future__ import annotations

import struct
import zlib
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, Literal, Protocol

from edgebus.bus.transport import Acknowledged, Outgoing
from edgebus.contracts import Qos
from edgebus.mqtt._encoder import PublishEncoder, encode_packet
from edgebus.mqtt._packets import (
    Ack,
    Connack,
    Disconnect,
    Packet,
    Pingresp,
    Publish,
    Suback,
    Subscribe,
    Subscription,
    Unsuback,
    Unsubscribe,
    reason_text,
)
from edgebus.mqtt._properties import NO_PROPERTIES, Kind, Properties
from edgebus.mqtt._wire import PROTOCOL_ERROR, ProtocolError

_LARGEST = 0x0FFFFFFF
_CACHED = 4096


class Identifiers:
    """Numbers for filters, and the way back from the numbers in a message."""

    def __init__(self) -> None:
        self._filters: dict[int, str] = {}
        self._known: dict[tuple[int, ...], tuple[str, ...]] = {(): ()}

    def number(self, topic_filter: str) -> int | None:
        """The number of a filter; None where another filter has it already.

        It is made from the filter, so that copies queued for an earlier process mean the same.
        """
        number = zlib.crc32(topic_filter.encode()) & _LARGEST or 1
        if self._filters.setdefault(number, topic_filter) != topic_filter:
            return None
        self._known = {(): ()}
        return number

    def filters(self, numbers: tuple[int, ...]) -> tuple[str, ...]:
        """The filters behind a message's numbers; those of an earlier process are left out."""
        found = self._known.get(numbers)
        if found is None:
            if len(self._known) >= _CACHED:
                self._known.clear()
            found = tuple(self._filters[number] for number in numbers if number in self._filters)
            self._known[numbers] = found
        return found


class KeepAlive:
    """Keeps track of traffic, on any clock in seconds.

    The broker gets a packet at least once per interval. When it sends nothing for as long, it is
    asked, and taken for dead when nothing at all comes for another interval.

    Args:
        interval_s: The keep-alive agreed upon; 0: none.
        now: When the connection was made.
    """

    def __init__(self, *, interval_s: float, now: float) -> None:
        self.sent = now
        self.received = now
        self._interval = interval_s
        self._asked: float | None = None

    @property
    def pause_s(self) -> float:
        """Seconds to wait between two ticks."""
        return min(1.0, self._interval / 4) if self._interval else 60.0

    def tick(self, now: float, *, reading: bool) -> Literal["ask", "dead"] | None:
        """The action that is due now, or None.

        Args:
            now: The time.
            reading: Whether the answer would be seen; while it is not, the broker only gets
                our sign of life.
        """
        if not self._interval:
            return None
        if not reading:
            self.received = now
            self._asked = None
        elif self._asked is not None:
            if self.received > self._asked:
                self._asked = None
            elif now - self._asked >= self._interval:
                return "dead"
        ask_after = self._interval * 0.75
        if self._asked is None and now - min(self.sent, self.received) >= ask_after:
            self._asked = now if reading else None
            self.sent = now
            return "ask"
        return None


_PUBACK: Final = struct.Struct(">BBH").pack
_NOT_FOUND = 0x92
_FAILURE = 0x80
# Up to this, one copy more is cheaper than one piece more.
_SMALL = 4096


class Send(Protocol):
    """Takes bytes for the broker, in one piece or two."""

    def __call__(self, data: bytes, more: bytes = b"", /) -> None:
        """Take them."""
        ...


class SessionOwner(Protocol):
    """Owner of a session, called with what happens."""

    def message(self, packet: Publish) -> None:
        """A message came; QoS 1 and 2 want `Session.acknowledge`."""
        ...

    def disconnected(self, packet: Disconnect) -> None:
        """The broker ends the connection."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Limits that the broker's CONNACK announces (MQTT 5.0 §3.2.2.3)."""

    receive_maximum: int = 65535
    maximum_qos: int = 2
    retain: bool = True
    packet_bytes: int | None = None
    wildcards: bool = True
    identifiers: bool = True
    shared: bool = True

    @classmethod
    def of(cls, connack: Connack, *, v5: bool) -> Limits:
        """The limits that a CONNACK states."""
        found = connack.properties
        return cls(
            receive_maximum=found.receive_maximum or 65535,
            maximum_qos=2 if found.maximum_qos is None else found.maximum_qos,
            retain=found.retain_available != 0,
            packet_bytes=found.maximum_packet_size,
            wildcards=found.wildcard_subscription_available != 0,
            identifiers=v5 and found.subscription_identifier_available != 0,
            shared=found.shared_subscription_available != 0,
        )


@dataclass(slots=True)
class Memory:
    """The part of a session that outlives its connection, on the client's side (§4.1).

    The messages themselves are the bus's, in its outbox: what it sends again over the next
    connection of the same session goes out under its old identifier, marked as a duplicate.

    Attributes:
        sent: Messages sent and not acknowledged, by identifier.
        accepted: Identifiers of QoS 2 messages that were taken and not released.
    """

    sent: dict[int, Outgoing] = field(default_factory=dict)
    accepted: set[int] = field(default_factory=set)


class Session:
    """The client's end of one connection, from CONNACK on.

    Args:
        owner: Called with messages and with the end.
        send: Takes bytes for the broker.
        memory: Of the same client's last connection.
        limits: What the broker allows.
        window: QoS 1 messages sent ahead of their acknowledgement.
        session_present: Whether the broker still knows this client.
        v5: MQTT 5, else 3.1.1.
    """

    def __init__(
        self,
        *,
        owner: SessionOwner,
        send: Send,
        memory: Memory,
        limits: Limits,
        window: int,
        session_present: bool,
        v5: bool,
    ) -> None:
        self._owner = owner
        self._send = send
        self._memory = memory
        self._limits = limits
        self._window = min(window, limits.receive_maximum)
        self._v5 = v5
        self._encoder = PublishEncoder(v5=v5)
        if not session_present:
            memory.sent.clear()
            memory.accepted.clear()
        # By identity: the same object published again is the same message.
        self._again = {id(message): number for number, message in memory.sent.items()}
        self._old = memory.sent
        memory.sent = {}
        self._acknowledged: dict[int, Acknowledged | None] = {}
        self._queued: deque[tuple[Outgoing, Acknowledged | None]] = deque()
        self._answers: dict[int, Callable[[Suback | Unsuback], None]] = {}
        self._exactly_once: set[int] = set()
        self._last_id = max(self._old, default=0)

    # Outgoing

    def publish(self, message: Outgoing, acknowledged: Acknowledged | None = None) -> str | None:
        """Send a message; what exceeds the broker's receive maximum waits for its turn.

        Returns:
            Why the broker would not take it, or None.

        Raises:
            ValueError: MQTT cannot carry it: topic or packet too long.
        """
        limits = self._limits
        if not message.qos:
            retain = message.retain and limits.retain
            self._write(message, 0x31 if retain else 0x30, 0)
        elif not limits.maximum_qos:
            return "the broker takes QoS 0 only"
        elif len(self._acknowledged) >= self._window or self._queued:
            self._queued.append((message, acknowledged))
        else:
            self._publish_event(message, acknowledged)
        return None

    def acknowledge(self, packet_id: int) -> None:
        """A received message is done: PUBACK, or PUBREC where it came with QoS 2."""
        if self._exactly_once and packet_id in self._exactly_once:
            self._exactly_once.discard(packet_id)
            self._memory.accepted.add(packet_id)
            self._send(_PUBACK(0x50, 2, packet_id))
        else:
            self._send(_PUBACK(0x40, 2, packet_id))

    def subscribe(
        self,
        topic_filter: str,
        qos: Qos,
        *,
        identifier: int | None,
        answered: Callable[[str | None], None],
    ) -> None:
        """Subscribe; `answered` is called with None, or with the reason of a refusal."""
        limits = self._limits
        wild = "+" in topic_filter or "#" in topic_filter
        if wild and not limits.wildcards:
            answered("the broker allows no wildcards")
            return
        if topic_filter.startswith("$share/") and not limits.shared:
            answered("the broker has no shared subscriptions")
            return
        number = self._next_id()
        properties = NO_PROPERTIES
        if identifier is not None and limits.identifiers:
            properties = Properties(subscription_identifiers=(identifier,))
        self._answers[number] = lambda packet: answered(_refusal(packet))
        wanted = (Subscription(topic_filter, qos),)
        packet = Subscribe(packet_id=number, subscriptions=wanted, properties=properties)
        self._send(encode_packet(packet, v5=self._v5))

    def unsubscribe(
        self, filters: tuple[str, ...], *, answered: Callable[[str | None], None]
    ) -> None:
        """Unsubscribe; `answered` is called when the broker has done it."""
        number = self._next_id()
        self._answers[number] = lambda packet: answered(_refusal(packet))
        packet = Unsubscribe(packet_id=number, filters=filters)
        self._send(encode_packet(packet, v5=self._v5))

    def disconnect(self, code: int = 0) -> None:
        """Send DISCONNECT, with a reason where it is not the usual one."""
        self._send(encode_packet(Disconnect(code=code), v5=self._v5))

    # Incoming

    def receive(self, packet: Packet) -> None:
        """Take in a packet.

        Raises:
            ProtocolError: It may not come now, or at all.
        """
        if type(packet) is Publish:
            if packet.qos < 2:
                if packet.properties.topic_alias is not None:
                    raise ProtocolError(
                        "a topic alias, and none was allowed", section="3.3.2.3.4", code=0x94
                    )
                self._owner.message(packet)
            else:
                self._receive_exactly_once(packet)
        elif type(packet) is Ack:
            self._receive_ack(packet)
        elif isinstance(packet, Suback | Unsuback):
            answered = self._answers.pop(packet.packet_id, None)
            if answered is None:
                what = type(packet).__name__.upper()
                raise ProtocolError(
                    f"{what} that nobody waits for", section="3.9", code=PROTOCOL_ERROR
                )
            answered(packet)
        elif isinstance(packet, Pingresp):
            return  # that something came is what counts, see KeepAlive
        elif isinstance(packet, Disconnect) and self._v5:
            self._owner.disconnected(packet)
        else:
            what = type(packet).__name__.upper()
            raise ProtocolError(f"{what} from a broker", section="2.1.2", code=PROTOCOL_ERROR)

    def _receive_exactly_once(self, packet: Publish) -> None:
        """QoS 2, which nobody here asks for, but a broker may have kept for us (§4.3.3)."""
        number = packet.packet_id
        if number in self._memory.accepted:
            self._send(_PUBACK(0x50, 2, number))
        elif number not in self._exactly_once:
            self._exactly_once.add(number)
            self._owner.message(packet)

    def _receive_ack(self, packet: Ack) -> None:
        kind, number, code, properties = packet
        if kind is Kind.PUBACK:
            if number not in self._acknowledged:
                raise ProtocolError(
                    f"PUBACK {number}, which nobody waits for", section="3.4", code=PROTOCOL_ERROR
                )
            acknowledged = self._acknowledged.pop(number)
            del self._memory.sent[number]
            if self._queued:
                self._publish_event(*self._queued.popleft())
            if acknowledged is not None:
                refused = code >= _FAILURE
                acknowledged(reason_text(code, properties.reason_string) if refused else None)
        elif kind is Kind.PUBREL:
            known = number in self._memory.accepted
            self._memory.accepted.discard(number)
            answer = Ack(Kind.PUBCOMP, number, 0 if known else _NOT_FOUND)
            self._send(encode_packet(answer, v5=self._v5))
        else:
            raise ProtocolError(
                f"{kind.name}, and nothing was sent with QoS 2",
                section="4.3.3",
                code=PROTOCOL_ERROR,
            )

    # Inside

    def _publish_event(self, message: Outgoing, acknowledged: Acknowledged | None) -> None:
        again = self._again.pop(id(message), 0) if self._again else 0
        number = again or self._next_id()
        first = 0x32
        if again:
            first = 0x3A
            del self._old[again]
        if message.retain and self._limits.retain:
            first |= 1
        self._write(message, first, number)
        self._acknowledged[number] = acknowledged
        self._memory.sent[number] = message

    def _write(self, message: Outgoing, first: int, number: int) -> None:
        payload = message.payload
        head = self._encoder.head(
            message.topic,
            len(payload),
            first=first,
            packet_id=number,
            content_type=message.content_type,
            expiry_s=message.expiry_s,
            traceparent=message.traceparent,
        )
        if len(payload) < _SMALL:
            self._send(head + payload)
        else:
            self._send(head, payload)

    def _next_id(self) -> int:
        number = self._last_id
        sent, old, answers = self._memory.sent, self._old, self._answers
        for _ in range(0xFFFF):
            number = number + 1 if number < 0xFFFF else 1
            if number not in sent and number not in answers and number not in old:
                self._last_id = number
                return number
        raise ProtocolError("all 65535 packet identifiers are in use", section="2.2.1")


def _refusal(packet: Suback | Unsuback) -> str | None:
    code = max(packet.codes, default=0)
    return reason_text(code, packet.properties.reason_string) if code >= _FAILURE else None
