"""A full outbox, an outage and a kill: how often is an event handled?"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from edgebus.bus import Bus, BusSettings, Event, MemoryBroker, OutboxFileError
from edgebus.contracts import Identity, Message, Topic


class Note(Message, version=1):
    """A message for tests."""

    n: int


NOTE = Topic("{node}/{service}/note", Note, qos=1, doc="A note.")
READER = Identity(site="lab", node="r", service="reader")
FULL = BusSettings().outbox.max_messages


def publisher(broker: MemoryBroker, number: int, folder: Path) -> Bus:
    settings = BusSettings(connect_wait_s=0.01, backoff_max_s=0.05, outbox={"path": folder})
    who = Identity(site="lab", node=f"p{number}", service="writer")
    return Bus(broker.transport(), identity=who, settings=settings)


def break_disk(bus: Bus, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk takes nothing more: neither can it be noted what has left."""
    journal = bus._core._journal
    assert journal is not None

    def full(**_: Any) -> None:
        raise OutboxFileError(path=journal._file.path, reason="database or disk is full")

    monkeypatch.setattr(journal._file, "apply", full)


@pytest.mark.parametrize("full_disk", [False, True], ids=["killed in the middle", "and disk full"])
async def test_nothing_is_handled_twice_after_an_outage_and_a_kill(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, full_disk: bool
) -> None:
    broker = MemoryBroker()
    handled: list[int] = []

    async def handle(event: Event[Note]) -> None:
        handled.append(event.payload.n)

    async def has(count: int) -> None:
        async with asyncio.timeout(120):
            while len(handled) < count:
                await asyncio.sleep(0.005)

    settings = BusSettings(backoff_max_s=0.05)
    async with Bus(broker.transport(), identity=READER, settings=settings) as reader:
        await reader.subscribe(NOTE.any(), handle, name="notes")
        broker.stop(forget=False)
        first = publisher(broker, 1, tmp_path)
        await first.__aenter__()
        sends = (first.publish(NOTE.at(first.identity), Note(n=n)) for n in range(FULL))
        await asyncio.gather(*sends)
        if full_disk:
            break_disk(first, monkeypatch)
        broker.start()
        await has(FULL if full_disk else FULL // 2)
        await first.crash()

        async with publisher(broker, 1, tmp_path) as second:
            await second.publish(NOTE.at(second.identity), Note(n=FULL))
            await has(FULL + 1)
            await second.drain(60)
        copies = reader.stats.subscriptions["notes"].duplicates
    assert handled == list(range(FULL + 1))
    if full_disk:
        assert copies == FULL
