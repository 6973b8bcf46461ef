"""Requirements D1 to D3: stopping without losing."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from harness import EVENT, Recorder, Site, eventually

from edgebus.bus import DrainTimeoutError, Event


async def test_d1_drain_finishes_what_was_accepted_and_leaves_the_rest(site: Site) -> None:
    sender = await site.bus("b")
    bus = site.make("a")
    await bus.__aenter__()
    gate = asyncio.Event()

    async def wait(_event: Event) -> None:
        await gate.wait()

    first = Recorder(wait)
    subscription = await bus.subscribe(EVENT.any(site=site.name), first)
    for n in range(10):
        await sender.publish(EVENT.at(sender.identity, kind="x"), site.note(n))
    await eventually(lambda: subscription.stats.received == 10)

    draining = asyncio.create_task(bus.drain(timeout=15))
    await asyncio.sleep(0)
    for n in range(10, 15):
        await sender.publish(EVENT.at(sender.identity, kind="x"), site.note(n))
    await eventually(lambda: bus.stats.received >= 15)
    assert not draining.done()
    gate.set()
    await draining
    assert first.numbers == list(range(10))
    await bus.publish(EVENT.at(bus.identity, kind="bye"), site.note(99))  # a last word
    await bus.__aexit__(None, None, None)

    again, second = await site.bus("a"), Recorder()
    await again.subscribe(EVENT.any(site=site.name, node="b"), second)
    assert await second.has(5) == [10, 11, 12, 13, 14]


async def test_d2_drain_that_takes_too_long_names_what_is_unfinished(site: Site) -> None:
    bus, sender = await site.bus("a"), await site.bus("b")
    started = asyncio.Event()

    async def hang(_event: Event) -> None:
        started.set()
        await asyncio.Event().wait()

    await bus.subscribe(EVENT.any(site=site.name), hang, name="stuck")
    await sender.publish(EVENT.at(sender.identity, kind="x"), site.note(1))
    await started.wait()
    with pytest.raises(DrainTimeoutError) as late:
        await bus.drain(timeout=0.1)
    assert late.value.unfinished == {"stuck": 1}
    assert late.value.outbox == 0


async def test_d3_drain_brings_the_outbox_to_the_broker(own_site: Site) -> None:
    site = own_site
    bus = await site.bus("a", settings={"connect_wait_s": 0.01})
    for n in range(5):
        await bus.publish(EVENT.at(bus.identity, kind="x"), site.note(n))
    with pytest.raises(DrainTimeoutError) as late:
        await bus.drain(timeout=0.05)
    assert late.value.outbox == 5
    await site.broker.start()
    await bus.drain(timeout=20)
    assert bus.stats.outbox_messages == 0


async def test_d3_drain_leaves_an_outbox_on_disk_to_the_next_process(
    own_site: Site, tmp_path: Path
) -> None:
    site = own_site
    settings = {"connect_wait_s": 0.01, "outbox": {"path": tmp_path}}
    bus = site.make("a", settings=settings)
    await bus.__aenter__()
    for n in range(5):
        await bus.publish(EVENT.at(bus.identity, kind="x"), site.note(n))
    await bus.drain(timeout=60)
    await bus.__aexit__(None, None, None)

    await site.broker.start()
    reader, heard = await site.bus("b"), Recorder()
    await reader.subscribe(EVENT.any(site=site.name), heard)
    again = await site.bus("a", settings=settings)
    await again.drain(timeout=20)
    assert await heard.has(5) == list(range(5))
