"""Outbox and inbox on disk: a SQLite file of each per identity, and the thread that writes it.

The outbox in memory stays the one that sends; this holds a copy of what waits. Writing happens in
batches in one thread, so that the loop never waits for a disk, and an fsync serves all events that
came during the one before. An event that the broker confirms within `_LINGER_S` is never written:
on a healthy connection the outbox costs no disk writes, which matters on an SD card. That breaks
no promise, because `publish` returns only once the broker or the disk has the event.

SQLite because a transaction is whole or not there at all, whenever the process or the power goes
(https://sqlite.org/atomiccommit.html). The write-ahead log makes a commit one append and one
fsync; `synchronous=FULL` makes it hold through a power cut too, which an edge device sees more
often than a crash (https://sqlite.org/pragma.html#pragma_synchronous).
"""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from itertools import takewhile
from pathlib import Path
from typing import NamedTuple, TypeVar

import structlog

from edgebus.bus.errors import BusClosedError, OutboxFileError
from edgebus.bus.state import OutboxState
from edgebus.bus.transport import Outgoing

T = TypeVar("T")

_LINGER_S = 0.05
_RETRY_S = 10.0
_VERSION = 1
_LOCK_WAIT_S = 1.0
_TABLE = """
CREATE TABLE event (
    number INTEGER PRIMARY KEY,
    topic TEXT NOT NULL,
    payload BLOB NOT NULL,
    content_type TEXT NOT NULL,
    moment REAL,
    traceparent TEXT
)
"""
_LOG_BYTES = 4 * 1024 * 1024


class Stored(NamedTuple):
    """One event on disk.

    Attributes:
        number: Its place in the order; unique in the file.
        message: What to send.
        moment: In the outbox, when it expires, in the inbox, when it came; seconds since 1970.
    """

    number: int
    message: Outgoing
    moment: float | None


