"""Retained events and subscriptions that a node of a cluster acknowledges suspiciously late."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Literal

import pytest
from structlog.testing import capture_logs

from edgebus.bus import BrokerSettings, ConnectOptions, Loss, Outgoing, RawMessage
from edgebus.mqtt import (
    Ack,
    Connack,
    Connect,
    Kind,
    MqttConnection,
    MqttTransport,
    Parser,
    Publish,
    Suback,
    Subscribe,
    encode_packet,
)
from edgebus.mqtt import _retain_repair as repair

DEADLINE_S = 10.0
LATE_S = 0.05


class Node:
    """A broker that acknowledges when it has to.

    Attributes:
        came: The events that came, with their identifiers.
        asked: The identifiers of the subscriptions that came.
    """

    def __init__(self) -> None:
        self.came: asyncio.Queue[tuple[bytes, int]] = asyncio.Queue()
        self.asked: asyncio.Queue[int] = asyncio.Queue()
        self._writer: asyncio.StreamWriter | None = None

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writer = writer
        parser = Parser(v5=False)
        while data := await reader.read(65_536):
            for packet in parser.feed(data):
                if isinstance(packet, Connect):
                    writer.write(encode_packet(Connack(), v5=False))
                elif isinstance(packet, Publish):
                    self.came.put_nowait((bytes(packet.payload), packet.packet_id))
                elif isinstance(packet, Subscribe):
                    self.asked.put_nowait(packet.packet_id)
        writer.close()

    def acknowledge(self, number: int) -> None:
        assert self._writer is not None
        self._writer.write(encode_packet(Ack(Kind.PUBACK, number), v5=False))

    def grant(self, number: int) -> None:
        assert self._writer is not None
        self._writer.write(encode_packet(Suback(packet_id=number, codes=(1,)), v5=False))

    async def next(self) -> tuple[bytes, int]:
        return await asyncio.wait_for(self.came.get(), DEADLINE_S)


class Ear:
    """A receiver that wants nothing."""

    def received(self, message: RawMessage, /) -> None:
        raise AssertionError(message)

    def lost(self, loss: Loss, /) -> None:
        """The test is over."""


class Outcome:
    """The acknowledgement of one event, as the bus gets it."""

    def __init__(self) -> None:
        self.future: asyncio.Future[str | None] = asyncio.get_running_loop().create_future()

    def __call__(self, refused: str | None) -> None:
        self.future.set_result(refused)

    async def done(self) -> str | None:
        return await asyncio.wait_for(self.future, DEADLINE_S)


@asynccontextmanager
async def cluster(
    monkeypatch: pytest.MonkeyPatch,
    *,
    late_s: float = LATE_S,
    profile: Literal["standard", "nats"] = "nats",
) -> AsyncIterator[tuple[MqttConnection, Node]]:
    """A connection, and the broker at its other end."""
    monkeypatch.setattr(repair, "_DOUBTFUL_S", late_s)
    node = Node()
    server = await asyncio.start_server(node.serve, "127.0.0.1", 0)
    url = f"mqtt://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    transport = MqttTransport(BrokerSettings(url=url, version="3.1.1", profile=profile))
    connection = await transport.connect(ConnectOptions(client_id="c", session_expiry_s=60), Ear())
    try:
        yield connection, node
    finally:
        await connection.close()
        server.close()
        await server.wait_closed()


def event(payload: bytes, *, topic: str = "a", retain: bool = True) -> Outgoing:
    return Outgoing(topic=topic, payload=payload, qos=1, retain=retain)


async def test_a_late_one_is_sent_again_until_it_is_quick(monkeypatch: pytest.MonkeyPatch) -> None:
    async with cluster(monkeypatch) as (connection, node):
        outcome = Outcome()
        connection.publish(event(b"1"), outcome)
        with capture_logs() as logs:
            for _ in range(3):
                payload, number = await node.next()
                assert payload == b"1"
                await asyncio.sleep(2 * LATE_S)
                node.acknowledge(number)
            _, number = await node.next()
            monkeypatch.setattr(repair, "_DOUBTFUL_S", DEADLINE_S)
            assert not outcome.future.done()
            node.acknowledge(number)
            assert await outcome.done() is None
        assert node.came.empty()
        assert [line["topic"] for line in logs] == ["a"]  # said once


async def test_a_newer_value_of_the_topic_is_not_overwritten(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with cluster(monkeypatch) as (connection, node):
        first, second, other = Outcome(), Outcome(), Outcome()
        connection.publish(event(b"1"), first)
        connection.publish(event(b"2"), second)
        connection.publish(event(b"3", topic="b", retain=False), other)
        came = [await node.next() for _ in range(3)]
        await asyncio.sleep(2 * LATE_S)
        for _, number in came:
            node.acknowledge(number)
        assert await first.done() is None
        assert await other.done() is None
        assert not second.future.done()
        payload, number = await node.next()
        assert payload == b"2"
        monkeypatch.setattr(repair, "_DOUBTFUL_S", DEADLINE_S)
        node.acknowledge(number)
        assert await second.done() is None
        assert node.came.empty()


async def test_a_link_that_is_always_slow_does_not_send_for_ever(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with cluster(monkeypatch, late_s=-1.0) as (connection, node):
        outcome = Outcome()
        connection.publish(event(b"1"), outcome)
        for _ in range(10):
            _, number = await node.next()
            node.acknowledge(number)
        assert await outcome.done() is None
        assert node.came.empty()


async def test_a_late_subscription_is_asked_for_again_until_it_is_quick(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with cluster(monkeypatch) as (connection, node):
        with capture_logs() as logs:
            asking = asyncio.create_task(connection.subscribe([("a/#", 1)]))
            for _ in range(2):
                number = await asyncio.wait_for(node.asked.get(), DEADLINE_S)
                await asyncio.sleep(2 * LATE_S)
                node.grant(number)
            number = await asyncio.wait_for(node.asked.get(), DEADLINE_S)
            assert not asking.done()
            monkeypatch.setattr(repair, "_DOUBTFUL_S", DEADLINE_S)
            node.grant(number)
            await asyncio.wait_for(asking, DEADLINE_S)
        assert [line["filters"] for line in logs] == [["a/#"]]  # said once


async def test_a_link_that_is_always_slow_is_not_asked_for_ever(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with cluster(monkeypatch, late_s=-1.0) as (connection, node):
        asking = asyncio.create_task(connection.subscribe([("a/#", 1)]))
        for _ in range(10):
            node.grant(await asyncio.wait_for(node.asked.get(), DEADLINE_S))
        await asyncio.wait_for(asking, DEADLINE_S)
        assert node.asked.empty()


async def test_a_quick_subscription_is_asked_for_once_more(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(repair, "_SETTLED_S", LATE_S)
    async with cluster(monkeypatch, late_s=DEADLINE_S) as (connection, node):
        asking = asyncio.create_task(connection.subscribe([("a/#", 1), ("b/#", 1)]))
        for _ in range(2):
            node.grant(await asyncio.wait_for(node.asked.get(), DEADLINE_S))
        await asyncio.wait_for(asking, DEADLINE_S)
        leaving = asyncio.create_task(connection.unsubscribe(["b/#"]))
        node.grant(await asyncio.wait_for(node.asked.get(), DEADLINE_S))  # a/#, not b/#
        await asyncio.sleep(4 * LATE_S)
        assert node.asked.empty()
        leaving.cancel()


async def test_other_brokers_are_believed_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    async with cluster(monkeypatch, late_s=-1.0, profile="standard") as (connection, node):
        outcome = Outcome()
        connection.publish(event(b"1"), outcome)
        _, number = await node.next()
        node.acknowledge(number)
        assert await outcome.done() is None
        asking = asyncio.create_task(connection.subscribe([("a/#", 1)]))
        node.grant(await asyncio.wait_for(node.asked.get(), DEADLINE_S))
        await asyncio.wait_for(asking, DEADLINE_S)
        assert node.came.empty()
        assert node.asked.empty()
