"""Samples of the tiny model's world: red and blue squares, by day and at dusk."""

import json
from datetime import UTC, datetime, timedelta

import cv2
import numpy as np

from edgebus.contracts import ModelRef, split_of
from edgebus_detection.messages import Box, Sample, SampleRecord
from edgebus_detection.models.testing import tiny_picture
from edgebus_detection.vision import encode_jpeg

# A store believes no clock that is years off.
START = datetime.now(UTC).replace(microsecond=0) - timedelta(hours=3)
MODEL = ModelRef(name="tiny", version=1, digest="a" * 64)
CAMERA = "front"
DUSK = 0.3


def square(label, row, column):
    return Box(label=label, x1=8 * column, y1=8 * row, x2=8 * column + 8, y2=8 * row + 8)


def scene(index):
    """The picture and the truth of a frame."""
    rng = np.random.default_rng(index)
    red = int(rng.integers(0, 6)), int(rng.integers(0, 3))
    blue = int(rng.integers(0, 6)), int(rng.integers(4, 8))
    picture = tiny_picture(red=red, blue=blue)
    return picture, (square("person", *red), square("car", *blue))


def jpeg_of(index, *, light=1.0):
    picture, truth = scene(index)
    return encode_jpeg((picture * light).astype(np.uint8), quality=95), truth


def sample(
    index=0,
    *,
    light=1.0,
    truth=True,
    split=None,
    policy="truth",
    model=MODEL,
    jpeg=None,
    boxes=None,
    size=(64, 48),
):
    data, true = jpeg_of(index, light=light)
    record = SampleRecord(
        source="lab/pi-01/collector",
        input=f"frame-{index}",
        stream=CAMERA,
        index=index,
        captured=START + timedelta(seconds=index),
        width=size[0],
        height=size[1],
        split=split or split_of(CAMERA, index),
        policy=policy,
        reason="2 of 2 missed (car, person)",
        score=1.0,
        model=model,
        detections=(),
        truth=(true if boxes is None else boxes) if truth else None,
    )
    return Sample.build(data if jpeg is None else jpeg, record)


def write_day(folder, count):
    """A COCO folder of pictures by day."""
    folder.mkdir(parents=True)
    rows, images = [], []
    for number in range(count):
        picture, truth = scene(1000 + number)
        name = f"{number:03}.png"
        cv2.imwrite(str(folder / name), picture)
        images.append({"id": number, "file_name": name, "width": 64, "height": 48})
        rows += [
            {
                "id": 2 * number + at,
                "image_id": number,
                "category_id": ("person", "car").index(box.label),
                "bbox": [box.x1, box.y1, 8, 8],
            }
            for at, box in enumerate(truth)
        ]
    categories = [{"id": 0, "name": "person"}, {"id": 1, "name": "car"}]
    document = {"images": images, "annotations": rows, "categories": categories}
    (folder / "annotations.json").write_text(json.dumps(document))
