"""A broker that refuses a subscription, for a while or for good."""

from __future__ import annotations

import asyncio

import pytest
from structlog.testing import capture_logs

from edgebus.bus import (
    Bus,
    BusSettings,
    Event,
    MemoryBroker,
    SubscribeRefusedError,
    _link,
)
from edgebus.contracts import Identity, Message, Topic

DEADLINE_S = 10.0


class Note(Message, version=1):
    """A message for tests."""

    n: int


WANTED = Topic("{node}/{service}/wanted", Note, qos=1, doc="One.")
OTHER = Topic("{node}/{service}/other", Note, qos=1, doc="Another one.")
IDENTITY = Identity(site="s", node="n", service="svc")


class Strict:
    """A broker in memory that refuses filters with "wanted" in them, a number of times.

    Attributes:
        left: How often it still refuses.
        asked: How often it was asked for such a filter.
    """

    def __init__(self, left: int) -> None:
        self.broker = MemoryBroker()
        self.broker.faults.refuse = self._refuse
        self.left = left
        self.asked = 0

    def _refuse(self, text: str) -> str | None:
        if "wanted" not in text:
            return None
        self.asked += 1
        if self.left <= 0:
            return None
        self.left -= 1
        return "unspecified error"

    def cut(self) -> None:
        (client,) = self.broker.clients()
        self.broker.cut(client)


class Got:
    """A handler that keeps the numbers it gets."""

    def __init__(self) -> None:
        self.numbers: asyncio.Queue[int] = asyncio.Queue()

    async def __call__(self, event: Event[Note]) -> None:
        self.numbers.put_nowait(event.payload.n)

    async def next(self) -> int:
        return await asyncio.wait_for(self.numbers.get(), DEADLINE_S)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_link, "_ASK_FIRST_S", 0.001)
    monkeypatch.setattr(_link, "_ASK_MAX_S", 0.01)


def bus_on(strict: Strict) -> Bus:
    settings = BusSettings(backoff_first_s=0.001, ephemeral=True)
    return Bus(strict.broker.transport(), identity=IDENTITY, settings=settings)


def note(n: int) -> Note:
    return Note(source=IDENTITY.source, n=n)


async def test_one_that_is_refused_for_a_while_is_made_after_all() -> None:
    strict, got = Strict(3), Got()
    async with bus_on(strict) as bus:
        await bus.subscribe(WANTED.any(site="s"), got)
        assert (strict.left, strict.asked) == (0, 4)
        await bus.publish(WANTED.at(IDENTITY), note(1))
        assert await got.next() == 1


async def test_one_that_is_refused_for_good_is_an_error_and_leaves_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(_link, "_INSIST_S", 0.02)
    strict = Strict(10**9)
    async with bus_on(strict) as bus:
        with capture_logs() as logs, pytest.raises(SubscribeRefusedError, match="unspecified"):
            await bus.subscribe(WANTED.any(site="s"), Got())
        assert [line["event"] for line in logs] == ["subscription refused, asking again"]
        asked = strict.asked
        strict.cut()
        await bus.connection.down()
        await asyncio.wait_for(bus.connection.up(), DEADLINE_S)
        assert strict.asked == asked


async def test_after_a_reconnect_the_rest_goes_on_and_the_refused_one_follows() -> None:
    strict, got, other = Strict(0), Got(), Got()
    async with bus_on(strict) as bus:
        await bus.subscribe(WANTED.any(site="s"), got)
        await bus.subscribe(OTHER.any(site="s"), other)
        with capture_logs() as logs:
            strict.left = 10**9
            strict.cut()
            await bus.connection.down()
            await asyncio.wait_for(bus.connection.up(), DEADLINE_S)
            await bus.publish(OTHER.at(IDENTITY), note(1))
            assert await other.next() == 1

            asked = strict.asked
            while strict.asked < asked + 3:
                await asyncio.sleep(0)
            strict.left = 0
            async with asyncio.timeout(DEADLINE_S):
                while not any("after all" in line["event"] for line in logs):
                    await asyncio.sleep(0.001)
        await bus.publish(WANTED.at(IDENTITY), note(2))
        assert await got.next() == 2
        said = [line["event"] for line in logs if "subscription" in line["event"]]
        assert said == ["subscription refused, asking again", "subscription made after all"]
