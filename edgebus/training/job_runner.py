"""One job on the bus: from the samples in the store to a candidate in the store."""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import ValidationError

from edgebus.artifacts import ArtifactError, Bundle, Store
from edgebus.bus import Bus, MessageTooLargeError
from edgebus.contracts import (
    Candidate,
    Identity,
    ModelRef,
    StoredSample,
    TrainingResult,
    topics,
)
from edgebus.contracts.trace import continue_trace
from edgebus.samples import SampleStore
from edgebus.training.incumbent import Incumbent
from edgebus.training.job import CARD
from edgebus.training.job_process import SPEC, JobCrashedError, run_process
from edgebus.training.job_spec import JobOutcome, JobSpec
from edgebus.training.journal import DiskThread, Job, JobJournal
from edgebus.training.learning import CHECKPOINT
from edgebus.training.progress import ProgressPublisher
from edgebus.training.settings import RetrainingSettings
from edgebus.transfer import reference

if TYPE_CHECKING:
    from structlog.typing import FilteringBoundLogger

_MOST_TRACES = 256
_EVER = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class RetrainingContext:
    """Stores, settings and bus that all models of a retrainer share.

    Attributes:
        bus: The bus.
        identity: Who publishes.
        settings: How models are retrained.
        samples: The sample store.
        journal: Remembers jobs.
        bundles: Gets the candidates.
        disk: Where stores are used.
        folder: The retrainer's data folder.
        log: A logger.
    """

    bus: Bus
    identity: Identity
    settings: RetrainingSettings
    samples: SampleStore
    journal: JobJournal
    bundles: Store
    disk: DiskThread
    folder: Path
    log: FilteringBoundLogger


