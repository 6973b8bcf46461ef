"""The retrainer service: stores samples, starts jobs, publishes what passed the gate."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from dataclasses import asdict, replace
from datetime import timedelta
from itertools import islice
from math import inf
from typing import Any

from sqlalchemy.exc import DBAPIError

from edgebus.artifacts import Bundle, Store
from edgebus.bus import Event, Wait
from edgebus.contracts import (
    Drift,
    Release,
    Reply,
    RetrainCommand,
    SampleRecord,
    SampleRefusedError,
    StoreStatus,
    new_id,
    record_of,
    shared_model,
    split_of,
    topics,
    utc_now,
)
from edgebus.contracts.payload import MOST
from edgebus.contracts.topics import DRIFT
from edgebus.samples import SampleFiles, SampleStore, edge_of, open_database
from edgebus.service import CommandRefusedError, Service, command, every, on
from edgebus.training.drifts import Drifts
from edgebus.training.incumbent import WrongModelError
from edgebus.training.job_runner import RetrainingContext
from edgebus.training.journal import DiskThread, Job, JobJournal
from edgebus.training.model_set import ModelSet
from edgebus.training.settings import TriggerSettings
from edgebus.training.trained_model import TrainedModel, TriggerStates, triggers_of
from edgebus.training.triggers import Trigger, TriggerState, needed, reason, trigger, waits_for
from edgebus.transfer import ArtifactProvider
from edgebus.workload import UntrainableError, call_in_thread, load_workload
from edgebus_retrainer.settings import RetrainerSettings

_DISK_REST_S = 5.0
_SAMPLES_AHEAD = 32  # held in memory while the disk is full; the broker holds the rest

DueJob = tuple[TrainedModel, Trigger, str]


def _releases(service: Retrainer) -> dict[str, str]:
    # A stream's own model is named after the shared one, which no filter can say.
    if service.settings.stream_models is not None:
        return {"channel": service.settings.channel}
    return {"model": service.model, "channel": service.settings.channel}


_DEFAULT = load_workload(RetrainerSettings.model_fields["workload"].default)


class Retrainer(Service[RetrainerSettings]):
    """Learns from collected samples and offers every candidate that passed the gate."""

    name = "retrainer"
    publishes = (
        topics.STORE_STATUS,
        topics.TRAINING_PROGRESS,
        topics.TRAINING_RESULT,
        topics.CANDIDATE,
        topics.BLOCK,
        topics.BLOCK_REQUEST,
    )
    subscribes = (_DEFAULT.samples, topics.BLOCK_REQUEST, topics.BLOCK)

    async def start(self) -> None:
        """Open the stores and take up what the last run left."""
        settings = self.settings
        self.disk = DiskThread()
        self._due = asyncio.Event()
        self._taken = asyncio.Event()
        self._taken.set()
        self._next: tuple[TrainedModel, Trigger, str] | None = None
        self._checking = asyncio.Lock()
        self._running = False
        self._trouble = ""
        self._untrainable = ""
        self._last_sample: float | None = None
        self._status: dict[str, Any] | None = None
        self._last_state: TriggerState | None = None
        self._untrained: dict[str, int] = {}
        self._told_odd: set[str] = set()
        self._drifts = Drifts(by=settings.trigger.drift_by)
        given = None
        if settings.bundle is not None:
            given = await asyncio.to_thread(Bundle.open, settings.bundle)
        self.model = settings.model or (given.manifest.name if given is not None else "")
        if given is not None and settings.bundle is not None and given.manifest.name != self.model:
            raise WrongModelError(
                path=settings.bundle, found=given.manifest.name, wanted=self.model
            )
        await self.disk(self._open_stores)
        incumbent = self._shared.incumbent
        if given is not None and incumbent.bundle is None:
            await self.disk(incumbent.adopt, given)
        await self._models.start()
        await self._check_training(incumbent.bundle)
        self._resumed = await self.disk(self.journal.unfinished, list(self._models.models))
        self.spawn(self._provider.run(), name="provide candidates")
        self.spawn(self._jobs(), name="jobs")
        site = {"base": self.identity.base, "site": self.identity.site}
        samples = load_workload(settings.workload).samples.any(**site)
        # A full disk makes it wait for as long as it takes, for which nothing else shall wait.
        await self.bus.subscribe(
            samples,
            self.on_sample,
            policy=Wait(messages=_SAMPLES_AHEAD, own_connection=True),
            limit_s=inf,
            name="on_sample",
        )

    async def _check_training(self, base: Bundle | None) -> None:
        """Refuse now what would make every job fail, hours later."""
        look = load_workload(self.settings.workload).check_training
        try:
            check = await asyncio.to_thread(call_in_thread, look, self.settings, base)
        except UntrainableError as error:
            if self.settings.trigger.starts_by_itself:
                raise
            self._untrainable = str(error)
            self.log.warning("samples are stored only", reason=str(error))
            return
        for found in check.found:
            self.log.info("earlier data", found=found)
        for lacking in check.lacking:
            self.log.warning("too little data", lacking=lacking)

    def _open_stores(self) -> None:
        settings = self.settings
        engine = open_database(self.data_dir / "samples.db")
        self.samples = SampleStore(
            engine,
            SampleFiles(self.data_dir / "samples"),
            load_workload(settings.workload),
            max_samples=settings.store.max_samples,
            max_bytes=settings.store.max_bytes,
            everything_new=settings.new_domain == "everything",
        )
        self.journal = JobJournal(engine)
        self.bundles = Store(self.data_dir / "store")
        self._provider = ArtifactProvider(self.bus, self.identity, self.bundles)
        context = RetrainingContext(
            bus=self.bus,
            identity=self.identity,
            settings=settings,
            samples=self.samples,
            journal=self.journal,
            bundles=self.bundles,
            disk=self.disk,
            folder=self.data_dir,
            log=self.log,
        )
        self._models = ModelSet(
            context, model=self.model, changed=self._incumbent_changed, spawn=self.spawn
        )
        self._shared = self._models.shared
        self._states = TriggerStates(context=context, shared=self._shared, drifts=self._drifts)

    async def on_sample(self, event: Event[Any]) -> None:
        """Store a sample; it is acknowledged when it is on disk."""
        sample = event.payload
        came = time.monotonic()
        # A job that starts is given what made it start; what comes then is for the next.
        await self._taken.wait()
        while True:
            try:
                added = await self.disk(
                    self.samples.add, sample, received=event.received, by_device=True
                )
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
        record = record_of(sample)
        self._drifts.observe_sample(record)
        if added == "added":
            if split_of(record.stream, record.index) == "train":
                self._last_sample = came
            if self._completes(record):
                await self.check_triggers()
        await self._set_trouble(self._shared.incumbent.trouble)

    @on(topics.RELEASE, where=_releases)
    async def on_release(self, event: Event[Release]) -> None:
        """Follow a release: it is what has to be improved."""
        await self._models.release(event.payload)

    @on(DRIFT)
    async def on_drift(self, event: Event[Drift]) -> None:
        """Take in that a stream has drifted, or is back to normal."""
        drift = event.payload
        if shared_model(drift.model.name)[0] != self.model or not self.settings.trigger.on_drift:
            return
        if self._drifts.observe(drift):
            self.log.info(
                "drift", stream=drift.stream, statistic=drift.statistic, source=drift.source
            )

    @command(topics.CMD_RETRAIN)
    async def retrain(self, event: Event[RetrainCommand]) -> Reply:
        """Start a job now."""
        if self._untrainable:
            raise CommandRefusedError(self._untrainable)
        if self._running:
            msg = "a job is running; its samples are taken, the next starts by itself or on command"
            raise CommandRefusedError(msg)
        if self._shared.incumbent.bundle is None:
            msg = f"there is no version of {self.model} yet to train further; release one first"
            raise CommandRefusedError(msg)
        counts = await self.disk(self.samples.counts, self.model)
        if not counts.untrained:
            msg = f"there is no untrained sample of {self.model}; {counts.train} were used already"
            raise CommandRefusedError(msg)
        self._shared.asked = True
        return Reply(
            ok=True,
            detail=f"a job starts on {counts.untrained} untrained samples of {self.model}",
        )

    @every(seconds="tick_s")
    async def check_triggers(self) -> None:
        """Publish the state of the store, and start the job that is due."""
        # One at a time: what another one saw may have been used up by the job that it started.
        async with self._checking:
            await self._check()

    async def _check(self) -> None:
        for model in self._models.models.values():
            model.settle()
        due: list[DueJob] = []
        triggers = triggers_of(self.settings, self._shared)
        counts = await self.disk(self.samples.counts, self.model)
        state = await self._states.of(self._shared, counts, running=self._running)
        self._last_state = state
        what = trigger(state, triggers)
        if what is not None:
            due.append((self._shared, what, reason(what, state, triggers)))
        own, of_streams = await self._check_streams()
        status = asdict(counts) | {
            "trigger": self._waits(state, triggers),
            "needed": needed(state, triggers),
            "stream_models": dict(islice(of_streams.items(), MOST)),
            "odd": self._odd(),
        }
        if status != self._status:
            self._status = status
            since = utc_now() - timedelta(seconds=state.since_last_s)
            every_s = triggers.interval_s
            at = None if every_s is None or state.waiting else since + timedelta(seconds=every_s)
            message = StoreStatus(**status, waiting_since=since, due=at)
            await self.publish(topics.STORE_STATUS, message)
        if self._running:
            return
        if self._resumed is not None and self._shared.incumbent.bundle is not None:
            self._start(self._shared, "command", "")
            return
        # Whoever has waited longest; a model's own turn comes before the second of another.
        for model, what, why in sorted((*due, *own), key=lambda job: job[0].ended_at)[:1]:
            self._start(model, what, why)
            return

    def _odd(self) -> dict[str, str]:
        """Devices whose samples are not believed as they were sent, in words."""
        words = {
            "clock": "samples from a time that cannot be; the time of receipt counts",
            "split": "samples in the wrong split; the right one counts",
        }
        found = {
            node: "; ".join(f"{count} {words[what]}" for what, count in sorted(counts.items()))
            for node, counts in self.samples.oddities.items()
        }
        for node in found.keys() - self._told_odd:
            self._told_odd.add(node)
            self.log.warning("odd samples", node=node, reason=found[node])
        return found

    def _waits(self, state: TriggerState, triggers: TriggerSettings) -> str:
        """Why no other job starts now."""
        if self._untrainable:
            return "only stores samples"
        return state.waiting if self._running else waits_for(state, triggers)

    async def _check_streams(
        self,
    ) -> tuple[list[DueJob], dict[str, str]]:
        """Models of single streams: jobs that are due, and what each waits for."""
        due: list[DueJob] = []
        waits: dict[str, str] = {}
        self._untrained = await self._states.streams()
        streams = self._untrained.keys() | {
            model.stream_id for model in self._models.models.values() if model.stream_id
        }
        for stream in sorted(streams):
            model = await self._models.of(stream)
            if model is None:
                continue
            triggers, untrained = triggers_of(self.settings, model), self._untrained.get(stream, 0)
            waiting = self._states.waiting(model, running=self._running)
            state = TriggerState(untrained=untrained, waiting=waiting)
            # Few of many streams are due at a time: only these are looked at closely.
            if self._states.may_start(model, untrained) and not waiting:
                counts = await self.disk(self.samples.counts, model.name)
                state = await self._states.of(model, counts, running=self._running)
                what = trigger(state, triggers)
                if what is not None:
                    due.append((model, what, reason(what, state, triggers)))
            waits[model.name] = waiting if self._running else waits_for(state, triggers)
        return due, waits

    def _completes(self, record: SampleRecord) -> bool:
        """True where a sample that was just stored may be the last one that a job needs."""
        state = self._last_state
        if state is None or self._running:
            return not self._running
        triggers = triggers_of(self.settings, self._shared)
        if split_of(record.stream, record.index) == "holdout":
            return trigger(replace(state, lacking=""), triggers) is not None
        edge = edge_of(record.source)
        counts = {**state.per_edge, edge: state.per_edge.get(edge, 0) + 1}
        self._last_state = replace(state, untrained=state.untrained + 1, per_edge=counts)
        if trigger(self._last_state, triggers) is not None:
            return True
        own = self.settings.stream_models
        if own is None or own.min_samples is None:
            return False
        stream = f"{edge}.{record.stream}"
        self._untrained[stream] = self._untrained.get(stream, 0) + 1
        return self._untrained[stream] == own.min_samples

    def _start(self, model: TrainedModel, what: Trigger, why: str) -> None:
        self._running = True
        self._taken.clear()
        model.asked = False
        self._next = model, what, why
        self._due.set()

    async def _jobs(self) -> None:
        """Run the jobs that are due, one after the other, for ever."""
        while True:
            await self._due.wait()
            self._due.clear()
            job = await self._next_job()
            model = self._models.models[job.model]
            last, self._last_sample = self._last_sample, None
            waiting = None if last is None else time.monotonic() - last
            self.metrics.counter("jobs.started")
            self.metrics.gauge("jobs.running", 1)
            attributes = {"job": job.id, "trigger": job.trigger}
            with self.tracer.step("train", identifier=job.id, attributes=attributes) as step:
                result = await model.runner.run(
                    job,
                    taken=self._taken.set,
                    traceparent=step.traceparent,
                    waiting_s=waiting,
                )
            self._taken.set()
            self.metrics.gauge("jobs.running", 0)
            self.metrics.counter(f"jobs.{result.outcome}")
            model.ended_at = time.monotonic()
            if result.candidate is not None:
                # Before it is offered: its release may be here before the broker's answer.
                model.offer(result.candidate)
            await model.runner.offer(result)
            self._running = False
            # What came meanwhile may be enough already.
            await self.check_triggers()

    async def _next_job(self) -> Job:
        """The job that a crash interrupted, or a new one."""
        job, self._resumed = self._resumed, None
        if job is not None:
            await self.disk(self.journal.again, job.id)
            self.log.info("job taken up again", job=job.id, attempts=job.attempts + 1)
            return replace(job, attempts=job.attempts + 1)
        assert self._next is not None
        model, what, why = self._next
        base = self._shared.incumbent.bundle
        assert base is not None
        highest = await self.disk(self.journal.highest_version, model.name)
        # A stream's own version is newer than the shared one that it is made of.
        newest = max(highest, model.incumbent.highest_version, base.manifest.version)
        job = Job(
            id=new_id(),
            model=model.name,
            base=base.ref,
            version=newest + 1,
            trigger=what,
            why=why,
            started=utc_now(),
            attempts=1,
        )
        await self.disk(self.journal.begin, job)
        return job

    async def _incumbent_changed(self) -> None:
        await self._set_trouble(self._shared.incumbent.trouble)
        if not self._running:  # a job tidies at its end, and needs until then what it began with
            with suppress(OSError):  # at the next one
                kept = await self._models.kept()
                await self.disk(self._shared.incumbent.tidy, keep=kept)

    async def _set_trouble(self, trouble: str) -> None:
        if trouble == self._trouble:
            return
        self._trouble = trouble
        await self.set_state("degraded" if trouble else "ready", trouble)
