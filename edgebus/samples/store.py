"""The sample store: payloads by digest in files, facts in SQLite."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from cachetools import LRUCache
from sqlalchemy import ColumnElement, Engine, func, select, true
from sqlalchemy.orm import Session

from edgebus.contracts import (
    Collected,
    RecordPayload,
    SampleRecord,
    Split,
    StoredSample,
    record_of,
    shared_model,
    split_of,
)
from edgebus.database import from_micros, micros
from edgebus.files import drop_leftovers, write_file
from edgebus.samples.label_book import newest_labels
from edgebus.samples.tables import LabelRow, SampleRow, UseRow

Added = Literal["added", "duplicate"]

AUDIT = "audit"
"""The policy name of samples that collectors drew by share, easy ones included."""

_ERROR = (SampleRow.split == "train") & (SampleRow.policy != AUDIT)
"""Samples that show what the model got wrong."""

_OLDEST, _AHEAD = timedelta(days=60), timedelta(minutes=5)
"""How long samples may wait for a way to the store, and how far a clock may be ahead."""

_MOST_ODD = 256

_LEFTOVER_S = 3600.0
_ERRORS = 5000  # newest samples that decide when the new domain began


class SampleKind(Protocol):
    """A workload's part in the store; every `Workload` fits."""

    @property
    def sample_suffix(self) -> str:
        """Suffix of their files."""

    def count_truths(self, record: Any) -> int | None:
        """Number of labels that its source gave a sample; None where the truth is unknown."""

    def check_sample(self, sample: Any) -> None:
        """Refuse a sample that cannot be trained on, with `SampleRefusedError`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """Contents of the store, of one model."""

    samples: int
    train: int
    holdout: int
    untrained: int
    untrained_per_edge: dict[str, int]
    bytes: int
    per_stream: dict[str, int]
    per_policy: dict[str, int]


class SampleFiles:
    """Files named by their SHA-256, so that the same payload is stored once.

    Args:
        folder: Made if it is not there.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        # The retrainer and commands beside it may write at the same time.
        drop_leftovers(folder, older_s=_LEFTOVER_S)

    def put(self, data: bytes, *, suffix: str = "") -> str:
        """Store a file; returns its name, the digest and the suffix.

        Raises:
            OSError: The disk is full or broken.
        """
        name = hashlib.sha256(data).hexdigest() + suffix
        path = self.path(name)
        if not path.exists():
            path.parent.mkdir(exist_ok=True)
            write_file(path, data)
        return name

    def path(self, name: str) -> Path:
        """The place of a file, which may not be there."""
        return self._folder / name[:2] / name

    def remove(self, name: str) -> None:
        """Delete a file; one that is gone already is fine."""
        self.path(name).unlink(missing_ok=True)