@dataclass(frozen=True, slots=True, kw_only=True)
class JobRunner:
    """Runs the jobs of one model, one at a time, and publishes their results.

    Attributes:
        context: What it shares with the runners of other models.
        model: Name of the model.
        shared: What is trained further.
        incumbent: What serves and has to be beaten: the same, but for a stream's own model.
        kept: Digests of the bundles that any model of this retrainer needs.
    """

    context: RetrainingContext
    model: str
    shared: Incumbent
    incumbent: Incumbent
    kept: Callable[[], Awaitable[set[str]]]

    async def run(
        self,
        job: Job,
        *,
        taken: Callable[[], None],
        traceparent: str | None = None,
        waiting_s: float | None = None,
    ) -> TrainingResult:
        """Run a job to its result and store it; nothing is published yet but progress.

        Args:
            job: What to do.
            taken: Called when it is decided which samples the job is given.
            traceparent: The trace of its result.
            waiting_s: Seconds from its last sample to its start, where that is known.
        """
        began = time.monotonic()
        seconds = {} if waiting_s is None else {"waiting": round(waiting_s, 3)}
        base = self.shared.bundle
        if base is None or base.digest != job.base.digest:
            now = "none" if base is None else f"v{base.manifest.version}"
            outcome = JobOutcome(
                outcome="skipped",
                reason=f"the incumbent changed from v{job.base.version} to {now} meanwhile",
            )
            return await self._finish(job, outcome, used=(), traceparent=traceparent)
        spec = await self._specify(job, base)
        against = self.incumbent.bundle
        taken()
        self.context.log.info(
            "job started",
            job=job.id,
            model=job.model,
            trigger=job.trigger,
            why=job.why,
            samples=len(spec.train),
            holdout=len(spec.new_holdout),
            base=base.manifest.version,
        )
        outcome = await self._attempt(job, spec, before=seconds, began=began)
        # What nobody has labelled was not learnt, and stays to be.
        waiting = frozenset(outcome.waiting)
        used = tuple(sample for sample in spec.train if sample.id not in waiting)
        own, serving = self.incumbent is not self.shared, self.incumbent.bundle
        moved = (serving and serving.digest) != (against and against.digest)
        if own and moved and outcome.outcome == "accepted":
            reason = "another version serves now than the candidate was measured against"
            outcome = outcome.model_copy(update={"outcome": "refused", "reason": reason})
        return await self._finish(job, outcome, used=used, traceparent=traceparent)

    async def offer(self, result: TrainingResult) -> None:
        """Publish a result and, where one was accepted, its candidate; harmless to repeat."""
        address = topics.TRAINING_RESULT.at(self.context.identity, job=result.job)
        try:
            await self.context.bus.publish(address, result)
        except MessageTooLargeError as error:
            # The verdict matters more than its details.
            self.context.log.warning("result without its details", reason=str(error))
            gate = None if result.gate is None else result.gate.brief()
            brief_result = result.model_copy(update={"gate": gate, "labels": None, "traces": ()})
            await self.context.bus.publish(address, brief_result)
        if result.candidate is None or result.gate is None:
            return
        bundle = await self.context.disk(
            reference, self.context.bundles, result.candidate.digest, provider=self.context.identity
        )
        candidate = Candidate(
            traceparent=continue_trace(result.traceparent),
            bundle=bundle,
            job=result.job,
            channel=self.context.settings.channel,
            gate=result.gate,
        )
        offer = topics.CANDIDATE.at(self.context.identity, model=self.model)
        try:
            await self.context.bus.publish(offer, candidate)
        except MessageTooLargeError as error:
            self.context.log.warning("candidate without its details", reason=str(error))
            brief = candidate.model_copy(update={"gate": candidate.gate.brief()})
            await self.context.bus.publish(offer, brief)

    async def _specify(self, job: Job, base: Bundle) -> JobSpec:
        """Specification for the job's process."""
        settings, samples, model = self.context.settings, self.context.samples, self.model
        since = await self.context.disk(samples.new_domain_since, model) or _EVER
        gate, train = settings.gate, settings.train
        folder, serving = await self.shared.folder_of(base), await self._serving()
        if settings.stream_models is not None and settings.stream_models.min_gain is not None:
            own = {"min_gain": settings.stream_models.min_gain} if job.stream_model else {}
            gate = gate.model_copy(update=own)
        if job.attempts > 1:
            begun = await self.context.disk(_begun, self._job_folder(job.id))
            if begun is not None:
                # The very samples that it began with, or its checkpoint would be of no use.
                now = {
                    "base": folder,
                    "incumbent": serving,
                    "settings": train,
                    "gate": gate,
                    "options": settings.options,
                }
                return begun.model_copy(update=now)
        return JobSpec(
            job=job.id,
            workload=settings.workload,
            base=folder,
            model=job.stream_model,
            incumbent=serving,
            folder=self._job_folder(job.id),
            version=job.version,
            train=tuple(
                await self.context.disk(samples.fresh, model, since=since, limit=train.max_samples)
            ),
            replay_samples=tuple(
                await self.context.disk(
                    samples.earlier, model, before=since, limit=train.max_replay
                )
            ),
            new_holdout=tuple(
                await self.context.disk(samples.holdout, model, since=since, limit=gate.max_items)
            ),
            old_holdout=tuple(
                await self.context.disk(samples.holdout, model, before=since, limit=gate.max_items)
            ),
            replay=settings.replay,
            replay_holdout=settings.replay_holdout,
            cache=self.context.folder / "labels",
            settings=train,
            gate=gate,
            options=settings.options,
        )

    async def _serving(self) -> Path | None:
        """Folder of what serves, where that is not what is trained further."""
        serving = self.incumbent.bundle
        if serving is None or self.incumbent is self.shared:
            return None
        return await self.incumbent.folder_of(serving)

    async def _attempt(
        self, job: Job, spec: JobSpec, *, before: dict[str, float], began: float
    ) -> JobOutcome:
        """Run the job's process; again after a crash, up to `max_attempts` times.

        Args:
            job: What to do.
            spec: What its process is given.
            before: Seconds of what was before it.
            began: When it was begun with, on the steady clock.
        """
        train = self.context.settings.train
        for attempt in range(job.attempts, train.max_attempts + 1):
            publisher = ProgressPublisher(
                self.context.bus, self.context.identity, job=job, log=self.context.log
            )
            try:
                async with asyncio.timeout(train.timeout_s):
                    outcome = await run_process(spec, on_event=publisher.publish)
                seconds = before | outcome.seconds
                if publisher.first is not None and publisher.last is not None:
                    # A training process takes a moment to end.
                    seconds |= {
                        "starting": round(publisher.first - began, 3),
                        "keeping": time.monotonic() - publisher.last,
                    }
                return outcome.model_copy(update={"seconds": seconds})
            except TimeoutError:
                reason = f"it took longer than {train.timeout_s:g} s (retrainer.train.timeout_s)"
                return JobOutcome(outcome="failed", reason=reason)
            except OSError as error:
                return JobOutcome(outcome="failed", reason=f"it could not be started: {error}")
            except JobCrashedError as error:
                self.context.log.warning(
                    "job crashed", job=job.id, attempt=attempt, error=str(error)
                )
                if attempt < train.max_attempts:
                    await self.context.disk(self.context.journal.again, job.id)
        reason = f"it crashed {train.max_attempts} times; see log.txt in {spec.folder.name}"
        return JobOutcome(outcome="failed", reason=reason)

    async def _finish(
        self,
        job: Job,
        outcome: JobOutcome,
        *,
        used: tuple[StoredSample, ...],
        traceparent: str | None,
    ) -> TrainingResult:
        """Store the candidate and the result, and clean up."""
        began, keeping = time.monotonic(), outcome.seconds.get("keeping", 0.0)
        candidate: ModelRef | None = None
        if outcome.outcome == "accepted":
            outcome, candidate = await self._keep_candidate(job, outcome)
        accepted = outcome.outcome == "accepted"
        counts = await self.context.disk(self.context.samples.counts, self.model)
        result = TrainingResult(
            source=self.context.identity.source,
            traceparent=traceparent,
            traces=await self.context.disk(
                self.context.samples.traces, [sample.id for sample in used], limit=_MOST_TRACES
            ),
            collected=await self.context.disk(
                self.context.samples.collected, [sample.id for sample in used]
            ),
            job=job.id,
            model=job.base,
            stream_model=job.stream_model,
            candidate=candidate,
            outcome=outcome.outcome,
            reason=outcome.reason,
            trigger=job.trigger,
            why=job.why,
            samples=outcome.samples,
            replay=outcome.replay,
            gate=outcome.gate,
            labels=outcome.labels,
            update_bytes=outcome.update_bytes,
            seconds=outcome.seconds | {"keeping": round(keeping + time.monotonic() - began, 3)},
            started=job.started,
        )
        await self.context.disk(
            self.context.journal.finish,
            result,
            untrained=counts.untrained,
            lacking=outcome.lacking,
            trained=[sample.id for sample in used] if accepted else [],
        )
        self.context.log.info(
            "job ended",
            job=job.id,
            model=job.model,
            outcome=result.outcome,
            reason=result.reason,
            seconds=round(sum(result.seconds.values()), 1),
            unusable=len(outcome.unusable),
        )
        await self.context.disk((self._job_folder(job.id) / CHECKPOINT).unlink, missing_ok=True)
        for text in outcome.unusable[:20]:
            self.context.log.warning("not used", job=job.id, what=text)
        await self._tidy(keep=candidate)
        return result

    async def _keep_candidate(
        self, job: Job, outcome: JobOutcome
    ) -> tuple[JobOutcome, ModelRef | None]:
        now = self.shared.bundle
        if now is not None and now.digest != job.base.digest:
            reason = (
                f"the incumbent changed from v{job.base.version} to v{now.manifest.version} "
                "during the job; its candidate was measured against the old one"
            )
            return outcome.model_copy(update={"outcome": "refused", "reason": reason}), None
        try:
            if outcome.bundle is None:
                msg = "the job named no bundle"
                raise OSError(msg)
            bundle = await asyncio.to_thread(Bundle.open, outcome.bundle)
            await self.context.disk(self.context.bundles.put_bundle, bundle)
            await self.context.disk(self._keep_card, job)
        except (ArtifactError, OSError) as error:
            reason = f"the candidate cannot be kept: {error}"
            return outcome.model_copy(update={"outcome": "failed", "reason": reason}), None
        return outcome, bundle.ref

    def _keep_card(self, job: Job) -> None:
        """The card of a version outlives its job's folder."""
        card = self._job_folder(job.id) / CARD
        if card.is_dir():
            kept = self.context.folder / "cards" / f"{self.model}-v{job.version}"
            shutil.copytree(card, kept, dirs_exist_ok=True)

    async def _tidy(self, *, keep: ModelRef | None) -> None:
        """Forget what earlier jobs left: folders, retained results, bundles."""
        limit = self.context.settings.store.results
        results = await self.context.disk(
            self.context.journal.results, self.model, limit=limit + 10
        )
        for old in results[limit:]:
            await self.context.bus.clear(
                topics.TRAINING_RESULT.at(self.context.identity, job=old.job)
            )
            shutil.rmtree(self._job_folder(old.job), ignore_errors=True)
        kept = await self.kept()
        if keep is not None:
            kept.add(keep.digest)
        await self.context.disk(self.incumbent.tidy, keep=kept)

    def _job_folder(self, job: str) -> Path:
        return self.context.folder / "jobs" / job


def _begun(folder: Path) -> JobSpec | None:
    """Specification of an interrupted job; None where it cannot be read."""
    try:
        return JobSpec.model_validate_json((folder / SPEC).read_bytes())
    except (OSError, ValidationError):
        return None
