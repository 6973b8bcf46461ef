"""Streams with a drift in them: frames, what a model says of them, and what is really there.

Three scripts, each as a function of a seed:

* ``dusk``: the procedural street by day, then dusk falls; the model of the demo.
* ``infrared``: real night pictures of street cameras (LLVIP), then the same cameras in infrared;
  YOLOX-nano. Labels are a larger model's.
* ``car park``: a street and a corridor, where YOLOX-nano is at home, then a car park from above.

Each is at home for about three quarters of its frames: where nearly everything is wrong, a random
choice is as good as any other.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random

import cv2
import numpy as np

import edgebus_detection.lab
from edgebus.artifacts import Bundle
from edgebus.serving import EngineSettings
from edgebus_camera.settings import ViewSettings
from edgebus_camera.sources import StreetSource
from edgebus_camera.view import View
from edgebus_detection.emulation.drift import DriftStep
from edgebus_detection.emulation.effects import Effects
from edgebus_detection.emulation.street import Scene
from edgebus_detection.messages import Box, Detections, Frame, FrameRecord, GroundTruth
from edgebus_detection.mining import Example
from edgebus_detection.mining.policies.truth import TruthPolicy, TruthSettings
from edgebus_detection.models import DetectionModel, add_novelty, import_onnx
from edgebus_detection.vision import Image, encode_jpeg, to_boxes

__all__ = [
    "SCRIPTS",
    "Moment",
    "Picture",
    "Stream",
    "frame_id",
    "make_stream",
    "read_picture",
    "read_video",
    "read_yolo",
]

_BEGIN = datetime(2026, 1, 1, tzinfo=UTC)
_SOURCE = "bench/edge/camera"
_THRESHOLD = 0.05
_ACCEPT = 0.4


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """One frame of a stream.

    Attributes:
        example: What a collector sees of it; without truth.
        truth: What is really in it.
        drifted: Whether it comes from the new domain.
        wrong: How wrong the model is, as the truth policy says: 0 to 1.
    """

    example: Example
    truth: GroundTruth
    drifted: bool
    wrong: float


@dataclass(frozen=True, slots=True)
class Stream:
    """A script played with one seed.

    Attributes:
        name: Of the script.
        seed: What it was played with.
        bundle: The model that answered, with a reference for the novelty of pictures.
        moments: The frames, in order.
    """

    name: str
    seed: int
    bundle: Path
    moments: tuple[Moment, ...]

    @property
    def onset(self) -> int:
        """Number of the first frame of the new domain."""
        return next(n for n, moment in enumerate(self.moments) if moment.drifted)


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture, what is really in it, and where even those who say so are unsure."""

    image: Image
    boxes: tuple[Box, ...]
    drifted: bool
    unsure: tuple[Box, ...] = ()


def make_stream(name: str, *, seed: int, data: Path | None, work: Path, quick: bool) -> Stream:
    """Play a script.

    Args:
        name: One of `SCRIPTS`.
        seed: Of the pictures, or of their order.
        data: Folder of the test data; the street needs none.
        work: Folder for imported models.
        quick: A third of the frames.

    Raises:
        ValueError: The script needs the test data.
    """
    needs_data, play, classes = SCRIPTS[name]
    if needs_data and data is None:
        raise ValueError(f"the script {name!r} needs the folder of the test data: --data")
    bundle = _bundle(data if needs_data else None, work)
    model = DetectionModel.load(
        Bundle.open(bundle), EngineSettings(threads=1), threshold=_THRESHOLD
    )
    judge = TruthPolicy(TruthSettings(classes=classes))
    moments = tuple(
        _moment(model, picture, judge, camera=name.replace(" ", "-"), index=index, seed=seed)
        for index, picture in enumerate(play(seed, data or Path(), quick))
    )
    return Stream(name, seed, bundle, moments)


