"""The retrainer service: keeps samples, starts jobs, offers what passed the gate."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from datetime import datetime
from typing import TypedDict

import cv2
from sqlalchemy.exc import DBAPIError

from edgebus.artifacts import ArtifactError, ArtifactFetcher, ArtifactProvider, Bundle, Store
from edgebus.bus import Event
from edgebus.contracts import (
    Drift,
    ModelRef,
    Release,
    Reply,
    RetrainCommand,
    Sample,
    StoreStatus,
    new_id,
    topics,
    utc_now,
)
from edgebus.service import CommandRefusedError, Service, command, every, on
from edgebus_retrainer.campaign import Campaign
from edgebus_retrainer.files import DiskThread, PictureStore
from edgebus_retrainer.incumbent import Incumbent, WrongModelError
from edgebus_retrainer.journal import Job, JobJournal
from edgebus_retrainer.samples import SampleRefusedError, SampleStore, open_database
from edgebus_retrainer.settings import RetrainerSettings
from edgebus_retrainer.triggers import Facts, Trigger, needed, trigger

__all__ = ["Retrainer"]


class StoreFields(TypedDict):
    """The fields of a `StoreStatus` that can be compared with the last one."""

    samples: int
    train: int
    holdout: int
    per_camera: dict[str, int]
    per_policy: dict[str, int]
    bytes: int
    untrained: int
    trigger: str
    needed: int | None


_DISK_REST_S = 5.0
_MOST_DRIFTED = 4096  # cameras and statistics


def _releases(service: Retrainer) -> dict[str, str]:
    return {"model": service.model, "channel": service.settings.channel}


class Retrainer(Service[RetrainerSettings]):
    """Learns from collected samples and offers every candidate that passed the gate."""

    name = "retrainer"

    async def start(self) -> None:
        """Open the stores and take up what the last run left."""
        settings = self.settings
        cv2.setNumThreads(1)
        self.disk = DiskThread()
        self._due = asyncio.Event()
        self._trigger: Trigger = "command"
        self._asked = False
        self._drifted: dict[tuple[str, str, str], int] = {}
        self._running = False
        self._trouble = ""
        self._last_sample: float | None = None
        self._status: StoreFields | None = None
        self._offered: ModelRef | None = None
        self._offered_at = self._ended_at = time.monotonic()
        given = None
        if settings.bundle is not None:
            given = await asyncio.to_thread(Bundle.open, settings.bundle)
        self.model = settings.model or (given.manifest.name if given is not None else "")
        if given is not None and settings.bundle is not None and given.manifest.name != self.model:
            raise WrongModelError(
                path=settings.bundle, found=given.manifest.name, wanted=self.model
            )
        await self.disk(self._open_stores)
        if given is not None and self.incumbent.bundle is None:
            await self.disk(self.incumbent.adopt, given)
        self._resumed = await self.disk(self.journal.unfinished, self.model)
        await self._offer_again()
        self.spawn(self._provider.run(), name="provide candidates")
        self.spawn(self.incumbent.follow(), name="follow releases")
        self.spawn(self._jobs(), name="jobs")

    def _open_stores(self) -> None:
        settings = self.settings
        engine = open_database(self.data_dir / "samples.db")
        self.samples = SampleStore(
            engine,
            PictureStore(self.data_dir / "pictures"),
            max_samples=settings.store.max_samples,
            max_bytes=settings.store.max_bytes,
            everything_new=settings.new_domain == "everything",
        )
        self.journal = JobJournal(engine)
        self.bundles = Store(self.data_dir / "store")
        self._provider = ArtifactProvider(self.bus, self.identity, self.bundles)
        self.incumbent = Incumbent(
            folder=self.data_dir,
            store=self.bundles,
            fetcher=ArtifactFetcher(self.bus, self.identity, self.bundles),
            changed=self._incumbent_changed,
        )
        self.incumbent.restore()
        self._campaign = Campaign(
            bus=self.bus,
            identity=self.identity,
            settings=settings,
            model=self.model,
            samples=self.samples,
            journal=self.journal,
            bundles=self.bundles,
            incumbent=self.incumbent,
            disk=self.disk,
            folder=self.data_dir,
            log=self.log,
        )

    @on(topics.SAMPLES)
    async def on_sample(self, event: Event[Sample]) -> None:
        """Keep a sample; it is acknowledged when it is on disk."""
        sample = event.payload
        came = time.monotonic()
        while True:
            try:
                added = await self.disk(self.samples.add, sample, received=event.received)
            except SampleRefusedError:
                self.metrics.counter("samples.refused")
                raise
            except (OSError, DBAPIError) as error:
                # Not acknowledged, so that the broker and then the collectors hold the samples.
                await self._set_trouble(f"samples cannot be stored: {error}")
                await asyncio.sleep(_DISK_REST_S)
                continue
            break
        self.metrics.counter(f"samples.{added}")
        if added == "added" and sample.record.split == "train":
            self._last_sample = came
        await self._set_trouble(self.incumbent.trouble)

    @on(topics.RELEASE, where=_releases)
    async def on_release(self, event: Event[Release]) -> None:
        """What is released is what has to be improved."""
        self.incumbent.release(event.payload)

    @on(topics.DRIFT)
    async def on_drift(self, event: Event[Drift]) -> None:
        """A camera shows what the model does not know, or is back to what it does."""
        drift = event.payload
        where = (drift.source, drift.camera, drift.statistic)
        if drift.model.name != self.model or not self.settings.trigger.on_drift:
            return
        if drift.returned:
            self._drifted.pop(where, None)
            return
        if where not in self._drifted:
            self.log.info(
                "drift", camera=drift.camera, statistic=drift.statistic, source=drift.source
            )
        self._drifted[where] = drift.model.version
        while len(self._drifted) > _MOST_DRIFTED:
            self._drifted.pop(next(iter(self._drifted)))

    @command(topics.CMD_RETRAIN)
    async def retrain(self, event: Event[RetrainCommand]) -> Reply:
        """Start a job now."""
        if self._running:
            msg = "a job is running; its samples are taken, the next starts by itself or on command"
            raise CommandRefusedError(msg)
        if self.incumbent.bundle is None:
            msg = f"there is no version of {self.model} yet to train further; release one first"
            raise CommandRefusedError(msg)
        counts = await self.disk(self.samples.counts, self.model)
        if not counts.untrained:
            msg = f"there is no untrained sample of {self.model}; {counts.train} were used already"
            raise CommandRefusedError(msg)
        self._asked = True
        return Reply(
            source=self.identity.source,
            request=event.payload.id,
            ok=True,
            detail=f"a job starts on {counts.untrained} untrained samples of {self.model}",
        )

    @every(seconds="tick_s")
    async def look(self) -> None:
        """Say what lies here, and start what is due."""
        incumbent = self.incumbent.bundle
        offered = self._offered
        if offered is not None and incumbent is not None:
            self._offered = offered if incumbent.manifest.version < offered.version else None
        facts, status = await self._facts()
        if status != self._status:
            self._status = status
            message = StoreStatus(source=self.identity.source, **status)
            await self.bus.publish(topics.STORE_STATUS.at(self.identity), message)
        if self._running:
            return
        if self._resumed is not None and incumbent is not None:
            self._start("command")
            return
        rules = self.settings.trigger
        what = trigger(
            facts,
            min_samples=rules.min_samples,
            cooldown_samples=rules.cooldown_samples,
            interval_s=rules.interval_s,
            max_jobs=rules.max_jobs,
            drift_samples=rules.drift_samples,
        )
        if what is not None:
            self._start(what)

    def _start(self, what: Trigger) -> None:
        self._running = True
        self._asked = False
        self._trigger = what
        self._due.set()

    async def _jobs(self) -> None:
        """Run the jobs that are due, one after the other, for ever."""
        while True:
            await self._due.wait()
            self._due.clear()
            job = await self._next_job()
            last, self._last_sample = self._last_sample, None
            waiting = None if last is None else time.monotonic() - last
            self.metrics.counter("jobs.started")
            self.metrics.gauge("jobs.running", 1)
            attributes = {"job": job.id, "trigger": job.trigger}
            with self.tracer.step("train", identifier=job.id, attributes=attributes) as step:
                result = await self._campaign.run(
                    job, traceparent=step.traceparent, waiting_s=waiting
                )
            self.metrics.gauge("jobs.running", 0)
            self.metrics.counter(f"jobs.{result.outcome}")
            await self._campaign.offer(result)
            self._ended_at = time.monotonic()
            if result.candidate is not None:
                self._offered, self._offered_at = result.candidate, self._ended_at
            self._running = False

    async def _next_job(self) -> Job:
        """The job that a crash interrupted, or a new one."""
        job, self._resumed = self._resumed, None
        if job is not None:
            await self.disk(self.journal.again, job.id)
            self.log.info("job taken up again", job=job.id, attempts=job.attempts + 1)
            return replace(job, attempts=job.attempts + 1)
        bundle = self.incumbent.bundle
        assert bundle is not None
        highest = await self.disk(self.journal.highest_version, self.model)
        job = Job(
            id=new_id(),
            base=bundle.ref,
            version=max(highest, self.incumbent.highest_version) + 1,
            trigger=self._trigger,
            started=utc_now(),
            attempts=1,
        )
        await self.disk(self.journal.begin, job)
        return job

    async def _offer_again(self) -> None:
        """Publish the last result again: a crash may have come before."""
        last = await self.disk(self.journal.last, self.model)
        if last is None:
            return
        try:
            await self._campaign.offer(last)
        except ArtifactError as error:
            self.log.warning("candidate lost", job=last.job, error=str(error))
            return
        self._offered = last.candidate

    async def _facts(self) -> tuple[Facts, StoreFields]:
        """What the triggers look at, and what is said of it."""
        rules = self.settings.trigger
        counts = await self.disk(self.samples.counts, self.model)
        since = await self.disk(self.samples.new_domain_since, self.model)
        lacking = "" if since is None else await self._lacking(since)
        facts = Facts(
            untrained=counts.untrained,
            untrained_at_refusal=await self.disk(self.journal.untrained_at_refusal, self.model),
            since_last_s=time.monotonic() - self._ended_at,
            drifted=self._has_drifted(),
            accepted=await self.disk(self.journal.accepted, self.model),
            asked=self._asked,
            waiting=self._waiting(),
            lacking=lacking,
        )
        wanted = needed(
            facts,
            min_samples=rules.min_samples,
            cooldown_samples=rules.cooldown_samples,
            drift_samples=rules.drift_samples,
        )
        status = StoreFields(
            samples=counts.samples,
            train=counts.train,
            holdout=counts.holdout,
            per_camera=counts.per_camera,
            per_policy=counts.per_policy,
            bytes=counts.bytes,
            untrained=counts.untrained,
            trigger=self._words(facts, wanted),
            needed=wanted,
        )
        return facts, status

    async def _lacking(self, since: datetime) -> str:
        """What the gate would miss; a job without it could only be refused."""
        settings, model = self.settings, self.model
        wanted = settings.gate.min_images
        # Held-out samples that wait for a teacher may turn out to be empty; then for more.
        skipped = await self.disk(self.journal.measurable_at_skip, model)
        if skipped is not None:
            wanted += skipped
        new = await self.disk(self.samples.measurable, model, since=since)
        if new < wanted:
            return f"held-out samples: {new} of {wanted}"
        wanted = settings.gate.min_images
        if settings.replay is None and settings.replay_holdout is None:
            old = await self.disk(self.samples.measurable, model, before=since)
            if old < wanted and (old or settings.gate.require_old):
                return f"held-out samples of the old domain: {old} of {wanted}"
        return ""

    def _has_drifted(self) -> bool:
        """Whether the cameras of the incumbent have; what older versions could not see is over."""
        bundle = self.incumbent.bundle
        if bundle is None:
            return False
        oldest = bundle.manifest.version
        return any(version >= oldest for version in self._drifted.values())

    def _waiting(self) -> str:
        if self._running:
            return "a job is running"
        if self.incumbent.bundle is None:
            return f"a first version of {self.model}"
        offered = self._offered
        patience = self.settings.trigger.release_wait_s
        waited = time.monotonic() - self._offered_at
        if offered is not None and not self._asked and waited < patience:
            return f"the release of v{offered.version}"
        return ""

    def _words(self, facts: Facts, wanted: int | None) -> str:
        rules = self.settings.trigger
        if self._running:
            return facts.waiting
        if facts.waiting:
            return f"waits for {facts.waiting}"
        if rules.max_jobs is not None and facts.accepted >= rules.max_jobs:
            return f"{facts.accepted} of {rules.max_jobs} candidates made; command only"
        if wanted is not None and facts.untrained < wanted:
            return f"waits for untrained samples: {facts.untrained} of {wanted}"
        if facts.lacking:
            return f"waits for {facts.lacking}"
        return "command only" if wanted is None and rules.interval_s is None else "due"

    async def _incumbent_changed(self) -> None:
        await self._set_trouble(self.incumbent.trouble)

    async def _set_trouble(self, trouble: str) -> None:
        if trouble == self._trouble:
            return
        self._trouble = trouble
        await self.set_state("degraded" if trouble else "ready", trouble)
