"""Models of a retrainer, the shared one or a stream's own, and the state of their triggers."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from datetime import datetime

from edgebus.contracts import ModelRef
from edgebus.samples import Counts
from edgebus.training.drifts import Drifts
from edgebus.training.incumbent import Incumbent
from edgebus.training.job_runner import JobRunner, RetrainingContext
from edgebus.training.settings import RetrainingSettings, TriggerSettings
from edgebus.training.triggers import TriggerState


@dataclass(slots=True, kw_only=True)
class TrainedModel:
    """One model that is trained: its incumbent, its jobs, and its last candidate.

    Attributes:
        name: Name of the model.
        stream_id: The stream whose own it is, ``node.stream``; empty: the shared one.
        incumbent: What serves.
        runner: Its jobs.
        asked: A job was asked for by command.
        offered: The candidate whose release is waited for.
        released: Whether it was announced; it may still have to be fetched.
        offered_at: When it was offered, on the steady clock.
        ended_at: When its last job ended, on the steady clock.
    """

    name: str
    stream_id: str
    incumbent: Incumbent
    runner: JobRunner
    asked: bool = False
    offered: ModelRef | None = None
    released: bool = False
    offered_at: float = field(default_factory=time.monotonic)
    ended_at: float = field(default_factory=time.monotonic)

    def offer(self, candidate: ModelRef) -> None:
        """Wait for the release of a candidate."""
        self.offered, self.offered_at, self.released = candidate, time.monotonic(), False

    def observe(self, released: ModelRef) -> None:
        """A version was announced."""
        if self.offered is not None and released.version >= self.offered.version:
            self.released = True

    def settle(self, *, fetched: bool = False) -> None:
        """Wait no longer for a release that is here.

        Args:
            fetched: What was announced has come, or what was announced instead.
        """
        if fetched and self.released:
            self.offered = None
        bundle, offered = self.incumbent.bundle, self.offered
        if bundle is not None and offered and bundle.manifest.version >= offered.version:
            self.offered = None

    def awaited(self, patience_s: float) -> str:
        """The release that is waited for, in words; empty where none is."""
        waited = time.monotonic() - self.offered_at
        if self.offered is None or self.asked or waited >= patience_s:
            return ""
        return f"the release of v{self.offered.version}"


def triggers_of(settings: RetrainingSettings, model: TrainedModel) -> TriggerSettings:
    """Trigger settings of a model."""
    common, own = settings.trigger, settings.stream_models
    if not model.stream_id or own is None:
        return common
    return TriggerSettings(
        min_samples=own.min_samples,
        cooldown_samples=own.cooldown_samples,
        on_drift=common.on_drift,
        drift_samples=common.drift_samples,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class TriggerStates:
    """Reads the inputs of a model's triggers from store and journal.

    Attributes:
        context: Store, journal and settings.
        shared: The shared model.
        drifts: Which streams have drifted.
    """

    context: RetrainingContext
    shared: TrainedModel
    drifts: Drifts

    async def of(self, model: TrainedModel, counts: Counts, *, running: bool) -> TriggerState:
        """The state of one model.

        Args:
            model: The model.
            counts: What lies in the store of it.
            running: Whether a job runs.
        """
        since = await self.context.disk(self.context.samples.new_domain_since, model.name)
        return TriggerState(
            untrained=counts.untrained,
            per_edge=counts.untrained_per_edge,
            untrained_at_refusal=await self.context.disk(
                self.context.journal.untrained_at_refusal, model.name
            ),
            since_last_s=time.monotonic() - model.ended_at,
            drifted=self._has_drifted(model),
            rebase=await self._rebase(model),
            accepted=await self.context.disk(self.context.journal.accepted, model.name),
            asked=model.asked,
            waiting=self.waiting(model, running=running),
            lacking="" if since is None else await self._lacking(model.name, since),
        )

    def waiting(self, model: TrainedModel, *, running: bool) -> str:
        """Why no job of a model may start now; empty if one may."""
        if running:
            return "a job is running"
        if self.shared.incumbent.bundle is None:
            return f"a first version of {self.shared.name}"
        patience = self.context.settings.trigger.release_wait_s
        return self.shared.awaited(patience) or model.awaited(patience)

    async def streams(self) -> dict[str, int]:
        """Untrained samples of each stream that may have a model of its own."""
        own = self.context.settings.stream_models
        if own is None:
            return {}
        found = await self.context.disk(self.context.samples.untrained_per_stream, self.shared.name)
        return {name: count for name, count in found.items() if own.takes(name)}

    def may_start(self, model: TrainedModel, untrained: int) -> bool:
        """True where a stream's own model may be due for a job."""
        triggers, drifted = triggers_of(self.context.settings, model), self._has_drifted(model)
        by_drift = triggers.drift_samples if drifted and triggers.on_drift else None
        numbers = (triggers.min_samples, by_drift)
        enough = min((number for number in numbers if number is not None), default=None)
        return _moved(model, self.shared) or (enough is not None and untrained >= enough)

    def _has_drifted(self, model: TrainedModel) -> bool:
        """True where a stream that the model serves has drifted since it serves."""
        bundle = model.incumbent.bundle or self.shared.incumbent.bundle
        return bundle is not None and self.drifts.any(bundle.ref, stream=model.stream_id)

    async def _rebase(self, model: TrainedModel) -> str:
        """Why a stream's own model is to be made from the shared one again; empty if it is not."""
        shared = self.shared.incumbent.bundle
        if not model.stream_id or shared is None or not _moved(model, self.shared):
            return ""
        if await self.context.disk(self.context.journal.was_tried, model.name, base=shared.digest):
            return ""
        return f"{self.shared.name} is v{shared.manifest.version} now; {model.name} is of an older"

    async def _lacking(self, name: str, since: datetime) -> str:
        """Why the gate could only refuse: held-out samples that are missing."""
        settings = self.context.settings
        wanted = settings.gate.min_items
        new = await self.context.disk(self.context.samples.measurable, name, since=since)
        if new < wanted:
            return f"held-out samples: {new} of {wanted}"
        if settings.replay is None and settings.replay_holdout is None:
            old = await self.context.disk(self.context.samples.measurable, name, before=since)
            if old < wanted and (old or settings.gate.require_old):
                return f"held-out samples of the old domain: {old} of {wanted}"
        # Held-out samples that waited for a teacher may have turned out to be empty.
        lacked = await self.context.disk(self.context.journal.lacked, name)
        if lacked is not None:
            more, began = lacked
            news = await self.context.disk(self.context.samples.measurable_news, name, since=began)
            if news < more:
                return f"held-out samples, new or labelled since the last job: {news} of {more}"
        return ""


def _moved(model: TrainedModel, shared: TrainedModel) -> bool:
    """True where a stream's own model is made from an older shared one."""
    own, now = model.incumbent.bundle, shared.incumbent.bundle
    return own is not None and now is not None and own.manifest.parent != now.digest
