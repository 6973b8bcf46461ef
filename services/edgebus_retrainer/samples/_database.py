"""The sample store's database: opened, made or upgraded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event, inspect, text

from edgebus_retrainer.samples._rows import place_of
from edgebus_retrainer.samples._tables import SCHEMA_VERSION, TableBase

__all__ = ["StoreVersionError", "open_database"]

_BUSY_S = 30.0


class StoreVersionError(RuntimeError):
    """The database was written by a newer version of the retrainer.

    Attributes:
        path: The database file.
        found: Its schema version.
    """

    def __init__(self, *, path: Path, found: int) -> None:
        super().__init__(
            f"{path} has schema version {found}, this retrainer needs {SCHEMA_VERSION}; "
            "move the folder away (the pictures in it describe themselves) or use the "
            "retrainer that wrote it"
        )
        self.path = path
        self.found = found


def open_database(path: Path) -> Engine:
    """Open or make the database; every commit is on disk when it returns.

    Raises:
        StoreVersionError: It has a newer schema version.
    """
    # Commands on the same host may write, too: a writer waits so long for another one's commit.
    waits = {"check_same_thread": False, "timeout": _BUSY_S}
    engine = create_engine(f"sqlite:///{path}", connect_args=waits)

    @event.listens_for(engine, "connect")
    def _configure(connection: Any, _record: Any) -> None:
        connection.execute("PRAGMA journal_mode=WAL")
        # A sample is acknowledged to the broker after the commit: it must survive power loss.
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute("PRAGMA foreign_keys=ON")

    with engine.begin() as connection:
        found = connection.exec_driver_sql("PRAGMA user_version").scalar_one()
        if found > SCHEMA_VERSION:
            raise StoreVersionError(path=path, found=found)
        if found < SCHEMA_VERSION:
            # An older version lacks tables and columns, and nothing else.
            TableBase.metadata.create_all(connection)
            if found:
                _add_columns(connection)
            connection.exec_driver_sql(f"PRAGMA user_version={SCHEMA_VERSION}")
    return engine


def _add_columns(connection: Connection) -> None:
    """Bring the tables of an older version up to date."""
    inspector = inspect(connection)
    for table in TableBase.metadata.sorted_tables:
        there = {column["name"] for column in inspector.get_columns(table.name)}
        for column in table.columns:
            if column.name not in there:
                kind = column.type.compile(connection.dialect)
                assert column.server_default is not None
                default = column.server_default.arg  # type: ignore[attr-defined]
                connection.exec_driver_sql(
                    f"ALTER TABLE {table.name} ADD COLUMN {column.name} {kind} "
                    f"NOT NULL DEFAULT '{default}'"
                )
    for source, camera in connection.exec_driver_sql("SELECT DISTINCT source, camera FROM sample"):
        connection.execute(
            text("UPDATE sample SET place = :place WHERE source = :source AND camera = :camera"),
            {"place": place_of(source, camera), "source": source, "camera": camera},
        )
