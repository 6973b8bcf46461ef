"""The tables of the sample store (SQLite)."""

from __future__ import annotations

from sqlalchemy import ForeignKey, Index, String
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

__all__ = ["SCHEMA_VERSION", "JobRow", "LabelRow", "SampleRow", "TableBase", "UseRow"]

SCHEMA_VERSION = 3
"""Kept in SQLite's `user_version`; a store of a newer version is refused, an older is upgraded.

1: samples and jobs. 2: and the label sets of operators, a table of its own. 3: and what cameras'
own models were trained on, the place of each sample, and more about each job.
"""


class TableBase(DeclarativeBase):
    """Base of the tables."""


class SampleRow(TableBase):
    """One sample. Its boxes are in its JPEG file; times are microseconds since 1970, UTC."""

    __tablename__ = "sample"
    __table_args__ = (
        Index("sample_pool", "model", "split", "job", "captured"),
        Index("sample_file", "file"),
    )

    id: Mapped[str] = mapped_column(String(36), primary_key=True)
    received: Mapped[int]
    captured: Mapped[int]
    source: Mapped[str]
    camera: Mapped[str]
    place: Mapped[str] = mapped_column(server_default="")
    """Node and camera, as in the name of that camera's own model."""
    frame: Mapped[str]
    frame_index: Mapped[int]
    model: Mapped[str]
    model_version: Mapped[int]
    model_digest: Mapped[str] = mapped_column(String(64))
    split: Mapped[str]
    policy: Mapped[str]
    reason: Mapped[str]
    score: Mapped[float]
    width: Mapped[int]
    height: Mapped[int]
    boxes: Mapped[int | None]
    """True boxes in it; null where there is no ground truth."""
    file: Mapped[str] = mapped_column(String(64))
    size: Mapped[int]
    job: Mapped[str | None] = mapped_column(ForeignKey("job.id"))
    """The job whose accepted candidate was trained on it; none yet where it is null. Jobs of the
    shared model only: see `UseRow`."""


class UseRow(TableBase):
    """A sample that a camera's own model was trained on; the shared model may still need it."""

    __tablename__ = "used"

    sample: Mapped[str] = mapped_column(
        ForeignKey("sample.id", ondelete="CASCADE"), primary_key=True
    )
    model: Mapped[str] = mapped_column(primary_key=True)
    job: Mapped[str] = mapped_column(ForeignKey("job.id"))


class LabelRow(TableBase):
    """What an operator made of a sample. The newest of a sample counts, the others are history."""

    __tablename__ = "label"
    __table_args__ = (Index("label_sample", "sample", "id"),)

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    sample: Mapped[str] = mapped_column(ForeignKey("sample.id", ondelete="CASCADE"))
    labels: Mapped[str | None]
    """A `LabelSet` as JSON; null: the operator took it back."""


class JobRow(TableBase):
    """One training job, from its start to its outcome."""

    __tablename__ = "job"

    id: Mapped[str] = mapped_column(String(36), primary_key=True)
    model: Mapped[str] = mapped_column(index=True)
    base_name: Mapped[str] = mapped_column(server_default="")
    """Name of the model that it trains further; empty: `model` itself."""
    base_version: Mapped[int]
    base_digest: Mapped[str] = mapped_column(String(64))
    version: Mapped[int]
    """Version number of its candidate, given at the start so that no two jobs share one."""
    trigger: Mapped[str]
    why: Mapped[str] = mapped_column(server_default="")
    started: Mapped[int]
    attempts: Mapped[int]
    finished: Mapped[int | None]
    outcome: Mapped[str | None]
    reason: Mapped[str]
    untrained: Mapped[int]
    """Untrained samples when it ended: after a refusal the trigger waits for more than these."""
    measurable: Mapped[int]
    """Not used any more; `lacking` took its place."""
    lacking: Mapped[int] = mapped_column(server_default="0")
    """Held-out pictures that it had too few, where that is why it was skipped: as many more are
    waited for, or as many that somebody labels."""
    result: Mapped[str | None]
    """The result as it was published, JSON: so that a restart can publish it again."""
