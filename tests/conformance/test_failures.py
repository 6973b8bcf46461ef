"""Requirements F1 to F5: payloads that do not validate, handlers that fail."""

from __future__ import annotations

import asyncio
import hashlib

import pytest
from harness import EVENT, READING, Recorder, Site, eventually

from edgebus.bus import Bus, BusSettings, Cleared, Event, RetryPolicy
from edgebus.contracts import DeadLetter, RawBytes, Topic
from edgebus.contracts.topics import DEAD_LETTER, DEAD_LETTER_PAYLOAD

# Same place on the bus as EVENT and READING, but anything may be published there.
ANYTHING = Topic("{node}/{service}/events/{kind}", RawBytes, qos=1, doc="What a stranger sends.")
ANYTHING_0 = Topic("{node}/{service}/readings/{kind}", RawBytes, qos=0, doc="The same, QoS 0.")
QUICK = RetryPolicy(attempts=3, first_delay_s=0.001)
POISON = [b"", b"{", b"\xff\xfe\x00", b"[]", b'{"n": "many"}', b"x" * 100_000]


class Letters:
    """Collects dead letters and their payloads."""

    def __init__(self) -> None:
        self.records: list[DeadLetter] = []
        self.payloads: list[bytes] = []
        self._changed = asyncio.Event()

    async def listen(self, bus: Bus, site: Site) -> None:
        await bus.subscribe(DEAD_LETTER.any(site=site.name), self._record)
        await bus.subscribe(
            DEAD_LETTER_PAYLOAD.any(site=site.name), self._payload, on_cleared=self._empty
        )

    async def _record(self, event: Event) -> None:
        self.records.append(event.payload)

    async def _payload(self, event: Event) -> None:
        self.payloads.append(event.payload.data)

    async def _empty(self, _cleared: Cleared) -> None:
        self.payloads.append(b"")

    async def has(self, count: int) -> None:
        await eventually(
            lambda: len(self.records) >= count and len(self.payloads) >= count,
            say=lambda: (len(self.records), len(self.payloads)),
        )


@pytest.mark.parametrize("topic", [ANYTHING, ANYTHING_0], ids=["qos1", "qos0"])
async def test_f1_invalid_payload_becomes_a_dead_letter_and_is_done(
    site: Site, topic: Topic
) -> None:
    bus, sender = await site.bus("a"), await site.bus("b")
    letters, got = Letters(), Recorder()
    await letters.listen(sender, site)
    wanted = EVENT if topic is ANYTHING else READING
    await bus.subscribe(wanted.any(site=site.name), got, name="notes")
    await site.settled(bus, sender)
    for data in POISON:
        await sender.publish(topic.at(sender.identity, kind="x"), RawBytes(data))
    await sender.publish(wanted.at(sender.identity, kind="x"), site.note(5))
    assert await got.has(1) == [5]
    await letters.has(len(POISON))

    # A broker that sends one copy per subscription still makes one letter of each.
    assert sorted(letters.payloads) == sorted(POISON)
    assert {letter.digest for letter in letters.records} == {
        hashlib.sha256(data).hexdigest() for data in POISON
    }
    by_size = {letter.size: letter for letter in letters.records}
    letter = by_size[len(b'{"n": "many"}')]
    assert letter.reason == "invalid"
    assert letter.topic == topic.at(sender.identity, kind="x").name
    assert letter.expected == "note/1"
    assert letter.handler == "notes"
    assert letter.source == f"{site.name}/a/svc"
    assert letter.text == '{"n": "many"}'
    assert "n:" in letter.error
    assert by_size[3].text is None
    assert letter.qos == topic.qos
    assert bus.stats.subscriptions["notes"].invalid == len(POISON)
    assert bus.stats.dead_letters == len(POISON)


async def test_f11_a_message_in_the_name_of_somebody_else_is_a_dead_letter(site: Site) -> None:
    bus, sender = await site.bus("a"), await site.bus("b")
    letters = Letters()
    await letters.listen(sender, site)
    got = Recorder()
    await bus.subscribe(EVENT.any(site=site.name), got)
    at = EVENT.at(sender.identity, kind="x")
    for forged in (bus, await site.bus("b", "other")):
        await sender.publish(at, site.note(1, forged))
    await sender.publish(at, site.note(2))
    assert await got.has(1) == [2]
    await letters.has(2)
    assert sender.identity.source in letters.records[0].error
    assert bus.identity.source in letters.records[0].error


