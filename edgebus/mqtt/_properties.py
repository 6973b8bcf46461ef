"""MQTT 5 properties: one typed record for all packets (MQTT 5.0 §2.2.2)."""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Final

from edgebus.mqtt._wire import (
    PROTOCOL_ERROR,
    ProtocolError,
    Reader,
    encode_binary,
    encode_text,
    encode_varint,
)


class Kind(IntEnum):
    """Packet types (§2.1.2); `WILL` stands for the will's properties inside CONNECT."""

    WILL = 0
    CONNECT = 1
    CONNACK = 2
    PUBLISH = 3
    PUBACK = 4
    PUBREC = 5
    PUBREL = 6
    PUBCOMP = 7
    SUBSCRIBE = 8
    SUBACK = 9
    UNSUBSCRIBE = 10
    UNSUBACK = 11
    PINGREQ = 12
    PINGRESP = 13
    DISCONNECT = 14
    AUTH = 15


@dataclass(frozen=True, slots=True, kw_only=True)
class Properties:
    """The properties of a packet; None or empty: absent. Names are those of the specification."""

    payload_format_indicator: int | None = None
    message_expiry_interval: int | None = None
    content_type: str | None = None
    response_topic: str | None = None
    correlation_data: bytes | None = None
    subscription_identifiers: tuple[int, ...] = ()
    session_expiry_interval: int | None = None
    assigned_client_identifier: str | None = None
    server_keep_alive: int | None = None
    authentication_method: str | None = None
    authentication_data: bytes | None = None
    request_problem_information: int | None = None
    will_delay_interval: int | None = None
    request_response_information: int | None = None
    response_information: str | None = None
    server_reference: str | None = None
    reason_string: str | None = None
    receive_maximum: int | None = None
    topic_alias_maximum: int | None = None
    topic_alias: int | None = None
    maximum_qos: int | None = None
    retain_available: int | None = None
    user_properties: tuple[tuple[str, str], ...] = ()
    maximum_packet_size: int | None = None
    wildcard_subscription_available: int | None = None
    subscription_identifier_available: int | None = None
    shared_subscription_available: int | None = None


NO_PROPERTIES: Final = Properties()


@dataclass(frozen=True, slots=True)
class _Type:
    """Encoding of a property's value."""

    encode: Callable[[Any], bytes]
    decode: Callable[[Reader], Any]


def _flag(reader: Reader) -> int:
    value = reader.u8()
    if value > 1:
        raise ProtocolError(
            f"{value} where only 0 and 1 are", section="2.2.2.2", code=PROTOCOL_ERROR
        )
    return value


def _positive(read: Callable[[Reader], int]) -> Callable[[Reader], int]:
    def decode(reader: Reader) -> int:
        value = read(reader)
        if not value:
            raise ProtocolError("0 in a property", section="2.2.2.2", code=PROTOCOL_ERROR)
        return value

    return decode


def _encode_pair(pair: tuple[str, str]) -> bytes:
    return encode_text(pair[0]) + encode_text(pair[1])


def _decode_pair(reader: Reader) -> tuple[str, str]:
    return reader.text(), reader.text()


_U8 = struct.Struct(">B").pack
_U16 = struct.Struct(">H").pack
_U32 = struct.Struct(">I").pack
_FLAG = _Type(_U8, _flag)
_INT2 = _Type(_U16, Reader.u16)
_INT4 = _Type(_U32, Reader.u32)
_SIZE2 = _Type(_U16, _positive(Reader.u16))
_SIZE4 = _Type(_U32, _positive(Reader.u32))
_NUMBER = _Type(encode_varint, _positive(Reader.varint))
_TEXT = _Type(encode_text, Reader.text)
_BINARY = _Type(encode_binary, Reader.binary)
_PAIR = _Type(_encode_pair, _decode_pair)

_PUBLISH = frozenset({Kind.PUBLISH, Kind.WILL})
_BOTH = frozenset({Kind.CONNECT, Kind.CONNACK})
_CONNECT = frozenset({Kind.CONNECT})
_CONNACK = frozenset({Kind.CONNACK})
_ALL = frozenset(Kind) - {Kind.PINGREQ, Kind.PINGRESP}
_ANSWERS = _ALL - {Kind.WILL, Kind.CONNECT, Kind.PUBLISH, Kind.SUBSCRIBE, Kind.UNSUBSCRIBE}

