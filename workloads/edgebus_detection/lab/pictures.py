"""Before-and-after pictures: by condition in a scripted run, of one and the same picture else."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Literal, cast

import numpy as np

from edgebus.contracts import split_of
from edgebus_detection.lab.frames import CameraFrames, FrameEntry, severity_of
from edgebus_detection.lab.measure import PHASES, Phase, phase_of
from edgebus_detection.lab.state import DetectionState
from edgebus_detection.messages import Box
from edgebus_detection.vision import (
    Image,
    ImageError,
    Style,
    caption,
    decode_picture,
    draw_boxes,
    encode_jpeg,
    match_boxes,
)

_WAITING = 64
"""Pictures kept per camera until their detections come."""
_SCORE = 0.4
"""Detections below this are not drawn."""
_FIRST_PASS = 20_000
"""Pictures of a camera's first pass that are recognised later."""
_PAIRS = 3
"""Pictures of a camera that are shown twice."""
_APART = 20
"""Frames between two of them at least, so that they show different moments."""
_WORST = 3
"""Pictures of each kind of mistake that are kept."""
_MISSED, _FALSE = (203, 192, 255), (60, 60, 255)
_TITLES: dict[Phase, str] = {
    "before_drift": "before drift",
    "after_drift": "after drift, old model",
    "after_loop": "after the loop, new model",
}
_PAIR_TITLES: dict[Phase, str] = {"after_drift": "old model", "after_loop": "new model"}

Cell = tuple[Phase, FrameEntry, bytes]
Again = Callable[[CameraFrames, FrameEntry, bytes], FrameEntry | None]


@dataclass(frozen=True, slots=True)
class SavedPicture:
    """One kept picture."""

    camera: str
    phase: Phase
    path: Path
    row: int = 0


@dataclass(frozen=True, slots=True)
class PicturePair:
    """The same picture, answered by the first model and by a later one."""

    before: FrameEntry
    after: FrameEntry
    jpeg: bytes
    objects: int


@dataclass(frozen=True, slots=True)
class Mistake:
    """A held-out picture with something that the newest model missed, or saw where nothing is.

    Attributes:
        kind: What is wrong with it.
        weight: How bad: the area of the largest miss, or the score of the surest false alarm.
        boxes: The misses, or the false alarms.
    """

    kind: Literal["miss", "false alarm"]
    weight: float
    boxes: tuple[Box, ...]
    entry: FrameEntry
    jpeg: bytes


class PictureKeeper:
    """A store of before-and-after pictures, all of them held out from training.

    Per camera, version and severity of drift it is the picture with the most objects. Where a
    recording repeats, it is also pictures that both the first model and a later one answered. The
    choice looks at the ground truth (without it, at the number of detections, of both models
    together) and never at how well a model did, so it flatters none. Beside these it keeps the
    worst mistakes of the newest version.
    """

    def __init__(self) -> None:
        self._waiting: dict[str, OrderedDict[str, bytes]] = {}
        self._best: dict[tuple[str, int, int], tuple[int, FrameEntry, bytes]] = {}
        self._first_pass: dict[str, dict[bytes, FrameEntry]] = {}
        self._pairs: dict[str, list[PicturePair]] = {}
        self._mistakes: dict[str, list[Mistake]] = {}

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
        # Fine steps: a frame of the ramp belongs to no phase and must not replace one that does.
        key = (camera.key, entry.answer.model.version, round(severity * 1000))
        kept = self._best.get(key)
        # Equal counts: the newer one, so that a run's pictures come from all of its length.
        if kept is None or objects >= kept[0]:
            self._best[key] = (objects, entry, jpeg)
        self._compare(camera, entry, jpeg)
        self._judge(camera, entry, jpeg)

    def mistakes(self, camera: str) -> list[Mistake]:
        """The worst misses of a camera's newest version, then its worst false alarms."""
        kept = self._mistakes.get(camera, ())
        return sorted(kept, key=lambda one: (one.kind != "miss", -one.weight))

    def pairs(self, camera: str) -> list[PicturePair]:
        """Pictures that two versions answered, in the order of the recording."""
        return sorted(self._pairs.get(camera, ()), key=lambda pair: pair.before.index)

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

    def _judge(self, camera: CameraFrames, entry: FrameEntry, jpeg: bytes) -> None:
        """Keep the picture if it shows one of the worst mistakes of its version."""
        if entry.answer is None or entry.truth is None:
            return
        version = entry.answer.model.version
        kept = [
            one
            for one in self._mistakes.get(camera.key, ())
            if one.entry.answer and one.entry.answer.model.version >= version
        ]
        if any(one.entry.answer and one.entry.answer.model.version > version for one in kept):
            return
        said = [box for box in entry.answer.boxes if (box.score or 0) >= _SCORE]
        matching = match_boxes(said, entry.truth.boxes, min_iou=0.5)
        found = [
            Mistake(
                "miss", max(map(_area, matching.misses), default=0), matching.misses, entry, jpeg
            ),
            Mistake(
                "false alarm",
                max((box.score or 0 for box in matching.false_alarms), default=0),
                matching.false_alarms,
                entry,
                jpeg,
            ),
        ]
        for one in found:
            if one.boxes:
                kept = _worst(kept, one)
        self._mistakes[camera.key] = kept

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
        pairs = self._pairs.setdefault(camera.key, [])
        pair = PicturePair(before, entry, jpeg, _objects(before) + _objects(entry))
        near = [t for t in pairs if abs(t.before.index - before.index) < _APART]
        if any(other.objects > pair.objects for other in near):
            return
        kept = sorted([t for t in pairs if t not in near] + [pair], key=lambda t: -t.objects)
        self._pairs[camera.key] = kept[:_PAIRS]


