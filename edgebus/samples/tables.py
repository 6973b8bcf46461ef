"""Tables of the sample store (SQLite)."""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import Engine, ForeignKey, Index, String
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from edgebus import database


class TableBase(DeclarativeBase):
    """Base of the tables."""


class SampleRow(TableBase):
    """One sample. Its payload is a file; times are microseconds since 1970, UTC."""

    __tablename__ = "sample"
    __table_args__ = (
        Index("sample_pool", "model", "split", "job", "captured"),
        Index("sample_file", "file"),
    )

    id: Mapped[str] = mapped_column(String(36), primary_key=True)
    received: Mapped[int]
    captured: Mapped[int]
    """When its input was measured; where its device's clock cannot be right, when it came."""
    sent: Mapped[int]
    source: Mapped[str]
    node: Mapped[str] = mapped_column(index=True)
    """The device that sent it, whichever of its services: quotas and shares are a device's."""
    traceparent: Mapped[str | None]
    stream: Mapped[str]
    stream_id: Mapped[str]
    """Node and stream, as in the name of that stream's own model."""
    input_index: Mapped[int]
    model: Mapped[str]
    split: Mapped[str]
    policy: Mapped[str]
    reason: Mapped[str]
    score: Mapped[float]
    truths: Mapped[int | None]
    """Number of labels that its source gave it; null where the truth is unknown."""
    file: Mapped[str]
    size: Mapped[int]
    job: Mapped[str | None] = mapped_column(ForeignKey("job.id"))
    """The job whose accepted candidate was trained on it; null before. Jobs of the shared model
    only: see `UseRow`."""


class UseRow(TableBase):
    """A sample that a stream's own model was trained on; the shared model may still need it."""

    __tablename__ = "used"

    sample: Mapped[str] = mapped_column(
        ForeignKey("sample.id", ondelete="CASCADE"), primary_key=True
    )
    model: Mapped[str] = mapped_column(primary_key=True)
    job: Mapped[str] = mapped_column(ForeignKey("job.id"))


class LabelRow(TableBase):
    """An operator's labels of a sample. The newest of a sample counts, the others are history."""

    __tablename__ = "label"
    __table_args__ = (Index("label_sample", "sample", "id"),)

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    sample: Mapped[str] = mapped_column(ForeignKey("sample.id", ondelete="CASCADE"))
    labels: Mapped[str | None]
    """A `LabelSet` as JSON; null: the operator withdrew the last one."""


class JobRow(TableBase):
    """One training job, from its start to its outcome."""

    __tablename__ = "job"

    id: Mapped[str] = mapped_column(String(36), primary_key=True)
    model: Mapped[str] = mapped_column(index=True)
    base_name: Mapped[str]
    """Name of the model that it trains further."""
    base_version: Mapped[int]
    base_digest: Mapped[str] = mapped_column(String(64))
    version: Mapped[int]
    """Version number of its candidate, given at the start so that no two jobs share one."""
    trigger: Mapped[str]
    why: Mapped[str]
    started: Mapped[int]
    attempts: Mapped[int]
    finished: Mapped[int | None]
    outcome: Mapped[str | None]
    reason: Mapped[str]
    untrained: Mapped[int]
    """Untrained samples when it ended: after a refusal the trigger waits for more than these."""
    lacking: Mapped[int]
    """Held-out samples that it had too few, where that is why it was skipped: the next job
    waits for as many more, or for as many labels."""
    result: Mapped[str | None]
    """The result as it was published, JSON: so that a restart can publish it again."""


def open_database(path: Path) -> Engine:
    """Open or make the store's database; see `edgebus.database.open_database`."""
    way_out = "move the folder away (the samples in it describe themselves) or use the version "
    way_out += "that wrote it"
    return database.open_database(path, TableBase.metadata, version=2, way_out=way_out)
