"""What the loop is let loose on: a camera's frames in order, and what they are judged by.

* ``dusk``: a street of the emulated camera by day, then dusk falls; the model and all settings of
  the demo. The old domain is the same street by day.
* ``infrared``: real street cameras that have turned to infrared (LLVIP), YOLOX-nano; settings as
  `edgebus up --source` makes them. The old domain is COCO.
* ``car park``: a recording from above, YOLOX-nano; settings and old domain likewise.

What is held out (`split_of`) shows nothing that is trained on: other moments of the street, other
pictures of LLVIP, other blocks of the recording. Seeds 0, 1 and 2 hold out different ones.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import count, cycle
from pathlib import Path
from random import Random

import cv2
import numpy as np

from benchmarks._learning_settings import CAR_PARK, brought, of_demo
from benchmarks._learning_streams import (
    Picture,
    frame_id,
    read_picture,
    read_video,
    read_yolo,
)
from edgebus.artifacts import Bundle
from edgebus.contracts import split_of
from edgebus.serving import EngineSettings
from edgebus_camera.settings import ViewSettings
from edgebus_camera.sources import StreetSource
from edgebus_camera.view import View
from edgebus_collector import CollectorSettings
from edgebus_detection.datasets import LabelBuilder, Labelled, ignore_rare, read_folder
from edgebus_detection.emulation.drift import DriftStep
from edgebus_detection.emulation.effects import Effects
from edgebus_detection.emulation.street import Scene
from edgebus_detection.messages import Box, Detections, Frame, FrameRecord, GroundTruth
from edgebus_detection.mining import Example
from edgebus_detection.models import DetectionModel, detection_spec
from edgebus_detection.vision import encode_jpeg, to_boxes
from edgebus_retrainer.settings import RetrainerSettings

__all__ = [
    "FPS",
    "WORLDS",
    "World",
    "car_park_camera",
    "infrared_split",
    "make_world",
]

FPS = 8.0
UNSURE = "unsure"
"""Class of boxes that even those who judge are unsure of: no model has it, so it is ignored."""

_BEGIN = datetime(2026, 1, 1, tzinfo=UTC)
_MIN_BOXES = 5  # as the gate's: average precision of a class of fewer is chance
_DETECTED = 0.05  # the score from which the edge reports boxes


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """A script, played with a seed.

    Attributes:
        name: Of the script.
        base: The model that the edge serves.
        examples: What the collector sees, in order; truth where the camera knows it.
        labelled: The truth of each example, for those who are given true labels.
        train: Every training frame of the new domain with true labels.
        new: Held-out frames of the new domain.
        old: Pictures of the old domain that nobody trains on.
        collector: Settings of the collector.
        retrainer: Settings of the retrainer.
    """

    name: str
    base: Bundle
    examples: tuple[Example, ...]
    labelled: tuple[tuple[Box, ...], ...]
    train: tuple[Labelled, ...]
    new: tuple[Labelled, ...]
    old: tuple[Labelled, ...]
    collector: CollectorSettings
    retrainer: RetrainerSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class _Film:
    """Frames of a camera.

    Attributes:
        camera: Its name, which decides what is held out.
        pictures: Its frames, in order.
        measured: Whether a frame (counted from 0) is measured on, if it is held out.
        knows_truth: Whether the camera tells what is there.
        fps: Frames per second.
        every: One in so many frames is in `pictures`; the others pass unseen.
    """

    camera: str
    pictures: tuple[Picture, ...]
    measured: Callable[[int], bool]
    knows_truth: bool
    fps: float = FPS
    every: int = 1


def make_world(
    name: str, *, seed: int, data: Path | None, work: Path, frames: Path, quick: bool
) -> World:
    """Play a script.

    Args:
        name: One of `WORLDS`.
        seed: Of the pictures, of which of them are held out, and of the training.
        data: Folder of the test data; the street needs none.
        work: What `prepare` was given.
        frames: Folder for the frames that are learnt offline and measured on.
        quick: Fewer frames.

    Raises:
        ValueError: The script needs the test data.
    """
    needs_data, play, classes = WORLDS[name]
    if needs_data and data is None:
        raise ValueError(f"the script {name!r} needs the folder of the test data: --data")
    film = play(seed, data or Path(), quick)
    collector, retrainer = (
        brought(work, data, classes, recorded=name == "car park")
        if needs_data and data is not None
        else of_demo(work)
    )
    assert retrainer.bundle is not None
    base = Bundle.open(retrainer.bundle)
    examples = tuple(_examples(film, base, seed))
    builder = LabelBuilder(
        detection_spec(base.manifest).classes, only=None if classes is None else frozenset(classes)
    )
    frames.mkdir(parents=True, exist_ok=True)
    groups: dict[str, list[Labelled]] = {"train": [], "new": [], "old": []}
    for number, (picture, example) in enumerate(zip(film.pictures, examples, strict=True)):
        which = split_of(film.camera, example.index)
        if which == "train" and picture.drifted:
            group = "train"
        elif which == "holdout" and film.measured(number):
            group = "new" if picture.drifted else "old"
        else:
            continue
        path = frames / f"{example.index:05}.jpg"
        path.write_bytes(example.input.jpeg)
        height, width = picture.image.shape[:2]
        groups[group].append(
            Labelled(
                path=path,
                truth=builder.build(
                    picture.boxes, width=width, height=height, ignore=picture.unsure
                ),
                provenance="truth",
                key=path.stem,
                group=f"{film.camera}/{example.index // 20}",
            )
        )
    old = tuple(groups["old"])
    if needs_data and data is not None:
        judge = work / "coco" / "judge" / "images"
        old = read_folder(judge, LabelBuilder(detection_spec(base.manifest).classes)).pictures
    return World(
        name=name,
        base=base,
        examples=examples,
        labelled=tuple(
            (*p.boxes, *(box.model_copy(update={"label": UNSURE}) for box in p.unsure))
            for p in film.pictures
        ),
        train=tuple(groups["train"]),
        new=ignore_rare(groups["new"], min_boxes=_MIN_BOXES),
        old=ignore_rare(old, min_boxes=_MIN_BOXES),
        collector=collector,
        retrainer=retrainer.model_copy(
            update={
                "train": retrainer.train.model_copy(update={"seed": seed, "checkpoint_s": 3600.0})
            }
        ),
    )


def _examples(film: _Film, base: Bundle, seed: int) -> Iterator[Example]:
    model = DetectionModel.load(base, EngineSettings(threads=1), threshold=_DETECTED)
    for number, picture in enumerate(film.pictures):
        index = number * film.every
        height, width = picture.image.shape[:2]
        at = _BEGIN + timedelta(seconds=index / film.fps)
        record = FrameRecord(
            id=frame_id(film.camera, seed, index), source="bench/edge/camera", camera=film.camera,
            index=index, time=at, captured=at, width=width, height=height,
        )  # fmt: skip
        look = model.predict(picture.image)
        detections = Detections(
            source="bench/edge/detector", frame=record.id, camera=film.camera, index=index,
            width=width, height=height, boxes=to_boxes(look.found, model.classes), model=model.ref,
            captured=at, sent=at, received=at, detected=at, novelty=look.novelty,
        )  # fmt: skip
        truth = GroundTruth(
            source="bench/edge/camera", frame=record.id, camera=film.camera, index=index,
            captured=at, width=width, height=height, boxes=picture.boxes,
        )  # fmt: skip
        yield Example(
            input=Frame.build(encode_jpeg(picture.image, quality=90), record),
            prediction=detections,
            truth=truth if film.knows_truth else None,
        )


def _dusk(seed: int, _data: Path, quick: bool) -> _Film:
    day, dark = (160, 560) if quick else (480, 960)
    step = DriftStep(effect="dusk", start_s=day / FPS, ramp_s=4, to=0.8)
    view = View(ViewSettings(source="scene", seed=seed, fps=FPS, drift=(step,)))
    source = StreetSource(Scene(seed=500 + seed, width=320, height=240, fps=FPS))

    def film() -> Iterator[Picture]:
        for slot in range(day + dark):
            shot = view.encode(source.read(slot), time_s=slot / FPS)
            image = cv2.imdecode(np.frombuffer(shot.jpeg, np.uint8), cv2.IMREAD_COLOR)
            assert image is not None
            yield Picture(np.asarray(image, np.uint8), shot.boxes or (), slot >= day)

    # Once the dusk has fallen, and every other frame: neighbours tell little more.
    settled = day + round(4 * FPS)
    return _Film(
        camera="dusk",
        pictures=tuple(film()),
        measured=lambda index: index % 2 == 0 and not day <= index < settled,
        knows_truth=True,
    )


def _infrared(seed: int, data: Path, quick: bool) -> _Film:
    """Each held-out picture is shown several times as others are, and measured once."""
    folder = data / "datasets" / "llvip-night"
    names = sorted(path.stem for path in (folder / "images" / "infrared").iterdir())
    held, rest = infrared_split(names, seed)
    random = Random(seed)
    pools = {"holdout": cycle(held), "train": _shuffled(rest, random)}
    effects, shown = Effects(seed=seed), Counter[str]()
    pictures, first = [], set()
    for index in range(80 if quick else 160):
        which = split_of("infrared", index)
        name = next(pools[which])
        image = cv2.resize(
            read_picture(next((folder / "images" / "infrared").glob(f"{name}.*"))), (640, 512)
        )
        boxes = read_yolo(folder / "labels" / "visible" / f"{name}.txt", width=640, height=512)
        # No two pictures of a sensor are the same.
        noisy, moved = effects.apply(
            np.asarray(image, np.uint8), boxes, {"noise": 0.1}, index=index
        )
        pictures.append(Picture(noisy, tuple(moved), drifted=True))
        shown[name] += 1
        if shown[name] == 1:
            first.add(index)
    return _Film(
        camera="infrared",
        pictures=tuple(pictures),
        measured=first.__contains__,
        knows_truth=False,
    )


def infrared_split(names: Sequence[str], seed: int) -> tuple[list[str], list[str]]:
    """Pictures to hold out, and the others.

    Neighbours by name are neighbours in time: a third in a row is held out, by three seeds each
    picture once. Seeds from 100 on cut elsewhere.
    """
    turned = 7 * (seed // 100)
    order = [*names[turned:], *names[:turned]]
    third = -(-len(order) // 3)
    first = third * (seed % 3)
    return order[first : first + third], order[:first] + order[first + third :]


def _shuffled(names: Sequence[str], random: Random) -> Iterator[str]:
    rest = list(names)
    while True:
        random.shuffle(rest)
        yield from rest


def _car_park(seed: int, data: Path, quick: bool) -> _Film:
    pictures = tuple(read_video(data, CAR_PARK, every=3, drifted=True))
    # A block is 20 frames of the recording in a row, 6 or 7 of which are here.
    return _Film(
        camera=car_park_camera(seed),
        pictures=pictures[:90] if quick else pictures,
        measured=lambda _: True,
        knows_truth=False,
        fps=12.0,
        every=3,
    )


def car_park_camera(seed: int) -> str:
    """A camera whose held-out blocks begin at the one of four that the seed says."""
    names = (f"car-park-{number}" for number in count())
    return next(name for name in names if split_of(name, 20 * (seed % 4)) == "holdout")


WORLDS: dict[str, tuple[bool, Callable[[int, Path, bool], _Film], tuple[str, ...] | None]] = {
    "dusk": (False, _dusk, None),
    "infrared": (True, _infrared, ("person",)),
    "car park": (True, _car_park, ("person", "bicycle", "car")),
}
"""By name: whether it needs the test data, how it is played, and the classes that count."""