async def test_f2_poison_beyond_the_receive_maximum_stops_nothing(site: Site) -> None:
    maximum = {"receive_maximum": 10} if site.broker.mqtt5 else {}
    bus, sender = await site.bus("a", broker=maximum), await site.bus("b")
    got = Recorder()
    subscription = await bus.subscribe(EVENT.any(site=site.name), got, retry=QUICK)
    for n in range(100):
        await sender.publish(ANYTHING.at(sender.identity, kind="x"), RawBytes(b"no"))
        if n % 10 == 0:
            await sender.publish(EVENT.at(sender.identity, kind="x"), site.note(n))
    assert await got.has(10) == list(range(0, 100, 10))
    await eventually(lambda: subscription.stats.invalid == 100)


async def test_f3_a_handler_that_fails_twice_is_called_a_third_time(site: Site) -> None:
    bus, sender = await site.bus("a"), await site.bus("b")
    calls: list[int] = []

    async def flaky(event: Event) -> None:
        calls.append(event.payload.n)
        if calls.count(event.payload.n) < 3:
            msg = "not yet"
            raise OSError(msg)

    got = Recorder(flaky)
    subscription = await bus.subscribe(EVENT.any(site=site.name), got, retry=QUICK)
    for n in range(3):
        await sender.publish(EVENT.at(sender.identity, kind="x"), site.note(n))
    assert await got.has(3) == [0, 1, 2]
    assert calls == [0, 0, 0, 1, 1, 1, 2, 2, 2]  # order is kept through retries
    assert subscription.stats.retried == 6
    assert subscription.stats.failed == 0
    assert bus.stats.dead_letters == 0


async def test_f4_a_handler_that_fails_for_good_makes_a_dead_letter(site: Site) -> None:
    bus, sender = await site.bus("a"), await site.bus("b")
    letters = Letters()
    await letters.listen(sender, site)

    async def broken(event: Event) -> None:
        if event.payload.n == 1:
            msg = "disk on fire"
            raise RuntimeError(msg)

    got = Recorder(broken)
    subscription = await bus.subscribe(EVENT.any(site=site.name), got, retry=QUICK)
    notes = [site.note(n, sender) for n in range(3)]
    for note in notes:
        await sender.publish(EVENT.at(sender.identity, kind="x"), note)
    assert await got.has(2) == [0, 2]
    await letters.has(1)
    letter = letters.records[0]
    assert letter.reason == "failed"
    assert letter.attempts == 3
    assert letter.error == "RuntimeError: disk on fire"
    assert letters.payloads == [notes[1].encode()]
    assert subscription.stats.failed == 1


@pytest.mark.parametrize(
    "raised", [SystemExit(3), asyncio.CancelledError("theirs"), GeneratorExit()]
)
async def test_f10_what_nobody_should_raise_is_a_failure_like_any_other(
    site: Site, raised: BaseException
) -> None:
    bus, sender = await site.bus("a"), await site.bus("b")
    letters = Letters()
    await letters.listen(sender, site)

    async def broken(event: Event) -> None:
        if event.payload.n == 1:
            raise raised

    got = Recorder(broken)
    await bus.subscribe(EVENT.any(site=site.name), got, retry=QUICK)
    for n in range(3):
        await sender.publish(EVENT.at(sender.identity, kind="x"), site.note(n))
    assert await got.has(2) == [0, 2]
    await letters.has(1)
    assert letters.records[0].attempts == 3
    assert letters.records[0].error.startswith(type(raised).__name__)


