"""Before-and-after pictures: by condition in a scripted run, of one and the same picture else."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import cast

import numpy as np

from edgebus.contracts import split_of
from edgebus_detection.lab.frames import CameraFrames, FrameEntry, severity_of
from edgebus_detection.lab.measure import PHASES, Phase, phase_of
from edgebus_detection.lab.state import DetectionState
from edgebus_detection.vision import (
    Image,
    ImageError,
    Style,
    caption,
    decode_jpeg,
    draw_boxes,
    encode_jpeg,
)

__all__ = ["PictureKeeper", "Shot", "Twin", "write_pictures"]

_WAITING = 64
"""Pictures kept per camera until their detections come."""
_SCORE = 0.4
"""Detections below this are not drawn."""
_FIRST_PASS = 20_000
"""Pictures of a camera's first pass that are recognised later."""
_TWINS = 3
"""Pictures of a camera that are shown twice."""
_APART = 20
"""Frames between two of them at least, so that they show different moments."""
_TITLES: dict[Phase, str] = {
    "before_drift": "before drift",
    "after_drift": "after drift, old model",
    "after_loop": "after the loop, new model",
}
_TWIN_TITLES: dict[Phase, str] = {"after_drift": "old model", "after_loop": "new model"}

Cell = tuple[Phase, FrameEntry, bytes]


@dataclass(frozen=True, slots=True)
class Shot:
    """One kept picture."""

    camera: str
    phase: Phase
    path: Path
    row: int = 0


@dataclass(frozen=True, slots=True)
class Twin:
    """The same picture, answered by the first model and by a later one."""

    before: FrameEntry
    after: FrameEntry
    jpeg: bytes
    objects: int


class PictureKeeper:
    """Keeps pictures that show what changed, all of them held out from training.

    Per camera, version and severity of drift it is the picture with the most objects. Where a
    recording repeats, it is also pictures that both the first model and a later one answered. The
    choice looks at the ground truth (without it, at the number of detections, of both models
    together) and never at how well a model did, so it flatters none.
    """

    def __init__(self) -> None:
        self._waiting: dict[str, OrderedDict[str, bytes]] = {}
        self._best: dict[tuple[str, int, int], tuple[int, FrameEntry, bytes]] = {}
        self._first_pass: dict[str, dict[bytes, FrameEntry]] = {}
        self._twins: dict[str, list[Twin]] = {}

    def add_frame(self, camera: str, identifier: str, jpeg: bytes) -> None:
        """Keep a picture until its detections come."""
        waiting = self._waiting.setdefault(camera, OrderedDict())
        waiting[identifier] = jpeg
        if len(waiting) > _WAITING:
            waiting.popitem(last=False)

    def add_answer(self, camera: CameraFrames, identifier: str) -> None:
        """Keep a picture, or forget it, now that its detections came."""
        jpeg = self._waiting.get(camera.key, OrderedDict()).pop(identifier, None)
        entry = camera.frames.get(identifier)
        if jpeg is None or entry is None or entry.answer is None:
            return
        if split_of(camera.name, entry.index) != "holdout":
            return
        severity = severity_of(entry.truth.effects) if entry.truth else 0.0
        objects = len(entry.truth.boxes) if entry.truth else len(entry.answer.boxes)
        key = (camera.key, entry.answer.model.version, round(severity * 10))
        kept = self._best.get(key)
        # Equal counts: the newer one, so that a run's pictures come from all of its length.
        if kept is None or objects >= kept[0]:
            self._best[key] = (objects, entry, jpeg)
        self._compare(camera, entry, jpeg)

    def twins(self, camera: str) -> list[Twin]:
        """Pictures that two versions answered, in the order of the recording."""
        return sorted(self._twins.get(camera, ()), key=lambda twin: twin.before.index)

    def choose(self, state: DetectionState) -> dict[tuple[str, Phase], tuple[FrameEntry, bytes]]:
        """The kept picture of each camera and phase; of several versions, the newest."""
        chosen: dict[tuple[str, Phase], tuple[FrameEntry, bytes]] = {}
        for (key, _version, _severity), (_, entry, jpeg) in sorted(
            self._best.items(), key=lambda item: item[0]
        ):
            camera = state.cameras.get(key)
            first = camera.first_version if camera else None
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

    def _compare(self, camera: CameraFrames, entry: FrameEntry, jpeg: bytes) -> None:
        """Look whether another version answered the same picture before."""
        if entry.answer is None:
            return
        seen = self._first_pass.setdefault(camera.key, {})
        digest = _digest(jpeg)
        before = seen.get(digest)
        if before is None or before.answer is None:
            if len(seen) < _FIRST_PASS:
                seen[digest] = entry
            return
        if entry.answer.model.version <= before.answer.model.version:
            return
        twins = self._twins.setdefault(camera.key, [])
        twin = Twin(before, entry, jpeg, _objects(before) + _objects(entry))
        near = [t for t in twins if abs(t.before.index - before.index) < _APART]
        if any(other.objects > twin.objects for other in near):
            return
        kept = sorted([t for t in twins if t not in near] + [twin], key=lambda t: -t.objects)
        self._twins[camera.key] = kept[:_TWINS]


