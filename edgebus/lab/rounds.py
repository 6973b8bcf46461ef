"""One round of learning in stages: from its first sample to the last edge that serves the outcome.

A round is one training job and what came of it. Its stages are what lies between two stamps that
follow each other in one chain, so they add up to the whole by construction; what services measured
themselves, by steady clocks, stands beside them (`Stage.measured_s`). Messages may come twice,
late, in any order, or not at all.

Where clocks of two hosts disagree, a stage between them is wrong by the difference, and the stage
on the other side of that host by the same with the other sign. See `Rounds.lag_s`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal

from edgebus.contracts import (
    Candidate,
    DeliveryState,
    ModelStatus,
    Release,
    TrainingProgress,
    TrainingResult,
)

Place = Literal["edge", "up", "cloud", "down"]

CLOUD_STAGES: tuple[tuple[str, Place], ...] = (
    ("collecting", "edge"),
    ("choosing", "edge"),
    ("uploading", "up"),
    ("waiting", "cloud"),
    ("starting", "cloud"),
    ("labelling", "cloud"),
    ("training", "cloud"),
    ("judging", "cloud"),
    ("writing", "cloud"),
    ("offering", "cloud"),
    ("releasing", "cloud"),
)
"""Stages that a round has once, and where they happen; each ends with a stamp."""

EDGE_STAGES: tuple[tuple[str, Place], ...] = (
    ("announcing", "down"),
    ("fetching", "edge"),
    ("checking", "edge"),
    ("loading", "edge"),
)
"""Stages that it has for each edge, after those."""

_MEASURED_BY_JOB = {
    "waiting": ("waiting",),
    "starting": ("starting",),
    "labelling": ("preparing",),
    "training": ("training",),
    "judging": ("evaluating",),
    "writing": ("publishing", "keeping"),
}
_ENDS_OF_PHASES = {"preparing": "starting", "training": "labelling", "evaluating": "training"}
_ENDS_OF_STATES: dict[DeliveryState, str] = {
    "downloading": "announcing",
    "downloaded": "fetching",
    "updating": "checking",
}


@dataclass(frozen=True, slots=True)
class Stamp:
    """A moment by the clock of a node."""

    time: datetime
    node: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """The time between two stamps.

    Attributes:
        name: What was done; several names joined by + where a stamp between them is missing.
        place: Where; `up` and `down` are between edge and cloud.
        node: Whose clock ended it.
        began: The stamp before.
        ended: Its own.
        measured_s: Seconds that those who did it measured by a steady clock, where they publish it.
    """

    name: str
    place: Place
    node: str
    began: datetime
    ended: datetime
    measured_s: float | None

    @property
    def seconds(self) -> float:
        """Negative where the clocks of two hosts disagree, or one was set back."""
        return (self.ended - self.began).total_seconds()


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """One job and what came of it.

    Attributes:
        job: Its id.
        version: The candidate's version; None where there was none.
        outcome: accepted, refused, failed or skipped.
        stages: Until the release, or as far as it came.
        edges: The rest of the way, by ``node/service``; only those that serve the new version.
        missing: Stages without a stamp.
    """

    job: str
    version: int | None
    outcome: str
    stages: tuple[Stage, ...]
    edges: Mapping[str, tuple[Stage, ...]]
    missing: tuple[str, ...]

    @property
    def last_edge(self) -> str | None:
        """The edge that served last."""
        return max(self.edges, key=lambda edge: self.edges[edge][-1].ended, default=None)

    def path(self, edge: str | None = None) -> tuple[Stage, ...]:
        """All stages to one edge, to the last one without a name."""
        edge = edge or self.last_edge
        return self.stages + (self.edges[edge] if edge else ())

    def seconds(self, *, without: frozenset[str] = frozenset()) -> float:
        """From the first stamp to the last edge, without some stages."""
        return sum(stage.seconds for stage in self.path() if stage.name not in without)

    @property
    def backwards(self) -> tuple[Stage, ...]:
        """Stages that ended before they began: clocks disagree at least by so much."""
        ways = (self.stages, *self.edges.values())
        return tuple(stage for way in ways for stage in way if stage.seconds < 0)


@dataclass(slots=True)
class _Job:
    seen: dict[Stamp, tuple[str, float]] = field(default_factory=dict)
    result: TrainingResult | None = None

    def phases(self) -> dict[str, Stamp]:
        """Ends of stages, by the last attempt: each phase ends the stage before it."""
        phases: dict[str, Stamp] = {}
        before = 0.0
        for stamp, (name, seconds) in sorted(self.seen.items(), key=lambda one: one[0].time):
            if seconds < before:  # they count from the beginning of an attempt: it crashed
                phases = {}
            before = seconds
            phases.setdefault(name, stamp)
        return phases


@dataclass(slots=True)
class _Edge:
    stamps: dict[str, Stamp] = field(default_factory=dict)
    measured: dict[str, float] = field(default_factory=dict)


class Rounds:
    """Rounds of learning, from the messages on the bus."""

    def __init__(self) -> None:
        self._jobs: dict[str, _Job] = {}
        self._candidates: dict[str, Stamp] = {}
        self._releases: dict[str, Stamp] = {}
        self._intakes: dict[str, float] = {}
        self._edges: dict[str, dict[str, _Edge]] = {}
        self._lags: dict[str, float] = {}

    def on_clock(self, source: str, sent: datetime, received: datetime) -> None:
        """A message that left at once, stamped `sent` by its sender, was here at `received`."""
        node, lag = _node(source), (received - sent).total_seconds()
        self._lags[node] = min(lag, self._lags.get(node, lag))

    def lag_s(self, node: str) -> float | None:
        """Seconds that a node's clock seems to be behind the observer's.

        The least time between a stamp and its arrival: the difference of the two clocks and the
        quickest way that a message took. A clock that is ahead shows as a negative one.
        """
        return self._lags.get(node)

    def on_progress(self, progress: TrainingProgress) -> None:
        """A job is in a phase; the first message of each phase marks its beginning."""
        name = _ENDS_OF_PHASES.get(progress.phase, "judging")
        stamp = Stamp(progress.time, _node(progress.source))
        job = self._jobs.setdefault(progress.job, _Job())
        job.seen[stamp] = (name, progress.seconds)

    def on_result(self, result: TrainingResult) -> None:
        """A job ended."""
        self._jobs.setdefault(result.job, _Job()).result = result

    def on_candidate(self, candidate: Candidate) -> None:
        """It was offered."""
        stamp = Stamp(candidate.time, _node(candidate.source))
        _earliest(self._candidates, candidate.bundle.model.digest, stamp)

    def on_release(self, release: Release) -> None:
        """It was released; of several announcements the first counts."""
        digest = release.bundle.model.digest
        _earliest(self._releases, digest, Stamp(release.time, _node(release.source)))
        if release.intake_s is not None:
            self._intakes.setdefault(digest, release.intake_s)

    def on_model_status(self, node: str, service: str, status: ModelStatus) -> None:
        """An edge is so far with it."""
        stamp = Stamp(status.time, node)
        if status.target is not None and status.state in _ENDS_OF_STATES:
            edge = self._edge(status.target.digest, f"{node}/{service}")
            _earliest(edge.stamps, _ENDS_OF_STATES[status.state], stamp)
        if status.serving is not None:
            edge = self._edge(status.serving.digest, f"{node}/{service}")
            _earliest(edge.stamps, "loading", stamp)
            if edge.stamps["loading"] == stamp and status.state == "updated":
                edge.measured = dict(status.seconds)

    def all(self, *, since: datetime | None = None) -> list[Round]:
        """The rounds whose job has ended, oldest first; only those that ended after `since`."""
        results = [job.result for job in self._jobs.values() if job.result is not None]
        wanted = [result for result in results if since is None or result.time >= since]
        return [self._round(result) for result in sorted(wanted, key=lambda one: one.started)]

    def _edge(self, digest: str, name: str) -> _Edge:
        return self._edges.setdefault(digest, {}).setdefault(name, _Edge())

    def _round(self, result: TrainingResult) -> Round:
        begin, stamps = self._stamps(result)
        measured = {
            name: sum(result.seconds.get(part, 0.0) for part in parts)
            for name, parts in _MEASURED_BY_JOB.items()
            if any(part in result.seconds for part in parts)
        }
        digest = result.candidate.digest if result.candidate else ""
        if digest in self._intakes:
            measured["releasing"] = self._intakes[digest]
        # An older retrainer does not report when its samples came.
        order = CLOUD_STAGES if result.collected is not None else CLOUD_STAGES[4:]
        stages = _chain(begin, stamps, measured, order)
        missing: set[str] = set()
        if result.candidate is not None:
            missing = {name for name, _ in order} - set(stamps)
        edges: dict[str, tuple[Stage, ...]] = {}
        if digest in self._releases:
            for name, edge in sorted(self._edges.get(digest, {}).items()):
                if "loading" in edge.stamps:
                    edges[name] = _chain(stages[-1].ended, edge.stamps, edge.measured, EDGE_STAGES)
                    missing |= {stage for stage, _ in EDGE_STAGES} - set(edge.stamps)
        return Round(
            job=result.job,
            version=result.candidate.version if result.candidate else None,
            outcome=result.outcome,
            stages=stages,
            edges=edges,
            missing=tuple(name for name, _ in CLOUD_STAGES + EDGE_STAGES if name in missing),
        )

    def _stamps(self, result: TrainingResult) -> tuple[datetime, dict[str, Stamp]]:
        """Beginning of the chain, and the known ends of stages."""
        cloud = _node(result.source)
        stamps = self._jobs[result.job].phases()
        stamps["writing"] = Stamp(result.time, cloud)
        begin = result.started
        if result.collected is not None:
            taken = result.collected
            begin = taken.first_captured
            edge = _node(taken.last_source)
            stamps["collecting"] = Stamp(taken.last_captured, edge)
            stamps["choosing"] = Stamp(taken.last_sent, edge)
            stamps["uploading"] = Stamp(taken.last_received, cloud)
            stamps["waiting"] = Stamp(result.started, cloud)
        digest = result.candidate.digest if result.candidate else ""
        if digest in self._candidates:
            stamps["offering"] = self._candidates[digest]
        if digest in self._releases:
            stamps["releasing"] = self._releases[digest]
        return begin, stamps


def _chain(
    begin: datetime,
    stamps: Mapping[str, Stamp],
    measured: Mapping[str, float],
    order: tuple[tuple[str, Place], ...],
) -> tuple[Stage, ...]:
    """Stages between consecutive stamps; where one is missing, its stage is part of the next."""
    stages: list[Stage] = []
    names: list[str] = []
    for name, place in order:
        names.append(name)
        stamp = stamps.get(name)
        if stamp is None:
            continue
        known = [measured[each] for each in names if each in measured]
        stages.append(
            Stage(
                name="+".join(names),
                place=place,
                node=stamp.node,
                began=begin,
                ended=stamp.time,
                measured_s=sum(known) if len(known) == len(names) else None,
            )
        )
        begin, names = stamp.time, []
    return tuple(stages)


def _earliest(stamps: dict[str, Stamp], name: str, stamp: Stamp) -> None:
    """Keep the earliest stamp, in whatever order they come."""
    if name not in stamps or stamp.time < stamps[name].time:
        stamps[name] = stamp


def _node(source: str) -> str:
    """The node of a source ``site/node/service``."""
    parts = source.split("/")
    return parts[1] if len(parts) > 1 else source
