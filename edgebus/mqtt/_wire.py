"""Data types of the wire, and the error for malformed ones (MQTT 5.0 §1.5)."""

from __future__ import annotations

import struct

MALFORMED = 0x81
PROTOCOL_ERROR = 0x82
PACKET_TOO_LARGE = 0x95


class ProtocolError(Exception):
    """Bytes that are no MQTT, or a packet that may not come now.

    Attributes:
        problem: What was found.
        section: Where the specification rules it out, for example ``3.3.1``; MQTT 5.0 numbering.
        code: Reason code for the DISCONNECT packet (MQTT 5.0 §3.14.2.1).
    """

    def __init__(self, problem: str, *, section: str, code: int = MALFORMED) -> None:
        super().__init__(f"{problem} (MQTT 5.0 §{section})")
        self.problem = problem
        self.section = section
        self.code = code


MAX_VARINT = 268_435_455
_U16 = struct.Struct(">H")
_U32 = struct.Struct(">I")


def encode_varint(value: int) -> bytes:
    """A variable byte integer (§1.5.5).

    Raises:
        ValueError: It does not fit in four bytes.
    """
    if not 0 <= value <= MAX_VARINT:
        msg = f"{value} does not fit in a variable byte integer, at most {MAX_VARINT}"
        raise ValueError(msg)
    if value < 0x80:
        return bytes((value,))
    if value < 0x4000:
        return bytes((value & 0x7F | 0x80, value >> 7))
    if value < 0x200000:
        return bytes((value & 0x7F | 0x80, value >> 7 & 0x7F | 0x80, value >> 14))
    return bytes(
        (value & 0x7F | 0x80, value >> 7 & 0x7F | 0x80, value >> 14 & 0x7F | 0x80, value >> 21)
    )


def encode_text(value: str) -> bytes:
    """A UTF-8 string with its length (§1.5.4).

    Raises:
        ValueError: It holds a NUL or a lone surrogate, or is longer than 65,535 bytes.
    """
    if "\0" in value:
        msg = f"{value[:80]!r} holds a NUL, which no MQTT string may"
        raise ValueError(msg)
    return encode_binary(value.encode())


def encode_binary(value: bytes) -> bytes:
    """Bytes with their length (§1.5.6).

    Raises:
        ValueError: They are more than 65,535.
    """
    if len(value) > 0xFFFF:
        msg = f"{len(value)} bytes; a string or binary field of MQTT holds at most 65535"
        raise ValueError(msg)
    return _U16.pack(len(value)) + value


def check_topic_text(topic: str) -> str:
    """Return `topic` where it can be published to (§4.7).

    Raises:
        ProtocolError: It holds a wildcard.
    """
    if "+" in topic or "#" in topic:
        raise ProtocolError(f"topic {topic[:80]!r} holds a wildcard", section="3.3.2.1")
    return topic


def check_filter_text(value: str) -> str:
    """Return `value` where it is a topic filter (§4.7.1).

    Raises:
        ProtocolError: It is empty or misuses a wildcard.
    """
    levels = value.split("/")
    wrong = not value or any(
        (len(level) > 1 and ("#" in level or "+" in level))
        or (level == "#" and number != len(levels) - 1)
        for number, level in enumerate(levels)
    )
    if wrong:
        raise ProtocolError(f"{value[:80]!r} is no topic filter", section="4.7.1")
    return value


class Reader:
    """Reads the fields of one packet's body, front to back.

    Raises:
        ProtocolError: From each method: the body ends too early, or the field is malformed.
    """

    __slots__ = ("_at", "_data", "_end")

    def __init__(self, data: bytes, start: int = 0, end: int | None = None) -> None:
        self._data = data
        self._at = start
        self._end = len(data) if end is None else end

    @property
    def at(self) -> int:
        """Position of the next field."""
        return self._at

    @property
    def left(self) -> int:
        """Bytes that are not read yet."""
        return self._end - self._at

    def skip(self, count: int) -> int:
        """Step over `count` bytes and return where they start."""
        start = self._at
        if self._end - start < count:
            raise ProtocolError(
                f"a field of {count} bytes where {self._end - start} are left", section="2.1.4"
            )
        self._at = start + count
        return start

    def u8(self) -> int:
        """One byte."""
        return self._data[self.skip(1)]

    def u16(self) -> int:
        """Two bytes, big endian."""
        value: int = _U16.unpack_from(self._data, self.skip(2))[0]
        return value

    def u32(self) -> int:
        """Four bytes, big endian."""
        value: int = _U32.unpack_from(self._data, self.skip(4))[0]
        return value

    def varint(self) -> int:
        """A variable byte integer, in its shortest form (§1.5.5)."""
        value = shift = 0
        while True:
            byte = self.u8()
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                break
            shift += 7
            if shift > 21:
                raise ProtocolError("a variable byte integer of more than 4 bytes", section="1.5.5")
        if shift and byte == 0:
            raise ProtocolError("a variable byte integer that is not the shortest", section="1.5.5")
        return value

    def binary(self) -> bytes:
        """Bytes with their length."""
        size = self.u16()
        start = self.skip(size)
        return self._data[start : start + size]

    def text(self) -> str:
        """A UTF-8 string with its length."""
        raw = self.binary()
        if 0 in raw:
            raise ProtocolError("a string that holds a NUL", section="1.5.4")
        try:
            return raw.decode()
        except UnicodeDecodeError as error:
            raise ProtocolError(f"a string that is no UTF-8: {error}", section="1.5.4") from error

    def identifier(self) -> int:
        """A packet identifier, which is never 0 (§2.2.1)."""
        value = self.u16()
        if not value:
            raise ProtocolError("packet identifier 0", section="2.2.1")
        return value

    def rest(self) -> bytes:
        """All that is left."""
        start = self.skip(self.left)
        return self._data[start : self._end]

    def finish(self) -> None:
        """Nothing may be left."""
        if self._at != self._end:
            raise ProtocolError(f"{self.left} bytes too many", section="2.1.4")
