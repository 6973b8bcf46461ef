"""The tables of the registry (SQLite). Times are microseconds since 1970, UTC."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sqlalchemy import JSON, Engine, ForeignKey, String, UniqueConstraint
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from edgebus import database


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
    """Open or make the registry's file; see `edgebus.database.open_database`."""
    way_out = "move the file away to start an empty registry"
    return database.open_database(path, _Base.metadata, version=1, way_out=way_out)
