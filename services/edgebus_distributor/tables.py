"""The tables of the registry (SQLite). Times are microseconds since 1970, UTC."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sqlalchemy import JSON, Engine, ForeignKey, String, UniqueConstraint, create_engine, event
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

_SCHEMA_VERSION = 1


class RegistryFileError(Exception):
    """The database is of another version of EdgeBus.

    Attributes:
        path: The file.
        found: Its schema's version.
    """

    def __init__(self, *, path: Path, found: int) -> None:
        super().__init__(
            f"{path} has schema {found}, this distributor reads {_SCHEMA_VERSION}; move the file "
            "away to start an empty registry"
        )
        self.path = path
        self.found = found


class _Base(DeclarativeBase):
    """Base of the tables."""


class VersionRow(_Base):
    """A version of a model whose bundle came in whole."""

    __tablename__ = "version"
    __table_args__ = (UniqueConstraint("model", "version"),)

    digest: Mapped[str] = mapped_column(String(64), primary_key=True)
    model: Mapped[str] = mapped_column(index=True)
    version: Mapped[int]
    index_size: Mapped[int]
    size: Mapped[int]
    parent: Mapped[str | None] = mapped_column(String(64))
    origin: Mapped[str]
    metrics: Mapped[dict[str, Any]] = mapped_column(JSON)
    added: Mapped[int]


class ReleaseRow(_Base):
    """A decision: from now on this channel serves this version. Never changed, but for `finished`.

    The newest of a model and channel counts.
    """

    __tablename__ = "release"
    __table_args__ = (UniqueConstraint("model", "sequence"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    model: Mapped[str]
    channel: Mapped[str]
    sequence: Mapped[int]
    digest: Mapped[str] = mapped_column(ForeignKey("version.digest"))
    reason: Mapped[str]
    decided: Mapped[int]
    finished: Mapped[int | None]
    """When every edge served it for the first time."""


class IntakeRow(_Base):
    """A bundle that is to be brought in and then released; gone once that is done or refused."""

    __tablename__ = "intake"

    digest: Mapped[str] = mapped_column(String(64), primary_key=True)
    channel: Mapped[str] = mapped_column(primary_key=True)
    model: Mapped[str]
    version: Mapped[int]
    reference: Mapped[str]
    """The `BundleRef` as JSON."""
    origin: Mapped[str]
    candidate: Mapped[bool]
    """Whether it must follow from what its channel serves; a person's command need not."""


def open_database(path: Path) -> Engine:
    """Open the registry's file, or make it.

    Raises:
        RegistryFileError: It is of another version.
    """
    engine = create_engine(f"sqlite:///{path}", connect_args={"check_same_thread": False})

    @event.listens_for(engine, "connect")
    def _configure(connection: Any, _record: Any) -> None:
        # A release is on the disk before anybody hears of it, also after a power cut.
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
            connection.execute(f"PRAGMA {pragma}")

    with engine.begin() as connection:
        found = int(connection.exec_driver_sql("PRAGMA user_version").scalar_one())
        if found not in (0, _SCHEMA_VERSION):
            raise RegistryFileError(path=path, found=found)
        _Base.metadata.create_all(connection)
        connection.exec_driver_sql(f"PRAGMA user_version={_SCHEMA_VERSION}")
    return engine
