"""Database of the sample store."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sqlalchemy import Engine, create_engine, event

from edgebus.samples.tables import SCHEMA_VERSION, TableBase

_BUSY_S = 30.0


class StoreVersionError(RuntimeError):
    """The database has another schema version.

    Attributes:
        path: The database file.
        found: Its schema version.
    """

    def __init__(self, *, path: Path, found: int) -> None:
        super().__init__(
            f"{path} has schema version {found}, this program needs {SCHEMA_VERSION}; "
            "move the folder away (the samples in it describe themselves) or use the "
            "version that wrote it"
        )
        self.path = path
        self.found = found


def open_database(path: Path) -> Engine:
    """Open or make the database; every commit is on disk when it returns.

    Raises:
        StoreVersionError: It has another schema version.
    """
    # Commands on the same host may write, too: seconds that a writer waits for another's commit.
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
        if found == 0:
            TableBase.metadata.create_all(connection)
            connection.exec_driver_sql(f"PRAGMA user_version={SCHEMA_VERSION}")
        elif found != SCHEMA_VERSION:
            raise StoreVersionError(path=path, found=found)
    return engine
