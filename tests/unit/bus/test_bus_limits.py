"""Bounds of the whole bus: what is held, what is remembered."""

from __future__ import annotations

import asyncio

from edgebus.bus import Bus, BusSettings, Event, MemoryBroker, MemoryTransport, Wait
from edgebus.contracts import Identity, RawBytes, Topic

BULK = Topic("{node}/{service}/bulk/{kind}", RawBytes, qos=1, doc="Large.")
RECEIVER = Identity(site="s", node="r", service="x")
SENDER = Identity(site="s", node="p", service="x")


async def test_reading_pauses_while_handlers_hold_too_much_and_goes_on_afterwards() -> None:
    broker = MemoryBroker()
    limit = BusSettings(max_held_bytes=1_000_000)
    gate, done = asyncio.Event(), asyncio.Event()
    count = 0

    async def slow(_event: Event[RawBytes]) -> None:
        nonlocal count
        await gate.wait()
        count += 1
        if count == 100:
            done.set()

    async with (
        Bus(MemoryTransport(broker), identity=RECEIVER, settings=limit) as receiver,
        Bus(MemoryTransport(broker), identity=SENDER) as sender,
    ):
        subscription = await receiver.subscribe(BULK.any(), slow, policy=Wait())
        for _ in range(100):
            await sender.publish(BULK.at(SENDER, kind="x"), RawBytes(bytes(100_000)))
        assert subscription.stats.queued_bytes <= 1_200_000
        gate.set()
        await asyncio.wait_for(done.wait(), 20)
        assert subscription.stats.dropped == 0
        assert subscription.stats.handled == 100


async def test_a_handler_may_unsubscribe_itself() -> None:
    broker = MemoryBroker()
    got: list[bytes] = []
    left = asyncio.Event()
    async with (
        Bus(MemoryTransport(broker), identity=RECEIVER) as receiver,
        Bus(MemoryTransport(broker), identity=SENDER) as sender,
    ):

        async def once(event: Event[RawBytes]) -> None:
            got.append(event.payload.data)
            await subscription.unsubscribe()
            left.set()

        subscription = await receiver.subscribe(BULK.any(), once)
        for word in (b"one", b"two"):
            await sender.publish(BULK.at(SENDER, kind="x"), RawBytes(word))
        await asyncio.wait_for(left.wait(), 5)
        assert got == [b"one"]
        assert receiver.stats.subscriptions == {}


async def test_an_own_connection_goes_with_its_subscription() -> None:
    broker = MemoryBroker()

    async def handler(_event: Event[RawBytes]) -> None:
        raise AssertionError

    async with Bus(MemoryTransport(broker), identity=RECEIVER) as bus:
        before = broker.clients()
        subscription = await bus.subscribe(
            BULK.any(), handler, policy=Wait(own_connection=True), name="bulk"
        )
        assert sorted(broker.clients()) == sorted([*before, "edgebus:s:r:x:bulk"])
        await subscription.unsubscribe()
        assert broker.clients() == before
