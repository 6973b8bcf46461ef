"""Before-and-after pictures: the fullest frame of each camera by model version and condition."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np

from edgebus.lab.frames import CameraTrack, FrameEntry, severity_of
from edgebus.lab.measure import PHASES, Phase, phase_of
from edgebus.lab.track import Tracker
from edgebus.vision import (
    Image,
    ImageError,
    Style,
    caption,
    decode_jpeg,
    draw_boxes,
    encode_jpeg,
)

__all__ = ["PictureKeeper", "Shot", "write_pictures"]

_WAITING = 64
"""Pictures kept per camera until their detections come."""
_SCORE = 0.4
"""Detections below this are not drawn."""
_TITLES: dict[Phase, str] = {
    "before_drift": "before drift",
    "after_drift": "after drift, old model",
    "after_loop": "after the loop, new model",
}


@dataclass(frozen=True, slots=True)
class Shot:
    """One kept picture."""

    camera: str
    phase: Phase
    path: Path


class PictureKeeper:
    """Keeps, per camera, version and severity, the picture with the most objects.

    The choice looks at the ground truth (without it, at the number of detections) and never at
    how well a model did, so it flatters none.
    """

    def __init__(self) -> None:
        self._waiting: dict[str, OrderedDict[str, bytes]] = {}
        self._best: dict[tuple[str, int, int], tuple[int, FrameEntry, bytes]] = {}

    def frame(self, camera: str, identifier: str, jpeg: bytes) -> None:
        """A picture came; its detections follow."""
        waiting = self._waiting.setdefault(camera, OrderedDict())
        waiting[identifier] = jpeg
        if len(waiting) > _WAITING:
            waiting.popitem(last=False)

    def answered(self, camera: CameraTrack, identifier: str) -> None:
        """The detections of a picture came."""
        jpeg = self._waiting.get(camera.key, OrderedDict()).pop(identifier, None)
        entry = camera.frames.get(identifier)
        if jpeg is None or entry is None or entry.answer is None:
            return
        severity = severity_of(entry.truth.effects) if entry.truth else 0.0
        objects = len(entry.truth.boxes) if entry.truth else len(entry.answer.boxes)
        key = (camera.key, entry.answer.model.version, round(severity * 10))
        kept = self._best.get(key)
        # Equal counts: the newer one, so that a run's pictures come from all of its length.
        if kept is None or objects >= kept[0]:
            self._best[key] = (objects, entry, jpeg)

    def choose(self, tracker: Tracker) -> dict[tuple[str, Phase], tuple[FrameEntry, bytes]]:
        """The kept picture of each camera and phase; of several versions, the newest."""
        chosen: dict[tuple[str, Phase], tuple[FrameEntry, bytes]] = {}
        for (key, _version, _severity), (_, entry, jpeg) in sorted(
            self._best.items(), key=lambda item: item[0]
        ):
            camera = tracker.cameras.get(key)
            first = tracker.first_version(camera) if camera else None
            if camera is None or first is None or entry.answer is None:
                continue
            phase: Phase | None
            if entry.truth is None:
                phase = "after_loop" if entry.answer.model.version > first else "after_drift"
            else:
                phase = phase_of(
                    entry, first_version=first, final_severity=severity_of(camera.effects)
                )
            if phase is not None:
                chosen[key, phase] = (entry, jpeg)
        return chosen


def write_pictures(keeper: PictureKeeper, tracker: Tracker, folder: Path) -> list[Shot]:
    """Draw detections (and, thin, what is really there) on the kept pictures.

    Returns:
        The single pictures, by camera and phase; beside them lies one row per camera.
    """
    chosen = keeper.choose(tracker)
    shots: list[Shot] = []
    for camera in sorted({key for key, _ in chosen}):
        row: list[Image] = []
        for phase in PHASES:
            if (camera, phase) not in chosen:
                continue
            entry, jpeg = chosen[camera, phase]
            try:
                drawn = _annotate(entry, decode_jpeg(jpeg), phase, camera)
            except ImageError:  # a broken frame is no picture; its dead letter tells of it
                continue
            path = folder / f"{camera.replace('/', '-')}-{phase.replace('_', '-')}.jpg"
            folder.mkdir(parents=True, exist_ok=True)
            path.write_bytes(encode_jpeg(drawn, quality=90))
            shots.append(Shot(camera, phase, path))
            row.append(drawn)
        if len(row) > 1 and len({image.shape for image in row}) == 1:
            joined = cast("Image", np.concatenate(row, axis=1))
            name = f"{camera.replace('/', '-')}-row.jpg"
            (folder / name).write_bytes(encode_jpeg(joined, quality=90))
    return shots


def _annotate(entry: FrameEntry, image: Image, phase: Phase, camera: str) -> Image:
    if entry.answer is None:
        return image
    scale_side = max(image.shape[:2])
    side = 640 if scale_side < 640 else 0
    if entry.truth is not None:
        thin = Style(min_side=side, labels=False, line="corners", color=(255, 255, 255))
        image = draw_boxes(image, entry.truth.boxes, style=thin)
    factor = image.shape[1] / entry.answer.width
    boxes = [
        box.model_copy(
            update={name: getattr(box, name) * factor for name in ("x1", "y1", "x2", "y2")}
        )
        for box in entry.answer.boxes
        if (box.score or 0) >= _SCORE
    ]
    image = draw_boxes(image, boxes, style=Style(min_side=0))
    version = entry.answer.model.version
    return caption(image, _TITLES[phase], detail=f"{camera}  v{version}")
