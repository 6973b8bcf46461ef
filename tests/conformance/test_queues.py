"""Requirements Q1 to Q5: handlers that are slower than their messages."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from harness import EVENT, READING, Recorder, Site, eventually

from edgebus.bus import DropOldest, Event, Latest, Wait
from edgebus.contracts import DeadLetter
from edgebus.contracts.topics import DEAD_LETTER


async def test_q1_a_slow_handler_delays_nobody_else(site: Site) -> None:
    bus, sender = await site.bus("a"), await site.bus("b")
    gate = asyncio.Event()

    async def wait(_event: Event) -> None:
        await gate.wait()

    slow, fast, reading = Recorder(wait), Recorder(), Recorder()
    await bus.subscribe(EVENT.any(site=site.name, kind="slow"), slow)
    await bus.subscribe(EVENT.any(site=site.name, kind="fast"), fast)
    await bus.subscribe(READING.any(site=site.name), reading)
    await site.settled(bus, sender)
    for n in range(300):
        await sender.publish(EVENT.at(sender.identity, kind="slow"), site.note(n))
        await sender.publish(EVENT.at(sender.identity, kind="fast"), site.note(n))
    await sender.publish(READING.at(sender.identity, kind="x"), site.note(1))
    assert await fast.has(300) == list(range(300))
    assert await reading.has(1) == [1]
    assert slow.events == []
    gate.set()
    assert await slow.has(300) == list(range(300))


@pytest.mark.parametrize("stubborn", [False, True], ids=["hangs", "ignores its cancellation"])
async def test_f9_a_handler_that_hangs_stops_nobody(site: Site, *, stubborn: bool) -> None:
    bus, sender = await site.bus("a", settings={"handler_s": 0.5}), await site.bus("b")
    letters: list[DeadLetter] = []
    release = asyncio.Event()

    async def hang(event: Event) -> None:
        while event.payload.n == 0 and not release.is_set():
            try:
                await release.wait()
            except asyncio.CancelledError:
                if not stubborn:
                    raise

    async def read(event: Event[DeadLetter]) -> None:
        letters.append(event.payload)

    hanging, fast = Recorder(hang), Recorder()
    await bus.subscribe(EVENT.any(site=site.name, kind="hang"), hanging, name="hangs")
    await bus.subscribe(EVENT.any(site=site.name, kind="fast"), fast)
    await sender.subscribe(DEAD_LETTER.any(site=site.name), read)
    await sender.publish(EVENT.at(sender.identity, kind="hang"), site.note(0))
    for n in range(0, 1600, 100):
        many = (
            sender.publish(EVENT.at(sender.identity, kind="fast"), site.note(n + m))
            for m in range(100)
        )
        await asyncio.gather(*many)
    await sender.publish(EVENT.at(sender.identity, kind="hang"), site.note(1))
    assert len(set(await fast.has(1600))) == 1600
    assert await hanging.has(1) == [1]  # its own line goes on as well
    await eventually(lambda: len(letters) == 1)
    assert letters[0].reason == "failed"
    assert letters[0].handler == "hangs"
    assert "took longer than 0.5 s (bus.handler_s)" in letters[0].error
    assert bus.stats.subscriptions["hangs"].failed == 1
    release.set()


async def test_q1_events_of_a_handler_that_hangs_are_on_disk_and_others_come_in(
    site: Site, tmp_path: Path
) -> None:
    settings = {"outbox": {"path": tmp_path}, "inbox": {"after_s": 0.2}}
    sender = await site.bus("b")
    never = asyncio.Event()

    async def hang(_event: Event) -> None:
        await never.wait()

    bus = site.make("a", settings=settings)
    await bus.__aenter__()
    hanging, fast = Recorder(hang), Recorder()
    await bus.subscribe(EVENT.any(site=site.name, kind="hang"), hanging, name="hangs")
    await bus.subscribe(EVENT.any(site=site.name, kind="fast"), fast)
    for n in range(30):  # more than Mosquitto sends ahead on MQTT 3.1.1
        await sender.publish(EVENT.at(sender.identity, kind="hang"), site.note(n))
    for n in range(0, 1600, 100):
        await asyncio.gather(
            *(
                sender.publish(EVENT.at(sender.identity, kind="fast"), site.note(n + more))
                for more in range(100)
            )
        )
    assert set(await fast.has(1600)) == set(range(1600))
    # The last of them may have come a moment ago: each is noted once it is late.
    await eventually(lambda: bus.stats.inbox_messages == 30)
    await bus.crash()

    again, got = await site.bus("a", settings=settings), Recorder()
    await again.subscribe(EVENT.any(site=site.name, kind="hang"), got)
    assert await got.has(30) == list(range(30))
    await eventually(lambda: again.stats.inbox_messages == 0)


async def test_q1_more_readings_than_any_queue_holds_delay_nobody(site: Site) -> None:
    bus, sender = await site.bus("a"), await site.bus("b")
    gate = asyncio.Event()

    async def wait(_event: Event) -> None:
        await gate.wait()

    fast = Recorder()
    await bus.subscribe(READING.any(site=site.name), Recorder(wait), name="slow")
    await bus.subscribe(EVENT.any(site=site.name), fast)
    await site.settled(bus, sender)
    for n in range(3000):
        await sender.publish(READING.at(sender.identity, kind="x"), site.note(n))
    for n in range(10):
        await sender.publish(EVENT.at(sender.identity, kind="x"), site.note(n))
    assert await fast.has(10) == list(range(10))
    await bus.publish(EVENT.at(bus.identity, kind="own"), site.note(10))
    assert await fast.has(11) == list(range(11))
    slow = bus.stats.subscriptions["slow"]
    assert slow.queued <= 1024
    assert slow.dropped > 1000
    gate.set()


async def test_q2_latest_keeps_the_newest_per_key_and_counts_the_rest(site: Site) -> None:
    bus, sender = await site.bus("a"), await site.bus("b")
    gate, started = asyncio.Event(), asyncio.Event()

    async def wait(_event: Event) -> None:
        started.set()
        await gate.wait()

    got = Recorder(wait)
    subscription = await bus.subscribe(READING.any(site=site.name), got, policy=Latest())
    await site.settled(bus, sender)
    await sender.publish(READING.at(sender.identity, kind="a"), site.note(0))
    await started.wait()
    for n in range(1, 50):
        await sender.publish(READING.at(sender.identity, kind="a"), site.note(n))
        await sender.publish(READING.at(sender.identity, kind="b"), site.note(100 + n))
    await eventually(lambda: subscription.stats.received >= 99)
    gate.set()
    assert await got.has(3) == [0, 49, 149]
    assert subscription.stats.dropped == subscription.stats.received - 3
    assert subscription.stats.queued == 0


async def test_q3_drop_oldest_is_bounded_and_counts(site: Site) -> None:
    bus, sender = await site.bus("a"), await site.bus("b")
    gate, started = asyncio.Event(), asyncio.Event()

    async def wait(_event: Event) -> None:
        started.set()
        await gate.wait()

    got = Recorder(wait)
    subscription = await bus.subscribe(
        EVENT.any(site=site.name), got, policy=DropOldest(messages=5), deduplicate=False
    )
    for n in range(40):
        await sender.publish(EVENT.at(sender.identity, kind="x"), site.note(n))
    await started.wait()
    await eventually(lambda: subscription.stats.received == 40)
    assert subscription.stats.queued == 5
    gate.set()
    await got.has(6)
    assert got.numbers[-5:] == [35, 36, 37, 38, 39]
    assert subscription.stats.dropped == 34


async def test_q4_wait_loses_no_event_however_far_behind(site: Site) -> None:
    bus, sender = await site.bus("a"), await site.bus("b")
    gate = asyncio.Event()

    async def wait(_event: Event) -> None:
        await gate.wait()

    got = Recorder(wait)
    subscription = await bus.subscribe(
        EVENT.any(site=site.name), got, policy=Wait(messages=10, bytes=1000)
    )
    for n in range(400):
        await sender.publish(EVENT.at(sender.identity, kind="x"), site.note(n))
    gate.set()
    assert await got.has(400) == list(range(400))
    assert subscription.stats.dropped == 0


async def test_q5_own_connection_bounds_what_is_held_and_holds_up_nobody(site: Site) -> None:
    if not site.broker.mqtt5:
        pytest.skip("MQTT 3.1.1 cannot say how many events a client takes at a time")
    bus, sender = await site.bus("a"), await site.bus("b")
    gate = asyncio.Event()

    async def wait(_event: Event) -> None:
        await gate.wait()

    behind, other = Recorder(wait), Recorder()
    subscription = await bus.subscribe(
        EVENT.any(site=site.name, kind="slow"),
        behind,
        policy=Wait(messages=8, own_connection=True),
        name="slow",
    )
    await bus.subscribe(EVENT.any(site=site.name, kind="other"), other)
    for n in range(200):
        await sender.publish(EVENT.at(sender.identity, kind="slow"), site.note(n))
    for n in range(200):
        await sender.publish(EVENT.at(sender.identity, kind="other"), site.note(n))
    assert await other.has(200) == list(range(200))
    stats = subscription.stats
    assert stats.queued + stats.active <= 8
    gate.set()
    assert await behind.has(200) == list(range(200))
