"""The outbox on disk: one SQLite file per identity.

Plain blocking calls, without tasks or clocks; `Journal` makes them in a thread of its own.

SQLite because a transaction is whole or not there at all, whenever the process or the power goes
(https://sqlite.org/atomiccommit.html). The write-ahead log makes a commit one append and one
fsync; `synchronous=FULL` makes it hold through a power cut too, which an edge device sees more
often than a crash (https://sqlite.org/pragma.html#pragma_synchronous).
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from edgebus.bus.errors import OutboxFileError
from edgebus.bus.transport import Outgoing

__all__ = ["OutboxFile", "Stored"]

_VERSION = 1
_LOCK_WAIT_S = 1.0
_TABLE = """
CREATE TABLE event (
    number INTEGER PRIMARY KEY,
    topic TEXT NOT NULL,
    payload BLOB NOT NULL,
    content_type TEXT NOT NULL,
    expires REAL,
    traceparent TEXT
)
"""
_LOG_BYTES = 4 * 1024 * 1024


class Stored(NamedTuple):
    """One event on disk.

    Attributes:
        number: Its place in the order; unique in the file.
        message: What to send.
        expires: Not to be sent afterwards; seconds since 1970.
    """

    number: int
    message: Outgoing
    expires: float | None


class OutboxFile:
    """Events that the broker does not have yet, in a file that one process holds at a time.

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
            (number, m.topic, m.payload, m.content_type, expires, m.traceparent)
            for number, m, expires in add
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
            "SELECT number, topic, payload, content_type, expires, traceparent"
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
                expires,
            )
            for number, topic, payload, content_type, expires, traceparent in rows
        ]