class EventFile:
    """Events that wait, in a file that one process holds at a time.

    Plain blocking calls, without tasks or clocks; `Journal` makes them in a thread of its own.

    Args:
        path: The file; it and its folder are made if need be.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._database: sqlite3.Connection | None = None

    def open(self) -> list[Stored]:
        """Take the file and read what is in it, oldest first.

        Raises:
            OutboxFileError: It cannot be made, is damaged, is another version's or is in use.
        """
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._database = sqlite3.connect(
                self.path,
                isolation_level=None,
                check_same_thread=False,
                timeout=_LOCK_WAIT_S,
            )
            self._prepare(self._database)
            return self._read(self._database)
        except (sqlite3.Error, OSError, UnicodeDecodeError) as error:  # the last for damaged text
            self.close()
            raise OutboxFileError(path=self.path, reason=str(error)) from error
        except OutboxFileError:
            self.close()
            raise

    def apply(self, *, add: Iterable[Stored], remove: Iterable[int]) -> None:
        """Write and take away in one transaction. Once more does no harm.

        Something is written in any case, so that success means that the disk takes it.

        Raises:
            OutboxFileError: Nothing was changed; the disk may be full.
        """
        database = self._database
        if database is None:
            raise OutboxFileError(path=self.path, reason="it is not open")
        rows = [
            (number, m.topic, m.payload, m.content_type, moment, m.traceparent)
            for number, m, moment in add
        ]
        try:
            database.execute("BEGIN IMMEDIATE")
            database.execute(f"PRAGMA user_version = {_VERSION}")
            database.executemany("INSERT OR REPLACE INTO event VALUES (?, ?, ?, ?, ?, ?)", rows)
            database.executemany("DELETE FROM event WHERE number = ?", ((n,) for n in remove))
            database.execute("COMMIT")
        except (sqlite3.Error, OSError, UnicodeDecodeError) as error:
            if database.in_transaction:
                database.rollback()
            raise OutboxFileError(path=self.path, reason=str(error)) from error

    def close(self) -> None:
        """Let go of the file."""
        database, self._database = self._database, None
        if database is not None:
            database.close()

    def _prepare(self, database: sqlite3.Connection) -> None:
        # Two processes that send from one file would send everything twice.
        database.execute("PRAGMA locking_mode = EXCLUSIVE")
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("PRAGMA synchronous = FULL")
        database.execute(f"PRAGMA journal_size_limit = {_LOG_BYTES}")
        database.execute("BEGIN IMMEDIATE")
        (version,) = database.execute("PRAGMA user_version").fetchone()
        if version == 0:
            database.execute(_TABLE)
            database.execute(f"PRAGMA user_version = {_VERSION}")
        database.execute("COMMIT")
        if version not in (0, _VERSION):
            reason = f"its format is version {version}, this program knows {_VERSION}"
            raise OutboxFileError(path=self.path, reason=reason)
        (health,) = database.execute("PRAGMA quick_check(1)").fetchone()
        if health != "ok":
            raise OutboxFileError(path=self.path, reason=f"it is damaged: {health}")

    def _read(self, database: sqlite3.Connection) -> list[Stored]:
        rows = database.execute(
            "SELECT number, topic, payload, content_type, moment, traceparent"
            " FROM event ORDER BY number"
        )
        return [
            Stored(
                number,
                Outgoing(
                    topic=topic,
                    payload=payload,
                    qos=1,
                    content_type=content_type,
                    traceparent=traceparent,
                ),
                moment,
            )
            for number, topic, payload, content_type, moment, traceparent in rows
        ]


class Journal:
    """Follows the outbox or the inbox and writes down what stays in it.

    Args:
        file: Where to.
        what: Which of the two, for the log.
        state: Updated with success and failure.
    """

    def __init__(self, file: EventFile, *, what: str, state: OutboxState) -> None:
        self._file = file
        self._what = what
        self._state = state
        self._thread: ThreadPoolExecutor | None = None
        self._closed = False
        # Not on disk yet, oldest first, with the time of their coming.
        self._adds: dict[int, tuple[float, Stored]] = {}
        self._writing: set[int] = set()
        self._removes: set[int] = set()
        self._waiting: dict[int, asyncio.Future[None]] = {}
        self._dirty = asyncio.Event()
        self._urgent = asyncio.Event()
        self._log = structlog.get_logger("edgebus.bus").bind(file=str(file.path))

    @property
    def is_open(self) -> bool:
        """True while there is a file to write to."""
        return self._thread is not None

    async def open(self) -> list[Stored]:
        """Take the file; what the process before left there, oldest first.

        Where that fails, the state holds the reason, and events stay in memory.
        """
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=f"edgebus-{self._what}")
        try:
            stored = await self._in_thread(self._file.open)
        except OutboxFileError as error:
            self._thread.shutdown(wait=False)
            self._thread = None
            self._log.error(f"no {self._what} on disk", reason=str(error))
            self._state.update(durable=False, trouble=str(error))
            return []
        if stored:
            self._log.info("events of the process before", count=len(stored))
        self._state.update(durable=True)
        return stored

    def add(self, event: Stored) -> None:
        """An event waits."""
        self._adds[event.number] = (time.monotonic(), event)
        self._dirty.set()

    def remove(self, number: int) -> None:
        """It waits no more."""
        if number in self._writing or self._adds.pop(number, None) is None:
            self._removes.add(number)
            self._dirty.set()
        self._release(number)

    async def written(self, number: int) -> None:
        """Return once an event is on disk, or needs not be; at once where the disk fails.

        Raises:
            BusClosedError: It came too late to be written.
        """
        if number not in self._adds or self._state.trouble:
            return
        if self._closed:
            raise BusClosedError
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting[number] = future
        self._urgent.set()
        await future

    async def kept(self, number: int) -> bool:
        """Return once an event is on disk, or needs not be; False where the disk does not take it.

        Raises:
            BusClosedError: It came too late to be written.
        """
        await self.written(number)
        return number not in self._adds

    async def run(self) -> None:
        """Write down what stays, until cancelled."""
        while True:
            await self._dirty.wait()
            with suppress(TimeoutError):
                async with asyncio.timeout(_LINGER_S):
                    await self._urgent.wait()
            everything = self._urgent.is_set() or bool(self._state.trouble)
            self._urgent.clear()
            await self._write(everything=everything)
            if self._state.trouble:
                await asyncio.sleep(_RETRY_S)
            elif not self._adds and not self._removes:
                self._dirty.clear()

    async def close(self, *, flush: bool) -> None:
        """Write what is left and let go of the file.

        Args:
            flush: Whether to write; not after a crash.
        """
        if self._thread is None:
            return
        try:
            if flush:
                await self._write(everything=True)
        finally:
            # Whatever happened: nobody shall wait for a journal that is closed.
            self._closed = True
            for future in self._waiting.values():
                if not future.done():
                    future.set_exception(BusClosedError())
            self._waiting.clear()
        await self._in_thread(self._file.close)
        self._thread.shutdown(wait=False)
        self._thread = None

    async def _write(self, *, everything: bool) -> None:
        before = time.monotonic() - _LINGER_S
        lines = self._adds.values()
        chosen = lines if everything else takewhile(lambda line: line[0] <= before, lines)
        add = [event for _, event in chosen]
        remove = list(self._removes)
        if not add and not remove and not self._state.trouble:
            return
        self._writing.update(event.number for event in add)
        try:
            await self._in_thread(partial(self._file.apply, add=add, remove=remove))
        except OutboxFileError as error:
            self._failed(error)
        else:
            for event in add:
                self._adds.pop(event.number, None)
                self._release(event.number)
            self._removes.difference_update(remove)
            self._well()
        # Not where it was cancelled: then the thread may still be at it.
        self._writing.clear()

    def _failed(self, error: OutboxFileError) -> None:
        if not self._state.trouble:
            self._log.error(f"{self._what} in memory only", reason=str(error))
        self._state.update(durable=False, trouble=str(error))
        for number in list(self._waiting):
            self._release(number)

    def _well(self) -> None:
        if self._state.trouble:
            self._log.info(f"{self._what} on disk again")
        self._state.update(durable=True)

    def _release(self, number: int) -> None:
        future = self._waiting.pop(number, None)
        if future is not None and not future.done():
            future.set_result(None)

    async def _in_thread(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)
