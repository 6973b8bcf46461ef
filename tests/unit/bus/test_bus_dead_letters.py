"""Dead letters: a bounded ring at the broker, limited in rate, and another try for a person's."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgebus.bus import (
    Bus,
    BusSettings,
    Event,
    MemoryBroker,
    MemoryTransport,
    RawMessage,
    RetryPolicy,
)
from edgebus.bus import _consumer as consumer_module
from edgebus.bus._dead_letters import Limiter
from edgebus.contracts import DeadLetter, Identity, Metrics, RawBytes, Topic, topics

ONCE = RetryPolicy(attempts=1)
SERVICE = Identity(site="lab", node="pi", service="svc")
EVENTS = Topic("{node}/{service}/events", Metrics, qos=1, doc="What the service listens to.")
ADDRESS = EVENTS.at(SERVICE)


class Site:
    """A service that fails, a sender, and what the broker keeps."""

    def __init__(self, broker: MemoryBroker, bus: Bus, sender: Bus) -> None:
        self.broker, self.bus, self.sender = broker, bus, sender

    async def poison(self, *payloads: bytes) -> None:
        for payload in payloads:
            await self.sender.publish_raw(ADDRESS.name, payload, qos=1)

    async def kept(self) -> tuple[dict[str, DeadLetter], dict[str, bytes]]:
        """Letters and payloads by place, for somebody who comes late."""
        letters: dict[str, DeadLetter] = {}
        payloads: dict[str, bytes] = {}

        async def take(message: RawMessage) -> None:
            if not message.payload:
                return  # a clearing, said again with a new connection
            place = message.topic.split("/")[5]
            if message.topic.endswith("/payload"):
                payloads[place] = message.payload
            else:
                letters[place] = DeadLetter.decode(message.payload)

        late = Identity(site="lab", node="pc", service="late")
        settings = BusSettings(ephemeral=True)
        async with Bus(MemoryTransport(self.broker), identity=late, settings=settings) as bus:
            await bus.tap("edgebus/+/+/+/deadletter/#", take)
            await asyncio.sleep(0.02)
        return letters, payloads


@asynccontextmanager
async def site(**settings: object) -> AsyncIterator[Site]:
    broker = MemoryBroker()
    made = BusSettings.model_validate(settings)
    sender = Identity(site="lab", node="pc", service="sender")
    async with (
        Bus(MemoryTransport(broker), identity=SERVICE, settings=made) as bus,
        Bus(MemoryTransport(broker), identity=sender) as other,
    ):
        yield Site(broker, bus, other)


async def nothing(_event: Event[Metrics]) -> None:
    """A handler that is content."""


async def until(bus: Bus, count: int) -> None:
    """Wait until so many messages were found invalid."""
    async with asyncio.timeout(5):
        while bus.stats.subscriptions["events"].invalid < count:
            await asyncio.sleep(0.005)


async def test_the_broker_keeps_the_last_letters_with_their_bytes() -> None:
    async with site(dead_letters_retained=4) as here:
        await here.bus.subscribe(EVENTS.any(), nothing, name="events")
        await here.poison(*(f"no {n}".encode() for n in range(10)))
        await until(here.bus, 10)
        await here.bus.drain(5)
        letters, payloads = await here.kept()
    assert set(letters) == {"0", "1", "2", "3"}
    assert sorted(payloads.values()) == [b"no 6", b"no 7", b"no 8", b"no 9"]
    for place, letter in letters.items():
        assert letter.digest == hashlib.sha256(payloads[place]).hexdigest()
        assert (letter.topic, letter.qos) == (ADDRESS.name, 1)


async def test_a_payload_that_is_too_large_leaves_no_older_one_in_its_place() -> None:
    async with site(dead_letters_retained=1, dead_letter_bytes=10) as here:
        await here.bus.subscribe(EVENTS.any(), nothing, name="events")
        await here.poison(b"small", b"x" * 11)
        await until(here.bus, 2)
        await here.bus.drain(5)
        letters, payloads = await here.kept()
    assert letters["0"].size == 11
    assert letters["0"].digest is None
    assert letters["0"].text == "x" * 11
    assert payloads == {}


@pytest.mark.parametrize("settings", [{"dead_letters_retained": 0}, {"ephemeral": True}])
async def test_where_nothing_is_kept_letters_are_still_said(settings: dict[str, object]) -> None:
    heard: list[str] = []

    async def hear(message: RawMessage) -> None:
        heard.append(message.topic)

    async with site(**settings) as here:
        await here.sender.tap("edgebus/+/+/+/deadletter/+", hear)
        await here.bus.subscribe(EVENTS.any(), nothing, name="events")
        await here.poison(b"no")
        await until(here.bus, 1)
        await here.bus.drain(5)
        async with asyncio.timeout(5):
            while not heard:
                await asyncio.sleep(0.005)
        assert await here.kept() == ({}, {})


async def test_a_flood_is_counted_and_the_next_letter_tells() -> None:
    letters: list[DeadLetter] = []

    async def read(event: Event[DeadLetter]) -> None:
        letters.append(event.payload)

    async with site(dead_letters_burst=3, dead_letters_per_s=1.0) as here:
        await here.sender.subscribe(topics.DEAD_LETTER.any(), read)
        await here.bus.subscribe(EVENTS.any(), nothing, name="events")
        await here.poison(*[b"no"] * 50)
        await until(here.bus, 50)
        assert here.bus.stats.dead_letters == 3
        assert here.bus.stats.dead_letters_suppressed == 47
        async with asyncio.timeout(10):
            while len(letters) < 4:
                await asyncio.sleep(0.1)
                await here.poison(b"no")
    assert [letter.suppressed for letter in letters[:3]] == [0, 0, 0]
    assert letters[3].suppressed >= 47


async def test_a_letter_that_is_replayed_is_handled_a_copy_sent_at_once_is_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    healed = False
    calls: list[str] = []

    async def handle(event: Event[Metrics]) -> None:
        calls.append(event.payload.id)
        if not healed:
            msg = "the disk is full"
            raise OSError(msg)

    async with site() as here:
        subscription = await here.bus.subscribe(EVENTS.any(), handle, retry=ONCE, name="events")
        said = Metrics(source="lab/pi/svc", session=1, uptime_s=1.0)
        await here.poison(said.encode(), said.encode())
        async with asyncio.timeout(5):
            while subscription.stats.duplicates < 1:
                await asyncio.sleep(0.005)
        assert calls == [said.id]
        letters, payloads = await here.kept()
        [place] = letters
        healed = True
        monkeypatch.setattr(consumer_module, "_AGAIN_S", 0.0)
        for _ in range(2):
            await here.poison(payloads[place])
        async with asyncio.timeout(5):
            while subscription.stats.duplicates < 2:
                await asyncio.sleep(0.005)
        assert subscription.stats.handled == 1
    assert calls == [said.id, said.id]


async def test_letters_are_not_said_again_with_each_connection() -> None:
    async with site() as here:
        await here.bus.subscribe(EVENTS.any(), nothing, name="events")
        await here.poison(b"no")
        await until(here.bus, 1)
        await here.bus.drain(5)
        letters, _ = await here.kept()
        [place] = letters
        # Discarded by a person.
        for topic in (topics.DEAD_LETTER, topics.DEAD_LETTER_PAYLOAD):
            await here.sender.clear(topic.at(SERVICE, letter=place))
        here.broker.stop()
        here.broker.start()
        await here.bus.connected(5)
        await here.bus.publish(
            Topic("{node}/{service}/last", RawBytes, qos=1, doc="Behind all.").at(SERVICE),
            RawBytes(b""),
        )
        assert await here.kept() == ({}, {})


def test_the_limiter_counts_what_is_missed() -> None:
    now = 0.0
    limiter = Limiter(burst=2, rate=0.5, clock=lambda: now)
    assert [limiter.take("a") for _ in range(4)] == [(True, 0), (True, 0), (False, 1), (False, 2)]
    assert limiter.take("b") == (True, 0)
    now = 1.9
    assert limiter.take("a") == (False, 3)
    now = 2.0
    assert limiter.take("a") == (True, 3)
    assert limiter.take("a") == (False, 1)


@given(
    steps=st.lists(st.floats(0, 10), min_size=1, max_size=60),
    burst=st.integers(1, 5),
    rate=st.floats(0, 3),
)
def test_the_limiter_never_gives_more_than_it_says(
    steps: list[float], burst: int, rate: float
) -> None:
    now = 0.0
    limiter = Limiter(burst=burst, rate=rate, clock=lambda: now)
    given_out = missed = told = 0
    for step in steps:
        now += step
        allowed, behind = limiter.take("key")
        if allowed:
            given_out += 1
            told += behind
        else:
            missed += 1
    assert given_out <= burst + now * rate + 1e-6
    assert told <= missed
    assert given_out + missed == len(steps)
