"""Requirements R1 to R6: who gets a message."""

from __future__ import annotations

import asyncio

import pytest
from harness import EVENT, READING, STATUS, Recorder, Site

from edgebus.bus import Cleared, RawMessage, SubscribeRefusedError
from edgebus.contracts import ContractError, NameRefusedError, Topic


@pytest.mark.parametrize("topic", [EVENT, READING], ids=["qos1", "qos0"])
async def test_r1_every_handler_gets_a_message_once_with_overlapping_filters(
    site: Site, topic: Topic
) -> None:
    bus, sender = await site.bus("a"), await site.bus("b")
    narrow, middle, wide = Recorder(), Recorder(), Recorder()
    raw: list[RawMessage] = []
    last = asyncio.Event()

    async def tap(message: RawMessage) -> None:
        raw.append(message)
        if len(raw) >= 20:
            last.set()

    await bus.subscribe(topic.any(site=site.name, node="b", kind="x"), narrow)
    await bus.subscribe(topic.any(site=site.name, kind="x"), middle)
    await bus.subscribe(topic.any(site=site.name), wide)
    await site.settled(bus, sender)
    for n in range(20):
        await sender.publish(topic.at(sender.identity, kind="x"), site.note(n))
    await sender.publish(topic.at(sender.identity, kind="y"), site.note(20))

    assert await wide.has(21) == list(range(21))
    assert await narrow.has(20) == list(range(20))
    assert await middle.has(20) == list(range(20))
    # A message for each of them that is sent afterwards: nothing came twice before it.
    await sender.publish(topic.at(sender.identity, kind="x"), site.note(99))
    assert (await narrow.has(21))[-1] == (await middle.has(21))[-1] == 99
    assert (await wide.has(22))[-1] == 99
    assert len(narrow.events) == len(middle.events) == 21
    assert len(wide.events) == 22


async def test_r2_two_handlers_on_one_filter_both_get_it(site: Site) -> None:
    bus, sender = await site.bus("a"), await site.bus("b")
    first, second = Recorder(), Recorder()
    await bus.subscribe(EVENT.any(site=site.name), first)
    await bus.subscribe(EVENT.any(site=site.name), second)
    for n in range(5):
        await sender.publish(EVENT.at(sender.identity, kind="x"), site.note(n))
    assert await first.has(5) == await second.has(5) == [0, 1, 2, 3, 4]


async def test_r2_a_handler_that_leaves_does_not_take_the_others_along(site: Site) -> None:
    bus, sender = await site.bus("a"), await site.bus("b")
    first, second = Recorder(), Recorder()
    leaving = await bus.subscribe(EVENT.any(site=site.name), first)
    await bus.subscribe(EVENT.any(site=site.name), second)
    await leaving.unsubscribe()
    await sender.publish(EVENT.at(sender.identity, kind="x"), site.note(1))
    assert await second.has(1) == [1]
    assert first.events == []


async def test_r3_event_carries_names_size_and_circumstances(site: Site) -> None:
    bus, sender = await site.bus("a"), await site.bus("b")
    got = Recorder()
    await bus.subscribe(EVENT.any(site=site.name), got)
    note = site.note(7, sender)
    await sender.publish(EVENT.at(sender.identity, kind="door"), note)
    await got.has(1)
    event = got.events[0]
    assert event.payload == note
    assert event.names == {
        "base": "edgebus",
        "site": site.name,
        "node": "b",
        "service": "svc",
        "kind": "door",
    }
    assert event.topic == f"edgebus/{site.name}/b/svc/events/door"
    assert event.size == len(note.encode())
    assert not event.retained
    assert event.received >= note.time


async def test_r4_retained_value_reaches_a_late_handler_and_only_that_one(site: Site) -> None:
    bus, sender = await site.bus("a"), await site.bus("b")
    await sender.publish(STATUS.at(sender.identity, kind="x"), site.note(1))
    first, second, other = Recorder(), Recorder(), Recorder()
    await bus.subscribe(STATUS.any(site=site.name), first, deduplicate=False)
    await first.has(1)
    assert first.events[0].retained
    # The same filter again, and an overlapping one.
    await bus.subscribe(STATUS.any(site=site.name), second, deduplicate=False)
    await bus.subscribe(STATUS.any(site=site.name, kind="x"), other, deduplicate=False)
    assert await second.has(1) == await other.has(1) == [1]
    await sender.publish(STATUS.at(sender.identity, kind="x"), site.note(2))
    assert (await second.has(2))[:2] == [1, 2]
    assert (await first.has(2))[:2] == [1, 2]
    assert not first.events[1].retained


