"""Requirements A1 to A4: when an event counts as done."""

from __future__ import annotations

import asyncio

from harness import EVENT, READING, Recorder, Site, SpyTransport, eventually

from edgebus.bus import Event
from edgebus.contracts import RawBytes, Topic

RAW = Topic("{node}/{service}/raw/{kind}", RawBytes, qos=1, doc="Bytes without an id.")


async def test_a1_crash_between_handling_and_ack_redelivers(site: Site) -> None:
    sender = await site.bus("b")
    started = asyncio.Event()

    async def hang(_event: Event) -> None:
        started.set()
        await asyncio.Event().wait()

    first = site.make("a")
    await first.__aenter__()
    await first.subscribe(EVENT.any(site=site.name), hang)
    for n in range(3):
        await sender.publish(EVENT.at(sender.identity, kind="x"), site.note(n))
    await started.wait()
    await first.crash()

    again = await site.bus("a")
    got = Recorder()
    await again.subscribe(EVENT.any(site=site.name), got)
    assert sorted(await got.has(3)) == [0, 1, 2]
    assert again.stats.subscriptions[EVENT.any(site=site.name).name].duplicates == 0


async def test_a1_an_event_is_not_acknowledged_before_its_last_handler_is_done(site: Site) -> None:
    spy = SpyTransport(site.broker.transport())
    bus, sender = await site.bus("a", transport=spy), await site.bus("b")
    gate = asyncio.Event()

    async def wait(_event: Event) -> None:
        await gate.wait()

    quick, slow = Recorder(), Recorder(wait)
    await bus.subscribe(EVENT.any(site=site.name), quick)
    await bus.subscribe(EVENT.any(site=site.name), slow)
    await sender.publish(EVENT.at(sender.identity, kind="x"), site.note(1))
    await quick.has(1)
    # Every copy of a broker that sends one per subscription has come once this one has.
    await sender.publish(READING.at(sender.identity, kind="x"), site.note(2))
    assert spy.acknowledged == []
    gate.set()
    await slow.has(1)
    await eventually(lambda: spy.acknowledged == spy.arrived)


async def test_a2_acks_leave_in_arrival_order_while_handlers_finish_in_any(site: Site) -> None:
    spy = SpyTransport(site.broker.transport())
    bus, sender = await site.bus("a", transport=spy), await site.bus("b")
    gates = [asyncio.Event() for _ in range(8)]
    started: list[int] = []

    async def wait(event: Event) -> None:
        started.append(event.payload.n)
        await gates[event.payload.n].wait()

    got = Recorder(wait)
    await bus.subscribe(EVENT.any(site=site.name), got, concurrency=8)
    for n in range(8):
        await sender.publish(EVENT.at(sender.identity, kind="x"), site.note(n))
    await eventually(lambda: len(started) == 8)

    for n in (7, 3, 5, 1, 6):
        gates[n].set()
    await got.has(5)
    assert spy.acknowledged == []  # the first one is not done
    gates[0].set()
    await got.has(6)
    assert spy.acknowledged == spy.arrived[:2]  # 0 and 1; 2 is not done
    for gate in gates:
        gate.set()
    await got.has(8)
    await eventually(lambda: spy.acknowledged == spy.arrived)
    assert len(spy.arrived) == 8


async def test_a3_a_message_whose_id_was_handled_is_left_out(site: Site) -> None:
    bus, sender = await site.bus("a"), await site.bus("b")
    got, all_of_them = Recorder(), Recorder()
    await bus.subscribe(EVENT.any(site=site.name), got, name="once")
    await bus.subscribe(EVENT.any(site=site.name), all_of_them, deduplicate=False)
    note = site.note(1)
    for _ in range(3):
        await sender.publish(EVENT.at(sender.identity, kind="x"), note)
    # The same id on another topic is another message.
    await sender.publish(EVENT.at(sender.identity, kind="y"), note)
    await sender.publish(EVENT.at(sender.identity, kind="x"), site.note(2))
    assert await got.has(3) == [1, 1, 2]
    assert [event.names["kind"] for event in got.events] == ["x", "y", "x"]
    assert (await all_of_them.has(5)).count(1) >= 4
    await eventually(lambda: bus.stats.subscriptions["once"].duplicates >= 2)


async def test_a3_bytes_without_an_id_are_never_left_out(site: Site) -> None:
    bus, sender = await site.bus("a"), await site.bus("b")
    got: list[bytes] = []
    done = asyncio.Event()

    async def handler(event: Event) -> None:
        got.append(event.payload.data)
        if event.payload.data == b"end":
            done.set()

    await bus.subscribe(RAW.any(site=site.name), handler)
    for data in (b"same", b"same", b"end"):
        await sender.publish(RAW.at(sender.identity, kind="x"), RawBytes(data))
    await asyncio.wait_for(done.wait(), 10)
    assert got == [b"same", b"same", b"end"]


async def test_a4_what_was_not_acknowledged_comes_again_in_order(site: Site) -> None:
    sender = await site.bus("b")
    first = site.make("a")
    await first.__aenter__()
    gate = asyncio.Event()

    async def stop_at_three(event: Event) -> None:
        if event.payload.n == 3:
            gate.set()
            await asyncio.Event().wait()

    seen = Recorder(stop_at_three)
    await first.subscribe(EVENT.any(site=site.name), seen)
    for n in range(10):
        await sender.publish(EVENT.at(sender.identity, kind="x"), site.note(n))
    await gate.wait()
    await first.crash()
    for n in range(10, 15):
        await sender.publish(EVENT.at(sender.identity, kind="x"), site.note(n))

    again = await site.bus("a")
    got = Recorder()
    await again.subscribe(EVENT.any(site=site.name), got)
    numbers = await got.has(12)
    if not site.broker.redelivers_in_order:
        await eventually(lambda: set(got.numbers) >= set(range(3, 15)), say=lambda: got.numbers)
        return
    # What was handled right before the crash may come again: its PUBACK may not have left.
    assert numbers == list(range(numbers[0], 15))
    assert numbers[0] <= 3
