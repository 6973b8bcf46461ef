"""The asyncio libraries under measurement, each as its documentation shows it."""

from __future__ import annotations

import asyncio
import inspect
import logging
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from importlib import import_module
from typing import Any, TypeAlias

from benchmarks._bus_async import AsyncClient, Opened
from benchmarks._bus_job import EVENT, FRAME, Job, Reading
from edgebus.bus import BrokerSettings, Bus, BusSettings, Event
from edgebus.contracts import Address, Identity
from edgebus.mqtt import MqttTransport

__all__ = ["CLIENTS"]

OnMessage: TypeAlias = Callable[[int, Any], Awaitable[None] | None]
_NODELAY = (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


class EdgeBusClient:
    """Typed and validated."""

    @asynccontextmanager
    async def open(
        self, job: Job, *, listen: str | None, on_message: OnMessage
    ) -> AsyncIterator[Opened]:
        """Connect."""
        topics: dict[int, Any] = EVENT if job.payload == "json" else FRAME  # type: ignore[assignment]
        topic = topics[job.qos]
        settings = BrokerSettings(url=f"mqtt://127.0.0.1:{job.port}", send_window=job.window)
        identity = Identity(site="bench", node=job.role, service="bench")
        awaits = inspect.iscoroutinefunction(on_message)

        class Edge:
            async def publish(self, name: str, n: int) -> None:
                await bus.publish(self._address(name), job.typed(n))

            async def publish_again(self, name: str, message: Any) -> None:
                await bus.publish(self._address(name), message)

            async def settled(self) -> None:
                await bus.drain(60)

            def __init__(self) -> None:
                self._known: dict[str, Address[Any]] = {}

            def _address(self, name: str) -> Address[Any]:
                found = self._known.get(name)
                if found is None:
                    place = Identity(site=name.replace("/", "_"), node="n", service="s")
                    found = self._known[name] = topic.at(place)
                return found

        def number(payload: Any) -> int:
            return payload.n if job.payload == "json" else payload.record.index  # type: ignore[no-any-return]

        async def handle(event: Event[Any]) -> None:
            if awaits:
                await on_message(number(event.payload), event.payload)  # type: ignore[misc]
            else:
                on_message(number(event.payload), event.payload)

        async with Bus(
            MqttTransport(settings), identity=identity, settings=BusSettings(ephemeral=True)
        ) as bus:
            if listen is not None:
                await bus.subscribe(topic.any(site=listen.replace("/", "_")), handle)
            yield Edge()


class FastStreamClient:
    """Typed and validated, `faststream.mqtt` over zmqtt. Pictures are plain bytes to it."""

    @asynccontextmanager
    async def open(
        self, job: Job, *, listen: str | None, on_message: OnMessage
    ) -> AsyncIterator[Opened]:
        """Connect."""
        faststream: Any = import_module("faststream")
        mqtt: Any = import_module("faststream.mqtt")
        broker = mqtt.MQTTBroker(f"mqtt://127.0.0.1:{job.port}", logger=None)
        typed, qos = job.payload == "json", mqtt.QoS(job.qos)

        async def deliver(n: int, message: Any) -> None:
            result = on_message(n, message)
            if result is not None:
                await result

        async def handle(message: Reading) -> None:
            await deliver(message.n, message)

        async def handle_bytes(message: bytes) -> None:
            await deliver(int(message[:8]), message)

        if listen is not None:
            subscribe = broker.subscriber(listen, qos=qos, ack_policy=faststream.AckPolicy.ACK)
            subscribe(handle if typed else handle_bytes)

        class Fast:
            async def publish(self, name: str, n: int) -> None:
                await broker.publish(job.typed(n) if typed else job.raw(n), name, qos=qos)

            async def publish_again(self, name: str, message: Any) -> None:
                await broker.publish(message, name, qos=qos)

            async def settled(self) -> None:
                await asyncio.sleep(0)

        await broker.start()
        try:
            yield Fast()
        finally:
            await broker.stop()


class AiomqttClient:
    """Bytes."""

    @asynccontextmanager
    async def open(
        self, job: Job, *, listen: str | None, on_message: OnMessage
    ) -> AsyncIterator[Opened]:
        """Connect."""
        aiomqtt: Any = import_module("aiomqtt")
        logging.getLogger("mqtt").setLevel(logging.ERROR)
        client = aiomqtt.Client(
            "127.0.0.1",
            job.port,
            max_inflight_messages=job.window,
            socket_options=[_NODELAY],
        )

        class Aio:
            async def publish(self, name: str, n: int) -> None:
                await client.publish(name, job.raw(n), job.qos, timeout=60)

            async def publish_again(self, name: str, message: Any) -> None:
                await client.publish(name, message, job.qos, timeout=60)

            async def settled(self) -> None:
                await asyncio.sleep(0)

        async def listening() -> None:
            with suppress(aiomqtt.MqttError):  # it ends with the connection
                async for message in client.messages:
                    data = message.payload
                    assert isinstance(data, bytes)
                    result = on_message(int(data[:8]), data)
                    if result is not None:
                        await result

        async with client:
            task = None
            if listen is not None:
                await client.subscribe(listen, job.qos)
                task = asyncio.create_task(listening())
            yield Aio()
            if task is not None:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)


class GmqttClient:
    """Bytes. It has no back-pressure of its own, so the benchmark minds its buffers."""

    @asynccontextmanager
    async def open(
        self, job: Job, *, listen: str | None, on_message: OnMessage
    ) -> AsyncIterator[Opened]:
        """Connect."""
        gmqtt: Any = import_module("gmqtt")
        client = gmqtt.Client(f"bench-{job.role}")
        storage = client._persistent_storage
        tasks: set[asyncio.Task[None]] = set()
        burst = 0

        def received(_client: Any, _topic: str, data: bytes, _qos: int, _properties: Any) -> int:
            result = on_message(int(data[:8]), data)
            if result is not None:
                task = asyncio.ensure_future(result)
                tasks.add(task)
                task.add_done_callback(tasks.discard)
            return 0

        class Gmqtt:
            async def publish(self, name: str, n: int) -> None:
                nonlocal burst
                client.publish(name, job.raw(n), qos=job.qos)
                burst += 1
                if job.role == "ping":
                    return
                if job.qos:
                    while len(storage._messages) >= job.window:  # noqa: ASYNC110 it tells nobody
                        await asyncio.sleep(0)
                elif burst % 64 == 0 or job.payload == "jpeg":
                    await asyncio.sleep(0)
                    while self._buffered() > 256 * 1024:  # noqa: ASYNC110 it tells nobody
                        await asyncio.sleep(0)

            async def publish_again(self, name: str, message: Any) -> None:
                client.publish(name, message, qos=job.qos)

            async def settled(self) -> None:
                while len(storage._messages) or self._buffered():  # noqa: ASYNC110 it tells nobody
                    await asyncio.sleep(0.001)

            def _buffered(self) -> int:
                return int(client._connection._transport.get_write_buffer_size())

        client.on_message = received
        await client.connect("127.0.0.1", job.port, keepalive=60)
        if listen is not None:
            subscribed = asyncio.Event()
            client.on_subscribe = lambda *_: subscribed.set()
            client.subscribe(listen, qos=job.qos)
            await subscribed.wait()
        yield Gmqtt()
        await client.disconnect()


CLIENTS: dict[str, Callable[[], AsyncClient]] = {
    "edgebus": EdgeBusClient,
    "faststream": FastStreamClient,
    "aiomqtt": AiomqttClient,
    "gmqtt": GmqttClient,
}