async def test_r5_empty_retained_payload_clears(site: Site) -> None:
    bus, sender = await site.bus("a"), await site.bus("b")
    address = STATUS.at(sender.identity, kind="x")
    got = Recorder()
    gone: asyncio.Queue[Cleared] = asyncio.Queue()

    async def on_cleared(cleared: Cleared) -> None:
        gone.put_nowait(cleared)

    await bus.subscribe(STATUS.any(site=site.name), got, on_cleared=on_cleared)
    await sender.publish(address, site.note(1))
    await got.has(1)
    await sender.clear(address)
    cleared = await asyncio.wait_for(gone.get(), 10)
    assert cleared.topic == address.name
    assert cleared.names["kind"] == "x"

    late = Recorder()
    await bus.subscribe(STATUS.any(site=site.name), late)
    await sender.publish(STATUS.at(sender.identity, kind="y"), site.note(2))
    assert await late.has(1) == [2]
    assert got.numbers == [1, 2]
    assert bus.stats.dead_letters == 0


async def test_r5_clearing_what_is_not_retained_is_refused(site: Site) -> None:
    bus = await site.bus("a")
    with pytest.raises(ValueError, match="not a retained topic"):
        await bus.clear(EVENT.at(bus.identity, kind="x"))


async def test_r6_raw_messages_of_third_parties(site: Site) -> None:
    bus, sender = await site.bus("a"), await site.bus("b")
    got: asyncio.Queue[RawMessage] = asyncio.Queue()

    async def handler(message: RawMessage) -> None:
        got.put_nowait(message)

    await bus.tap(f"edgebus/{site.name}/#", handler, qos=1)
    note = site.note(3, sender)
    await sender.publish(EVENT.at(sender.identity, kind="x"), note)
    message = await asyncio.wait_for(got.get(), 10)
    assert message.payload == note.encode()
    assert message.qos == 1
    if site.broker.mqtt5:
        assert message.content_type == "application/json"


async def test_r6_stream_of_typed_and_raw_filters(site: Site) -> None:
    bus, sender = await site.bus("a"), await site.bus("b")
    async with bus.stream(
        EVENT.any(site=site.name), f"edgebus/{site.name}/+/+/readings/#"
    ) as events:
        await site.settled(bus, sender)
        await sender.publish(EVENT.at(sender.identity, kind="x"), site.note(1))
        await sender.publish(READING.at(sender.identity, kind="y"), site.note(2))
        seen = {}
        async for event in events:
            seen[event.topic.rpartition("/")[2]] = event.payload
            if len(seen) == 2:
                break
    assert seen["x"].n == 1
    assert b'"n":2' in seen["y"].data


@pytest.mark.parametrize("bad", ["", "a/#/b", "a+/b", "a/b#", "$share/group/a"])
async def test_r6_a_bad_filter_is_refused_by_name(site: Site, bad: str) -> None:
    bus = await site.bus("a")

    async def handler(_message: RawMessage) -> None:
        raise AssertionError

    with pytest.raises(SubscribeRefusedError) as refused:
        await bus.tap(bad, handler)
    assert refused.value.reason


async def test_r6_a_placeholder_that_nobody_filled_in_is_never_published(site: Site) -> None:
    bus = await site.bus("a")
    raw: list[str] = []
    seen = asyncio.Event()

    async def tap(message: RawMessage) -> None:
        raw.append(message.topic)
        seen.set()

    await bus.tap(f"edgebus/{site.name}/#", tap, qos=1)
    with pytest.raises(ContractError, match="kind"):
        await bus.publish(EVENT.at(bus.identity), site.note(1))
    with pytest.raises(NameRefusedError, match="kind"):
        await bus.publish(EVENT.at(bus.identity, kind="{kind}/+"), site.note(1))
    await bus.publish(EVENT.at(bus.identity, kind="x"), site.note(2))
    await asyncio.wait_for(seen.wait(), 10)
    assert raw == [EVENT.at(bus.identity, kind="x").name]