def write_pictures(keeper: PictureKeeper, state: DetectionState, folder: Path) -> list[Shot]:
    """Draw detections (and, thin, what is really there) on the kept pictures.

    Returns:
        The single pictures, by camera and phase; beside them lies one picture per row.
    """
    chosen = keeper.choose(state)
    shots: list[Shot] = []
    for camera in sorted({key for key, _ in chosen}):
        # Scripted drift has more to tell than two versions: what it was like before.
        twins = [] if (camera, "before_drift") in chosen else keeper.twins(camera)
        rows: list[list[Cell]] = [
            [("after_drift", twin.before, twin.jpeg), ("after_loop", twin.after, twin.jpeg)]
            for twin in twins
        ]
        if not twins:
            phases = [phase for phase in PHASES if (camera, phase) in chosen]
            rows = [[(phase, *chosen[camera, phase]) for phase in phases]]
        for number, cells in enumerate(rows):
            shots += _write_row(folder, camera, number, cells, twins=bool(twins))
    return shots


def _write_row(
    folder: Path, camera: str, number: int, cells: Sequence[Cell], *, twins: bool
) -> list[Shot]:
    titles = _TWIN_TITLES if twins else _TITLES
    suffix = f"-{number + 1}" if number else ""
    name = camera.replace("/", "-")
    shots: list[Shot] = []
    row: list[Image] = []
    for phase, entry, jpeg in cells:
        try:
            drawn = _annotate(entry, decode_jpeg(jpeg), titles[phase], camera)
        except ImageError:  # a broken frame is no picture; its dead letter tells of it
            continue
        path = folder / f"{name}-{phase.replace('_', '-')}{suffix}.jpg"
        folder.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode_jpeg(drawn, quality=90))
        shots.append(Shot(camera, phase, path, number))
        row.append(drawn)
    if len(row) > 1 and len({image.shape for image in row}) == 1:
        joined = cast("Image", np.concatenate(row, axis=1))
        (folder / f"{name}-row{suffix}.jpg").write_bytes(encode_jpeg(joined, quality=90))
    return shots


def _annotate(entry: FrameEntry, image: Image, title: str, camera: str) -> Image:
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
    return caption(image, title, detail=f"{camera}  v{version}")


def _objects(entry: FrameEntry) -> int:
    if entry.truth is not None:
        return len(entry.truth.boxes)
    boxes = entry.answer.boxes if entry.answer is not None else ()
    return sum((box.score or 0) >= _SCORE for box in boxes)


def _digest(jpeg: bytes) -> bytes:
    """Of the picture without its record, which comes first and differs with each frame."""
    record = 2 + int.from_bytes(jpeg[4:6], "big") if jpeg[2:4] == b"\xff\xfe" else 0
    return blake2b(jpeg[2 + record :], digest_size=16).digest()
