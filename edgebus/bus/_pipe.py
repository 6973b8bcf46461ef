"""A socket for paho that is really an asyncio transport.

paho-mqtt takes any object with the five methods of a socket that it needs. With this one asyncio
does the network (connecting, TLS, buffers) and paho is left with what it is good at, the packets:
nothing blocks, no thread is needed, and bytes that TLS has decrypted but select() cannot see are
no trap.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import cast

__all__ = ["Pipe"]

# Enough for a picture; above it publishers of QoS 0 wait.
_WRITE_BUFFER = 256 * 1024


class Pipe(asyncio.Protocol):
    """Both ends: paho's `SocketLike` on one side, an asyncio protocol on the other.

    Args:
        on_data: Called when there is something to `recv`.
        on_end: Called once when the network side is gone, with the error if there was one.
    """

    def __init__(
        self,
        *,
        on_data: Callable[[], None],
        on_end: Callable[[Exception | None], None],
    ) -> None:
        self.paused = False
        self._on_data = on_data
        self._on_end = on_end
        self._transport: asyncio.Transport | None = None
        self._incoming = b""
        self._at = 0
        self._outgoing: list[bytes | bytearray] = []
        self._writable = asyncio.Event()
        self._writable.set()
        self._ended = asyncio.Event()

    # What asyncio calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The network is there."""
        self._transport = cast("asyncio.Transport", transport)
        self._transport.set_write_buffer_limits(high=_WRITE_BUFFER)
        sock: socket.socket | None = transport.get_extra_info("socket")
        if sock is not None and sock.family in (socket.AF_INET, socket.AF_INET6):
            # Without it QoS 1 costs tens of milliseconds each way (Nagle and delayed ACK).
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def data_received(self, data: bytes) -> None:
        """Bytes came in."""
        rest = self._incoming[self._at :]
        self._incoming = rest + data if rest else data
        self._at = 0
        self._on_data()

    def pause_writing(self) -> None:
        """The send buffer is full."""
        self._writable.clear()

    def resume_writing(self) -> None:
        """The send buffer has room."""
        self._writable.set()

    def connection_lost(self, exc: Exception | None) -> None:
        """The network is gone."""
        self._ended.set()
        self._writable.set()
        self._on_end(exc)

    # What paho calls.

    def recv(self, size: int) -> bytes:
        """Up to `size` bytes; BlockingIOError where there are none."""
        start = self._at
        if start >= len(self._incoming):
            raise BlockingIOError
        if not start and size >= len(self._incoming):
            data, self._incoming = self._incoming, b""
            return data
        data = self._incoming[start : start + size]
        self._at = start + len(data)
        return data

    def send(self, data: bytes | bytearray) -> int:
        """Take bytes; they leave with `flush`."""
        self._outgoing.append(data)
        return len(data)

    def close(self) -> None:
        """Send what was taken, then close."""
        self.flush()
        if self._transport is not None:
            self._transport.close()

    def fileno(self) -> int:
        """No descriptor: nobody may select on it."""
        return -1

    def setblocking(self, flag: bool) -> None:
        """It never blocks."""

    # What the connection calls.

    @property
    def has_data(self) -> bool:
        """Whether `recv` would give something."""
        return self._at < len(self._incoming)

    @property
    def congested(self) -> bool:
        """Whether the send buffer is full."""
        return not self._writable.is_set()

    def flush(self) -> None:
        """Hand everything taken to the network, in one piece."""
        if self._outgoing and self._transport is not None:
            self._transport.write(b"".join(self._outgoing))
            self._outgoing.clear()

    async def writable(self) -> None:
        """Return once the send buffer has room."""
        await self._writable.wait()

    async def ended(self) -> None:
        """Return once the network side is gone."""
        await self._ended.wait()

    def abort(self) -> None:
        """Cut at once."""
        if self._transport is not None:
            self._transport.abort()

    def pause(self) -> None:
        """Read no more."""
        self.paused = True
        if self._transport is not None:
            self._transport.pause_reading()

    def resume(self) -> None:
        """Read on."""
        self.paused = False
        if self._transport is not None:
            self._transport.resume_reading()
