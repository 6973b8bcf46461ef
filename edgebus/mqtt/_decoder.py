"""From a stream of bytes, cut anywhere, to typed packets, strict, for MQTT 5 and 3.1.1."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, TypeAlias

from edgebus.mqtt._packets import (
    RETURN_CODES,
    VALID_CODES,
    Ack,
    Auth,
    Connack,
    Connect,
    Disconnect,
    LastWill,
    Packet,
    Pingreq,
    Pingresp,
    Publish,
    Suback,
    Subscribe,
    Subscription,
    Unsuback,
    Unsubscribe,
)
from edgebus.mqtt._properties import NO_PROPERTIES, Kind, Properties, decode_properties
from edgebus.mqtt._wire import (
    MALFORMED,
    MAX_VARINT,
    PACKET_TOO_LARGE,
    PROTOCOL_ERROR,
    ProtocolError,
    Reader,
    check_filter_text,
    check_topic_text,
)

_CACHED = 4096
_CACHED_BYTES = 512
_V311_CODES: Final = frozenset({0, 1, 2, 0x80})
_BODY_FLAGS: Final[dict[int, int]] = {Kind.PUBREL: 2, Kind.SUBSCRIBE: 2, Kind.UNSUBSCRIBE: 2}
_Decode: TypeAlias = Callable[[Kind, Reader, bool], Packet]


class Decoder:
    """Reads the bodies of packets. Topics and properties repeat, so what they mean is kept.

    Args:
        v5: MQTT 5, else 3.1.1.
    """

    def __init__(self, *, v5: bool) -> None:
        self._v5 = v5
        self._topics: dict[bytes, str] = {}
        self._properties: dict[bytes, Properties] = {b"\0": NO_PROPERTIES}

    def decode(self, first: int, body: bytes) -> Packet:
        """A packet from its first byte and its body, the fixed header left out.

        Raises:
            ProtocolError: It is malformed.
        """
        number = first >> 4
        if number == Kind.PUBLISH:
            return self.publish(first, body)
        if 4 <= number <= 7 and len(body) == 2 and first & 0x0F == _BODY_FLAGS.get(number, 0):
            packet_id = body[0] << 8 | body[1]
            if packet_id:
                return Ack(_KINDS[number], packet_id)
        if not number or (number == Kind.AUTH and not self._v5):
            raise ProtocolError(f"packet type {number}", section="2.1.2")
        kind = _KINDS[number]
        if first & 0x0F != _BODY_FLAGS.get(kind, 0):
            raise ProtocolError(f"flags 0x{first & 0x0F:x} on {kind.name}", section="2.1.3")
        reader = Reader(body)
        packet = _DECODERS[kind](kind, reader, self._v5)
        reader.finish()
        return packet

    def publish(self, first: int, body: bytes | memoryview) -> Publish:
        """A PUBLISH packet (§3.3); large ones come as a memoryview, to be copied but once.

        Raises:
            ProtocolError: It is malformed.
        """
        end = len(body)
        qos = first >> 1 & 3
        if qos == 3 or first & 0x0E == 0x08:
            what = "QoS 3" if qos else "DUP at QoS 0"
            raise ProtocolError(what, section="3.3.1", code=MALFORMED if qos else PROTOCOL_ERROR)
        at = 2 + (body[0] << 8 | body[1]) if end >= 2 else 2
        if (at + 2 if qos else at) > end:
            raise ProtocolError("PUBLISH ends inside its topic or identifier", section="2.1.4")
        raw = bytes(body[2:at])
        topic = self._topics.get(raw)
        if topic is None:
            topic = self._read_topic(raw)
        packet_id = 0
        if qos:
            packet_id = body[at] << 8 | body[at + 1]
            if not packet_id:
                raise ProtocolError("packet identifier 0", section="2.2.1")
            at += 2
        properties = NO_PROPERTIES
        if self._v5:
            # A length of 0x80 and more is not one byte long; then nothing is found here.
            size = body[at] if at < end else 0x80
            found = self._properties.get(bytes(body[at : at + 1 + size]))
            if found is None:
                properties, at = self._read_properties(body, at)
            else:
                properties = found
                at += 1 + size
        if not topic and properties.topic_alias is None:
            raise ProtocolError("a topic of length 0", section="3.3.2.1", code=PROTOCOL_ERROR)
        return Publish(
            topic, bytes(body[at:]), qos, first & 1 == 1, first & 8 == 8, packet_id, properties
        )

    def _read_topic(self, raw: bytes) -> str:
        reader = Reader(len(raw).to_bytes(2, "big") + raw)
        topic = check_topic_text(reader.text())
        if len(self._topics) >= _CACHED:
            self._topics.clear()
        if len(raw) <= _CACHED_BYTES:
            self._topics[raw] = topic
        return topic

    def _read_properties(self, body: bytes | memoryview, at: int) -> tuple[Properties, int]:
        """The properties at `at`, and where they end."""
        # Without the payload, which may be large.
        length = Reader(bytes(body[at : at + 4]))
        size = length.varint()
        stop = at + length.at + size
        raw = bytes(body[at:stop])
        properties = decode_properties(Reader(raw), Kind.PUBLISH)
        # Only what repeats is worth keeping; what identifies one message does not.
        unique = properties.correlation_data is not None or properties.user_properties
        if stop - at <= 0x80 and not unique:
            if len(self._properties) >= _CACHED:
                self._properties.clear()
            self._properties[raw] = properties
        return properties, stop


def _code(kind: Kind, reader: Reader, *, valid: frozenset[int] | None = None) -> int:
    code = reader.u8()
    if code not in (valid or VALID_CODES[kind]):
        raise ProtocolError(f"reason code 0x{code:02x} in {kind.name}", section="2.4")
    return code


def _code_and_properties(kind: Kind, reader: Reader) -> tuple[int, Properties]:
    """Both may be left out where they are the default (§3.4.2.1)."""
    if not reader.left:
        return 0, NO_PROPERTIES
    code = _code(kind, reader)
    return code, decode_properties(reader, kind) if reader.left else NO_PROPERTIES


def _ack(kind: Kind, reader: Reader, v5: bool) -> Ack:
    packet_id = reader.identifier()
    return Ack(kind, packet_id, *(_code_and_properties(kind, reader) if v5 else ()))


def _connect(_kind: Kind, reader: Reader, v5: bool) -> Connect:
    name, level = reader.binary(), reader.u8()
    if name != b"MQTT" or level != (5 if v5 else 4):
        raise ProtocolError(f"protocol {name[:20]!r} level {level}", section="3.1.2.2", code=0x84)
    flags = reader.u8()
    has_will, will_qos, will_retain = bool(flags & 4), flags >> 3 & 3, bool(flags & 0x20)
    if flags & 1 or will_qos == 3 or (not has_will and flags & 0x38):
        raise ProtocolError(f"connect flags 0x{flags:02x}", section="3.1.2.3")
    if not v5 and flags & 0x40 and not flags & 0x80:
        raise ProtocolError("a password without a user name", section="3.1.2.9")
    keepalive_s = reader.u16()
    properties = decode_properties(reader, Kind.CONNECT) if v5 else NO_PROPERTIES
    client_id = reader.text()
    will = None
    if has_will:
        extra = decode_properties(reader, Kind.WILL) if v5 else NO_PROPERTIES
        topic = check_topic_text(reader.text())
        will = LastWill(
            topic=topic,
            payload=reader.binary(),
            qos=will_qos,
            retain=will_retain,
            properties=extra,
        )
    return Connect(
        client_id=client_id,
        clean_start=bool(flags & 2),
        keepalive_s=keepalive_s,
        username=reader.text() if flags & 0x80 else None,
        password=reader.binary() if flags & 0x40 else None,
        will=will,
        properties=properties,
    )


def _connack(kind: Kind, reader: Reader, v5: bool) -> Connack:
    flags = reader.u8()
    if flags > 1:
        raise ProtocolError(f"acknowledge flags 0x{flags:02x}", section="3.2.2.1")
    if v5 and reader.left > 1:
        code = _code(kind, reader)
        properties = decode_properties(reader, kind)
    else:
        # A broker that speaks only 3.1.1 refuses MQTT 5 with a CONNACK of its own version.
        number, properties = reader.u8(), NO_PROPERTIES
        if number not in RETURN_CODES or (v5 and not number):
            raise ProtocolError(f"return code {number} in CONNACK", section="3.2.2.2")
        code = RETURN_CODES[number]
    if flags and code:
        raise ProtocolError("a session present on a refusal", section="3.2.2.1.1")
    return Connack(code=code, session_present=bool(flags), properties=properties)


def _subscribe(kind: Kind, reader: Reader, v5: bool) -> Subscribe:
    packet_id = reader.identifier()
    properties = decode_properties(reader, kind) if v5 else NO_PROPERTIES
    wanted: list[Subscription] = []
    while reader.left or not wanted:
        text = check_filter_text(reader.text())
        options = reader.u8()
        qos, retain_handling = options & 3, options >> 4
        if qos == 3 or retain_handling > 2 or (not v5 and options > 2):
            raise ProtocolError(f"subscription options 0x{options:02x}", section="3.8.3.1")
        wanted.append(
            Subscription(text, qos, bool(options & 4), bool(options & 8), retain_handling)
        )
    return Subscribe(packet_id=packet_id, subscriptions=tuple(wanted), properties=properties)


def _suback(kind: Kind, reader: Reader, v5: bool) -> Suback:
    packet_id = reader.identifier()
    properties = decode_properties(reader, kind) if v5 else NO_PROPERTIES
    codes = _codes(kind, reader, valid=None if v5 else _V311_CODES)
    return Suback(packet_id=packet_id, codes=codes, properties=properties)


def _codes(kind: Kind, reader: Reader, *, valid: frozenset[int] | None) -> tuple[int, ...]:
    codes = [_code(kind, reader, valid=valid)]
    while reader.left:
        codes.append(_code(kind, reader, valid=valid))
    return tuple(codes)


def _unsubscribe(kind: Kind, reader: Reader, v5: bool) -> Unsubscribe:
    packet_id = reader.identifier()
    properties = decode_properties(reader, kind) if v5 else NO_PROPERTIES
    filters: list[str] = []
    while reader.left or not filters:
        filters.append(check_filter_text(reader.text()))
    return Unsubscribe(packet_id=packet_id, filters=tuple(filters), properties=properties)


def _unsuback(kind: Kind, reader: Reader, v5: bool) -> Unsuback:
    packet_id = reader.identifier()
    if not v5:
        return Unsuback(packet_id=packet_id)
    properties = decode_properties(reader, kind)
    codes = _codes(kind, reader, valid=None)
    return Unsuback(packet_id=packet_id, codes=codes, properties=properties)


def _disconnect(kind: Kind, reader: Reader, v5: bool) -> Disconnect:
    code, properties = _code_and_properties(kind, reader) if v5 else (0, NO_PROPERTIES)
    return Disconnect(code=code, properties=properties)


def _auth(kind: Kind, reader: Reader, _v5: bool) -> Auth:
    code, properties = _code_and_properties(kind, reader)
    return Auth(code=code, properties=properties)


def _pingreq(_kind: Kind, _reader: Reader, _v5: bool) -> Pingreq:
    return Pingreq()


def _pingresp(_kind: Kind, _reader: Reader, _v5: bool) -> Pingresp:
    return Pingresp()


_KINDS: Final = tuple(Kind)
_DECODERS: Final[dict[Kind, _Decode]] = {
    Kind.CONNECT: _connect,
    Kind.CONNACK: _connack,
    Kind.PUBACK: _ack,
    Kind.PUBREC: _ack,
    Kind.PUBREL: _ack,
    Kind.PUBCOMP: _ack,
    Kind.SUBSCRIBE: _subscribe,
    Kind.SUBACK: _suback,
    Kind.UNSUBSCRIBE: _unsubscribe,
    Kind.UNSUBACK: _unsuback,
    Kind.PINGREQ: _pingreq,
    Kind.PINGRESP: _pingresp,
    Kind.DISCONNECT: _disconnect,
    Kind.AUTH: _auth,
}


_BASE = 256 * 1024
# Below this a packet is copied out as a whole, above it only its payload is.
_LARGE = 8 * 1024
# Least room for the next read.
_ROOM = 64 * 1024
# Packets read at a time, roughly: a burst may not fill a queue before its handler has a turn.
_BURST = 256
_LEAST = 16 * 1024


class Parser:
    """An incremental parser with a receive buffer of its own, for `asyncio.BufferedProtocol`.

    The network writes into `room()` and reports the number of bytes with `advance`, which
    returns what is complete.
    The buffer grows with the bytes that are really there, never with the length that a header
    claims, and shrinks again behind a large packet.

    Args:
        v5: MQTT 5, else 3.1.1.
        max_packet_bytes: Larger packets are refused as soon as their header is there.

    Attributes:
        failure: What was wrong; nothing comes out afterwards.
    """

    def __init__(self, *, v5: bool, max_packet_bytes: int = MAX_VARINT + 5) -> None:
        self.failure: ProtocolError | None = None
        self._decoder = Decoder(v5=v5)
        self._max_packet = max_packet_bytes
        self._buffer = bytearray(_BASE)
        self._view = memoryview(self._buffer)
        self._start = 0
        self._end = 0
        self._reach = _ROOM

    def room(self) -> memoryview:
        """Buffer for the next bytes; at least one fits."""
        return self._view[self._end : self._end + self._reach]

    def feed(self, data: bytes) -> list[Packet]:
        """Take bytes from elsewhere; the packets that they complete."""
        packets: list[Packet] = []
        at = 0
        while at < len(data):
            room = self.room()
            part = data[at : at + len(room)]
            room[: len(part)] = part
            packets += self.advance(len(part))
            at += len(part)
        return packets

    def advance(self, count: int) -> list[Packet]:
        """Count `count` bytes of `room()` as received; the packets that they complete."""
        self._end += count
        packets: list[Packet] = []
        if self.failure is not None:
            self._start = self._end = 0
            return packets
        try:
            self._parse(packets)
        except ProtocolError as error:
            self.failure = error.with_traceback(None)  # else a circle with this parser
            self._start = self._end = 0
        return packets

    def _parse(self, packets: list[Packet]) -> None:
        buffer, view, decoder = self._buffer, self._view, self._decoder
        start, end = self._start, self._end
        total = 0
        while end - start >= 2:
            first = buffer[start]
            length = buffer[start + 1]
            body = start + 2
            if length >= 0x80:
                length &= 0x7F
                shift = 7
                while body < end:
                    byte = buffer[body]
                    body += 1
                    length |= (byte & 0x7F) << shift
                    if byte < 0x80:
                        if not byte:
                            raise ProtocolError(
                                "a length that is not the shortest", section="1.5.5"
                            )
                        break
                    shift += 7
                    if shift > 21:
                        raise ProtocolError("a length of more than 4 bytes", section="2.1.4")
                else:
                    break
            stop = body + length
            if stop - start > self._max_packet:
                raise ProtocolError(
                    f"a packet of {stop - start} bytes, at most {self._max_packet} are taken",
                    section="3.1.2.11.4",
                    code=PACKET_TOO_LARGE,
                )
            if stop > end:
                total = stop - start
                break
            if length > _LARGE and first >> 4 == 3:
                packets.append(decoder.publish(first, view[body:stop]))
            else:
                packets.append(decoder.decode(first, bytes(view[body:stop])))
            start = stop
        if packets:
            average = (start - self._start) // len(packets)
            self._reach = min(_BASE, max(_LEAST, _BURST * average))
        self._start = start
        self._make_room(total)

    def _make_room(self, total: int) -> None:
        """See that the next read has room, where a packet of `total` bytes has begun."""
        start, end = self._start, self._end
        held = end - start
        if not held:
            self._start = self._end = 0
            if len(self._buffer) > _BASE:
                self._replace(_BASE, 0)
            return
        if end < len(self._buffer) - _ROOM and start + total <= len(self._buffer):
            return
        size = len(self._buffer)
        while held + _ROOM > size and size < total:
            size *= 2
        if size != len(self._buffer):
            self._replace(size, held)
        elif start:
            self._view[:held] = self._view[start:end]
        self._start, self._end = 0, held

    def _replace(self, size: int, held: int) -> None:
        """A buffer of another size, with what is held at its front."""
        fresh = bytearray(size)
        fresh[:held] = self._view[self._start : self._start + held]
        self._buffer, self._view = fresh, memoryview(fresh)
