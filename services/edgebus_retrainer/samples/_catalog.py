"""Finding samples in a retrainer's data folder, and everything that was said of them.

For commands on the retrainer's host: it may be running, since the database is only read.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Literal

from sqlalchemy import ColumnElement, Select, and_, func, or_, select, tuple_
from sqlalchemy.orm import Session

from edgebus.artifacts import Store
from edgebus.contracts import PayloadError, Split
from edgebus_detection.messages import Box, Sample, SampleRecord
from edgebus_detection.vision import Image, ImageError, decode_jpeg
from edgebus_retrainer.claims import LabelSet, Resolved, Voices, resolve
from edgebus_retrainer.files import PictureStore
from edgebus_retrainer.labels import CachedAnswers
from edgebus_retrainer.samples._database import open_database
from edgebus_retrainer.samples._labelbook import LabelBook, SampleUnknownError, newest_labels
from edgebus_retrainer.samples._rows import EPOCH, micros
from edgebus_retrainer.samples._tables import LabelRow, SampleRow

__all__ = ["Catalog", "Entry", "NoStoreError", "Query", "SampleUnreadableError", "Sight"]

_BLOCK = 20  # frames; what `split_of` holds out together, and mostly one scene
_PAGE = 200


class NoStoreError(FileNotFoundError):
    """A folder is no retrainer's data folder.

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


class SampleUnreadableError(ValueError):
    """A sample's file is missing or corrupt.

    Attributes:
        sample: Its id.
        reason: Why.
    """

    def __init__(self, *, sample: str, reason: str) -> None:
        super().__init__(f"sample {sample} cannot be read: {reason}")
        self.sample = sample
        self.reason = reason


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """Which samples are wanted.

    Attributes:
        model: Name of the model.
        camera: Name of the camera.
        policy: Name of the policy that chose them.
        split: train or holdout.
        since, before: When they were captured.
        labelled: Whether truth or an operator has said what is there; None: either.
        by: Labelled by `operator` or by `truth`.
        conflict: Only those of which voices contradict each other.
        distinct: Only the newest of each block of 20 consecutive frames of a camera.
    """

    model: str | None = None
    camera: str | None = None
    policy: str | None = None
    split: Split | None = None
    since: datetime | None = None
    before: datetime | None = None
    labelled: bool | None = None
    by: Literal["operator", "truth"] | None = None
    conflict: bool = False
    distinct: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """What the database says of a sample; `truth` is the number of true boxes, None without."""

    id: str
    model: str
    camera: str
    index: int
    captured: datetime
    split: str
    policy: str
    reason: str
    score: float
    truth: int | None
    labels: LabelSet | None
    job: str | None
    file: str
    path: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Sight:
    """A sample that was looked at: its file, and who says what of it."""

    entry: Entry
    sample: Sample
    voices: Voices
    resolved: Resolved | None

    @property
    def record(self) -> SampleRecord:
        """What the collector wrote."""
        return self.sample.record

    def picture(self) -> Image:
        """The picture, decoded.

        Raises:
            SampleUnreadableError: It is corrupt.
        """
        try:
            return decode_jpeg(self.sample.jpeg)
        except ImageError as error:
            raise SampleUnreadableError(sample=self.entry.id, reason=str(error)) from error