async def test_f4_failures_beyond_the_receive_maximum_stop_nothing(site: Site) -> None:
    maximum = {"receive_maximum": 10} if site.broker.mqtt5 else {}
    bus, sender = await site.bus("a", broker=maximum), await site.bus("b")

    async def broken(event: Event) -> None:
        if event.payload.n < 12:
            msg = "disk on fire"
            raise RuntimeError(msg)

    got = Recorder(broken)
    subscription = await bus.subscribe(EVENT.any(site=site.name), got, retry=QUICK)
    for n in range(16):
        await sender.publish(EVENT.at(sender.identity, kind="x"), site.note(n))
    assert await got.has(4) == list(range(12, 16))
    assert subscription.stats.failed == 12
    assert bus.stats.dead_letters == 12


async def test_f5_a_dead_letter_that_cannot_be_read_makes_no_further_one(site: Site) -> None:
    bus, sender = await site.bus("a"), await site.bus("b")
    forged = Topic("{node}/{service}/deadletter/{letter}", RawBytes, qos=1, doc="Not a letter.")
    got = Recorder()
    await bus.subscribe(DEAD_LETTER.any(site=site.name), got, name="letters")
    await sender.publish(forged.at(sender.identity, letter="x"), RawBytes(b"junk"))
    await eventually(lambda: bus.stats.subscriptions["letters"].invalid == 1)
    assert bus.stats.dead_letters == 0


async def test_f4_a_dead_letter_waits_for_room_rather_than_being_lost(site: Site) -> None:
    bus = await site.bus("a", settings={"outbox": {"max_messages": 1}})
    sender = await site.bus("b")
    letters, got = Letters(), Recorder()
    await letters.listen(sender, site)
    await bus.subscribe(EVENT.any(site=site.name), got, concurrency=8)
    for _ in range(20):
        await sender.publish(ANYTHING.at(sender.identity, kind="x"), RawBytes(b"no"))
    await letters.has(20)
    assert bus.stats.dead_letters == 20


async def test_f6_the_last_letters_are_kept_for_who_comes_late(site: Site) -> None:
    bus = await site.bus("a", settings={"dead_letters_retained": 3})
    sender = await site.bus("b")
    subscription = await bus.subscribe(EVENT.any(site=site.name), Recorder())
    for n in range(8):
        await sender.publish(ANYTHING.at(sender.identity, kind="x"), RawBytes(b"%d" % n))
    await eventually(lambda: subscription.stats.invalid == 8)
    await bus.drain(10)
    letters = Letters()
    await letters.listen(await site.bus("late"), site)
    await letters.has(3)
    assert sorted(letters.payloads) == [b"5", b"6", b"7"]
    assert sorted(letter.text or "" for letter in letters.records) == ["5", "6", "7"]


async def test_f7_letters_beyond_the_rate_are_counted(site: Site) -> None:
    bus = await site.bus("a", settings={"dead_letters_burst": 5, "dead_letters_per_s": 0.0})
    sender = await site.bus("b")
    letters = Letters()
    await letters.listen(sender, site)
    subscription = await bus.subscribe(EVENT.any(site=site.name), Recorder())
    for _ in range(20):
        await sender.publish(ANYTHING.at(sender.identity, kind="x"), RawBytes(b"no"))
    await eventually(lambda: subscription.stats.invalid == 20)
    await letters.has(5)
    assert (bus.stats.dead_letters, bus.stats.dead_letters_suppressed) == (5, 15)


async def test_f8_a_replayed_message_is_handled_again(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    bus, sender = await site.bus("a"), await site.bus("b")
    letters = Letters()
    await letters.listen(sender, site)
    healed = False

    async def work(_event: Event) -> None:
        if not healed:
            msg = "disk full"
            raise OSError(msg)

    got = Recorder(work)
    await bus.subscribe(EVENT.any(site=site.name), got, retry=RetryPolicy(attempts=1))
    await sender.publish(EVENT.at(sender.identity, kind="x"), site.note(1))
    await letters.has(1)
    healed = True
    monkeypatch.setattr("edgebus.bus._consumer._AGAIN_S", 0.0)
    letter = letters.records[0]
    await sender.publish_raw(letter.topic, letters.payloads[0], qos=letter.qos)
    assert await got.has(1) == [1]


def test_settings_refuse_what_makes_no_sense() -> None:
    with pytest.raises(ValueError, match="max_messages"):
        BusSettings(outbox={"max_messages": 0})
    with pytest.raises(ValueError, match="attempts"):
        RetryPolicy(attempts=0)