class SampleStore:
    """Samples of every model, once each, within a quota.

    A shared model learns from every stream whose answers it, or an own model made from it, gave.
    The name of a stream's own model (`stream_model`) stands for the samples of that stream alone.
    The own one is trained from the shared one each time, so all of its stream's samples are new to
    it, whichever job has used them.

    Methods do disk I/O and block; one thread at a time.

    Args:
        engine: From `open_database`.
        files: The payloads.
        kind: The workload that the samples are of.
        max_samples: The most samples; the least useful go first.
        max_bytes: The most bytes of payloads.
        everything_new: Whether all that the streams show is the new domain.
    """

    def __init__(
        self,
        engine: Engine,
        files: SampleFiles,
        kind: SampleKind,
        *,
        max_samples: int,
        max_bytes: int,
        everything_new: bool = False,
    ) -> None:
        self._engine = engine
        self._files = files
        self._kind = kind
        self._max_samples = max_samples
        self._max_bytes = max_bytes
        self._everything_new = everything_new
        self.evicted = 0
        """Samples that went to stay within the quota."""
        self.oddities: LRUCache[str, Counter[str]] = LRUCache(_MOST_ODD)
        """What was not believed as it was sent, by device, since the start."""

    def add(
        self,
        sample: RecordPayload[Any] | SampleRecord,
        *,
        received: datetime,
        by_device: bool = False,
    ) -> Added:
        """Store a sample; adding it again changes nothing. It is on disk afterwards.

        Args:
            sample: A `SampleRecord`, or bytes with one inside.
            received: When this host had it.
            by_device: A device sent it, which decides neither what is held out nor the time.

        Raises:
            SampleRefusedError: The workload has no use for it.
            OSError: The disk is full or broken.
        """
        record: SampleRecord = record_of(sample)
        with Session(self._engine) as session:
            if session.get(SampleRow, record.id) is not None:
                return "duplicate"
        self._kind.check_sample(sample)
        # The file first: a crash in between leaves a file without a row, which the redelivered
        # sample finds again by its digest.
        data = sample.encode()
        file = self._files.put(data, suffix=self._kind.sample_suffix)
        with Session(self._engine) as session, session.begin():
            truths = self._kind.count_truths(record)
            row = row_of(record, truths=truths, file=file, size=len(data), received=received)
            if by_device:
                row.captured = micros(_believable(record.captured, received))
                row.split = split_of(record.stream, record.index)
                self._note_oddities(record, row)
            session.add(row)
        self._enforce_quota(keep=record.id)
        return "added"

    def _note_oddities(self, record: SampleRecord, row: SampleRow) -> None:
        odd = {
            "clock": row.captured != micros(record.captured),
            "split": row.split != record.split,
        }
        for what in (name for name, is_odd in odd.items() if is_odd):
            found = self.oddities.get(row.node, Counter())
            found[what] += 1
            self.oddities[row.node] = found

    def counts(self, model: str) -> Counts:
        """Contents of the store, of one model."""
        mine = _mine(model)
        with Session(self._engine) as session:
            splits = dict(_counts(session, SampleRow.split, mine))
            untrained: dict[str, int] = {}
            for source, count in _counts(session, SampleRow.source, mine & _untrained(model)):
                untrained[edge_of(source)] = untrained.get(edge_of(source), 0) + count
            size = session.scalar(select(func.coalesce(func.sum(SampleRow.size), 0)).where(mine))
            return Counts(
                samples=sum(splits.values()),
                train=splits.get("train", 0),
                holdout=splits.get("holdout", 0),
                untrained=sum(untrained.values()),
                untrained_per_edge=untrained,
                bytes=size or 0,
                per_stream=dict(_counts(session, SampleRow.stream, mine)),
                per_policy=dict(_counts(session, SampleRow.policy, mine)),
            )

    def untrained_per_stream(self, model: str) -> dict[str, int]:
        """Untrained samples of each stream, by its `stream_id`, as its own model would count them.

        Args:
            model: Name of the shared model.
        """
        own = SampleRow.stream_id, func.count(SampleRow.id)
        used = (UseRow.sample == SampleRow.id) & (UseRow.model == model + "@" + SampleRow.stream_id)
        query = select(*own).outerjoin(UseRow, used).where(_mine(model), _ERROR)
        query = query.where(UseRow.sample.is_(None)).group_by(SampleRow.stream_id)
        with Session(self._engine) as session:
            return {str(stream): int(count) for stream, count in session.execute(query)}

    def fresh(self, model: str, *, since: datetime, limit: int) -> list[StoredSample]:
        """The newest samples to learn from, oldest first.

        Those that no accepted job has used; audited ones, which the model got right, only where
        they show the new domain.
        """
        captured = SampleRow.captured >= micros(since)
        condition = _unknown(model) & (captured | (SampleRow.policy != AUDIT))
        return self._pool(model, "train", condition, limit=limit)

    def earlier(self, model: str, *, before: datetime, limit: int) -> list[StoredSample]:
        """The newest samples to replay, oldest first: what the model knew, or has learnt.

        Those of accepted jobs, and audited ones from before the new domain.
        """
        audited = (SampleRow.policy == AUDIT) & (SampleRow.captured < micros(before))
        return self._pool(model, "train", ~_unknown(model) | audited, limit=limit)

    def holdout(
        self,
        model: str,
        *,
        since: datetime | None = None,
        before: datetime | None = None,
        limit: int,
    ) -> list[StoredSample]:
        """The newest held-out samples that were captured in an interval, oldest first."""
        return self._pool(model, "holdout", _captured(since, before), limit=limit)

    def new_domain_since(self, model: str) -> datetime | None:
        """Start of the domain that the untrained samples show; None without any.

        That is the `onset` of errors, or the first sample where everything is new.
        """
        mine = _mine(model)
        errors = (
            select(SampleRow.captured)
            .where(mine, _ERROR, _unknown(model))
            .order_by(SampleRow.captured.desc())
            .limit(_ERRORS)
        )
        with Session(self._engine) as session:
            origin = session.scalar(select(func.min(SampleRow.captured)).where(mine)) or 0
            times = [(captured - origin) / 1e6 for captured in session.scalars(errors)][::-1]
        since = 0.0 if self._everything_new and times else onset(times, origin=0.0)
        return None if since is None else from_micros(origin) + timedelta(seconds=since)

    def measurable(
        self, model: str, *, since: datetime | None = None, before: datetime | None = None
    ) -> int:
        """Held-out samples of an interval that have labels, or may get some."""
        with Session(self._engine) as session:
            count = session.scalar(
                select(func.count()).where(
                    _mine(model),
                    SampleRow.split == "holdout",
                    SampleRow.truths.is_(None) | (SampleRow.truths > 0),
                    _captured(since, before),
                )
            )
            return count or 0

    def collected(self, ids: Sequence[str]) -> Collected | None:
        """Times at which some samples were taken, sent and received; None where none is here."""
        mine = SampleRow.id.in_(ids)
        with Session(self._engine) as session:
            first = session.scalar(select(func.min(SampleRow.captured)).where(mine))
            last = session.scalars(
                select(SampleRow).where(mine).order_by(SampleRow.received.desc()).limit(1)
            ).first()
            if first is None or last is None:
                return None
            return Collected(
                first_captured=from_micros(first),
                last_captured=from_micros(last.captured),
                last_sent=from_micros(last.sent),
                last_source=last.source,
                last_received=from_micros(last.received),
            )

    def traces(self, ids: Sequence[str], *, limit: int = 256) -> tuple[str, ...]:
        """Trace contexts of some samples, of the newest where there are many."""
        traced = SampleRow.id.in_(ids) & SampleRow.traceparent.is_not(None)
        query = select(SampleRow.traceparent).where(traced).order_by(SampleRow.captured.desc())
        with Session(self._engine) as session:
            return tuple(str(each) for each in session.scalars(query.limit(limit)))[::-1]

    def measurable_news(self, model: str, *, since: datetime) -> int:
        """Held-out samples that were received or labelled since a time.

        Args:
            model: Name of the model.
            since: By this host's clock. A label set counts if it is newer and not empty.
        """
        held_out = _mine(model) & (SampleRow.split == "holdout")
        came = SampleRow.received > micros(since)
        with Session(self._engine) as session:
            may_have_labels = SampleRow.truths.is_(None) | (SampleRow.truths > 0)
            new = select(func.count()).where(held_out, came, may_have_labels)
            labelled = select(LabelRow.sample).distinct()
            older = select(SampleRow.id).where(held_out, ~came, SampleRow.id.in_(labelled))
            sets = newest_labels(session, session.scalars(older))
            relabelled = sum(each.time > since and bool(each.labels) for each in sets.values())
            return (session.scalar(new) or 0) + relabelled

    def all(self, model: str) -> list[StoredSample]:
        """Every sample of a model, oldest first."""
        with Session(self._engine) as session:
            query = select(SampleRow).where(_mine(model))
            rows = session.scalars(query.order_by(SampleRow.captured, SampleRow.id))
            return self._stored(session, list(rows))

    def _pool(
        self, model: str, split: Split, condition: ColumnElement[bool], *, limit: int
    ) -> list[StoredSample]:
        # Of each device its newest in turn, so that none fills the pool alone.
        newest = SampleRow.captured.desc(), SampleRow.id.desc()
        turn = func.row_number().over(partition_by=SampleRow.node, order_by=newest)
        query = (
            select(SampleRow)
            .where(_mine(model), SampleRow.split == split, condition)
            .order_by(turn, *newest)
            .limit(limit)
        )
        with Session(self._engine) as session:
            rows = sorted(session.scalars(query), key=lambda row: (row.captured, row.id))
            return self._stored(session, rows)

    def _stored(self, session: Session, rows: Sequence[SampleRow]) -> list[StoredSample]:
        labels = newest_labels(session, [row.id for row in rows])
        return [
            StoredSample(id=row.id, path=self._files.path(row.file), labels=labels.get(row.id))
            for row in rows
        ]

    def _enforce_quota(self, *, keep: str) -> None:
        """Evict from the device that takes most, so that none pushes out what others have sent.

        Its trained-on samples first, then held-out ones, then the rest; oldest first. Labels of an
        operator cost somebody's time, so samples with them go last of all.
        """
        with Session(self._engine) as session:
            share = select(
                SampleRow.node, func.count(), func.coalesce(func.sum(SampleRow.size), 0)
            ).group_by(SampleRow.node)
            shares = {node: (count, size) for node, count, size in session.execute(share)}
            over_samples = sum(count for count, _ in shares.values()) - self._max_samples
            over_bytes = sum(size for _, size in shares.values()) - self._max_bytes
            gone: list[str] = []
            while over_samples > 0 or over_bytes > 0:
                by = 0 if over_samples > 0 else 1
                row = self._least_useful(session, shares, by=by, keep=keep)
                if row is None:
                    break
                count, size = shares[row.node]
                shares[row.node] = count - 1, size - row.size
                over_samples, over_bytes = over_samples - 1, over_bytes - row.size
                gone.append(row.file)
                session.delete(row)
                session.flush()
            session.commit()
            self.evicted += len(gone)
            for file in _unused(session, gone):
                self._files.remove(file)

    @staticmethod
    def _least_useful(
        session: Session, shares: Mapping[str, tuple[int, int]], *, by: int, keep: str
    ) -> SampleRow | None:
        """The sample of the device with the largest share that is missed least."""
        for node in sorted(shares, key=lambda node: (-shares[node][by], node)):
            found = session.scalar(
                select(SampleRow)
                .where(SampleRow.id != keep, SampleRow.node == node)
                .order_by(
                    SampleRow.id.in_(select(LabelRow.sample)),
                    SampleRow.job.is_(None),
                    SampleRow.split == "train",
                    SampleRow.captured,
                )
                .limit(1)
            )
            if found is not None:
                return found
        return None


