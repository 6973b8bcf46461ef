"""Queries over the samples in a data folder, for tools on its host.

The service that owns the folder may be running: the database is shared, one transaction at a time.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from sqlalchemy import ColumnElement, Select, and_, func, or_, select, tuple_
from sqlalchemy.orm import Session

from edgebus.artifacts import Bundle, Store
from edgebus.contracts import LabelSet, RecordPayload, SampleRecord, Split, record_of
from edgebus.database import from_micros, micros
from edgebus.samples.label_book import LabelBook, SampleUnknownError, newest_labels
from edgebus.samples.store import SampleFiles, SampleKind, row_of
from edgebus.samples.tables import LabelRow, SampleRow, open_database

_BLOCK = 20  # inputs; what `split_of` holds out together, and mostly one scene
_PAGE = 200


class NoStoreError(FileNotFoundError):
    """A folder has no sample store.

    Attributes:
        folder: The folder.
    """

    exit_code = 2

    def __init__(self, folder: Path) -> None:
        super().__init__(
            f"{folder} holds no samples.db; name a retrainer's data folder with --data, "
            "such as /var/lib/edgebus/retrainer"
        )
        self.folder = folder


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """Conditions that samples have to meet; None: any.

    Attributes:
        model: Name of the model.
        stream: Name of the stream.
        policy: Name of the policy that chose them.
        split: train or holdout.
        since, before: Interval of their capture.
        labelled: Whether truth or an operator has labelled them.
        by: Labelled by `operator` or by `truth`.
        distinct: Only the newest of each block of 20 consecutive inputs of a stream.
    """

    model: str | None = None
    stream: str | None = None
    policy: str | None = None
    split: Split | None = None
    since: datetime | None = None
    before: datetime | None = None
    labelled: bool | None = None
    by: Literal["operator", "truth"] | None = None
    distinct: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A sample's facts in the database.

    Attributes:
        truths: Number of labels that its source gave it; None where the truth is unknown.
        labels: The newest label set of an operator.
        job: The job that was trained on it.
        file: Name of its file: digest and suffix.
        path: The file.
    """

    id: str
    model: str
    stream: str
    index: int
    captured: datetime
    split: str
    policy: str
    reason: str
    score: float
    truths: int | None
    labels: LabelSet | None
    job: str | None
    file: str
    path: Path


