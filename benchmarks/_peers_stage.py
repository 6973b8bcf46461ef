"""What the probes of peers stand on: a Mosquitto, links that can be cut, a stranger's client."""

from __future__ import annotations

import asyncio
import shutil
import socket
import subprocess
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.properties import Properties

__all__ = ["HOST", "Broker", "Link", "Stranger", "eventually"]

HOST = "127.0.0.1"
_PUBLISH, _PUBACK = 3, 4
# Mosquitto's defaults (20 events in flight among them), but for the two settings that
# docs/delivery.md asks of every broker, and a limit of packets for the probe of P4.
_CONFIG = """\
listener {port} 127.0.0.1
allow_anonymous true
persistence false
set_tcp_nodelay true
max_queued_messages 0
max_packet_size 1000000
"""


async def eventually(condition: Callable[[], bool], within: float) -> bool:
    """Whether the condition became true in time (seconds)."""
    with suppress(TimeoutError):
        async with asyncio.timeout(within):
            while not condition():  # noqa: ASYNC110 peers announce nothing
                await asyncio.sleep(0.01)
            return True
    return False


class Broker:
    """A Mosquitto that can be killed; the port stays."""

    def __init__(self, folder: Path) -> None:
        with socket.socket() as probe:
            probe.bind((HOST, 0))
            self.port: int = probe.getsockname()[1]
        self._config = folder / f"mosquitto-{self.port}.conf"
        self._config.write_text(_CONFIG.format(port=self.port))
        self._process: subprocess.Popen[bytes] | None = None

    async def start(self) -> None:
        """Start it and wait until it answers."""
        program = shutil.which("mosquitto") or "/usr/sbin/mosquitto"
        self._process = subprocess.Popen(  # noqa: ASYNC220 it returns at once
            [program, "-c", str(self._config)], stderr=subprocess.DEVNULL
        )
        async with asyncio.timeout(10):
            while True:
                with suppress(OSError):
                    _, writer = await asyncio.open_connection(HOST, self.port)
                    writer.close()
                    return
                await asyncio.sleep(0.01)

    def kill(self) -> None:
        """End it as kill -9 does: it forgets everything."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


class Link:
    """A TCP proxy between one client and the broker, which reads along.

    Attributes:
        connects: Connections that came to life.
        delivered: Packet ids of the events that the broker sent, in order.
        acknowledged: Packet ids that the client acknowledged, in order.
    """

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self._server: asyncio.Server | None = None
        self._open: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._cut_off = False
        self.connects = 0
        self.delivered: list[int] = []
        self.acknowledged: list[int] = []

    @property
    def port(self) -> int:
        """Where the client connects to."""
        assert self._server is not None
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    @property
    def alive(self) -> bool:
        """Whether a connection is open."""
        return bool(self._open)

    async def start(self) -> None:
        """Listen."""
        self._server = await asyncio.start_server(self._accept, HOST, 0)

    def cut(self, *, for_good: bool = False) -> None:
        """Break the connection without a word; `for_good`: as if the client's host had died."""
        self._cut_off = self._cut_off or for_good
        for writer in self._open:
            writer.transport.abort()

    def restore(self) -> None:
        """Let connections through again."""
        self._cut_off = False

    async def close(self) -> None:
        """End it."""
        self.cut(for_good=True)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._server is not None:
            self._server.close()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._cut_off:
            writer.transport.abort()
            return
        try:
            there, back = await asyncio.open_connection(HOST, self._broker.port)
        except OSError:
            writer.transport.abort()
            return
        for end in (writer, back):
            end.transport.get_extra_info("socket").setsockopt(
                socket.IPPROTO_TCP, socket.TCP_NODELAY, 1
            )
        self.connects += 1
        ends = {writer, back}
        self._open |= ends
        pumps = {
            asyncio.create_task(_pump(reader, back, _Reader(self._from_client))),
            asyncio.create_task(_pump(there, writer, _Reader(self._from_broker))),
        }
        self._tasks |= pumps
        try:
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._open -= ends
            self._tasks -= pumps
            for pump in pumps:
                pump.cancel()
            for end in ends:
                end.transport.abort()

    def _from_client(self, head: int, body: bytes) -> None:
        if head >> 4 == _PUBACK:
            self.acknowledged.append(int.from_bytes(body[:2], "big"))

    def _from_broker(self, head: int, body: bytes) -> None:
        if head >> 4 == _PUBLISH and head >> 1 & 3:
            after = 2 + int.from_bytes(body[:2], "big")
            self.delivered.append(int.from_bytes(body[after : after + 2], "big"))


class _Reader:
    """Cuts a stream of bytes into MQTT packets."""

    def __init__(self, tell: Callable[[int, bytes], None]) -> None:
        self._tell = tell
        self._held = bytearray()

    def feed(self, data: bytes) -> None:
        self._held += data
        while (packet := self._next()) is not None:
            self._tell(*packet)

    def _next(self) -> tuple[int, bytes] | None:
        size, shift, start = 0, 0, 1
        while True:
            if start >= len(self._held):
                return None
            digit = self._held[start]
            size |= (digit & 0x7F) << shift
            shift += 7
            start += 1
            if digit < 0x80:
                break
        if len(self._held) < start + size:
            return None
        head, body = self._held[0], bytes(self._held[start : start + size])
        del self._held[: start + size]
        return head, body


async def _pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter, reader: _Reader) -> None:
    with suppress(OSError):
        while data := await source.read(65536):
            reader.feed(data)
            sink.write(data)
            await sink.drain()


class Stranger:
    """A plain paho-mqtt client: sends what no framework made, and hears what is on the wire.

    Attributes:
        heard: Topic, payload and retain flag of each message.
    """

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self.heard: list[tuple[str, bytes, bool]] = []
        self._client = mqtt.Client(CallbackAPIVersion.VERSION2, protocol=mqtt.MQTTv5)
        self._client.max_inflight_messages_set(1000)
        self._client.reconnect_delay_set(1, 1)
        self._client.on_message = self._hear
        self._client.on_connect = self._listen
        self._subscribed = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._client.on_subscribe = self._ready

    async def start(self) -> None:
        """Connect and hear everything."""
        self._client.connect(HOST, self._broker.port)
        self._client.loop_start()
        await asyncio.wait_for(self._subscribed.wait(), 10)

    async def close(self) -> None:
        """Disconnect."""
        self._client.disconnect()
        await asyncio.to_thread(self._client.loop_stop)

    async def say(self, topic: str, *payloads: bytes, qos: int = 1, retain: bool = False) -> None:
        """Publish, and return once the broker has the last of them."""
        async with asyncio.timeout(10):
            while not self._client.is_connected():  # noqa: ASYNC110 paho tells another thread
                await asyncio.sleep(0.05)
        for payload in payloads:
            sent = self._client.publish(topic, payload, qos=qos, retain=retain)
        await asyncio.to_thread(sent.wait_for_publish, 10)

    def payloads(self, topic: str) -> list[bytes]:
        """What was heard on a topic."""
        return [payload for name, payload, _ in self.heard if name == topic]

    def _listen(self, client: mqtt.Client, *_: Any) -> None:
        client.subscribe("edgebus/#", qos=1)

    def _ready(self, *_: Any) -> None:
        self._loop.call_soon_threadsafe(self._subscribed.set)

    def _hear(self, _client: mqtt.Client, _data: Any, message: mqtt.MQTTMessage) -> None:
        assert message.properties is None or isinstance(message.properties, Properties)
        self.heard.append((message.topic, bytes(message.payload), message.retain))
