from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

from edgebus_camera import CameraSettings, ViewSettings
from edgebus_camera.sources import SourceFrame, StreetSource, open_source
from edgebus_camera.view import View
from edgebus_detection.emulation.street import Scene
from edgebus_detection.messages import Box
from edgebus_detection.vision import decode_picture

DUSK = {"effect": "dusk", "start_s": 2, "to": 0.75}


def _street() -> SourceFrame:
    return StreetSource(Scene(seed=1)).read(371)


def test_a_shot_tells_what_was_done_to_it() -> None:
    view = View(ViewSettings.model_validate({"drift": [DUSK]}))
    day, dusk = view.encode(_street(), time_s=1.9), view.encode(_street(), time_s=2.0)
    assert (day.condition, dict(day.effects)) == ("day", {})
    assert (dusk.condition, dict(dusk.effects)) == ("dusk", {"dusk": 0.75})
    assert decode_picture(dusk.jpeg).mean() < 0.6 * decode_picture(day.jpeg).mean()
    assert day.boxes == dusk.boxes == tuple(_street().boxes or ())


def test_the_same_frame_becomes_the_same_file() -> None:
    settings = ViewSettings.model_validate({"drift": [DUSK]})
    assert (
        View(settings).encode(_street(), time_s=9).jpeg
        == View(settings).encode(_street(), time_s=9).jpeg
    )


@pytest.mark.parametrize(
    ("size", "expected"),
    [({"width": 160}, (160, 120)), ({"height": 480}, (640, 480)),
     ({"width": 100, "height": 200}, (100, 200)), ({}, (320, 240))],
)  # fmt: skip
def test_boxes_are_scaled_with_the_picture(size: dict[str, int], expected: tuple[int, int]) -> None:
    box = Box(label="car", x1=80, y1=60, x2=160, y2=120)
    frame = SourceFrame(np.zeros((240, 320, 3), np.uint8), (box,), 0)
    shot = View(ViewSettings(**size)).encode(frame, time_s=0)
    assert (shot.width, shot.height) == expected
    assert decode_picture(shot.jpeg).shape == (expected[1], expected[0], 3)
    assert shot.boxes is not None
    (scaled,) = shot.boxes
    assert scaled.x1 == pytest.approx(expected[0] / 4)
    assert scaled.y2 == pytest.approx(expected[1] / 2)


def test_boxes_outside_the_picture_are_clipped_or_left_out() -> None:
    """Label files of videos do not know the picture's size."""
    boxes = (
        Box(label="car", x1=300, y1=10, x2=400, y2=50),
        Box(label="bus", x1=330, y1=10, x2=400, y2=50),
    )
    frame = SourceFrame(np.zeros((240, 320, 3), np.uint8), boxes, 0)
    shot = View(ViewSettings()).encode(frame, time_s=0)
    assert shot.boxes is not None
    assert [(box.label, box.x2) for box in shot.boxes] == [("car", 320.0)]


def test_what_nobody_knows_stays_unknown() -> None:
    frame = SourceFrame(np.zeros((240, 320, 3), np.uint8), None, 5)
    shot = View(ViewSettings.model_validate({"drift": [DUSK]})).encode(frame, time_s=9)
    assert shot.boxes is None
    assert shot.index == 5


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"source": " "}, "is empty"),
        ({"source": -1}, "count from 0"),
        ({"fps": 0}, "greater than 0"),
        ({"quality": 0}, "greater than or equal to 1"),
        ({"width": 8}, "greater than or equal to 64"),
        ({"source": "rtsp://cam", "truth": "gt.txt"}, "truth is for videos"),
        ({"sauce": "scene"}, "Extra inputs"),
        ({"drift": [{"effect": "dark"}]}, "dusk"),
    ],
)
def test_wrong_settings_are_refused(settings: dict[str, object], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        ViewSettings.model_validate(settings)


@pytest.mark.parametrize("name", ["", "a/b", "+", "#", "a b", "a\n"])
def test_names_that_cannot_be_topics_are_refused(name: str) -> None:
    with pytest.raises(ValidationError):
        CameraSettings(cameras={name: ViewSettings()})


def test_a_number_in_words_is_a_usb_camera() -> None:
    assert ViewSettings(source="0").source == 0
    assert ViewSettings(source="0").is_live
    assert ViewSettings(source="rtsp://cam/stream").is_live
    assert not ViewSettings(source="street.mp4").is_live


@pytest.fixture
def data() -> Path:
    folder = os.environ.get("EDGEBUS_DATA")
    if not folder:
        pytest.skip("EDGEBUS_DATA is not set: no real videos and pictures to read")
    return Path(folder)


@pytest.mark.parametrize(
    ("name", "size", "truth", "classes"),
    [
        ("vtest.avi", (768, 576), "vtest.teacher-yolov8m.txt", "coco"),
        ("towncentre-5s-1080p.mp4", (1920, 1080), "towncentre-5s-1080p.gt.txt", None),
        ("person-bicycle-car-detection.mp4", (768, 432),
         "person-bicycle-car-detection.teacher-yolov8m.txt", "coco"),
    ],
)  # fmt: skip
def test_real_videos_come_with_their_boxes(
    data: Path, name: str, size: tuple[int, int], truth: str, classes: str | None
) -> None:
    settings = ViewSettings.model_validate(
        {"source": str(data / "videos" / name), "truth": str(data / "videos" / truth),
         "classes": classes}
    )  # fmt: skip
    source, view = open_source(settings), View(settings)
    labelled = []
    for slot in range(0, 31):
        frame = source.read(slot)
        assert frame is not None
        if frame.boxes:
            labelled.append(view.encode(frame, time_s=0))
    source.close()
    assert source.fps is not None
    assert labelled
    assert (labelled[0].width, labelled[0].height) == size
    labels = {box.label for shot in labelled for box in shot.boxes or ()}
    assert labels & {"person", "car"}


@pytest.mark.parametrize(
    ("folder", "settings", "pictures"),
    [
        ("coco128/images/val2017", {}, 128),
        ("pennfudan/images/penn", {"classes": ["person"]}, 96),
        ("llvip-night/images/infrared",
         {"classes": ["person"], "truth": "llvip-night/labels/visible"}, 44),
    ],
)  # fmt: skip
def test_real_folders_come_with_their_boxes(
    data: Path, folder: str, settings: dict[str, object], pictures: int
) -> None:
    root = data / "datasets"
    if "truth" in settings:
        settings = {**settings, "truth": str(root / str(settings["truth"]))}
    opened = open_source(ViewSettings.model_validate({"source": str(root / folder), **settings}))
    assert opened.length == pictures
    boxes = 0
    for slot in range(12):
        frame = opened.read(slot)
        assert frame is not None
        assert frame.boxes is not None
        boxes += len(frame.boxes)
    assert boxes > 10
