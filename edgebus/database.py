"""SQLite files of services: how they are opened, and times in their tables."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, MetaData, create_engine, event
from sqlalchemy.exc import DBAPIError

_BUSY_S = 30.0
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class DatabaseVersionError(RuntimeError):
    """A database has another schema version.

    Attributes:
        path: The database file.
        found: Its schema version.
    """

    def __init__(self, *, path: Path, found: int, wanted: int, way_out: str) -> None:
        super().__init__(
            f"{path} has schema version {found}, this program needs {wanted}; {way_out}"
        )
        self.path = path
        self.found = found


class DatabaseUnusableError(RuntimeError):
    """A database cannot be opened, or is damaged. It is left as it is.

    Attributes:
        path: The database file.
        reason: What is wrong with it.
    """

    exit_code = 2

    def __init__(self, *, path: Path, reason: str, way_out: str) -> None:
        super().__init__(
            f"{path}: {reason}; see that it can be written and the disk has room, or {way_out}"
        )
        self.path = path
        self.reason = reason


def open_database(path: Path, tables: MetaData, *, version: int, way_out: str) -> Engine:
    """Open or make a database; every commit is on disk when it returns.

    Args:
        path: The file.
        tables: Made where the file is new.
        version: Of the tables; kept in SQLite's `user_version`.
        way_out: What to do about a file that cannot be used, for the error.

    Raises:
        DatabaseVersionError: It has another schema version.
        DatabaseUnusableError: It cannot be opened, or is damaged.
    """
    # Commands on the same host may write, too: seconds that a writer waits for another's commit.
    waits = {"check_same_thread": False, "timeout": _BUSY_S}
    # Parameters are what others have sent; errors go into logs and states.
    engine = create_engine(f"sqlite:///{path}", connect_args=waits, hide_parameters=True)

    @event.listens_for(engine, "connect")
    def _configure(connection: Any, _record: Any) -> None:
        # What is acknowledged or announced after a commit must survive power loss.
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
            connection.execute(f"PRAGMA {pragma}")

    @event.listens_for(engine, "handle_error")
    def _name_the_file(context: Any) -> None:
        if context.sqlalchemy_exception is not None:
            context.sqlalchemy_exception.add_detail(f"file: {path}")

    try:
        with engine.begin() as connection:
            found = connection.exec_driver_sql("PRAGMA user_version").scalar_one()
            if found == 0:
                tables.create_all(connection)
                connection.exec_driver_sql(f"PRAGMA user_version={version}")
            elif found != version:
                raise DatabaseVersionError(path=path, found=found, wanted=version, way_out=way_out)
            health = connection.exec_driver_sql("PRAGMA quick_check(1)").scalar_one()
    except DBAPIError as error:
        reason = str(error.orig)
        raise DatabaseUnusableError(path=path, reason=reason, way_out=way_out) from error
    if health != "ok":
        raise DatabaseUnusableError(path=path, reason=f"damaged: {health}", way_out=way_out)
    return engine


def micros(time: datetime) -> int:
    """Microseconds since 1970, as tables keep times."""
    return (time - _EPOCH) // timedelta(microseconds=1)


def from_micros(value: int) -> datetime:
    """A time of a table, UTC."""
    return _EPOCH + timedelta(microseconds=value)
