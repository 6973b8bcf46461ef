"""A TCP proxy that does to a connection what bad networks do.

TCP repairs loss, so what an application sees of a bad link is this: bytes come late, slowly and in
small pieces; the connection is reset, perhaps in the middle of a packet; or nothing comes any more
although nobody has hung up (half-open, RFC 9293 §3.5.1).
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections import deque
from dataclasses import dataclass
from random import Random
from types import TracebackType
from typing import Self

__all__ = ["PERFECT", "LinkProfile", "Proxy"]

_CHUNK = 16 * 1024
_BUFFER_BYTES = 64 * 1024
_RESET = struct.pack("ii", 1, 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkProfile:
    """How a link treats bytes; it may change while connections are open.

    Attributes:
        delay_s: Each piece arrives so much later.
        jitter_s: And up to so much more, never before an earlier one.
        bytes_per_s: Bandwidth of each direction of each connection; 0: as it comes.
        fragment: Largest piece in bytes; 0: as it comes.
        cut_share: How many of all pieces end the connection: a random part of the piece still
            arrives, then comes a reset.
    """

    delay_s: float = 0.0
    jitter_s: float = 0.0
    bytes_per_s: float = 0.0
    fragment: int = 0
    cut_share: float = 0.0


PERFECT = LinkProfile()


class Proxy:
    """Listens on a free port of the loopback and connects through to a broker.

    Args:
        host: Of the broker.
        port: Of the broker.
        profile: How the link treats bytes.
        seed: Of every choice.
    """

    def __init__(
        self, host: str, port: int, *, profile: LinkProfile = PERFECT, seed: int = 0
    ) -> None:
        self.profile = profile
        self.port = 0
        self.connections = 0
        """Connections made so far."""
        self.cuts = 0
        """Connections reset by the profile or by `cut`."""
        self.random = Random(seed)
        self.silent = False
        """New connections are accepted and nothing else."""
        self.refusing = False
        """New connections are reset at once."""
        self._target = (host, port)
        self._server: asyncio.Server | None = None
        self._pairs: set[_Pair] = set()
        self._news = asyncio.Event()

    @property
    def url(self) -> str:
        """``mqtt://127.0.0.1:port``."""
        return f"mqtt://127.0.0.1:{self.port}"

    @property
    def open(self) -> int:
        """Connections that are there now, stalled ones included."""
        return len(self._pairs)

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0, limit=_CHUNK)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        assert self._server is not None
        self._server.close()
        ends = [pair.task for pair in self._pairs if pair.task is not None]
        for end in ends:
            end.cancel()
        await asyncio.gather(*ends, return_exceptions=True)
        await self._server.wait_closed()

    def cut(self) -> int:
        """Reset every connection; how many there were."""
        pairs = list(self._pairs)
        for pair in pairs:
            pair.reset()
        return len(pairs)

    def stall(self) -> int:
        """From now on nothing passes through the present connections, and nobody hangs up."""
        for pair in self._pairs:
            pair.moving.clear()
        return len(self._pairs)

    def resume(self) -> None:
        """Stalled connections carry on where they stood."""
        for pair in self._pairs:
            pair.moving.set()

    async def connected(self, count: int) -> None:
        """Return once so many connections were made in all."""
        while self.connections < count:
            self._news.clear()
            await self._news.wait()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._news.set()
        pair = _Pair(self, (reader, writer))
        if self.refusing:
            pair.reset()
            return
        pair.task = asyncio.current_task()
        self._pairs.add(pair)
        if self.silent:
            pair.moving.clear()
        try:
            await pair.run(self._target)
        except asyncio.CancelledError:
            pair.reset()  # the proxy closes; there is nobody to tell
        finally:
            self._pairs.discard(pair)