def _bundle(data: Path | None, work: Path) -> Path:
    """The model of a script; its reference is data of the kind that it was trained on."""
    out = work / ("street" if data is None else "yolox-nano")
    if (out / "manifest.json").is_file():
        return out
    if data is None:
        plain = Bundle.open(Path(edgebus_detection.lab.__file__).parent / "assets" / "street-day")
        pictures = _other_streets()
    else:
        plain = import_onnx(
            data / "models" / "yolox_nano_416.onnx", name="yolox-nano", out=work / "imported"
        )
        folder = data / "datasets" / "coco128" / "images" / "train2017"
        pictures = (read_picture(path) for path in sorted(folder.glob("*.jpg")))
    add_novelty(plain, pictures, out=out)
    return out


def _other_streets() -> Iterator[Image]:
    """What the model of the demo was trained on: other streets by day."""
    for seed in range(900, 910):
        scene = Scene(seed=seed, width=320, height=240, fps=8.0)
        for slot in range(0, 480, 24):
            yield scene.render(slot)[0]


def read_picture(path: Path) -> Image:
    """A picture from a file, BGR."""
    return np.asarray(cv2.imread(str(path)), np.uint8)


def _moment(
    model: DetectionModel,
    picture: Picture,
    judge: TruthPolicy,
    *,
    camera: str,
    index: int,
    seed: int,
) -> Moment:
    height, width = picture.image.shape[:2]
    at = _BEGIN + timedelta(seconds=index / 8)
    record = FrameRecord(
        id=frame_id(camera, seed, index), source=_SOURCE, camera=camera, index=index,
        time=at, captured=at, width=width, height=height,
    )  # fmt: skip
    frame = Frame.build(encode_jpeg(picture.image, quality=85), record)
    look = model.predict(picture.image)
    boxes = _known(to_boxes(look.found, model.classes), picture.unsure)
    detections = Detections(
        source="bench/edge/detector", frame=record.id, camera=camera, index=index, width=width,
        height=height, boxes=boxes, model=model.ref, captured=at, sent=at, received=at, detected=at,
        novelty=look.novelty,
    )  # fmt: skip
    truth = GroundTruth(
        source=_SOURCE, frame=record.id, camera=camera, index=index, captured=at, width=width,
        height=height, boxes=picture.boxes,
    )  # fmt: skip
    opinion = judge.judge(Example(input=frame, prediction=detections, truth=truth))
    assert opinion is not None
    return Moment(
        example=Example(input=frame, prediction=detections),
        truth=truth,
        drifted=picture.drifted,
        wrong=opinion.score,
    )


def _known(said: Sequence[Box], unsure: Sequence[Box]) -> tuple[Box, ...]:
    """Without what lies where even the teacher is unsure."""
    return tuple(box for box in said if not any(_inside(box, region) for region in unsure))


def _inside(box: Box, region: Box) -> bool:
    width = min(box.x2, region.x2) - max(box.x1, region.x1)
    height = min(box.y2, region.y2) - max(box.y1, region.y1)
    area = (box.x2 - box.x1) * (box.y2 - box.y1)
    return width > 0 and height > 0 and width * height > 0.5 * area


def frame_id(camera: str, seed: int, index: int) -> str:
    """An id that is the same in every run, in the form of a UUIDv7."""
    text = hashlib.sha256(f"{camera}/{seed}/{index}".encode()).hexdigest()
    return f"{text[:8]}-{text[8:12]}-7{text[12:15]}-8{text[15:18]}-{text[18:30]}"


def _dusk(seed: int, _data: Path, quick: bool) -> Iterator[Picture]:
    day, dark = (240, 80) if quick else (720, 240)
    fps = 8.0
    step = DriftStep(effect="dusk", start_s=day / fps, ramp_s=4, to=0.8)
    view = View(ViewSettings(source="scene", seed=seed, fps=fps, drift=(step,)))
    source = StreetSource(Scene(seed=500 + seed, width=320, height=240, fps=fps))
    for slot in range(day + dark):
        shot = view.encode(source.read(slot), time_s=slot / fps)
        image = cv2.imdecode(np.frombuffer(shot.jpeg, np.uint8), cv2.IMREAD_COLOR)
        assert image is not None
        yield Picture(np.asarray(image, np.uint8), shot.boxes or (), slot >= day)


