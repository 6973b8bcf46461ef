"""Frames, detections and truth for the collector's tests."""

from datetime import UTC, datetime

import cv2
import numpy as np

from edgebus.contracts import ModelRef
from edgebus_detection.messages import Box, Detections, Frame, FrameRecord, GroundTruth
from edgebus_detection.mining import Example

NOW = datetime(2026, 5, 4, 12, tzinfo=UTC)
MODEL = ModelRef(name="street", version=1, digest="a" * 64)
WIDTH, HEIGHT = 160, 120


def box(label="car", x=10.0, y=10.0, size=20.0, score=None):
    return Box(label=label, x1=x, y1=y, x2=x + size, y2=y + size, score=score)


def picture(seed=0):
    noise = np.random.default_rng(seed).integers(0, 255, (12, 16, 3), dtype=np.uint8)
    image = cv2.resize(noise, (WIDTH, HEIGHT), interpolation=cv2.INTER_NEAREST)
    done, data = cv2.imencode(".jpg", image)
    assert done
    return data.tobytes()


def frame(index=0, camera="front", jpeg=None):
    record = FrameRecord(
        source="lab/pi-01/camera",
        camera=camera,
        index=index,
        captured=NOW,
        width=WIDTH,
        height=HEIGHT,
    )
    return Frame.build(picture(index) if jpeg is None else jpeg, record)


def detections(of, *boxes, model=MODEL):
    record = of.record
    return Detections(
        source="lab/pi-01/detector",
        frame=record.id,
        camera=record.camera,
        index=record.index,
        width=record.width,
        height=record.height,
        boxes=boxes,
        model=model,
        captured=record.captured,
        sent=record.time,
        received=record.time,
        detected=record.time,
    )


def truth(of, *boxes):
    record = of.record
    return GroundTruth(
        source="lab/pi-01/camera",
        frame=record.id,
        camera=record.camera,
        index=record.index,
        captured=record.captured,
        width=record.width,
        height=record.height,
        boxes=boxes,
    )


def example(*, said=(), true=None, index=0, camera="front", jpeg=None):
    picture_of = frame(index, camera, jpeg)
    return Example(
        input=picture_of,
        prediction=detections(picture_of, *said),
        truth=None if true is None else truth(picture_of, *true),
    )
