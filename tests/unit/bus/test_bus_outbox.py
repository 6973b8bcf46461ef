"""The outbox on disk: its file, its journal, and the bus when either fails."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from edgebus.bus import (
    Bus,
    BusClosedError,
    BusSettings,
    Event,
    MemoryBroker,
    MemoryTransport,
    OutboxFileError,
    OutboxFullError,
    Outgoing,
    RequestTimeoutError,
)
from edgebus.bus import _journal as journal_module
from edgebus.bus._journal import EventFile, Journal, Stored
from edgebus.bus._outbox import OVERFLOW, Outbox
from edgebus.bus.state import OutboxState
from edgebus.contracts import Identity, Message, RetrainCommand, Topic, topics
from edgebus.service.presence import Presence

SENDER = Identity(site="s", node="p", service="x")
READER = Identity(site="s", node="r", service="x")
FILE = "outbox.edgebus.s.p.x.sqlite"


class Note(Message, version=1):
    """A message for tests."""

    n: int
    text: str = ""


EVENT = Topic("{node}/{service}/events/{kind}", Note, qos=1, doc="An event.")
PASSING = Topic(
    "{node}/{service}/passing/{kind}", Note, qos=1, durable=False, doc="Not for the disk."
)


def note(n: int, text: str = "") -> Note:
    return Note(source="s/p/x", n=n, text=text)


def stored(number: int, payload: bytes = b"{}") -> Stored:
    message = Outgoing(f"t/{number}", payload, 1, content_type="application/json")
    return Stored(number, message, None)


def offline(folder: Path, **outbox: Any) -> BusSettings:
    return BusSettings(
        connect_wait_s=0.0,
        backoff_first_s=0.01,
        backoff_max_s=0.05,
        outbox={"path": folder} | outbox,
    )


async def eventually(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.005)


class Collector:
    """A bus that notes which numbers come, in order."""

    def __init__(self, broker: MemoryBroker) -> None:
        self.numbers: list[int] = []
        self.bus = Bus(MemoryTransport(broker), identity=READER)

    async def __aenter__(self) -> Collector:
        await self.bus.__aenter__()
        await self.bus.subscribe(EVENT.any(), self._take)
        return self

    async def __aexit__(self, *error: Any) -> None:
        await self.bus.__aexit__(*error)

    async def _take(self, event: Event[Note]) -> None:
        self.numbers.append(event.payload.n)


def stopped() -> MemoryBroker:
    broker = MemoryBroker()
    broker.stop()
    return broker


async def restarted(broker: MemoryBroker, settings: BusSettings, count: int) -> list[int]:
    """What a reader gets from the next process, once there are `count`."""
    broker.start()
    async with (
        Collector(broker) as reader,
        Bus(MemoryTransport(broker), identity=SENDER, settings=settings) as bus,
    ):
        await eventually(lambda: len(reader.numbers) >= count and not bus.stats.outbox_messages)
        return reader.numbers


# The file


def test_the_file_gives_back_what_it_got_oldest_first(tmp_path: Path) -> None:
    file = EventFile(tmp_path / "new" / "outbox.sqlite")
    assert file.open() == []
    full = Outgoing("a/b", b"\x00\xff", 1, content_type="image/jpeg", traceparent="00-1-2-03")
    events = [Stored(3, full, 1.5), stored(1), stored(2)]
    file.apply(add=events, remove=[])
    file.apply(add=[stored(4)], remove=[2, 99])
    file.close()
    assert file.open() == [stored(1), Stored(3, full, 1.5), stored(4)]
    file.close()


def test_writing_once_more_does_no_harm(tmp_path: Path) -> None:
    file = EventFile(tmp_path / "outbox.sqlite")
    file.open()
    for _ in range(2):
        file.apply(add=[stored(1), stored(2)], remove=[2])
    file.close()
    assert file.open() == [stored(1)]
    file.close()


@pytest.mark.parametrize("damage", ["junk", "torn", "foreign"])
def test_a_file_that_cannot_be_read_is_named_and_left_as_it_is(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "outbox.sqlite"
    file = EventFile(path)
    if damage == "junk":
        path.write_bytes(b"not a database, and longer than the header of one" * 100)
    else:
        file.open()
        file.apply(add=[stored(n, bytes(3000)) for n in range(100)], remove=[])
        if damage == "foreign":
            assert file._database is not None
            file._database.execute("PRAGMA user_version = 7")
        file.close()
    if damage == "torn":
        data = bytearray(path.read_bytes())
        data[8192:40960] = b"\xa5" * (40960 - 8192)
        path.write_bytes(data)
    before = path.read_bytes()
    with pytest.raises(OutboxFileError) as bad:
        file.open()
    assert bad.value.path == path
    assert str(path) in str(bad.value)
    assert path.read_bytes() == before


def test_a_file_has_one_holder(tmp_path: Path) -> None:
    one, two = EventFile(tmp_path / "outbox.sqlite"), EventFile(tmp_path / "outbox.sqlite")
    one.open()
    with pytest.raises(OutboxFileError, match="locked"):
        two.open()
    one.close()
    assert two.open() == []
    two.close()


def test_a_full_disk_changes_nothing(tmp_path: Path) -> None:
    file = EventFile(tmp_path / "outbox.sqlite")
    file.open()
    file.apply(add=[stored(1)], remove=[])
    assert file._database is not None
    file._database.execute("PRAGMA max_page_count = 10")
    with pytest.raises(OutboxFileError, match="full"):
        file.apply(add=[stored(2), stored(3, bytes(1_000_000))], remove=[1])
    file.apply(add=[stored(4)], remove=[])
    file.close()
    assert file.open() == [stored(1), stored(4)]
    file.close()


# The line in memory


def test_the_oldest_give_way_in_the_order_of_both_lanes() -> None:
    outbox = Outbox(max_messages=3, max_bytes=1000)
    lost: list[int] = []
    for n, kind in enumerate(["application/json", "image/jpeg", "application/json", "image/jpeg"]):
        entry = outbox.put(Outgoing(f"t/{n}", b"x", 1, content_type=kind), make_room=True)
        entry.done = lambda why, n=n: lost.append(n) if why == OVERFLOW else None
    assert lost == [0]
    big = Outgoing("big", bytes(999), 1)
    outbox.put(big, make_room=True)
    assert lost == [0, 1, 2]
    assert (len(outbox), outbox.bytes) == (2, 1000)


def test_what_is_in_flight_gives_no_way() -> None:
    outbox = Outbox(max_messages=1, max_bytes=1000)
    outbox.put(Outgoing("t", b"x", 1))
    assert outbox.next(window=1, now=0.0) is not None
    with pytest.raises(OutboxFullError):
        outbox.put(Outgoing("t", b"x", 1), make_room=True)


def test_what_was_left_is_taken_over_whatever_the_limits_and_goes_first() -> None:
    outbox = Outbox(max_messages=1, max_bytes=1)
    for number in (5, 8):
        outbox.restore(Outgoing(f"t/{number}", b"xyz", 1), number=number, deadline=None)
    with pytest.raises(OutboxFullError):
        outbox.put(Outgoing("t", b"x", 1))
    for _ in range(2):
        entry = outbox.next(window=9, now=0.0)
        assert entry is not None
        outbox.settle(entry)
    assert outbox.put(Outgoing("t", b"x", 1)).number == 9


# The journal


async def test_what_the_broker_takes_at_once_is_never_written(tmp_path: Path) -> None:
    file = EventFile(tmp_path / "outbox.sqlite")
    writes: list[int] = []
    apply = file.apply

    def counted(**change: Any) -> None:
        writes.append(1)
        apply(**change)

    file.apply = counted  # type: ignore[method-assign]
    journal = Journal(file, what="outbox", state=OutboxState())
    assert await journal.open() == []
    running = asyncio.create_task(journal.run())
    for number in range(100):
        journal.add(stored(number))
        await asyncio.sleep(0)
        journal.remove(number)
    running.cancel()
    await journal.close(flush=True)
    assert writes == []


async def test_what_stays_is_written_although_nobody_waits_for_it(tmp_path: Path) -> None:
    path = tmp_path / "outbox.sqlite"
    journal = Journal(EventFile(path), what="outbox", state=OutboxState())
    await journal.open()
    running = asyncio.create_task(journal.run())
    journal.add(stored(1))
    journal.add(stored(2))
    await eventually(lambda: not journal._adds)
    journal.remove(1)
    await eventually(lambda: not journal._removes)
    running.cancel()
    await journal.close(flush=False)
    again = EventFile(path)
    assert again.open() == [stored(2)]
    again.close()


async def test_an_event_confirmed_while_it_is_written_does_not_stay(tmp_path: Path) -> None:
    path = tmp_path / "outbox.sqlite"
    journal = Journal(EventFile(path), what="outbox", state=OutboxState())
    await journal.open()
    journal.add(stored(1))
    writing = asyncio.create_task(journal._write(everything=True))
    await asyncio.sleep(0)
    journal.remove(1)
    await writing
    await journal.close(flush=True)
    again = EventFile(path)
    assert again.open() == []
    again.close()


# The bus


async def test_events_of_many_publishers_survive_in_order(tmp_path: Path) -> None:
    broker, settings = stopped(), offline(tmp_path)
    bus = Bus(MemoryTransport(broker), identity=SENDER, settings=settings)
    async with bus:
        async with asyncio.TaskGroup() as group:
            for n in range(300):
                group.create_task(bus.publish(EVENT.at(SENDER, kind="x"), note(n)))
        await bus.crash()
    assert await restarted(broker, settings, 300) == list(range(300))
    file = EventFile(tmp_path / FILE)
    assert file.open() == []
    file.close()


async def test_events_on_their_way_survive_a_crash(tmp_path: Path) -> None:
    broker, settings = MemoryBroker(), offline(tmp_path)
    async with Bus(MemoryTransport(broker), identity=SENDER, settings=settings) as bus:
        await bus.connected(5)
        broker.faults.stalled = True
        log, address = tmp_path / f"{FILE}-wal", EVENT.at(SENDER, kind="x")
        sending = asyncio.create_task(bus.publish(address, note(1)))
        await eventually(lambda: log.is_file() and b'"n":1' in log.read_bytes())
        # One write follows another: with the second on disk, the bus knows that the first one is.
        late = asyncio.create_task(bus.publish(address, note(2)))
        await eventually(lambda: b'"n":2' in log.read_bytes())
        assert bus.stats.outbox_messages == 2
        assert not sending.done()
        await bus.crash()
        await sending
        with suppress(BusClosedError):
            await late
    broker.faults.stalled = False
    assert await restarted(broker, settings, 2) == [1, 2]


async def test_a_clean_end_keeps_what_could_not_be_sent(tmp_path: Path) -> None:
    broker, settings = stopped(), offline(tmp_path)
    async with Bus(MemoryTransport(broker), identity=SENDER, settings=settings) as bus:
        await bus.publish(EVENT.at(SENDER, kind="x"), note(1))
    assert await restarted(broker, settings, 1) == [1]


async def test_some_are_not_for_the_disk(tmp_path: Path) -> None:
    broker, settings = stopped(), offline(tmp_path)
    async with Bus(MemoryTransport(broker), identity=SENDER, settings=settings) as bus:
        await bus.publish(PASSING.at(SENDER, kind="x"), note(1))
        command = RetrainCommand(source="s/p/x")
        with pytest.raises(RequestTimeoutError):
            await bus.request(topics.CMD_RETRAIN.at(READER), command, timeout=0.01)
        state = Presence(identity=SENDER, version="").message()
        await bus.publish(topics.SERVICE_STATE.at(SENDER), state)
        assert bus.stats.outbox_messages == 3
        await bus.crash()
    file = EventFile(tmp_path / FILE)
    assert file.open() == []
    file.close()


async def test_what_expired_meanwhile_is_not_sent_and_counted(tmp_path: Path) -> None:
    broker, settings = stopped(), offline(tmp_path)
    async with Bus(MemoryTransport(broker), identity=SENDER, settings=settings) as bus:
        await bus.publish(EVENT.at(SENDER, kind="x"), note(1), expires_in_s=0.01)
        await bus.publish(EVENT.at(SENDER, kind="x"), note(2), expires_in_s=600)
        await bus.crash()
    await asyncio.sleep(0.02)
    broker.start()
    async with (
        Collector(broker) as reader,
        Bus(MemoryTransport(broker), identity=SENDER, settings=settings) as bus,
    ):
        await eventually(lambda: not bus.stats.outbox_messages and bool(reader.numbers))
        assert reader.numbers == [2]
        assert (bus.stats.refused, bus.stats.published) == (1, 1)


async def test_tools_leave_no_file(tmp_path: Path) -> None:
    settings = offline(tmp_path).model_copy(update={"ephemeral": True})
    async with Bus(MemoryTransport(stopped()), identity=SENDER, settings=settings) as bus:
        await bus.publish(EVENT.at(SENDER, kind="x"), note(1))
        assert not bus.outbox.durable
    assert list(tmp_path.iterdir()) == []


async def test_a_damaged_file_means_memory_and_is_said(tmp_path: Path) -> None:
    path = tmp_path / FILE
    path.write_bytes(b"junk" * 1000)
    broker, settings = stopped(), offline(tmp_path)
    async with Bus(MemoryTransport(broker), identity=SENDER, settings=settings) as bus:
        assert str(path) in bus.outbox.trouble
        assert not bus.outbox.durable
        for n in range(3):
            await bus.publish(EVENT.at(SENDER, kind="x"), note(n))
        broker.start()
        await eventually(lambda: not bus.stats.outbox_messages)
        assert bus.stats.published == 3
    assert path.read_bytes() == b"junk" * 1000


async def test_a_full_disk_is_said_and_nothing_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal_module, "_RETRY_S", 0.01)
    broker, settings = stopped(), offline(tmp_path)
    async with Bus(MemoryTransport(broker), identity=SENDER, settings=settings) as bus:
        await bus.publish(EVENT.at(SENDER, kind="x"), note(0))
        await asyncio.wait_for(bus.outbox.changed(), 5)
        assert bus.outbox.durable
        journal = bus._core._journal
        assert journal is not None
        database = journal._file._database
        assert database is not None
        await journal._in_thread(lambda: database.execute("PRAGMA max_page_count = 10"))
        for n in range(1, 11):
            await bus.publish(EVENT.at(SENDER, kind="x"), note(n, "x" * 20_000))
        assert "full" in bus.outbox.trouble
        assert bus.stats.outbox_messages == 11
        # Somebody makes room.
        await journal._in_thread(lambda: database.execute("PRAGMA max_page_count = 100000"))
        await eventually(lambda: bus.outbox.durable and not bus.outbox.trouble)
        await bus.crash()
    assert await restarted(broker, settings, 11) == list(range(11))


async def test_an_error_of_the_disk_is_no_error_of_the_publisher(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(self: EventFile, **_change: object) -> None:
        raise OutboxFileError(path=self.path, reason="input/output error")

    monkeypatch.setattr(EventFile, "apply", broken)
    broker, settings = stopped(), offline(tmp_path)
    async with Bus(MemoryTransport(broker), identity=SENDER, settings=settings) as bus:
        for n in range(5):
            await bus.publish(EVENT.at(SENDER, kind="x"), note(n))
        assert "input/output error" in bus.outbox.trouble
        broker.start()
        await eventually(lambda: bus.stats.published == 5)