def _infrared(seed: int, data: Path, quick: bool) -> Iterator[Picture]:
    folder = data / "datasets" / "llvip-night"
    names = sorted(path.stem for path in (folder / "images" / "visible").iterdir())
    random = Random(seed)
    if quick:
        names = names[::3]
    effects = Effects(seed=seed)
    number = 0
    for kind, times in (("visible", 3), ("infrared", 1)):
        for _ in range(times):
            random.shuffle(names)
            for name in names:
                path = next((folder / "images" / kind).glob(f"{name}.*"))
                image = cv2.resize(read_picture(path), (640, 512))
                boxes = read_yolo(
                    folder / "labels" / "visible" / f"{name}.txt", width=640, height=512
                )
                # No two pictures of a sensor are the same.
                noisy, moved = effects.apply(
                    np.asarray(image, np.uint8), boxes, {"noise": 0.1}, index=number
                )
                number += 1
                yield Picture(noisy, tuple(moved), kind == "infrared")


def read_yolo(path: Path, *, width: int, height: int) -> tuple[Box, ...]:
    """The persons of a picture."""
    boxes = []
    for line in path.read_text().splitlines():
        _, x, y, wide, high = (float(part) for part in line.split()[:5])
        boxes.append(
            Box(
                label="person",
                x1=max(0.0, (x - wide / 2) * width),
                y1=max(0.0, (y - high / 2) * height),
                x2=min(float(width), (x + wide / 2) * width),
                y2=min(float(height), (y + high / 2) * height),
            )
        )
    return tuple(boxes)


def _car_park(seed: int, data: Path, quick: bool) -> Iterator[Picture]:
    share = 3 if quick else 1
    random = Random(seed)
    homes = [("vtest.avi", 5), ("one-by-one-person-detection.mp4", 20)]
    random.shuffle(homes)
    for name, every in homes:
        yield from list(read_video(data, name, every=every, drifted=False))[::share]
    new = list(read_video(data, "person-bicycle-car-detection.mp4", every=3, drifted=True))
    length = 100 // share
    begin = random.randrange(len(new) - length)
    yield from new[begin : begin + length]


def read_video(data: Path, name: str, *, every: int, drifted: bool) -> Iterator[Picture]:
    """One frame in `every` of a video, with the labels of a larger model."""
    path = data / "videos" / name
    labels: dict[int, list[tuple[float, Box]]] = {}
    for line in path.with_suffix(".teacher-yolov8m.txt").read_text().splitlines():
        number, _, x, y, wide, high, score, kind = (float(part) for part in line.split(",")[:8])
        label = {0: "person", 1: "bicycle", 2: "car"}.get(int(kind), "other")
        box = Box(label=label, x1=max(0.0, x), y1=max(0.0, y), x2=x + wide, y2=y + high)
        labels.setdefault(int(number) - 1, []).append((score, box))
    capture = cv2.VideoCapture(str(path))
    number = 0
    while True:
        good, image = capture.read()
        if not good:
            return
        if number % every == 0:
            height, width = image.shape[:2]
            rows = [(score, _clipped(box, width, height)) for score, box in labels.get(number, ())]
            sure = tuple(box for score, box in rows if score >= _ACCEPT and box.label != "other")
            unsure = tuple(box for score, box in rows if score < _ACCEPT or box.label == "other")
            yield Picture(np.asarray(image, np.uint8), sure, drifted, unsure)
        number += 1


def _clipped(box: Box, width: int, height: int) -> Box:
    return box.model_copy(update={"x2": min(box.x2, width), "y2": min(box.y2, height)})


_Play = Callable[[int, Path, bool], Iterator[Picture]]

SCRIPTS: dict[str, tuple[bool, _Play, tuple[str, ...] | None]] = {
    "dusk": (False, _dusk, None),
    "infrared": (True, _infrared, ("person",)),
    "car park": (True, _car_park, ("person", "bicycle", "car")),
}
"""By name: whether it needs the test data, how it is played, and the classes that count."""