# Identifier: field, type, packets that may have it (§2.2.2.2, table 2-4).
_TABLE: Final[dict[int, tuple[str, _Type, frozenset[Kind]]]] = {
    0x01: ("payload_format_indicator", _FLAG, _PUBLISH),
    0x02: ("message_expiry_interval", _INT4, _PUBLISH),
    0x03: ("content_type", _TEXT, _PUBLISH),
    0x08: ("response_topic", _TEXT, _PUBLISH),
    0x09: ("correlation_data", _BINARY, _PUBLISH),
    0x0B: ("subscription_identifiers", _NUMBER, frozenset({Kind.PUBLISH, Kind.SUBSCRIBE})),
    0x11: ("session_expiry_interval", _INT4, _BOTH | {Kind.DISCONNECT}),
    0x12: ("assigned_client_identifier", _TEXT, _CONNACK),
    0x13: ("server_keep_alive", _INT2, _CONNACK),
    0x15: ("authentication_method", _TEXT, _BOTH | {Kind.AUTH}),
    0x16: ("authentication_data", _BINARY, _BOTH | {Kind.AUTH}),
    0x17: ("request_problem_information", _FLAG, _CONNECT),
    0x18: ("will_delay_interval", _INT4, frozenset({Kind.WILL})),
    0x19: ("request_response_information", _FLAG, _CONNECT),
    0x1A: ("response_information", _TEXT, _CONNACK),
    0x1C: ("server_reference", _TEXT, _CONNACK | {Kind.DISCONNECT}),
    0x1F: ("reason_string", _TEXT, _ANSWERS),
    0x21: ("receive_maximum", _SIZE2, _BOTH),
    0x22: ("topic_alias_maximum", _INT2, _BOTH),
    0x23: ("topic_alias", _SIZE2, frozenset({Kind.PUBLISH})),
    0x24: ("maximum_qos", _FLAG, _CONNACK),
    0x25: ("retain_available", _FLAG, _CONNACK),
    0x26: ("user_properties", _PAIR, _ALL),
    0x27: ("maximum_packet_size", _SIZE4, _BOTH),
    0x28: ("wildcard_subscription_available", _FLAG, _CONNACK),
    0x29: ("subscription_identifier_available", _FLAG, _CONNACK),
    0x2A: ("shared_subscription_available", _FLAG, _CONNACK),
}
_SEVERAL = frozenset({"subscription_identifiers", "user_properties"})


def encode_properties(properties: Properties, kind: Kind) -> bytes:
    """The properties with their length.

    Raises:
        ValueError: A packet of this kind may not have one of them, or a value does not fit.
    """
    if properties is NO_PROPERTIES:
        return b"\0"
    parts: list[bytes] = []
    for identifier, (field, type_, kinds) in _TABLE.items():
        value = getattr(properties, field)
        if value is None or value == ():
            continue
        if kind not in kinds:
            msg = f"{field} cannot go with {kind.name}"
            raise ValueError(msg)
        for one in value if field in _SEVERAL else (value,):
            try:
                parts.append(bytes((identifier,)) + type_.encode(one))
            except struct.error as error:
                msg = f"{field} {one!r}: {error}"
                raise ValueError(msg) from error
    body = b"".join(parts)
    return encode_varint(len(body)) + body


def decode_properties(reader: Reader, kind: Kind) -> Properties:
    """Read the properties with their length.

    Raises:
        ProtocolError: One is unknown, malformed, there twice or not for this kind of packet.
    """
    size = reader.varint()
    if not size:
        return NO_PROPERTIES
    if size > reader.left:
        raise ProtocolError(
            f"properties of {size} bytes where {reader.left} are left", section="2.2.2.1"
        )
    end = reader.left - size
    values: dict[str, Any] = {}
    while reader.left > end:
        identifier = reader.u8()
        found = _TABLE.get(identifier)
        if found is None:
            raise ProtocolError(f"unknown property 0x{identifier:02x}", section="2.2.2.2")
        field, type_, kinds = found
        if kind not in kinds:
            raise ProtocolError(f"{field} in {kind.name}", section="2.2.2.2")
        value = type_.decode(reader)
        if field in _SEVERAL and not (
            kind is Kind.SUBSCRIBE and field in values and identifier == 0x0B
        ):
            values[field] = (*values.get(field, ()), value)
        elif field in values:
            raise ProtocolError(f"{field} twice", section="2.2.2.2", code=PROTOCOL_ERROR)
        else:
            values[field] = value
    if reader.left < end:
        raise ProtocolError("a property longer than all of them", section="2.2.2.1")
    return Properties(**values)
