"""The inbox: what is acknowledged before it is handled, and what becomes of it."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from edgebus.bus import Bus, BusSettings, Event, MemoryBroker
from edgebus.contracts import Identity, Message, Topic


class Note(Message, version=1):
    """A message for tests."""

    n: int


NOTE = Topic("{node}/{service}/note", Note, qos=1, doc="A note.")
READER = Identity(site="lab", node="a", service="reader")
WRITER = Identity(site="lab", node="a", service="writer")


def bus(broker: MemoryBroker, who: Identity, **settings: Any) -> Bus:
    settings = {"inbox": {"after_s": 0.02}, "orphan_grace_s": 0.1} | settings
    return Bus(broker.transport(), identity=who, settings=BusSettings(**settings))


async def hang(_event: Event[Note]) -> None:
    await asyncio.Event().wait()


async def send(broker: MemoryBroker, count: int) -> None:
    async with bus(broker, WRITER) as writer:
        for n in range(count):
            await writer.publish(NOTE.at(WRITER), Note(n=n))


def in_flight(broker: MemoryBroker) -> int:
    return sum(len(session.in_flight) for session in broker._sessions.values())


async def until(what: Any) -> None:
    async with asyncio.timeout(5):
        while not what():
            await asyncio.sleep(0.01)


async def test_a_late_event_is_on_disk_before_it_is_acknowledged(tmp_path: Path) -> None:
    broker = MemoryBroker()
    async with bus(broker, READER, outbox={"path": tmp_path}) as reader:
        await reader.subscribe(NOTE.any(), hang)
        await send(broker, 3)
        await until(lambda: in_flight(broker) == 0)
        assert reader.stats.inbox_messages == 3
        await reader.crash()
    [file] = tmp_path.glob("inbox.*.sqlite")
    with closing(sqlite3.connect(file)) as database:
        assert database.execute("SELECT count(*) FROM event").fetchone() == (3,)
    got: list[int] = []

    async def take(event: Event[Note]) -> None:
        got.append(event.payload.n)
        assert event.duplicate

    async with bus(broker, READER, outbox={"path": tmp_path}) as reader:
        await reader.subscribe(NOTE.any(), take)
        await until(lambda: len(got) == 3)
    assert got == [0, 1, 2]
    async with bus(broker, READER, outbox={"path": tmp_path}) as reader:
        assert reader.stats.inbox_messages == 0


@pytest.mark.parametrize("more", [{"ephemeral": True}, {}], ids=["tool", "memory only"])
async def test_without_a_disk_a_tool_does_it_and_a_service_under_pressure_only(
    more: dict[str, Any],
) -> None:
    broker = MemoryBroker()
    async with bus(broker, READER, **more) as reader:
        await reader.subscribe(NOTE.any(), hang)
        await send(broker, 15)
        await asyncio.sleep(0.3)
        assert in_flight(broker) == (0 if more else 15)
        await send(broker, 5)
        await until(lambda: in_flight(broker) == (0 if more else 5))


async def test_a_full_inbox_leaves_the_rest_with_the_broker(tmp_path: Path) -> None:
    broker = MemoryBroker()
    limits = {"after_s": 0.02, "max_messages": 4}
    async with bus(broker, READER, outbox={"path": tmp_path}, inbox=limits) as reader:
        await reader.subscribe(NOTE.any(), hang)
        await send(broker, 10)
        await until(lambda: in_flight(broker) == 6)
        await asyncio.sleep(0.1)
        assert (in_flight(broker), reader.stats.inbox_messages) == (6, 4)
        await reader.crash()


async def test_what_the_disk_does_not_take_is_not_acknowledged(tmp_path: Path) -> None:
    broker = MemoryBroker()
    async with bus(broker, READER, outbox={"path": tmp_path}) as reader:
        [file] = tmp_path.glob("inbox.*.sqlite")
        notes = reader._core._notes
        assert notes is not None
        notes._file.close()
        await reader.subscribe(NOTE.any(), hang)
        await send(broker, 3)
        await asyncio.sleep(0.2)
        assert (in_flight(broker), reader.stats.inbox_messages) == (3, 0)
        await reader.crash()
    file.write_bytes(b"no database" * 100)
    async with bus(broker, READER, outbox={"path": tmp_path}) as reader:
        await reader.subscribe(NOTE.any(), hang)
        await asyncio.sleep(0.2)
        assert (in_flight(broker), reader.stats.inbox_messages) == (3, 0)
        await reader.crash()
    assert file.read_bytes() == b"no database" * 100  # left as it is


async def test_what_nobody_wants_any_more_goes_after_a_while(tmp_path: Path) -> None:
    broker = MemoryBroker()
    async with bus(broker, READER, outbox={"path": tmp_path}) as reader:
        await reader.subscribe(NOTE.any(), hang)
        await send(broker, 3)
        await until(lambda: in_flight(broker) == 0)
        await reader.crash()
    async with bus(broker, READER, outbox={"path": tmp_path}) as reader:
        reader.subscribing(True)
        await asyncio.sleep(0.3)
        assert (reader.stats.inbox_messages, reader.stats.unrouted) == (3, 0)
        reader.subscribing(False)
        await until(lambda: reader.stats.unrouted == 3)
        assert reader.stats.inbox_messages == 0


async def test_a_process_that_was_suspended_does_not_blame_its_handlers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    broker = MemoryBroker()
    gate = asyncio.Event()
    got: list[int] = []

    async def take(event: Event[Note]) -> None:
        await gate.wait()
        got.append(event.payload.n)

    loop = asyncio.get_running_loop()
    real, asleep = loop.time, 0.0
    async with bus(broker, READER, handler_s=2.0) as reader:
        await reader.subscribe(NOTE.any(), take)
        await send(broker, 1)
        await asyncio.sleep(0.1)
        monkeypatch.setattr(loop, "time", lambda: real() + asleep)
        asleep = 60.0  # SIGSTOP, and later SIGCONT
        await asyncio.sleep(0.7)
        gate.set()
        await until(lambda: got == [0])
        assert reader.stats.dead_letters == 0