class Catalog:
    """The samples of a retrainer. Methods do disk I/O and block.

    Args:
        folder: The retrainer's data folder.
        accept: Boxes of a teacher of at least this score are its labels, the others unsure.

    Raises:
        NoStoreError: It is none.
        StoreVersionError: A newer retrainer wrote it.
    """

    def __init__(self, folder: Path, *, accept: float = 0.4) -> None:
        if not (folder / "samples.db").is_file():
            raise NoStoreError(folder)
        self.folder = folder
        self.engine = open_database(folder / "samples.db")
        self.book = LabelBook(self.engine)
        self.pictures = PictureStore(folder / "pictures")
        self._answers = CachedAnswers(folder / "labels")
        self._accept = accept

    def count(self, query: Query) -> int:
        """How many samples there are, conflicts and blocks left aside."""
        wanted = select(func.count()).select_from(SampleRow).where(_condition(query))
        with Session(self.engine) as session:
            return session.scalar(wanted) or 0

    def entries(self, query: Query, *, limit: int | None = None) -> Iterator[Entry]:
        """Samples, the newest first. Conflicts are not looked at: see `sights`."""
        rows = _select(query).order_by(SampleRow.captured.desc(), SampleRow.id.desc())
        place = tuple_(SampleRow.captured, SampleRow.id)
        left = limit
        # Page by page, so that a store of any size is never in memory as a whole, and in short
        # transactions: a long one would keep the retrainer's log from shrinking.
        while left is None or left > 0:
            size = _PAGE if left is None else min(_PAGE, left)
            with Session(self.engine) as session:
                page = list(session.scalars(rows.limit(size)))
                labels = newest_labels(session, [row.id for row in page])
                found = [self._entry(row, labels.get(row.id)) for row in page]
            yield from found
            if len(found) < size:
                return
            left = None if left is None else left - size
            rows = rows.where(place < tuple_(micros(found[-1].captured), found[-1].id))

    def sights(
        self, query: Query, *, limit: int | None = None, unreadable: list[str]
    ) -> Iterator[Sight]:
        """Samples with what was said of them, the newest first.

        Args:
            query: Which.
            limit: At most so many.
            unreadable: Gets a line for each sample whose file is missing or corrupt.
        """
        found = 0
        for entry in self.entries(query, limit=None if query.conflict else limit):
            if query.conflict and not self._may_conflict(entry):
                continue
            try:
                sight = self.look(entry)
            except SampleUnreadableError as error:
                unreadable.append(str(error))
                continue
            if query.conflict and not (sight.resolved and sight.resolved.conflicts):
                continue
            yield sight
            found += 1
            if found == limit:
                return

    def look(self, entry: Entry) -> Sight:
        """Read a sample, and what was said of it.

        Raises:
            SampleUnreadableError: Its file is missing or corrupt.
        """
        try:
            sample = Sample.decode(entry.path.read_bytes())
        except (OSError, PayloadError) as error:
            reason = "its file is missing" if isinstance(error, FileNotFoundError) else str(error)
            raise SampleUnreadableError(sample=entry.id, reason=reason) from error
        record = sample.record
        voices = Voices(
            operator=entry.labels,
            truth=record.truth,
            verdicts=record.feedback,
            detections=record.detections,
        )
        if (said := self.taught(entry)) is not None:
            by, sure, unsure = said
            voices = replace(voices, teacher=sure, unsure=unsure, teacher_by=by)
        return Sight(entry=entry, sample=sample, voices=voices, resolved=resolve(voices))

    def taught(self, entry: Entry) -> tuple[str, tuple[Box, ...], tuple[Box, ...]] | None:
        """What the newest teacher said of a sample in earlier jobs; None: none has seen it.

        Returns:
            Its provenance, the boxes that it is sure of, and the others.
        """
        said = self._answers.of(entry.file)
        if said is None:
            return None
        by, answer = said
        sure = tuple(box for box in answer.boxes if (box.score or 0.0) >= self._accept)
        unsure = tuple(box for box in answer.boxes if (box.score or 0.0) < self._accept)
        return by, sure, (*unsure, *answer.unsure)

    def find(self, wanted: str) -> Entry:
        """A sample by its id, or by the beginning or the end of it.

        Raises:
            SampleUnknownError: There is none, or there are several.
        """
        text = wanted.lower()
        if not text or not all(sign in "0123456789abcdef-" for sign in text):
            raise SampleUnknownError([wanted])
        like = or_(SampleRow.id.startswith(text), SampleRow.id.endswith(text))
        with Session(self.engine) as session:
            rows = list(session.scalars(select(SampleRow).where(like).limit(6)))
            if len(rows) != 1:
                raise SampleUnknownError([wanted], found=[row.id for row in rows])
            return self._entry(rows[0], newest_labels(session, [rows[0].id]).get(rows[0].id))

    def classes(self) -> tuple[str, ...] | None:
        """The classes of the model that is trained further; None while there is none."""
        try:
            pointer = json.loads((self.folder / "incumbent.json").read_bytes())
            bundle = Store(self.folder / "store").open_bundle(str(pointer["digest"]))
        except (FileNotFoundError, KeyError):
            return None
        from edgebus_detection.models import detection_spec

        return detection_spec(bundle.manifest).classes

    def _may_conflict(self, entry: Entry) -> bool:
        """Whether more than one voice has spoken, as far as one can tell without the file."""
        if entry.labels is not None or entry.policy == "feedback":
            return True
        return entry.truth is not None and self._answers.of(entry.file) is not None

    def _entry(self, row: SampleRow, labels: LabelSet | None) -> Entry:
        return Entry(
            id=row.id,
            model=row.model,
            camera=row.camera,
            index=row.frame_index,
            captured=EPOCH + timedelta(microseconds=row.captured),
            split=row.split,
            policy=row.policy,
            reason=row.reason,
            score=row.score,
            truth=row.boxes,
            labels=labels,
            job=row.job,
            file=row.file,
            path=self.pictures.path(row.file),
        )


def _operator_labels() -> Select[str]:
    """Ids of the samples that an operator has labelled and not taken back."""
    newest = select(func.max(LabelRow.id)).group_by(LabelRow.sample)
    return select(LabelRow.sample).where(LabelRow.id.in_(newest), LabelRow.labels.is_not(None))


def _condition(query: Query) -> ColumnElement[bool]:
    parts: list[ColumnElement[bool]] = [SampleRow.id.is_not(None)]
    for column, value in (
        (SampleRow.model, query.model),
        (SampleRow.camera, query.camera),
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
        known = SampleRow.boxes.is_not(None) | by_operator
        parts.append(known if query.labelled else ~known)
    if query.by == "operator":
        parts.append(by_operator)
    elif query.by == "truth":
        parts.append(SampleRow.boxes.is_not(None))
    return and_(*parts)


def _select(query: Query) -> Select[SampleRow]:
    condition = _condition(query)
    if not query.distinct:
        return select(SampleRow).where(condition)
    block = SampleRow.source, SampleRow.camera, SampleRow.frame_index.op("/")(_BLOCK)
    # UUIDv7: the highest id of a block is the newest.
    newest = select(func.max(SampleRow.id)).where(condition).group_by(*block)
    return select(SampleRow).where(SampleRow.id.in_(newest))
