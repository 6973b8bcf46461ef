"""The sending half of a connection: coalesced, and with a brake for publishers."""

from __future__ import annotations

import asyncio

__all__ = ["Writer"]

# Enough for some pictures; above it publishers of QoS 0 wait.
_BUFFER_BYTES = 256 * 1024
# So much may be published before the event loop gets its turn.
_BURST_BYTES = 64 * 1024
_BURST_MESSAGES = 64
# So few packets per turn are better sent one by one.
_QUIET = 4


class Writer:
    """Collects what one turn of the event loop sends and hands it to the network in one piece.

    Where little is sent, the first packet of a turn leaves at once, for the sake of latency.

    Attributes:
        at: When bytes last left, on the loop's clock.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.at = loop.time()
        self._loop = loop
        self._network: asyncio.WriteTransport | None = None
        self._waiting: list[bytes] = []
        self._bytes = 0
        self._turn = 0
        self._quiet = True
        self._writable = asyncio.Event()
        self._writable.set()

    def attach(self, network: asyncio.WriteTransport) -> None:
        """The network is there."""
        self._network = network
        network.set_write_buffer_limits(high=_BUFFER_BYTES)

    def send(self, data: bytes, more: bytes = b"") -> None:
        """Take bytes; they leave before the next turn of the event loop."""
        waiting = self._waiting
        waiting.append(data)
        if more:
            waiting.append(more)
        self._bytes += len(data) + len(more)
        self._turn += 1
        if self._turn == 1:
            self._loop.call_soon(self._next_turn)
            if self._quiet:
                self.flush()

    def flush(self) -> None:
        """Hand over what was taken."""
        waiting = self._waiting
        if waiting and self._network is not None:
            self.at = self._loop.time()
            self._network.write(waiting[0] if len(waiting) == 1 else b"".join(waiting))
            waiting.clear()
            self._bytes = 0

    def _next_turn(self) -> None:
        self._quiet = self._turn <= _QUIET
        self._turn = 0
        self.flush()

    async def writable(self) -> None:
        """Return once the network has room, and give others a turn during a flood."""
        if self._bytes > _BURST_BYTES or len(self._waiting) > _BURST_MESSAGES:
            self.flush()
            await asyncio.sleep(0)
        if not self._writable.is_set():
            await self._writable.wait()

    def pause(self) -> None:
        """The network's buffer is full."""
        self._writable.clear()

    def resume(self) -> None:
        """It has room again, or is gone."""
        self._writable.set()
