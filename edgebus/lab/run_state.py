"""The state of a run, from the messages on the bus alone; without sockets."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, ClassVar

from edgebus.contracts import (
    Candidate,
    DeadLetter,
    Drift,
    Metrics,
    ModelStatus,
    Release,
    RolloutStatus,
    SampleRecord,
    ServiceState,
    StoreStatus,
    TrainingProgress,
    TrainingResult,
)
from edgebus.lab.rounds import Rounds
from edgebus.lab.streams import StreamState
from edgebus.topology import Until

_MAX_EVENTS = 10_000


@dataclass(frozen=True, slots=True)
class RunEvent:
    """One line of a run's history.

    Attributes:
        time: When, by the clock of its source.
        source: ``node/service``, or ``node/stream``.
        kind: One word, for example ``release``.
        text: A sentence for people.
    """

    time: datetime
    source: str
    kind: str
    text: str


@dataclass(slots=True)
class EdgeModel:
    """The model of one edge: every status that its service published.

    Attributes:
        name: ``node/service``.
        statuses: Oldest first.
    """

    name: str
    statuses: list[ModelStatus] = field(default_factory=list)
    received_before: int = 0

    @property
    def now(self) -> ModelStatus:
        """The newest status."""
        return self.statuses[-1]

    @property
    def received_bytes(self) -> int:
        """Block bytes that it received over the run."""
        return self.received_before + self.now.received_bytes

    def add(self, status: ModelStatus) -> None:
        """Append a status; its `received_bytes` starts over with each target."""
        if self.statuses and status.received_bytes < self.now.received_bytes:
            self.received_before += self.now.received_bytes
        self.statuses.append(status)


class RunState:
    """Services, models, samples, jobs, releases and dead letters of a run.

    A workload's subclass adds the measures of its streams.

    Attributes:
        serving_services: Names of the services that serve models, each of which must end on a
            retrained version; empty: all that published a model status.
        streams: By ``node/stream``.
        observes_streams: Inputs and predictions are observed, not only the framework's messages.
        on_event: Called for each event of the history.
        samples: Samples per stream, ``node/stream``.
        sample_bytes: Their payload bytes, redelivered ones included.
        releases: By model, channel and sequence, in the order in which they came.
        spooled: Samples that wait on an edge, by ``node/service``, as it last reported.
        block_bytes: Bytes of model blocks per provider, ``node/service``.
        drift_at: When the inputs began to change, where that is known.
        drifts: What drift detectors told, returns to normal too.
        drift_watchers: Services that watch for drift, ``node/service``.
        events: The newest events.
    """

    serving_services: ClassVar[frozenset[str]] = frozenset()

    def __init__(self) -> None:
        self.rounds = Rounds()
        self._counts: dict[str, StreamState] = {}
        self.streams: Mapping[str, StreamState] = self._counts
        self.observes_streams = False
        self.edges: dict[str, EdgeModel] = {}
        self.services: dict[str, list[ServiceState]] = {}
        self.store: StoreStatus | None = None
        self.progress: TrainingProgress | None = None
        self.results: dict[str, TrainingResult] = {}
        self.releases: dict[tuple[str, str, int], Release] = {}
        self.rollout: RolloutStatus | None = None
        self.dead_letters: list[DeadLetter] = []
        self.samples: dict[str, int] = {}
        self.sample_bytes: dict[str, int] = {}
        self.spooled: dict[str, int] = {}
        self.block_bytes: dict[str, int] = {}
        self.drift_at: datetime | None = None
        self.drifts: list[Drift] = []
        self.drift_watchers: set[str] = set()
        self.events: deque[RunEvent] = deque(maxlen=_MAX_EVENTS)
        self._sample_ids: set[str] = set()
        self.on_event: Callable[[RunEvent], object] = lambda _event: None

    def first_version(self) -> int | None:
        """The version that the run began with; None while none is known."""
        if self.observes_streams:
            first = [stream.first_version for stream in self.streams.values()]
        else:
            serving = [edge.statuses[0].serving for edge in self.edges.values()]
            first = [model.version if model else None for model in serving]
        return min((version for version in first if version is not None), default=None)

    def first_input(self) -> datetime | None:
        """Time of the first input, where it is known."""
        first = [stream.first_captured for stream in self.streams.values()]
        return min((time for time in first if time is not None), default=None)

    @property
    def drift_is_known(self) -> bool:
        """Check whether `drift_at` would be set if the inputs changed."""
        return False

    def missing_input(self) -> str:
        """The input or prediction that is still missing, in words; empty when it is there."""
        if self.observes_streams and not self.streams:
            return "waiting for the first input"
        missing = "prediction" if self.observes_streams else "model"
        return "" if self.first_version() is not None else f"waiting for the first {missing}"

    def missing_measure(self, version: int, until: Until) -> str:
        """Streams with fewer predictions of a later version than asked for, in words."""
        few = [
            f"{key} {stream.answered_later}"
            for key, stream in self.streams.items()
            if stream.answered_later < until.after_inputs
        ]
        wanted = f"{', '.join(few)} of {until.after_inputs} inputs"
        return f"measuring version {version}: {wanted}" if few else ""

    # Messages of the workload.

    def stream(self, node: str, name: str) -> StreamState:
        """The counts of a stream."""
        return self._counts.setdefault(f"{node}/{name}", StreamState(node, name))

    def on_input(self, node: str, name: str, *, captured: datetime) -> None:
        """An input of a stream."""
        self.stream(node, name).count_input(captured)

    def on_prediction(self, node: str, name: str, prediction: Any) -> None:
        """A prediction for an input: a message that is `edgebus.mining.Predicted`."""
        stream, at = self.stream(node, name), prediction.time
        version, captured = prediction.model.version, prediction.captured
        if stream.count_prediction(version, captured=captured, predicted=at):
            self.log_swap(stream, prediction.index, at=at)

    def log_swap(self, stream: StreamState, index: int, *, at: datetime) -> None:
        """Add the first prediction of another version to the history."""
        text = f"input {index} is the first answered by version {stream.version}"
        self.log_event(at, stream.key, "swap", text)

    # Messages of the framework.

    def log_event(self, time: datetime, source: str, kind: str, text: str) -> None:
        """Add an event to the history."""
        event = RunEvent(time, source, kind, text)
        self.events.append(event)
        self.on_event(event)

    def on_sample(self, node: str, sample: SampleRecord, *, size: int) -> None:
        """A sample left a collector; a redelivered one counts as bytes, not as a sample."""
        stream = f"{node}/{sample.stream}"
        self.sample_bytes[stream] = self.sample_bytes.get(stream, 0) + size
        if sample.id in self._sample_ids:
            return
        self._sample_ids.add(sample.id)
        self.samples[stream] = self.samples.get(stream, 0) + 1
        if len(self._sample_ids) == 1:
            text = f"first sample collected: {sample.reason}"
            self.log_event(sample.time, stream, "sample", text)

    def on_drift(self, drift: Drift) -> None:
        """A collector noticed that a statistic of a stream changed, or came back."""
        if self.drift_at is None and not self.drift_is_known and not drift.returned:
            self.drift_at = drift.since
        self.drifts.append(drift)
        self.drift_watchers.add(service_of(drift.source))
        change = f"{drift.statistic} from {drift.before:.3g} to {drift.after:.3g}"
        late = max(0.0, (drift.time - drift.since).total_seconds())
        text = f"drift is over: {change}" if drift.returned else f"drift noticed: {change}"
        self.log_event(drift.time, drifted_stream(drift), "drift", f"{text}, since {late:.0f} s")

    def on_metrics(self, metrics: Metrics) -> None:
        """A service counts: streams that have drifted, samples that wait to be sent."""
        if (waiting := metrics.gauges.get("spool.samples")) is not None:
            self.spooled[service_of(metrics.source)] = int(waiting)
        if "drift.streams" in metrics.gauges:
            self.drift_watchers.add(service_of(metrics.source))

    def on_block(self, provider: str, *, size: int) -> None:
        """A block of a bundle was published by `provider` (``node/service``)."""
        self.block_bytes[provider] = self.block_bytes.get(provider, 0) + size

    def on_store(self, status: StoreStatus) -> None:
        """The retrainer's sample store changed."""
        self.store = status

    def on_progress(self, progress: TrainingProgress) -> None:
        """A training job goes on."""
        self.rounds.on_progress(progress)
        if self.progress is None or self.progress.job != progress.job:
            text = f"job {_short(progress.job)} starts from version {progress.model.version}"
            text += f": {progress.why}" if progress.why else ""
            self.log_event(progress.time, service_of(progress.source), "training", text)
        self.progress = progress

    def on_result(self, result: TrainingResult) -> None:
        """A training job ended."""
        self.rounds.on_result(result)
        known = self.results.get(result.job)
        self.results[result.job] = result
        if self.progress is not None and self.progress.job == result.job:
            self.progress = None
        if known is None or known.id != result.id:
            text = f"job {_short(result.job)} {result.outcome}: {result.reason}"
            self.log_event(result.time, service_of(result.source), "training", text)

    def on_candidate(self, candidate: Candidate) -> None:
        """A job's outcome was offered."""
        self.rounds.on_candidate(candidate)

    def on_release(self, release: Release) -> None:
        """The distributor released a version."""
        self.rounds.on_release(release)
        model = release.bundle.model
        key = (model.name, release.channel, release.sequence)
        if key not in self.releases:
            text = f"{model.name} version {model.version} to channel {release.channel}"
            if release.reason:
                text += f" ({release.reason})"
            self.log_event(release.time, service_of(release.source), "release", text)
        self.releases[key] = release

    def on_rollout(self, status: RolloutStatus) -> None:
        """A release came further."""
        before = self.rollout
        self.rollout = status
        done = status.finished is not None and status.total > 0
        fresh = before is None or before.sequence != status.sequence or before.finished is None
        if done and fresh:
            text = f"version {status.release.model.version} serves on {status.converged} edges"
            self.log_event(status.time, service_of(status.source), "converged", text)

    def on_model_status(self, node: str, service: str, status: ModelStatus) -> None:
        """An edge serves another version, or came further with its next."""
        self.rounds.on_model_status(node, service, status)
        edge = self.edges.setdefault(f"{node}/{service}", EdgeModel(f"{node}/{service}"))
        before = edge.statuses[-1] if edge.statuses else None
        if before is not None and before.id == status.id:  # retained, after a reconnect
            return
        edge.add(status)
        if before is not None and before.state == status.state:
            return
        if status.state == "failed":
            self.log_event(status.time, edge.name, "failed", status.error or "no reason given")
        elif status.state == "updated" and status.serving is not None:
            swap = f", switch {status.swap_ms:.1f} ms" if status.swap_ms is not None else ""
            text = f"serves version {status.serving.version}{swap}"
            self.log_event(status.time, edge.name, "updated", text)

    def on_state(self, node: str, service: str, state: ServiceState) -> None:
        """A service changed its state."""
        states = self.services.setdefault(f"{node}/{service}", [])
        before = states[-1] if states else None
        if before is not None and before.id == state.id:
            return
        states.append(state)
        if before is None or before.state != state.state:
            reason = f": {state.reason}" if state.reason else ""
            self.log_event(state.time, f"{node}/{service}", "state", f"{state.state}{reason}")

    def on_dead_letter(self, letter: DeadLetter) -> None:
        """A message could not be handled."""
        self.dead_letters.append(letter)
        text = f"{letter.reason} {letter.expected} from {letter.topic}: {letter.error}"
        self.log_event(letter.time, service_of(letter.source), "deadletter", text)

    # Derived.

    @property
    def collected(self) -> str:
        """The number of samples, in words; those that wait on the edges are not sent yet."""
        waiting = sum(self.spooled.values())
        sent = f"{sum(self.samples.values())} samples collected"
        return f"{sent}, {waiting} more wait on the edges" if waiting else sent

    @property
    def release(self) -> Release | None:
        """The newest release of any model."""
        return max(self.releases.values(), key=lambda release: release.time, default=None)

    @property
    def later_version(self) -> int | None:
        """The newest released version that is later than the first one of its model in the run."""
        if self.first_version() is None:
            return None
        later = [
            release
            for release in self.releases.values()
            if release.bundle.model.version > self._first_of(release.bundle.model.name)
        ]
        newest = max(later, key=lambda release: release.time, default=None)
        return None if newest is None else newest.bundle.model.version

    def _first_of(self, model: str) -> int:
        """The version of a model that the run began with; of one that nobody serves, the run's."""
        served = [
            status.serving.version
            for edge in self.edges.values()
            for status in edge.statuses
            if status.serving is not None and status.serving.name == model
        ]
        return min(served, default=self.first_version() or 0)

    @property
    def accepted(self) -> list[TrainingResult]:
        """The accepted jobs, by their start."""
        found = [result for result in self.results.values() if result.outcome == "accepted"]
        return sorted(found, key=lambda result: result.started)

    @property
    def restarts(self) -> int:
        """Number of times that a service came back in a new process."""
        return sum(
            max(0, len({state.instance for state in states}) - 1)
            for states in self.services.values()
        )

    def followed(self, edge: EdgeModel) -> Release | None:
        """The newest release of the model and channel that an edge follows."""
        status = edge.now
        reference = status.serving or status.target
        name = status.model or (reference and reference.name)
        found = [
            release
            for (model, channel, _), release in self.releases.items()
            if (model, channel) == (name, status.channel)
        ]
        return max(found, key=lambda release: release.sequence, default=None)

    def converged(self, edge: EdgeModel) -> bool:
        """Whether an edge serves the newest release of its model."""
        release, serving = self.followed(edge), edge.now.serving
        return (
            release is not None
            and serving is not None
            and serving.digest == release.bundle.model.digest
        )


def service_of(source: str) -> str:
    """``node/service`` of a message's source ``site/node/service``."""
    return source.partition("/")[2] or source


def drifted_stream(drift: Drift) -> str:
    """``node/stream`` of a drift."""
    return f"{service_of(drift.source).partition('/')[0]}/{drift.stream}"


def _short(job: str) -> str:
    return job[-8:]
