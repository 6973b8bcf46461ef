from __future__ import annotations

import numpy as np
import pytest

from edgebus_detection.messages import Box
from edgebus_detection.vision import (
    ImageError,
    Style,
    caption,
    decode_picture,
    draw_boxes,
    encode_jpeg,
)


def picture(width: int = 64, height: int = 48) -> np.ndarray:
    y, x = np.mgrid[:height, :width]
    return np.stack([x * 3, y * 4, x + y], axis=2).astype(np.uint8)


def test_jpeg_keeps_the_picture() -> None:
    image = picture()
    back = decode_picture(encode_jpeg(image, quality=95))
    assert back.shape == image.shape
    assert back.dtype == np.uint8
    assert np.abs(back.astype(int) - image).mean() < 4


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda data: b"", "zero bytes"),
        (lambda data: b"\x89PNG" + data, "is no JPEG, PNG"),
        (lambda data: data[: len(data) // 2], "truncated"),
        (lambda data: data[:4] + b"\xff\xd9", "the file ends before"),
    ],
)
def test_bytes_that_are_no_picture_are_refused(spoil, reason) -> None:
    with pytest.raises(ImageError, match=reason):
        decode_picture(spoil(encode_jpeg(picture())))


@pytest.mark.parametrize(
    "image",
    [np.zeros((4, 4), np.uint8), np.zeros((0, 4, 3), np.uint8), np.zeros((4, 4, 3), np.float32)],
)
def test_arrays_that_are_no_picture_are_refused(image) -> None:
    with pytest.raises(ImageError, match="expected"):
        encode_jpeg(image)


def test_quality_out_of_range_is_refused() -> None:
    with pytest.raises(ValueError, match="101"):
        encode_jpeg(picture(), quality=101)


def test_drawing_leaves_the_original_alone_and_enlarges_small_pictures() -> None:
    image = picture(320, 240)
    before = image.copy()
    boxes = [
        Box(label="person", x1=10, y1=20, x2=60, y2=120, score=0.9),
        Box(label="bus", x1=0, y1=0, x2=320, y2=240),
    ]
    drawn = draw_boxes(image, boxes)
    assert (image == before).all()
    assert drawn.shape == (480, 640, 3)
    # the edge of the person's box has its colour
    edge = drawn[140, 19:22].astype(int)
    assert (np.abs(edge - (0, 159, 230)).sum(axis=1) < 60).any()


def test_drawing_keeps_large_pictures_and_takes_a_style() -> None:
    image = picture(64, 48)
    box = Box(label="car", x1=8, y1=8, x2=40, y2=40)
    style = Style(min_side=0, labels=False, line="corners", color=(0, 0, 255))
    drawn = draw_boxes(image, [box], style=style)
    assert drawn.shape == image.shape
    assert np.abs(drawn[8, 10].astype(int) - (0, 0, 255)).max() < 40  # anti-aliased
    assert (drawn[8, 24] == image[8, 24]).all()  # corners only


def test_a_label_at_the_border_stays_inside() -> None:
    box = Box(label="person", x1=600, y1=0, x2=639, y2=30, score=0.5)
    drawn = draw_boxes(np.zeros((480, 640, 3), np.uint8), [box])
    assert drawn[2:12, 560:600].any()


def test_a_caption_adds_a_strip() -> None:
    image = picture(640, 480)
    out = caption(image, "edge-1/front", detail="AP50 0.91")
    assert out.shape[1] == 640
    assert out.shape[0] > 480
    assert (out[-480:] == image).all()