def onset(errors: Sequence[float], *, origin: float) -> float | None:
    """The time from which errors come at a higher rate.

    A model is now and then wrong long before anything has changed. Errors are taken for a Poisson
    process whose rate changes once; the time is the one of maximum likelihood (Raftery and Akman
    1986, "Bayesian analysis of a Poisson process with a change-point", *Biometrika* 73). For n
    errors, i of them in the T1 seconds before and n - i in the T2 seconds after the change::

        log L(i) = i log(i / T1) + (n - i) log((n - i) / T2)

    At least half of the errors lie after the change: it is they that are to be learnt. Where the
    rate does not grow, it is the time of the first error.

    Args:
        errors: Times in seconds, ascending.
        origin: When looking began, in seconds; at most the first error.

    Returns:
        One of the times; None where there are none.
    """
    if not errors:
        return None
    times = np.asarray(errors, np.float64)
    count = len(times)
    before = np.arange(count // 2 + 1)
    at = times[before]
    # Half a second keeps bursts finite: inputs of a stream come about as often.
    span_before = np.maximum(at - origin, 0.5)
    span_after = np.maximum(times[-1] - at, 0.5)
    after = count - before
    with np.errstate(divide="ignore", invalid="ignore"):
        first = np.where(before > 0, before * np.log(before / span_before), 0.0)
    likelihood = first + after * np.log(after / span_after)
    grows = (after / span_after) > (before / span_before)
    likelihood[~grows] = -np.inf
    if not grows.any():
        return float(times[0])
    return float(at[int(likelihood.argmax())])


def row_of(
    record: SampleRecord, *, truths: int | None, file: str, size: int, received: datetime
) -> SampleRow:
    """The row of a sample whose payload is stored."""
    return SampleRow(
        id=record.id,
        received=micros(received),
        captured=micros(record.captured),
        sent=micros(record.time),
        source=record.source,
        node=edge_of(record.source),
        traceparent=record.traceparent,
        stream=record.stream,
        stream_id=stream_id(record.source, record.stream),
        input_index=record.index,
        model=record.model.name,
        split=record.split,
        policy=record.policy,
        reason=record.reason,
        score=record.score,
        truths=truths,
        file=file,
        size=size,
        job=None,
    )


def _believable(captured: datetime, received: datetime) -> datetime:
    """When an input was measured; when it came, where the device's clock cannot be right.

    The store keeps the newest and looks for the time from which errors come more often: one clock
    from the year 2199, or from 1970, would decide both for all devices.
    """
    return captured if received - _OLDEST <= captured <= received + _AHEAD else received


def edge_of(source: str) -> str:
    """The node of a collector, ``site/node/collector``."""
    parts = source.split("/")
    return parts[1] if len(parts) > 1 else source


def stream_id(source: str, stream: str) -> str:
    """Node and stream, ``node.stream``, as in the name of that stream's own model."""
    return f"{edge_of(source)}.{stream}"


def _mine(model: str) -> ColumnElement[bool]:
    """Samples that a model learns from and is measured on."""
    shared, own_stream = shared_model(model)
    # All that begins with "shared@", as a range, which the index serves: "A" comes after "@".
    own = (SampleRow.model >= f"{shared}@") & (SampleRow.model < f"{shared}A")
    family = (SampleRow.model == shared) | own
    return family & (SampleRow.stream_id == own_stream) if own_stream else family


def _unknown(model: str) -> ColumnElement[bool]:
    """Samples that the weights which are trained further have not seen."""
    return true() if shared_model(model)[1] else SampleRow.job.is_(None)


def _untrained(model: str) -> ColumnElement[bool]:
    """Samples that show what is wrong and that no accepted job of this model has used."""
    if not shared_model(model)[1]:
        return _ERROR & SampleRow.job.is_(None)
    used = select(UseRow.sample).where(UseRow.model == model)
    return _ERROR & SampleRow.id.not_in(used)


def _captured(since: datetime | None, before: datetime | None) -> ColumnElement[bool]:
    condition: ColumnElement[bool] = true()
    if since is not None:
        condition &= SampleRow.captured >= micros(since)
    if before is not None:
        condition &= SampleRow.captured < micros(before)
    return condition


def _unused(session: Session, files: Sequence[str]) -> list[str]:
    return [
        file
        for file in dict.fromkeys(files)
        if session.scalar(select(func.count()).where(SampleRow.file == file)) == 0
    ]


def _counts(session: Session, column: Any, condition: ColumnElement[bool]) -> list[tuple[str, int]]:
    rows = session.execute(select(column, func.count()).where(condition).group_by(column))
    return [(str(name), int(count)) for name, count in rows]
