"""The figures of `summary.json`, from the state of a run."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Literal, Unpack, get_args

from edgebus.lab import RunFacts, summarize
from edgebus_detection.lab.frame_accounting import count_frames, lives_of, serving_of
from edgebus_detection.lab.frames import CameraFrames, ClassNumbers, FrameEntry, severity_of
from edgebus_detection.lab.state import DetectionState
from edgebus_detection.lab.summary import (
    CameraBytes,
    CameraSummary,
    DetectionBytes,
    DetectionSummary,
    Frames,
    Latency,
    MapFigures,
)
from edgebus_detection.metrics import mean_average_precision

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
    """Share of the accuracy lost to drift that the loop regained; None where none was lost."""
    if before is None or after is None or loop is None or before - after < least:
        return None
    return round((loop - after) / (before - after), 4)


def map_figures(
    frames: Iterable[tuple[Phase, FrameEntry]], classes: ClassNumbers
) -> tuple[MapFigures, MapFigures]:
    """COCO mAP and mAP at IoU .50 per phase."""
    grouped: dict[Phase, list[FrameEntry]] = {phase: [] for phase in PHASES}
    for phase, frame in frames:
        grouped[phase].append(frame)
    figures: dict[str, float | None] = {}
    at50: dict[str, float | None] = {}
    for phase, members in grouped.items():
        figures[phase], at50[phase] = _map(members, classes)
    return _with_recovery(figures), _with_recovery(at50)


def _with_recovery(figures: dict[str, float | None]) -> MapFigures:
    return MapFigures(**figures, recovered=recovered(*(figures[phase] for phase in PHASES)))


def _map(frames: Sequence[FrameEntry], classes: ClassNumbers) -> tuple[float | None, float | None]:
    pairs = [(frame.answer, frame.truth) for frame in frames]
    predictions = [classes.detected(answer.boxes) for answer, _ in pairs if answer is not None]
    truths = [classes.truth(truth.boxes) for _, truth in pairs if truth is not None]
    if not any(len(truth.labels) for truth in truths):
        return None, None
    result = mean_average_precision(predictions, truths, classes.names)
    return round(result.map, 4), round(result.map50, 4)


def build_summary(state: DetectionState, **facts: Unpack[RunFacts]) -> DetectionSummary:
    """All figures of a run."""
    common, cameras, finished = summarize(state, **facts), state.cameras, facts["finished"]
    counts = {key: _count_frames(state, camera, finished) for key, camera in cameras.items()}
    phased = {key: _phased(camera) for key, camera in cameras.items()}
    everything = [pair for pairs in phased.values() for pair in pairs]
    figures, at50 = map_figures(everything, state.classes)
    own = {
        "bytes": DetectionBytes(
            up=common.bytes.up,
            down=common.bytes.down,
            frames=sum(camera.frame_bytes for camera in cameras.values()),
        ),
        "map": figures,
        "map50": at50,
        "frames": _frames(counts.values(), len(everything)),
        "latency": _latency(cameras.values()),
        "cameras": tuple(
            _camera(state, camera, counts[key], phased[key])
            for key, camera in sorted(cameras.items())
        ),
    }
    return DetectionSummary(**{**dict(common), **own})


def frames_by_phase(state: DetectionState) -> dict[Phase, list[FrameEntry]]:
    """The held-out frames of all cameras that belong to a phase."""
    found: dict[Phase, list[FrameEntry]] = {phase: [] for phase in PHASES}
    for _, camera in sorted(state.cameras.items()):
        for phase, frame in _phased(camera):
            found[phase].append(frame)
    return found


def _phased(camera: CameraFrames) -> list[tuple[Phase, FrameEntry]]:
    """The held-out frames of a camera that belong to a phase."""
    first = camera.first_version
    if first is None:
        return []
    final = severity_of(camera.effects)
    return [
        (phase, frame)
        for frame in camera.frames.values()
        if frame.held_out
        and (phase := phase_of(frame, first_version=first, final_severity=final)) is not None
    ]


def _count_frames(state: DetectionState, camera: CameraFrames, end: datetime) -> Frames:
    name = f"{camera.node}/detector"
    edge = state.edges.get(name)
    return count_frames(
        list(camera.frames.values()),
        lives=lives_of(state.services.get(name, ())),
        servings=serving_of(edge.statuses) if edge else [],
        end=end,
        dead_letters=state.dead_frames(camera.node, camera.name),
    )


def _camera(
    state: DetectionState,
    camera: CameraFrames,
    counts: Frames,
    pairs: Sequence[tuple[Phase, FrameEntry]],
) -> CameraSummary:
    figures, at50 = map_figures(pairs, state.classes)
    answers = [frame.answer for frame in camera.frames.values() if frame.answer is not None]
    span = (answers[-1].detected - answers[0].detected).total_seconds() if len(answers) > 1 else 0.0
    return CameraSummary(
        camera=camera.key,
        map=figures,
        map50=at50,
        frames=_frames([counts], len(pairs)),
        latency=_latency([camera]),
        fps=round((len(answers) - 1) / span, 2) if span > 0 else None,
        bytes=CameraBytes(up=state.sample_bytes.get(camera.key, 0), frames=camera.frame_bytes),
        versions=tuple(dict.fromkeys(answer.model.version for answer in answers)),
    )


def _frames(counts: Iterable[Frames], held_out: int) -> Frames:
    every = list(counts)
    names = Frames.model_fields.keys() - {"held_out"}
    return Frames(
        **{name: sum(getattr(count, name) for count in every) for name in names},
        held_out=held_out,
    )


def _latency(cameras: Iterable[CameraFrames]) -> Latency:
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
