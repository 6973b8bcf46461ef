"""Which jobs were started and how they ended; survives kill -9."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import ParamSpec, TypeVar

from sqlalchemy import ColumnElement, Engine, func, select, update
from sqlalchemy.orm import Session

from edgebus.contracts import ModelRef, PayloadError, TrainingResult, shared_model
from edgebus.database import from_micros, micros
from edgebus.samples import JobRow, SampleRow, UseRow
from edgebus.workload import call_in_thread

P = ParamSpec("P")
T = TypeVar("T")

_NEWEST_FIRST = JobRow.started.desc(), JobRow.id.desc()
_CHUNK = 500  # SQLite bounds the variables of a statement


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A training job.

    Attributes:
        id: Its id, UUIDv7.
        model: Name of the model that it makes a candidate of.
        base: What it trains further: the newest of that model, or of the shared one where the
            model is a stream's own.
        version: Version of its candidate.
        trigger: What started it.
        why: The same with its figures.
        started: When.
        attempts: How often it was started; above 1 after a crash.
    """

    id: str
    model: str
    base: ModelRef
    version: int
    trigger: str
    started: datetime
    attempts: int
    why: str = ""

    @property
    def stream_model(self) -> str | None:
        """Name of the stream's own model that it is for; None: the shared one."""
        return self.model if shared_model(self.model)[1] else None


class DiskThread:
    """Calls what blocks on the disk in a thread, one call at a time."""

    def __init__(self) -> None:
        self._lock = asyncio.Lock()

    async def __call__(self, call: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Call it; what it raises is raised here."""
        async with self._lock:
            return await asyncio.to_thread(call_in_thread, call, *args, **kwargs)


class JobJournal:
    """Jobs in SQLite. Methods do disk I/O and block; one thread at a time.

    Args:
        engine: From `open_database`.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def begin(self, job: Job) -> None:
        """Write down that a job starts."""
        with Session(self._engine) as session, session.begin():
            session.add(
                JobRow(
                    id=job.id,
                    model=job.model,
                    base_name=job.base.name,
                    base_version=job.base.version,
                    base_digest=job.base.digest,
                    version=job.version,
                    trigger=job.trigger,
                    why=job.why,
                    started=micros(job.started),
                    attempts=job.attempts,
                    finished=None,
                    outcome=None,
                    reason="",
                    untrained=0,
                    lacking=0,
                    result=None,
                )
            )

    def again(self, job: str) -> None:
        """Write down that an unfinished job is started once more."""
        with Session(self._engine) as session, session.begin():
            row = session.get_one(JobRow, job)
            row.attempts += 1

    def finish(
        self,
        result: TrainingResult,
        *,
        untrained: int,
        lacking: int = 0,
        trained: Sequence[str] = (),
    ) -> None:
        """Write down how a job ended, and what its candidate was trained on, at once.

        Args:
            result: As it is published.
            untrained: Samples that no accepted job had used so far; counts after a refusal.
            lacking: Held-out pictures that there were too few; counts after a job that was
                skipped.
            trained: Ids of the samples that its accepted candidate was trained on.
        """
        with Session(self._engine) as session, session.begin():
            row = session.get_one(JobRow, result.job)
            for start in range(0, len(trained), _CHUNK):
                ids = trained[start : start + _CHUNK]
                if shared_model(row.model)[1]:
                    # Some may have been evicted meanwhile.
                    there = session.scalars(select(SampleRow.id).where(SampleRow.id.in_(ids)))
                    for sample in there.all():
                        session.merge(UseRow(sample=sample, model=row.model, job=row.id))
                else:
                    session.execute(
                        update(SampleRow).where(SampleRow.id.in_(ids)).values(job=result.job)
                    )
            row.finished = micros(result.time)
            row.outcome = result.outcome
            row.reason = result.reason
            row.untrained = untrained
            row.lacking = lacking
            row.result = result.encode().decode()

    def unfinished(self, models: Sequence[str]) -> Job | None:
        """The job of one of these models that a crash interrupted."""
        row = self._newest(JobRow.model.in_(models), JobRow.outcome.is_(None))
        return None if row is None else _job(row)

    def last(self, model: str) -> TrainingResult | None:
        """The result of the job that ended last."""
        results = self.results(model, limit=1)
        return results[0] if results else None

    def results(self, model: str, *, limit: int) -> list[TrainingResult]:
        """Results, newest first, but for what cannot be read: it must not stop a start."""
        query = (
            select(JobRow.result)
            .where(JobRow.model == model, JobRow.result.is_not(None))
            .order_by(*_NEWEST_FIRST)
            .limit(limit)
        )
        found: list[TrainingResult] = []
        with Session(self._engine) as session:
            for result in session.scalars(query):
                with suppress(PayloadError):
                    found.append(TrainingResult.decode((result or "").encode()))
        return found

    def candidates(self, models: Sequence[str], *, limit: int) -> set[str]:
        """Digests of the candidates among the newest results of each model."""
        return {
            result.candidate.digest
            for model in models
            for result in self.results(model, limit=limit)
            if result.candidate is not None
        }

    def accepted(self, model: str) -> int:
        """Jobs whose candidate passed the gate."""
        condition = JobRow.model == model, JobRow.outcome == "accepted"
        with Session(self._engine) as session:
            return session.scalar(select(func.count()).where(*condition)) or 0

    def highest_version(self, model: str) -> int:
        """The highest version number that was ever given to a candidate; 0 before the first."""
        with Session(self._engine) as session:
            found = session.scalar(select(func.max(JobRow.version)).where(JobRow.model == model))
            return found or 0

    def untrained_at_refusal(self, model: str) -> int | None:
        """Untrained samples when the last job was refused or failed; None if it was not."""
        row = self._ended_last(model)
        return row.untrained if row is not None and row.outcome in {"refused", "failed"} else None

    def lacked(self, model: str) -> tuple[int, datetime] | None:
        """Held-out pictures that the last job lacked, and when it began; None if it did not."""
        row = self._ended_last(model)
        if row is None or row.outcome != "skipped" or not row.lacking:
            return None
        return row.lacking, from_micros(row.started)

    def was_tried(self, model: str, *, base: str) -> bool:
        """Whether a job of this model from this version has come to an end.

        Args:
            model: Name of the model.
            base: Digest of what was trained further.
        """
        ended = JobRow.outcome.in_(("accepted", "refused", "failed"))
        query = select(func.count()).where(JobRow.model == model, JobRow.base_digest == base, ended)
        with Session(self._engine) as session:
            return bool(session.scalar(query))

    def models(self, model: str) -> list[str]:
        """The streams' own models, made from a shared one, that there ever was a job for."""
        query = select(JobRow.model).where(JobRow.model.startswith(f"{model}@", autoescape=True))
        with Session(self._engine) as session:
            return list(session.scalars(query.distinct().order_by(JobRow.model)))

    def _ended_last(self, model: str) -> JobRow | None:
        return self._newest(JobRow.model == model, JobRow.outcome.is_not(None))

    def _newest(self, *conditions: ColumnElement[bool]) -> JobRow | None:
        newest = select(JobRow).where(*conditions).order_by(*_NEWEST_FIRST).limit(1)
        with Session(self._engine) as session:
            return session.scalar(newest)


def _job(row: JobRow) -> Job:
    return Job(
        id=row.id,
        model=row.model,
        base=ModelRef(name=row.base_name, version=row.base_version, digest=row.base_digest),
        version=row.version,
        trigger=row.trigger,
        started=from_micros(row.started),
        attempts=row.attempts,
        why=row.why,
    )
