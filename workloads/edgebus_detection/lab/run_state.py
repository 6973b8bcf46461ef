"""The state of a run, from what is said on the bus alone; without sockets."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime

from edgebus.contracts import (
    Candidate,
    DeadLetter,
    Identity,
    Metrics,
    ModelStatus,
    Release,
    RolloutStatus,
    ServiceState,
    StoreStatus,
    TrainingProgress,
    TrainingResult,
)
from edgebus_detection.lab.frames import CameraTrack, LabelBook, severity_of
from edgebus_detection.lab.rounds import Rounds
from edgebus_detection.messages import (
    CAMERA_FRAME,
    Detections,
    FrameRecord,
    GroundTruth,
    SampleRecord,
)

__all__ = ["EdgeTrack", "LogLine", "ServiceTrack", "Tracker"]

_MAX_LINES = 10_000


@dataclass(frozen=True, slots=True)
class LogLine:
    """Something that happened, for people.

    Attributes:
        time: When, by the clock of who said it.
        source: ``node/service``, or ``node/camera``.
        kind: One word, for example ``release``.
        text: What, in words.
    """

    time: datetime
    source: str
    kind: str
    text: str


@dataclass(slots=True)
class EdgeTrack:
    """The model of one edge, ``node/service``."""

    name: str
    statuses: list[ModelStatus] = field(default_factory=list)
    received_before: int = 0

    @property
    def now(self) -> ModelStatus:
        """Its last word."""
        return self.statuses[-1]

    @property
    def received_bytes(self) -> int:
        """Block bytes that it received over the run."""
        return self.received_before + self.now.received_bytes

    def add(self, status: ModelStatus) -> None:
        """Take its next status in; `received_bytes` there starts over with each target."""
        if self.statuses and status.received_bytes < self.now.received_bytes:
            self.received_before += self.now.received_bytes
        self.statuses.append(status)


@dataclass(slots=True)
class ServiceTrack:
    """What a service says of itself."""

    states: list[ServiceState] = field(default_factory=list)
    metrics: Metrics | None = None


class Tracker:
    """Everything that a view or a report needs.

    Args:
        on_line: Called for each event that people want to read.
    """

    def __init__(self, *, on_line: Callable[[LogLine], None] = lambda _line: None) -> None:
        self.book = LabelBook()
        self.rounds = Rounds()
        self.cameras: dict[str, CameraTrack] = {}
        self.edges: dict[str, EdgeTrack] = {}
        self.services: dict[str, ServiceTrack] = {}
        self.store: StoreStatus | None = None
        self.progress: TrainingProgress | None = None
        self.results: dict[str, TrainingResult] = {}
        self.releases: dict[int, Release] = {}
        self.rollout: RolloutStatus | None = None
        self.dead_letters: list[DeadLetter] = []
        self.samples: dict[str, int] = {}
        self.sample_bytes: dict[str, int] = {}
        self.block_bytes: dict[str, int] = {}
        self.lines: deque[LogLine] = deque(maxlen=_MAX_LINES)
        self.first_model: str | None = None
        self.drift_at: datetime | None = None
        self._sample_ids: set[str] = set()
        self._on_line = on_line

    def say(self, time: datetime, source: str, kind: str, text: str) -> None:
        """Note an event."""
        line = LogLine(time, source, kind, text)
        self.lines.append(line)
        self._on_line(line)

    def camera(self, node: str, name: str) -> CameraTrack:
        """The track of a camera."""
        key = f"{node}/{name}"
        if key not in self.cameras:
            self.cameras[key] = CameraTrack(node, name, self.book)
        return self.cameras[key]

    def on_frame(self, node: str, record: FrameRecord, *, size: int) -> None:
        """A frame of a camera."""
        self.camera(node, record.camera).frame(record, size)

    def on_truth(self, node: str, truth: GroundTruth) -> None:
        """Ground truth of a frame."""
        camera = self.camera(node, truth.camera)
        before, began = camera.condition, severity_of(camera.effects) > 0
        camera.truth(truth)
        severity = severity_of(truth.effects)
        if severity > 0 and not began:
            self.drift_at = min(self.drift_at or truth.captured, truth.captured)
            names = ", ".join(name for name, value in truth.effects.items() if value > 0)
            self.say(truth.captured, camera.key, "drift", f"{names} begins")
        elif before and truth.condition != before:
            self.say(truth.captured, camera.key, "condition", f"now {truth.condition}")

    def on_detections(self, node: str, answer: Detections) -> None:
        """An answer of a detector."""
        camera = self.camera(node, answer.camera)
        before = camera.version
        if camera.answer(answer) and before is not None and before != answer.model.version:
            self.say(
                answer.detected,
                camera.key,
                "swap",
                f"frame {answer.index} is the first answered by version {answer.model.version}",
            )

    def on_sample(self, node: str, sample: SampleRecord, *, size: int) -> None:
        """A sample left a collector; redelivered ones count as bytes, not as samples."""
        key = f"{node}/{sample.stream}"
        self.sample_bytes[key] = self.sample_bytes.get(key, 0) + size
        if sample.id in self._sample_ids:
            return
        self._sample_ids.add(sample.id)
        self.samples[key] = self.samples.get(key, 0) + 1
        if len(self._sample_ids) == 1:
            self.say(sample.time, key, "sample", f"first sample collected: {sample.reason}")

    def on_block(self, provider: str, *, size: int) -> None:
        """A block of a bundle was published by `provider` (``node/service``)."""
        self.block_bytes[provider] = self.block_bytes.get(provider, 0) + size

    def on_store(self, status: StoreStatus) -> None:
        """The retrainer's sample store."""
        self.store = status

    def on_progress(self, progress: TrainingProgress) -> None:
        """A training job goes on."""
        self.rounds.on_progress(progress)
        if self.progress is None or self.progress.job != progress.job:
            text = f"job {_short(progress.job)} starts from version {progress.model.version}"
            self.say(progress.time, _where(progress.source), "training", text)
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
            self.say(result.time, _where(result.source), "training", text)

    def on_candidate(self, candidate: Candidate) -> None:
        """A job's outcome was offered."""
        self.rounds.on_candidate(candidate)

    def on_release(self, release: Release) -> None:
        """The distributor decided what the edges shall serve."""
        self.rounds.on_release(release)
        model = release.bundle.model
        if release.sequence not in self.releases:
            text = f"{model.name} version {model.version} to channel {release.channel}"
            if release.reason:
                text += f" ({release.reason})"
            self.say(release.time, _where(release.source), "release", text)
        self.releases[release.sequence] = release

    def on_rollout(self, status: RolloutStatus) -> None:
        """How far a release has come."""
        before = self.rollout
        self.rollout = status
        done = status.finished is not None and status.total > 0
        fresh = before is None or before.sequence != status.sequence or before.finished is None
        if done and fresh:
            text = f"version {status.release.model.version} serves on {status.converged} edges"
            self.say(status.time, _where(status.source), "converged", text)

    def on_model_status(self, node: str, service: str, status: ModelStatus) -> None:
        """What an edge serves, and how far it is with the next."""
        self.rounds.on_model_status(node, service, status)
        edge = self.edges.setdefault(f"{node}/{service}", EdgeTrack(f"{node}/{service}"))
        before = edge.statuses[-1] if edge.statuses else None
        if before is not None and before.id == status.id:  # retained, after a reconnect
            return
        edge.add(status)
        if status.serving is not None and self.first_model is None:
            self.first_model = status.serving.digest
        if before is not None and before.state == status.state:
            return
        if status.state == "failed":
            self.say(status.time, edge.name, "failed", status.error or "no reason given")
        elif status.state == "updated" and status.serving is not None:
            swap = f", switch {status.swap_ms:.1f} ms" if status.swap_ms is not None else ""
            self.say(
                status.time, edge.name, "updated", f"serves version {status.serving.version}{swap}"
            )

    def on_state(self, node: str, service: str, state: ServiceState) -> None:
        """A service lives, or does not."""
        track = self.services.setdefault(f"{node}/{service}", ServiceTrack())
        before = track.states[-1] if track.states else None
        if before is not None and before.id == state.id:
            return
        track.states.append(state)
        if before is None or before.state != state.state:
            reason = f": {state.reason}" if state.reason else ""
            self.say(state.time, f"{node}/{service}", "state", f"{state.state}{reason}")

    def on_metrics(self, node: str, service: str, metrics: Metrics) -> None:
        """Counters of a service."""
        self.services.setdefault(f"{node}/{service}", ServiceTrack()).metrics = metrics

    def on_dead_letter(self, letter: DeadLetter) -> None:
        """A message that nobody could handle."""
        self.dead_letters.append(letter)
        text = f"{letter.reason} {letter.expected} from {letter.topic}: {letter.error}"
        self.say(letter.time, _where(letter.source), "deadletter", text)

    @property
    def release(self) -> Release | None:
        """The release that counts: the newest."""
        return self.releases[max(self.releases)] if self.releases else None

    @property
    def restarts(self) -> int:
        """How often a service came back in a new process."""
        return sum(
            max(0, len({state.instance for state in track.states}) - 1)
            for track in self.services.values()
        )

    def dead_frames(self, node: str, camera: str) -> int:
        """Frames of a camera that could not be handled."""
        return sum(
            names is not None and names["node"] == node and names["camera"] == camera
            for names in (
                CAMERA_FRAME.parse(letter.topic)
                for letter in self.dead_letters
                if _where(letter.source).endswith("/detector")
            )
        )

    def answered_by_later_version(self, camera: CameraTrack) -> int:
        """Frames of a camera answered by a version later than the run's first."""
        first = self.first_version(camera)
        if first is None or camera.version is None or camera.version <= first:
            return 0
        return sum(
            frame.answer is not None and frame.answer.model.version > first
            for frame in camera.frames.values()
        )

    def first_version(self, camera: CameraTrack) -> int | None:
        """The version that answered the camera's first frame."""
        for frame in camera.frames.values():
            if frame.answer is not None:
                return frame.answer.model.version
        return None

    def converged(self, edge: EdgeTrack) -> bool:
        """Whether an edge serves the newest release."""
        release = self.release
        serving = edge.now.serving
        return (
            release is not None
            and serving is not None
            and serving.digest == release.bundle.model.digest
        )


def _where(source: str) -> str:
    """``node/service`` of a message's source ``site/node/service``."""
    return source.partition("/")[2] or source


def _short(job: str) -> str:
    return job[-8:]


def observer_identity(*, base: str, site: str) -> Identity:
    """Who the observer is on the bus."""
    return Identity(base=base, site=site, node="lab", service="observer")