class _Pair:
    """A client's connection and the one to the broker that belongs to it."""

    def __init__(self, proxy: Proxy, near: tuple[asyncio.StreamReader, asyncio.StreamWriter]):
        self.task: asyncio.Task[None] | None = None
        self.moving = asyncio.Event()
        self.moving.set()
        self._proxy = proxy
        self._near = near
        self._writers = [near[1]]
        self._over = asyncio.Event()

    async def run(self, target: tuple[str, int]) -> None:
        """Carry bytes both ways until one side ends or the link is cut."""
        await self.moving.wait()
        try:
            far = await asyncio.open_connection(*target, limit=_CHUNK)
        except OSError:
            self.reset()
            return
        self._writers.append(far[1])
        for writer in self._writers:
            sock: socket.socket = writer.get_extra_info("socket")
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            writer.transport.set_write_buffer_limits(high=_BUFFER_BYTES)
        up = _Direction(self, self._near[0], far[1])
        down = _Direction(self, far[0], self._near[1])
        tasks = [
            asyncio.create_task(work, name=f"proxy {self._proxy.port}")
            for work in (up.take(), up.give(), down.take(), down.give(), self._wait_over())
        ]
        try:
            # Either way's end of the stream ends the pair: MQTT has no half-closed connections
            # worth keeping.
            await asyncio.wait(tasks[1::2] + tasks[4:], return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            for writer in self._writers:
                writer.close()

    async def carry(self, data: bytes, writer: asyncio.StreamWriter) -> bool:
        """Write one piece as the profile says; False when it was the last."""
        profile, random = self._proxy.profile, self._proxy.random
        if profile.bytes_per_s:
            await asyncio.sleep(len(data) / profile.bytes_per_s)
        await self.moving.wait()
        if profile.cut_share and random.random() < profile.cut_share:
            writer.write(data[: random.randrange(1, max(2, len(data)))])
            # The part has to leave before the reset overtakes it.
            await asyncio.sleep(0)
            self.reset()
            return False
        writer.write(data)
        await writer.drain()
        if profile.fragment:
            await asyncio.sleep(0)
        return True

    def due(self) -> float:
        """When bytes that came now may go on."""
        profile = self._proxy.profile
        wait = profile.delay_s + profile.jitter_s * self._proxy.random.random()
        return asyncio.get_running_loop().time() + wait

    def piece(self) -> int:
        """Most bytes of the next piece."""
        return self._proxy.profile.fragment or _CHUNK

    def reset(self) -> None:
        """End both connections with a reset."""
        self._proxy.cuts += 1
        for writer in self._writers:
            sock: socket.socket = writer.get_extra_info("socket")
            if sock.fileno() >= 0:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            writer.transport.abort()
        self._over.set()

    async def _wait_over(self) -> None:
        await self._over.wait()


class _Direction:
    """Bytes on their way from one side to the other: a short pipe with a delay."""

    def __init__(
        self, pair: _Pair, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self._pair = pair
        self._reader = reader
        self._writer = writer
        self._pipe: deque[tuple[float, bytes]] = deque()
        self._held = 0
        self._news = asyncio.Event()
        self._room = asyncio.Event()

    async def take(self) -> None:
        """Read into the pipe until the stream ends."""
        while True:
            # A stalled link takes nothing either: the sender's own buffers fill up.
            await self._pair.moving.wait()
            try:
                data = await self._reader.read(_CHUNK)
            except OSError:
                data = b""
            self._pipe.append((self._pair.due(), data))
            self._held += len(data)
            self._news.set()
            if not data:
                return
            while self._held > _BUFFER_BYTES:
                self._room.clear()
                await self._room.wait()

    async def give(self) -> None:
        """Write out of the pipe; returns at the end of the stream."""
        loop = asyncio.get_running_loop()
        while True:
            while not self._pipe:
                self._news.clear()
                await self._news.wait()
            due, data = self._pipe.popleft()
            if (wait := due - loop.time()) > 0:
                await asyncio.sleep(wait)
            await self._pair.moving.wait()
            if not data:
                return
            while data:
                size = self._pair.piece()
                try:
                    if not await self._pair.carry(data[:size], self._writer):
                        return
                except OSError:
                    return
                data = data[size:]
            self._held = sum(len(part) for _, part in self._pipe)
            self._room.set()