class Catalog:
    """Samples of a data folder. Methods do disk I/O and block.

    Args:
        folder: The data folder of the service that stores them.
        kind: The workload that the samples are of.

    Raises:
        NoStoreError: It has no sample store.
        DatabaseVersionError: Its store has another schema version.
    """

    def __init__(self, folder: Path, kind: SampleKind) -> None:
        if not (folder / "samples.db").is_file():
            raise NoStoreError(folder)
        self.folder = folder
        self.files = SampleFiles(folder / "samples")
        self._kind = kind
        self._engine = open_database(folder / "samples.db")
        self.book = LabelBook(self._engine)

    def count(self, query: Query) -> int:
        """Number of samples, whatever their blocks."""
        wanted = select(func.count()).select_from(SampleRow).where(_condition(query))
        with Session(self._engine) as session:
            return session.scalar(wanted) or 0

    def entries(self, query: Query, *, limit: int | None = None) -> Iterator[Entry]:
        """Samples, the newest first."""
        rows = _select(query).order_by(SampleRow.captured.desc(), SampleRow.id.desc())
        place = tuple_(SampleRow.captured, SampleRow.id)
        left = limit
        # Page by page, so that a store of any size is never in memory as a whole, and in short
        # transactions: a long one would keep the retrainer's log from shrinking.
        while left is None or left > 0:
            size = _PAGE if left is None else min(_PAGE, left)
            with Session(self._engine) as session:
                page = list(session.scalars(rows.limit(size)))
                labels = newest_labels(session, [row.id for row in page])
                found = [self._entry(row, labels.get(row.id)) for row in page]
            yield from found
            if len(found) < size:
                return
            left = None if left is None else left - size
            rows = rows.where(place < tuple_(micros(found[-1].captured), found[-1].id))

    def find(self, wanted: str) -> Entry:
        """A sample by its id, or by the beginning or the end of it.

        Raises:
            SampleUnknownError: There is none, or there are several.
        """
        text = wanted.lower()
        if not text or not all(sign in "0123456789abcdef-" for sign in text):
            raise SampleUnknownError([wanted])
        like = or_(SampleRow.id.startswith(text), SampleRow.id.endswith(text))
        with Session(self._engine) as session:
            rows = list(session.scalars(select(SampleRow).where(like).limit(6)))
            if len(rows) != 1:
                raise SampleUnknownError([wanted], found=[row.id for row in rows])
            return self._entry(rows[0], newest_labels(session, [rows[0].id]).get(rows[0].id))

    def add(
        self,
        samples: Sequence[RecordPayload[Any] | SampleRecord],
        sets: Mapping[str, LabelSet | None],
        *,
        received: datetime,
    ) -> None:
        """Add samples and labels: all of them, or none if one cannot be.

        Args:
            samples: New ones, checked.
            sets: Label sets by the id of their sample.
            received: The time of it.

        Raises:
            SampleUnknownError: A label set's sample is neither new nor in the store.
        """
        # Files first: without their rows they are nothing, and rows without files would be broken.
        rows: list[SampleRow] = []
        for sample in samples:
            data = sample.encode()
            file = self.files.put(data, suffix=self._kind.sample_suffix)
            record: SampleRecord = record_of(sample)
            truths = self._kind.count_truths(record)
            rows.append(row_of(record, truths=truths, file=file, size=len(data), received=received))
        with Session(self._engine) as session, session.begin():
            session.add_all(rows)
            session.flush()
            self.book.write_in(session, sets)

    def bundle(self) -> Bundle | None:
        """The model that is trained further; None while there is none."""
        try:
            state = json.loads((self.folder / "incumbent.json").read_bytes())
            return Store(self.folder / "store").open_bundle(str(state["current"]["digest"]))
        except (FileNotFoundError, KeyError):
            return None

    def _entry(self, row: SampleRow, labels: LabelSet | None) -> Entry:
        return Entry(
            id=row.id,
            model=row.model,
            stream=row.stream,
            index=row.input_index,
            captured=from_micros(row.captured),
            split=row.split,
            policy=row.policy,
            reason=row.reason,
            score=row.score,
            truths=row.truths,
            labels=labels,
            job=row.job,
            file=row.file,
            path=self.files.path(row.file),
        )


def _operator_labels() -> Select[str]:
    """Ids of the samples that an operator has labelled and not withdrawn."""
    newest = select(func.max(LabelRow.id)).group_by(LabelRow.sample)
    return select(LabelRow.sample).where(LabelRow.id.in_(newest), LabelRow.labels.is_not(None))


def _condition(query: Query) -> ColumnElement[bool]:
    parts: list[ColumnElement[bool]] = [SampleRow.id.is_not(None)]
    for column, value in (
        (SampleRow.model, query.model),
        (SampleRow.stream, query.stream),
        (SampleRow.policy, query.policy),
        (SampleRow.split, query.split),
    ):
        if value is not None:
            parts.append(column == value)
    if query.since is not None:
        parts.append(SampleRow.captured >= micros(query.since))
    if query.before is not None:
        parts.append(SampleRow.captured < micros(query.before))
    by_operator = SampleRow.id.in_(_operator_labels())
    if query.labelled is not None:
        known = SampleRow.truths.is_not(None) | by_operator
        parts.append(known if query.labelled else ~known)
    if query.by == "operator":
        parts.append(by_operator)
    elif query.by == "truth":
        parts.append(SampleRow.truths.is_not(None))
    return and_(*parts)


def _select(query: Query) -> Select[SampleRow]:
    condition = _condition(query)
    if not query.distinct:
        return select(SampleRow).where(condition)
    block = SampleRow.source, SampleRow.stream, SampleRow.input_index.op("/")(_BLOCK)
    # UUIDv7: the highest id of a block is the newest.
    newest = select(func.max(SampleRow.id)).where(condition).group_by(*block)
    return select(SampleRow).where(SampleRow.id.in_(newest))
