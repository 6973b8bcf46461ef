"""From what was on the bus to the figures of `summary.json`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Literal, get_args

from edgebus.contracts import Release
from edgebus_detection.lab.frame_accounting import Account, account, lives_of, serving_of
from edgebus_detection.lab.frames import CameraTrack, FrameEntry, LabelBook, severity_of
from edgebus_detection.lab.run_state import Tracker
from edgebus_detection.lab.summary import (
    Bytes,
    CameraSummary,
    Edges,
    EdgeSummary,
    Frames,
    Latency,
    MapFigures,
    ModelSummary,
    Seconds,
    Summary,
    TrainingSummary,
)
from edgebus_detection.metrics import mean_average_precision

__all__ = ["Phase", "build_summary", "map_figures", "phase_of", "recovered"]

Phase = Literal["before_drift", "after_drift", "after_loop"]
PHASES: tuple[Phase, ...] = get_args(Phase)

_FULL = 0.98
"""Share of the final strength from which an effect counts as being there in full."""


def phase_of(frame: FrameEntry, *, first_version: int, final_severity: float) -> Phase | None:
    """The phase of the loop that a frame was answered in, or None between two phases.

    Args:
        frame: The frame.
        first_version: Version that the run began with.
        final_severity: Strength of the scripted drift at the end of the run, 0 without a script.
    """
    if frame.answer is None or frame.truth is None:
        return None
    severity = severity_of(frame.truth.effects)
    later = frame.answer.model.version > first_version
    if final_severity > 0 and severity == 0:
        return None if later else "before_drift"
    if severity >= final_severity * _FULL:
        return "after_loop" if later else "after_drift"
    return None


def recovered(
    before: float | None, after: float | None, loop: float | None, *, least: float = 0.01
) -> float | None:
    """The share of what drift cost that the loop won back; None where drift cost nothing."""
    if before is None or after is None or loop is None or before - after < least:
        return None
    return round((loop - after) / (before - after), 4)


def map_figures(
    frames: Iterable[tuple[Phase, FrameEntry]], book: LabelBook
) -> tuple[MapFigures, MapFigures]:
    """COCO mAP and mAP at IoU .50 per phase."""
    grouped: dict[Phase, list[FrameEntry]] = {phase: [] for phase in PHASES}
    for phase, frame in frames:
        grouped[phase].append(frame)
    figures: dict[str, float | None] = {}
    at50: dict[str, float | None] = {}
    for phase, members in grouped.items():
        figures[phase], at50[phase] = _map(members, book)
    return _with_recovery(figures), _with_recovery(at50)


def _with_recovery(figures: dict[str, float | None]) -> MapFigures:
    return MapFigures(**figures, recovered=recovered(*(figures[phase] for phase in PHASES)))


def _map(frames: Sequence[FrameEntry], book: LabelBook) -> tuple[float | None, float | None]:
    pairs = [(frame.answer, frame.truth) for frame in frames]
    predictions = [book.detected(answer.boxes) for answer, _ in pairs if answer is not None]
    truths = [book.truth(truth.boxes) for _, truth in pairs if truth is not None]
    if not any(len(truth.labels) for truth in truths):
        return None, None
    result = mean_average_precision(predictions, truths, book.names)
    return round(result.map, 4), round(result.map50, 4)


def build_summary(
    tracker: Tracker,
    *,
    name: str,
    started: datetime,
    finished: datetime,
    closed: bool,
    outcome: str,
) -> Summary:
    """All figures of a run."""
    books = {key: _account(tracker, camera, finished) for key, camera in tracker.cameras.items()}
    phased = {key: _phased(tracker, camera) for key, camera in tracker.cameras.items()}
    everything = [pair for pairs in phased.values() for pair in pairs]
    figures, at50 = map_figures(everything, tracker.book)
    converged = [tracker.converged(edge) for edge in tracker.edges.values()]
    return Summary(
        name=name,
        started=started,
        finished=finished,
        closed=closed,
        outcome=outcome,
        model=_model(tracker),
        map=figures,
        map50=at50,
        frames=_total_frames(books.values(), len(everything)),
        latency=_latency(tracker.cameras.values()),
        edges=Edges(total=len(converged), converged=sum(converged)),
        bytes=Bytes(
            up=sum(tracker.sample_bytes.values()),
            down=_down(tracker),
            frames=sum(camera.frame_bytes for camera in tracker.cameras.values()),
        ),
        seconds=_seconds(tracker, started, finished),
        cameras=tuple(
            _camera(tracker, camera, books[key], phased[key])
            for key, camera in sorted(tracker.cameras.items())
        ),
        nodes=tuple(
            EdgeSummary(
                edge=edge.name,
                version=edge.now.serving.version if edge.now.serving else None,
                state=edge.now.state,
                converged=tracker.converged(edge),
                received_bytes=edge.received_bytes,
                swap_ms=next((s.swap_ms for s in reversed(edge.statuses) if s.swap_ms), None),
            )
            for _, edge in sorted(tracker.edges.items())
        ),
        trainings=tuple(
            TrainingSummary(
                job=result.job,
                outcome=result.outcome,
                reason=result.reason,
                trigger=result.trigger,
                samples=result.samples,
                replay=result.replay,
                update_bytes=result.update_bytes,
                seconds=result.seconds,
                gate=result.gate,
            )
            for result in sorted(tracker.results.values(), key=lambda result: result.started)
        ),
        dead_letters=len(tracker.dead_letters),
        restarts=tracker.restarts,
    )


def _phased(tracker: Tracker, camera: CameraTrack) -> list[tuple[Phase, FrameEntry]]:
    """The held-out frames of a camera that belong to a phase."""
    first = tracker.first_version(camera)
    if first is None:
        return []
    final = severity_of(camera.effects)
    pairs: list[tuple[Phase, FrameEntry]] = []
    for frame in camera.frames.values():
        if not frame.held_out:
            continue
        phase = phase_of(frame, first_version=first, final_severity=final)
        if phase is not None:
            pairs.append((phase, frame))
    return pairs


def _account(tracker: Tracker, camera: CameraTrack, end: datetime) -> Account:
    name = f"{camera.node}/detector"
    service, edge = tracker.services.get(name), tracker.edges.get(name)
    return account(
        list(camera.frames.values()),
        lives=lives_of(service.states) if service else [],
        servings=serving_of(edge.statuses) if edge else [],
        end=end,
        dead_letters=tracker.dead_frames(camera.node, camera.name),
    )


def _camera(
    tracker: Tracker,
    camera: CameraTrack,
    book: Account,
    pairs: Sequence[tuple[Phase, FrameEntry]],
) -> CameraSummary:
    figures, at50 = map_figures(pairs, tracker.book)
    answers = [frame.answer for frame in camera.frames.values() if frame.answer is not None]
    span = (answers[-1].detected - answers[0].detected).total_seconds() if len(answers) > 1 else 0.0
    return CameraSummary(
        camera=camera.key,
        map=figures,
        map50=at50,
        frames=_frames(book, len(pairs)),
        latency=_latency([camera]),
        fps=round((len(answers) - 1) / span, 2) if span > 0 else None,
        bytes=Bytes(up=tracker.sample_bytes.get(camera.key, 0), frames=camera.frame_bytes),
        versions=tuple(dict.fromkeys(answer.model.version for answer in answers)),
    )


def _frames(book: Account, held_out: int) -> Frames:
    return Frames(
        total=book.total,
        answered=book.answered,
        dropped=book.dropped,
        dropped_in_swap=book.dropped_in_swap,
        unserved=book.unserved,
        failed=book.failed,
        torn=book.torn,
        held_out=held_out,
    )


def _total_frames(books: Iterable[Account], held_out: int) -> Frames:
    every = list(books)
    names = ("total", "answered", "dropped", "dropped_in_swap", "unserved", "failed", "torn")
    return Frames(
        **{name: sum(getattr(book, name) for book in every) for name in names}, held_out=held_out
    )


def _latency(cameras: Iterable[CameraTrack]) -> Latency:
    values = sorted(
        (frame.answer.detected - frame.answer.captured).total_seconds() * 1e3
        for camera in cameras
        for frame in camera.frames.values()
        if frame.answer is not None
    )
    if not values:
        return Latency()
    last = len(values) - 1
    return Latency(
        p50_ms=round(values[last // 2], 2),
        p95_ms=round(values[int(last * 0.95)], 2),
        max_ms=round(values[last], 2),
    )


def _down(tracker: Tracker) -> int:
    """Bytes of blocks to the edges; what a retrainer hands to a distributor stays in the cloud."""
    providers = {_provider(release) for release in tracker.releases.values()}
    return sum(size for name, size in tracker.block_bytes.items() if name in providers)


def _provider(release: Release) -> str:
    return release.bundle.provider.partition("/")[2]


def _model(tracker: Tracker) -> ModelSummary | None:
    first = [tracker.first_version(camera) for camera in tracker.cameras.values()]
    versions = [version for version in first if version is not None]
    served = [edge.now.serving for edge in tracker.edges.values() if edge.now.serving is not None]
    if not versions or not served:
        return None
    accepted = [result for result in tracker.results.values() if result.outcome == "accepted"]
    return ModelSummary(
        name=served[0].name,
        first_version=min(versions),
        last_version=max(model.version for model in served),
        update_bytes=accepted[-1].update_bytes if accepted else 0,
        bundle_bytes=tracker.release.bundle.size if tracker.release else 0,
    )


def _seconds(tracker: Tracker, started: datetime, finished: datetime) -> Seconds:
    """Stages of the first loop that closed: its accepted job, its release, its convergence."""
    captured = [
        frame.captured
        for camera in tracker.cameras.values()
        for frame in list(camera.frames.values())[:1]
    ]
    first = min(captured, default=None)
    drift = tracker.drift_at
    if drift is not None and first is not None and (drift - first).total_seconds() < 0.5:
        drift = None  # it was there from the first frame
    job = min(
        (result for result in tracker.results.values() if result.outcome == "accepted"),
        key=lambda result: result.started,
        default=None,
    )
    candidate = job.candidate.digest if job and job.candidate else None
    release = next(
        (
            release
            for _, release in sorted(tracker.releases.items())
            if release.bundle.model.digest == candidate
        ),
        None,
    )
    at = _converged_at(tracker, release)
    return Seconds(
        total=round((finished - started).total_seconds(), 2),
        until_drift=_between(first, drift),
        collecting=_between(drift or first, job.started if job else None),
        training=_between(job.started, job.time) if job else None,
        releasing=_between(job.time, release.time) if job and release else None,
        delivering=_between(release.time, at) if release else None,
        measuring=_between(at, finished),
    )


def _converged_at(tracker: Tracker, release: Release | None) -> datetime | None:
    """When the last edge began to serve a release; None while one does not."""
    if release is None or not tracker.edges:
        return None
    times: list[datetime] = []
    for edge in tracker.edges.values():
        since = next(
            (
                status.since or status.time
                for status in edge.statuses
                if status.serving and status.serving.digest == release.bundle.model.digest
            ),
            None,
        )
        if since is None:
            return None
        times.append(since)
    return max(times)


def _between(start: datetime | None, end: datetime | None) -> float | None:
    if start is None or end is None:
        return None
    return round((end - start).total_seconds(), 2)