def write_pictures(
    keeper: PictureKeeper, state: DetectionState, folder: Path, *, again: Again | None = None
) -> list[SavedPicture]:
    """Draw detections (and, thin, the ground truth) on the kept pictures.

    Args:
        keeper: Has the pictures.
        state: Of the run.
        folder: Where they are written.
        again: Asks the model that a camera began with once more: the picture from after the loop
            is then shown with both models. Without it, the old model's is another moment.

    Returns:
        The single pictures, by camera and phase; beside them lies one picture per row.
    """
    chosen = keeper.choose(state)
    saved: list[SavedPicture] = []
    for camera in sorted({key for key, _ in chosen}):
        # A scripted run has a picture from before the drift too.
        pairs = [] if (camera, "before_drift") in chosen else keeper.pairs(camera)
        rows: list[list[Cell]] = [
            [("after_drift", pair.before, pair.jpeg), ("after_loop", pair.after, pair.jpeg)]
            for pair in pairs
        ]
        same = bool(pairs)
        if not pairs:
            cells = {phase: chosen[camera, phase] for phase in PHASES if (camera, phase) in chosen}
            if again is not None and "after_loop" in cells:
                entry, jpeg = cells["after_loop"]
                before = again(state.cameras[camera], entry, jpeg)
                if before is not None:
                    cells = {**cells, "after_drift": (before, jpeg)}
                    same = True
            rows = [[(phase, *cells[phase]) for phase in PHASES if phase in cells]]
        for number, row in enumerate(rows):
            saved += _write_row(folder, camera, number, row, same=same)
    return saved


def write_mistakes(
    keeper: PictureKeeper, state: DetectionState, folder: Path
) -> list[tuple[str, Path]]:
    """Draw the worst mistakes of each camera's newest model.

    Returns:
        What each picture shows, and its file.
    """
    saved = []
    for key in sorted(state.cameras):
        for number, one in enumerate(keeper.mistakes(key), 1):
            try:
                drawn = _annotate_mistake(one, decode_picture(one.jpeg), key)
            except ImageError:
                continue
            path = folder / f"{key.replace('/', '-')}-mistake-{number}.jpg"
            folder.mkdir(parents=True, exist_ok=True)
            path.write_bytes(encode_jpeg(drawn, quality=85))
            labels = ", ".join(sorted({box.label for box in one.boxes}))
            saved.append((f"{key}, frame {one.entry.index}: {one.kind} of {labels}", path))
    return saved


def _write_row(
    folder: Path, camera: str, number: int, cells: Sequence[Cell], *, same: bool
) -> list[SavedPicture]:
    scripted = any(phase == "before_drift" for phase, _, _ in cells)
    titles = _TITLES | (_PAIR_TITLES if same or not scripted else {})
    if not same and len(cells) > 1:
        titles["after_drift"] += ", another frame"
    suffix = f"-{number + 1}" if number else ""
    name = camera.replace("/", "-")
    saved: list[SavedPicture] = []
    row: list[Image] = []
    for phase, entry, jpeg in cells:
        try:
            drawn = _annotate(entry, decode_picture(jpeg), titles[phase], camera)
        except ImageError:  # a broken frame is reported as a dead letter
            continue
        path = folder / f"{name}-{phase.replace('_', '-')}{suffix}.jpg"
        folder.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode_jpeg(drawn, quality=90))
        saved.append(SavedPicture(camera, phase, path, number))
        row.append(drawn)
    if len(row) > 1 and len({image.shape for image in row}) == 1:
        joined = cast("Image", np.concatenate(row, axis=1))
        (folder / f"{name}-row{suffix}.jpg").write_bytes(encode_jpeg(joined, quality=90))
    return saved


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


def _annotate_mistake(one: Mistake, image: Image, camera: str) -> Image:
    """The picture with its mistakes alone."""
    answer = one.entry.answer
    version = "" if answer is None else f"v{answer.model.version}"
    color = _MISSED if one.kind == "miss" else _FALSE
    image = draw_boxes(image, one.boxes, style=Style(color=color))
    return caption(image, one.kind, detail=f"{camera}  {version}  frame {one.entry.index}")


def _worst(kept: list[Mistake], new: Mistake) -> list[Mistake]:
    """The mistakes with one more, at most so many of its kind, each of another moment."""
    others = [one for one in kept if one.kind != new.kind]
    kind = [one for one in kept if one.kind == new.kind]
    near = [one for one in kind if abs(one.entry.index - new.entry.index) < _APART]
    if any(one.weight >= new.weight for one in near):
        return kept
    kind = [one for one in kind if one not in near] + [new]
    return others + sorted(kind, key=lambda one: -one.weight)[:_WORST]


def _area(box: Box) -> float:
    return (box.x2 - box.x1) * (box.y2 - box.y1)


def _objects(entry: FrameEntry) -> int:
    if entry.truth is not None:
        return len(entry.truth.boxes)
    boxes = entry.answer.boxes if entry.answer is not None else ()
    return sum((box.score or 0) >= _SCORE for box in boxes)


def _digest(jpeg: bytes) -> bytes:
    """Of the picture without its record, which comes first and differs with each frame."""
    record = 2 + int.from_bytes(jpeg[4:6], "big") if jpeg[2:4] == b"\xff\xfe" else 0
    return blake2b(jpeg[2 + record :], digest_size=16).digest()
