"""The models of one retrainer: the shared one, and those that cameras have of their own."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from datetime import datetime

from edgebus.contracts import ModelRef
from edgebus.samples import Counts, SampleStore
from edgebus.training.disk_thread import DiskThread
from edgebus.training.drifts import Drifts
from edgebus.training.incumbent import Incumbent
from edgebus.training.job_runner import Campaign
from edgebus.training.journal import JobJournal
from edgebus.training.triggers import Facts, Rules
from edgebus_retrainer.settings import RetrainerSettings

__all__ = ["Line", "Standing", "rules_of"]


@dataclass(slots=True, kw_only=True)
class Line:
    """One model that is trained: what serves, its jobs, and what was offered last.

    Attributes:
        name: Name of the model.
        place: Of the camera whose own it is, ``node.camera``; empty: the shared one.
        incumbent: What serves.
        campaign: Its jobs.
        asked: Somebody wants a job now.
        offered: The candidate whose release is waited for.
        released: Whether it was announced; it may still have to be fetched.
        offered_at: When it was offered, on the steady clock.
        ended_at: When its last job ended, on the steady clock.
    """

    name: str
    place: str
    incumbent: Incumbent
    campaign: Campaign
    asked: bool = False
    offered: ModelRef | None = None
    released: bool = False
    offered_at: float = field(default_factory=time.monotonic)
    ended_at: float = field(default_factory=time.monotonic)

    def offer(self, candidate: ModelRef) -> None:
        """Wait for the release of a candidate."""
        self.offered, self.offered_at, self.released = candidate, time.monotonic(), False

    def hear(self, released: ModelRef) -> None:
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


def rules_of(settings: RetrainerSettings, line: Line) -> Rules:
    """What starts a job of a model."""
    common = settings.trigger
    drift_samples = common.drift_samples if common.on_drift else None
    own = settings.stream_models
    if line.place and own is not None:
        return Rules(
            min_samples=own.min_samples,
            cooldown_samples=own.cooldown_samples,
            drift_samples=drift_samples,
        )
    return Rules(
        min_samples=common.min_samples,
        min_per_edge=common.min_per_edge,
        cooldown_samples=common.cooldown_samples,
        drift_samples=drift_samples,
        interval_s=common.interval_s,
        max_jobs=common.max_jobs,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """Finds out how things stand for a model.

    Attributes:
        settings: The retrainer's.
        shared: The shared model.
        samples: The sample store.
        journal: Remembers jobs.
        drifts: Which cameras have drifted.
        disk: Where stores are used.
    """

    settings: RetrainerSettings
    shared: Line
    samples: SampleStore
    journal: JobJournal
    drifts: Drifts
    disk: DiskThread

    async def facts(self, line: Line, counts: Counts, *, running: bool) -> Facts:
        """What the triggers look at.

        Args:
            line: The model.
            counts: What lies in the store of it.
            running: Whether a job runs.
        """
        since = await self.disk(self.samples.new_domain_since, line.name)
        return Facts(
            untrained=counts.untrained,
            per_edge=counts.untrained_per_edge,
            untrained_at_refusal=await self.disk(self.journal.untrained_at_refusal, line.name),
            since_last_s=time.monotonic() - line.ended_at,
            drifted=self._has_drifted(line),
            rebase=await self._rebase(line),
            accepted=await self.disk(self.journal.accepted, line.name),
            asked=line.asked,
            waiting=self.waiting(line, running=running),
            lacking="" if since is None else await self._lacking(line.name, since),
        )

    def waiting(self, line: Line, *, running: bool) -> str:
        """Why no job of a model may start now; empty if one may."""
        if running:
            return "a job is running"
        if self.shared.incumbent.bundle is None:
            return f"a first version of {self.shared.name}"
        patience = self.settings.trigger.release_wait_s
        return self.shared.awaited(patience) or line.awaited(patience)

    async def places(self) -> dict[str, int]:
        """Untrained samples of each camera that may have a model of its own."""
        own = self.settings.stream_models
        if own is None:
            return {}
        found = await self.disk(self.samples.untrained_per_stream, self.shared.name)
        return {place: count for place, count in found.items() if own.takes(place)}

    def may_start(self, line: Line, untrained: int) -> bool:
        """Whether it is worth while to look closer at a camera's own model."""
        rules, drifted = rules_of(self.settings, line), self._has_drifted(line)
        numbers = (rules.min_samples, rules.drift_samples if drifted else None)
        enough = min((number for number in numbers if number is not None), default=None)
        bundle, shared = line.incumbent.bundle, self.shared.incumbent.bundle
        moved = bundle is not None and shared is not None and _moved(line, self.shared)
        return moved or (enough is not None and untrained >= enough)

    def _has_drifted(self, line: Line) -> bool:
        """Whether the cameras that a model answers have; what older versions missed is over."""
        bundle = line.incumbent.bundle or self.shared.incumbent.bundle
        return bundle is not None and self.drifts.any(bundle.ref, place=line.place)

    async def _rebase(self, line: Line) -> str:
        """Why a camera's own model is to be made from the shared one again; empty if it is not."""
        own, shared = line.incumbent.bundle, self.shared.incumbent.bundle
        if not line.place or own is None or shared is None or not _moved(line, self.shared):
            return ""
        if await self.disk(self.journal.was_tried, line.name, base=shared.digest):
            return ""
        return f"{self.shared.name} is v{shared.manifest.version} now; {line.name} is of an older"

    async def _lacking(self, model: str, since: datetime) -> str:
        """What the gate would miss; a job without it could only be refused."""
        settings = self.settings
        wanted = settings.gate.min_items
        new = await self.disk(self.samples.measurable, model, since=since)
        if new < wanted:
            return f"held-out samples: {new} of {wanted}"
        if settings.replay is None and settings.replay_holdout is None:
            old = await self.disk(self.samples.measurable, model, before=since)
            if old < wanted and (old or settings.gate.require_old):
                return f"held-out samples of the old domain: {old} of {wanted}"
        # Held-out samples that waited for a teacher may have turned out to be empty.
        lacked = await self.disk(self.journal.lacked, model)
        if lacked is not None:
            more, began = lacked
            news = await self.disk(self.samples.measurable_news, model, since=began)
            if news < more:
                return f"held-out samples, new or labelled since the last job: {news} of {more}"
        return ""


def _moved(line: Line, shared: Line) -> bool:
    """Whether a camera's own model is made from another version than the shared one now is."""
    own, now = line.incumbent.bundle, shared.incumbent.bundle
    return own is not None and now is not None and own.manifest.parent != now.digest
