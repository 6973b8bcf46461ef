"""From a stream of bytes, cut anywhere, to packets (MQTT 5.0 §2.1)."""

from __future__ import annotations

from edgebus.mqtt._decoder import Decoder
from edgebus.mqtt._errors import PACKET_TOO_LARGE, ProtocolError
from edgebus.mqtt._packets import Packet
from edgebus.mqtt._wire import MAX_VARINT

__all__ = ["Parser"]

_BASE = 256 * 1024
# Below this a packet is copied out as a whole, above it only its payload is.
_LARGE = 8 * 1024
# At least so much room for the next read.
_ROOM = 64 * 1024
# Read about so many packets at a time: a burst may not fill a queue before its handler has a turn.
_BURST = 256
_LEAST = 16 * 1024


class Parser:
    """An incremental parser with a receive buffer of its own, for `asyncio.BufferedProtocol`.

    The network writes into `room()` and tells with `advance` how much; what is complete comes out.
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
        """Where the next bytes go; at least one fits."""
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
