"""Alarms where nothing drifts: recordings of real cameras, again and again, and then a drift."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import cycle, islice
from pathlib import Path

import cv2
import numpy as np

from edgebus.artifacts import Bundle
from edgebus.serving import EngineSettings
from edgebus_collector.drift import DriftSettings, DriftWatch
from edgebus_detection import Detection
from edgebus_detection.emulation.drift import EffectName
from edgebus_detection.emulation.effects import Effects
from edgebus_detection.lab.reference_pictures import FIRST_FRAMES
from edgebus_detection.messages import Detections
from edgebus_detection.models import DetectionModel, add_novelty, import_onnx
from edgebus_detection.vision import Image, to_boxes

__all__ = ["EFFECTS", "RECORDINGS", "Quiet", "measure_quiet"]

RECORDINGS = (
    "vtest.avi",
    "one-by-one-person-detection.mp4",
    "person-bicycle-car-detection.mp4",
    "car-detection.mp4",
    "towncentre-5s-1080p.mp4",
)
"""A square with people, a corridor, a car park, a road from above, a shopping street."""

EFFECTS: tuple[EffectName, ...] = ("dusk", "fog", "blur")
"""The planted changes, each at a strength of 0.6."""

_FPS = 10
_LONGEST = 640
_DRIFTED = 150
_PATIENCE = 600
_WHEN = datetime(2026, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Quiet:
    """One recording, looped.

    Attributes:
        frames: Of the recording.
        hours: That it was played for, at 10 frames a second.
        alarms: Of them, by statistic; a return to normal is none.
        late: Those after the second pass.
        delays: Frames from the onset of an effect to the first alarm; None: there was none.
    """

    recording: str
    frames: int
    hours: float
    alarms: dict[str, int]
    late: int
    delays: dict[str, int | None]


def measure_quiet(data: Path, *, work: Path, hours: float) -> list[Quiet]:
    """Loop each recording in front of a collector's drift watch, with its defaults.

    The model is YOLOX-nano, its reference the first frames of the recording, as in `edgebus up`.
    Each effect is planted after two passes and a half.
    """
    plain = import_onnx(
        data / "models" / "yolox_nano_416.onnx", name="yolox-nano", out=work / "plain"
    )
    return [
        _measure(plain, data / "videos" / name, out=work / f"{number}", hours=hours)
        for number, name in enumerate(RECORDINGS)
    ]


def _measure(plain: Bundle, path: Path, *, out: Path, hours: float) -> Quiet:
    frames = list(_frames(path))
    model = DetectionModel.load(
        add_novelty(plain, frames[:FIRST_FRAMES], out=out), EngineSettings(threads=1)
    )
    home = [_answer(model, frame) for frame in frames]
    count = round(hours * 3600 * _FPS)
    told = _told(_watch(), islice(cycle(home), count))
    alarms = {
        name: sum(statistic == name for _, statistic in told) for name in Detection.statistics
    }
    delays: dict[str, int | None] = {}
    for effect in EFFECTS:
        drifted = [_answer(model, frame) for frame in _with(effect, frames)]
        watch = _watch()
        _told(watch, islice(cycle(home), len(home) * 5 // 2))
        after = _told(watch, islice(cycle(drifted), _PATIENCE))
        delays[effect] = min((at for at, _ in after), default=None)
    late = sum(at >= 2 * len(home) for at, _ in told)
    return Quiet(path.name, len(frames), hours, alarms, late, delays)


def _frames(path: Path) -> Iterable[Image]:
    capture = cv2.VideoCapture(str(path))
    while True:
        good, image = capture.read()
        if not good:
            return
        scale = _LONGEST / max(image.shape[:2])
        if scale < 1:
            image = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
        yield np.asarray(image, np.uint8)


def _with(effect: EffectName, frames: Sequence[Image]) -> Iterable[Image]:
    effects = Effects(seed=1)
    for index in range(0, len(frames), max(1, len(frames) // _DRIFTED)):
        yield effects.apply(frames[index], (), {effect: 0.6}, index=index)[0]


def _answer(model: DetectionModel, image: Image) -> Detections:
    height, width = image.shape[:2]
    look = model.predict(image)
    return Detections(
        source="bench/edge/detector", frame="0", camera="quiet", index=0, width=width,
        height=height, boxes=to_boxes(look.found, model.classes), model=model.ref,
        captured=_WHEN, sent=_WHEN, received=_WHEN, detected=_WHEN, novelty=look.novelty,
    )  # fmt: skip


def _watch() -> DriftWatch:
    return DriftWatch(DriftSettings(), Detection.statistics)


def _told(watch: DriftWatch, answers: Iterable[Detections]) -> list[tuple[int, str]]:
    return [
        (at, drift.statistic)
        for at, answer in enumerate(answers)
        for drift in watch.update(answer)
        if not drift.returned
    ]
