"""Packets to bytes, for MQTT 5 and 3.1.1."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any, Final

from edgebus.mqtt._packets import (
    RETURN_CODES,
    Ack,
    Auth,
    Connack,
    Connect,
    Disconnect,
    Packet,
    Pingreq,
    Pingresp,
    Publish,
    Suback,
    Subscribe,
    Unsuback,
    Unsubscribe,
)
from edgebus.mqtt._properties import Kind, Properties, encode_properties
from edgebus.mqtt._wire import MAX_VARINT, Reader, encode_binary, encode_text, encode_varint

_U16: Final = struct.Struct(">H").pack
_CACHED = 4096
# A user property (§3.3.2.3.7) of this name, its value to come.
_TRACE: Final = b"\x26" + encode_text("traceparent")
_RETURN_CODES: Final = {code: number for number, code in RETURN_CODES.items()}


def encode_packet(packet: Packet, *, v5: bool) -> bytes:
    """The bytes of a packet; in 3.1.1 properties and most reason codes have no place.

    Raises:
        ValueError: A field does not fit, or a property is not for this packet.
    """
    first, body = _ENCODERS[type(packet)](packet, v5)
    return bytes((first,)) + encode_varint(len(body)) + body


class PublishEncoder:
    """Writes PUBLISH. Topics and properties repeat, so their bytes are kept.

    Args:
        v5: MQTT 5, else 3.1.1.
    """

    def __init__(self, *, v5: bool) -> None:
        self._v5 = v5
        self._topics: dict[str, bytes] = {}
        self._properties: dict[tuple[str, int | None], bytes] = {}

    def head(
        self,
        topic: str,
        size: int,
        *,
        first: int,
        packet_id: int,
        content_type: str,
        expiry_s: int | None,
        traceparent: str | None = None,
    ) -> bytes:
        """All of a PUBLISH packet but its payload.

        Args:
            topic: Concrete topic.
            size: Bytes of the payload.
            first: First byte of the packet: 0x30 with the flags.
            packet_id: 0 at QoS 0.
            content_type: MIME type, MQTT 5 only.
            expiry_s: Message expiry interval, MQTT 5 only.
            traceparent: W3C trace context, a user property, MQTT 5 only.

        Raises:
            ValueError: The topic is longer than 65,535 bytes, or the packet than 256 MiB.
        """
        body = self._topics.get(topic)
        if body is None:
            body = self._keep_topic(topic)
        if packet_id:
            body += _U16(packet_id)
        if self._v5:
            properties = self._properties.get((content_type, expiry_s))
            if properties is None:
                properties = self._keep_properties(content_type, expiry_s)
            body += properties if traceparent is None else _with_trace(properties, traceparent)
        length = len(body) + size
        if length < 0x80:
            return bytes((first, length)) + body
        if length < 0x4000:
            return bytes((first, length & 0x7F | 0x80, length >> 7)) + body
        if length > MAX_VARINT:
            msg = f"a packet of {length} bytes; MQTT allows {MAX_VARINT}"
            raise ValueError(msg)
        return bytes((first,)) + encode_varint(length) + body

    def _keep_topic(self, topic: str) -> bytes:
        if len(self._topics) >= _CACHED:
            self._topics.clear()
        found = self._topics[topic] = encode_text(topic)
        return found

    def _keep_properties(self, content_type: str, expiry_s: int | None) -> bytes:
        properties = Properties(
            payload_format_indicator=int(content_type == "application/json")
            if content_type
            else None,
            content_type=content_type or None,
            message_expiry_interval=expiry_s,
        )
        if len(self._properties) >= _CACHED:
            self._properties.clear()
        encoded = encode_properties(properties, Kind.PUBLISH)
        self._properties[content_type, expiry_s] = encoded
        return encoded


def _with_trace(properties: bytes, traceparent: str) -> bytes:
    """Encoded properties and one more, which is another for each message."""
    value = traceparent.encode()
    more = _TRACE + _U16(len(value)) + value
    length = properties[0] + len(more)
    if properties[0] < 0x80 and length < 0x80:
        return bytes((length,)) + properties[1:] + more
    reader = Reader(properties)
    return encode_varint(reader.varint() + len(more)) + reader.rest() + more


def _publish(packet: Publish, v5: bool) -> tuple[int, bytes]:
    first = 0x30 | packet.duplicate << 3 | packet.qos << 1 | packet.retain
    parts = [encode_text(packet.topic)]
    if packet.qos:
        parts.append(_identifier(packet.packet_id))
    if v5:
        parts.append(encode_properties(packet.properties, Kind.PUBLISH))
    parts.append(packet.payload)
    return first, b"".join(parts)


def _ack(packet: Ack, v5: bool) -> tuple[int, bytes]:
    first = packet.kind << 4 | (0x02 if packet.kind is Kind.PUBREL else 0)
    identifier = _identifier(packet.packet_id)
    return first, identifier + (_tail(packet.kind, packet.code, packet.properties) if v5 else b"")


def _tail(kind: Kind, code: int, properties: Properties) -> bytes:
    """Reason code and properties, as far as they are needed (§3.4.2)."""
    encoded = encode_properties(properties, kind)
    if encoded != b"\0":
        return bytes((code,)) + encoded
    return bytes((code,)) if code else b""


def _connect(packet: Connect, v5: bool) -> tuple[int, bytes]:
    will = packet.will
    flags = packet.clean_start << 1
    if will is not None:
        flags |= 0x04 | will.qos << 3 | will.retain << 5
    flags |= (packet.password is not None) << 6 | (packet.username is not None) << 7
    parts = [b"\0\x04MQTT", bytes((5 if v5 else 4, flags)), _U16(packet.keepalive_s)]
    if v5:
        parts.append(encode_properties(packet.properties, Kind.CONNECT))
    parts.append(encode_text(packet.client_id))
    if will is not None:
        if v5:
            parts.append(encode_properties(will.properties, Kind.WILL))
        parts += [encode_text(will.topic), encode_binary(will.payload)]
    if packet.username is not None:
        parts.append(encode_text(packet.username))
    if packet.password is not None:
        parts.append(encode_binary(packet.password))
    return 0x10, b"".join(parts)


def _connack(packet: Connack, v5: bool) -> tuple[int, bytes]:
    code = packet.code if v5 else _RETURN_CODES[packet.code]
    body = bytes((packet.session_present, code))
    return 0x20, body + (encode_properties(packet.properties, Kind.CONNACK) if v5 else b"")


def _subscribe(packet: Subscribe, v5: bool) -> tuple[int, bytes]:
    parts = [_identifier(packet.packet_id)]
    if v5:
        parts.append(encode_properties(packet.properties, Kind.SUBSCRIBE))
    for item in packet.subscriptions:
        options = item.qos
        if v5:
            options |= (
                item.no_local << 2 | item.retain_as_published << 3 | item.retain_handling << 4
            )
        parts += [encode_text(item.filter), bytes((options,))]
    return 0x82, b"".join(parts)


def _suback(packet: Suback, v5: bool) -> tuple[int, bytes]:
    properties = encode_properties(packet.properties, Kind.SUBACK) if v5 else b""
    return 0x90, _identifier(packet.packet_id) + properties + bytes(packet.codes)


def _unsubscribe(packet: Unsubscribe, v5: bool) -> tuple[int, bytes]:
    properties = encode_properties(packet.properties, Kind.UNSUBSCRIBE) if v5 else b""
    filters = b"".join(encode_text(item) for item in packet.filters)
    return 0xA2, _identifier(packet.packet_id) + properties + filters


def _unsuback(packet: Unsuback, v5: bool) -> tuple[int, bytes]:
    identifier = _identifier(packet.packet_id)
    if not v5:
        return 0xB0, identifier
    properties = encode_properties(packet.properties, Kind.UNSUBACK)
    return 0xB0, identifier + properties + bytes(packet.codes)


def _disconnect(packet: Disconnect, v5: bool) -> tuple[int, bytes]:
    return 0xE0, _tail(Kind.DISCONNECT, packet.code, packet.properties) if v5 else b""


def _auth(packet: Auth, v5: bool) -> tuple[int, bytes]:
    if not v5:
        msg = "MQTT 3.1.1 has no AUTH"
        raise ValueError(msg)
    return 0xF0, _tail(Kind.AUTH, packet.code, packet.properties)


def _pingreq(_packet: Pingreq, _v5: bool) -> tuple[int, bytes]:
    return 0xC0, b""


def _pingresp(_packet: Pingresp, _v5: bool) -> tuple[int, bytes]:
    return 0xD0, b""


def _identifier(value: int) -> bytes:
    if not 0 < value <= 0xFFFF:
        msg = f"packet identifier {value}; it is 1 to 65535"
        raise ValueError(msg)
    return _U16(value)


_ENCODERS: Final[dict[type, Callable[[Any, bool], tuple[int, bytes]]]] = {
    Ack: _ack,
    Auth: _auth,
    Connack: _connack,
    Connect: _connect,
    Disconnect: _disconnect,
    Pingreq: _pingreq,
    Pingresp: _pingresp,
    Publish: _publish,
    Suback: _suback,
    Subscribe: _subscribe,
    Unsuback: _unsuback,
    Unsubscribe: _unsubscribe,
}
