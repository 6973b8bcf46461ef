"""What stands between a client and a broker in the field: a WebSocket gateway, and proxies."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import ssl
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.typing import Subprotocol

CHUNK = 65_536


@asynccontextmanager
async def websocket_gateway(
    broker_port: int, *, port: int = 0, path: str = "/mqtt", tls: ssl.SSLContext | None = None
) -> AsyncIterator[int]:
    """A WebSocket in front of a broker's TCP port, as a web server has it; its port."""

    async def handle(client: ServerConnection) -> None:
        assert client.request is not None
        if client.request.path != path:
            return
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", broker_port)
        except OSError:
            return

        async def upwards() -> None:
            with contextlib.suppress(ConnectionClosed, OSError):
                async for data in client:
                    assert isinstance(data, bytes)
                    writer.write(data)
                    await writer.drain()
            writer.close()

        task = asyncio.create_task(upwards())
        with contextlib.suppress(ConnectionClosed, OSError):
            while data := await reader.read(CHUNK):
                await client.send(data)
        await client.close()
        await task

    async with serve(
        handle,
        "127.0.0.1",
        port,
        ssl=tls,
        subprotocols=[Subprotocol("mqtt")],
        max_size=None,
        compression=None,
    ) as server:
        yield server.sockets[0].getsockname()[1]


@contextmanager
def gateway_in_thread(broker_port: int) -> Iterator[int]:
    """`websocket_gateway` beside the tests' own event loops."""
    with asyncio.Runner() as runner:
        loop = runner.get_loop()
        gateway = websocket_gateway(broker_port)
        port = runner.run(gateway.__aenter__())
        thread = threading.Thread(target=loop.run_forever)
        thread.start()
        yield port
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        runner.run(gateway.__aexit__(None, None, None))


class Proxy:
    """A proxy of one kind, with or without a password.

    Attributes:
        port: Where it listens.
        wanted: Places that clients asked for.
    """

    def __init__(self, kind: str, *, login: str = "") -> None:
        self.port = 0
        self.wanted: list[str] = []
        self._serve = {"http": self._http, "socks5": self._socks5, "socks4": self._socks4}[kind]
        self._login = login
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Proxy:
        self._server = await asyncio.start_server(self._handle, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()

    async def _handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        host, port = await self._serve(reader, writer)
        if not host:
            writer.close()
            return
        self.wanted.append(f"{host}:{port}")
        # Names that only the proxy knows are this machine.
        there, back = await asyncio.open_connection("127.0.0.1", port)
        for source, sink in ((reader, back), (there, writer)):
            self._tasks.add(asyncio.create_task(self._pass(source, sink)))

    async def _pass(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await source.read(CHUNK):
                sink.write(data)
                await sink.drain()
        sink.close()

    async def _http(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> tuple[str, int]:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        secret = base64.b64encode(self._login.encode()).decode()
        if self._login and f"asic {secret}" not in head:  # the scheme in either case
            writer.write(b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n")
            return "", 0
        writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        host, _, port = head.split()[1].rpartition(":")
        return host, int(port)

    async def _socks5(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> tuple[str, int]:
        _, count = await reader.readexactly(2)
        await reader.readexactly(count)
        if self._login:
            writer.write(b"\x05\x02")
            user = await reader.readexactly((await reader.readexactly(2))[1])
            password = await reader.readexactly((await reader.readexactly(1))[0])
            right = f"{user.decode()}:{password.decode()}" == self._login
            writer.write(b"\x01\x00" if right else b"\x01\x01")
            if not right:
                return "", 0
        else:
            writer.write(b"\x05\x00")
        kind = (await reader.readexactly(4))[3]
        if kind == 3:
            host = (await reader.readexactly((await reader.readexactly(1))[0])).decode()
        else:
            host = ".".join(str(each) for each in await reader.readexactly(4))
        port = int.from_bytes(await reader.readexactly(2))
        writer.write(b"\x05\x00\x00\x01\x00\x00\x00\x00\x00\x00")
        return host, port

    async def _socks4(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> tuple[str, int]:
        head = await reader.readexactly(8)
        await reader.readuntil(b"\x00")
        host = ".".join(str(each) for each in head[4:])
        if head[4:7] == b"\x00\x00\x00":  # SOCKS4a
            host = (await reader.readuntil(b"\x00"))[:-1].decode()
        writer.write(b"\x00\x5a\x00\x00\x00\x00\x00\x00")
        return host, int.from_bytes(head[2:4])
