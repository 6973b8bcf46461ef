from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgebus_detection.messages import Box
from edgebus_detection.vision import (
    Detected,
    ImageError,
    InputSpec,
    Placement,
    Preprocessor,
    clip_boxes,
    iou,
    match_boxes,
    suppress,
    to_truth,
)


def spec(**changes):
    return InputSpec.model_validate({"name": "images", "height": 96, "width": 128} | changes)


def detected(boxes, scores, labels) -> Detected:
    return Detected(
        np.array(boxes, np.float32).reshape(-1, 4),
        np.array(scores, np.float32),
        np.array(labels, np.int64),
    )


def test_overlap_of_known_boxes() -> None:
    first = np.array([[0, 0, 10, 10], [5, 5, 5, 5]], np.float32)
    second = np.array([[5, 0, 15, 10], [0, 0, 10, 10], [20, 20, 30, 30]], np.float32)
    assert iou(first, second) == pytest.approx(np.array([[1 / 3, 1, 0], [0, 0, 0]]))


def test_suppression_is_per_class_and_best_first() -> None:
    found = detected(
        [[0, 0, 10, 10], [1, 0, 11, 10], [0, 0, 10, 10], [50, 50, 60, 60]],
        [0.5, 0.9, 0.4, 0.7],
        [0, 0, 1, 0],
    )
    kept = suppress(found, iou=0.5)
    assert kept.scores.tolist() == pytest.approx([0.9, 0.7, 0.4])
    assert kept.labels.tolist() == [0, 0, 1]
    assert suppress(found, iou=0.5, limit=1).scores.tolist() == pytest.approx([0.9])
    assert len(suppress(Detected.none(), iou=0.5)) == 0


def test_boxes_are_cut_at_the_border_and_gone_outside() -> None:
    found = detected(
        [[-5, -5, 5, 5], [90, 90, 200, np.inf], [200, 0, 300, 10]], [1, 1, 1], [0, 1, 2]
    )
    clipped = clip_boxes(found, width=100, height=100)
    assert clipped.boxes.tolist() == [[0, 0, 5, 5], [90, 90, 100, 100]]
    assert clipped.labels.tolist() == [0, 1]


def test_arrays_that_do_not_belong_together_are_refused() -> None:
    with pytest.raises(ValueError, match="belong together"):
        detected([[0, 0, 1, 1]], [0.5, 0.5], [0])


@given(
    width=st.integers(1, 2000),
    height=st.integers(1, 2000),
    anchor=st.sampled_from(["top-left", "center"]),
    resize=st.sampled_from(["letterbox", "stretch"]),
)
def test_boxes_come_back_from_the_input(width, height, anchor, resize) -> None:
    placement, (columns, rows) = Preprocessor(spec(anchor=anchor, resize=resize)).place(
        width, height
    )
    boxes = np.array([[0, 0, width, height], [width / 4, 0, width / 2, height / 3]], np.float32)
    inside = placement.to_input(boxes)
    assert 1 <= columns <= 128
    assert 1 <= rows <= 96
    assert inside.min() >= 0
    assert inside[:, 2].max() <= 128.001
    assert inside[:, 3].max() <= 96.001
    assert placement.to_image(inside) == pytest.approx(boxes, abs=0.01 * max(width, height) / 96)


def test_letterbox_pads_where_the_manifest_says() -> None:
    image = np.full((100, 100, 3), (10, 20, 30), np.uint8)
    tensor, placement = Preprocessor(spec()).prepare(image)
    assert tensor.shape == (1, 3, 96, 128)
    assert tensor.dtype == np.float32
    assert tensor.flags.c_contiguous
    assert tensor[0, :, 50, 50].tolist() == [10, 20, 30]
    assert (tensor[0, :, :, 96:] == 114).all()
    assert placement == Placement(0.96, 0.96, 0, 0)
    centred, placement = Preprocessor(spec(anchor="center", pad_value=7)).prepare(image)
    assert (centred[0, :, :, :16] == 7).all()
    assert (centred[0, :, :, 112:] == 7).all()
    assert placement.dx == 16


def test_colour_order_normalisation_and_layout() -> None:
    image = np.full((96, 128, 3), (10, 20, 30), np.uint8)
    rgb, _ = Preprocessor(spec(color="RGB", mean=(10, 20, 30), std=(2, 4, 5))).prepare(image)
    assert rgb[0, :, 0, 0].tolist() == [10, 0, -4]
    raw, _ = Preprocessor(spec(dtype="uint8", layout="NHWC")).prepare(image)
    assert raw.shape == (1, 96, 128, 3)
    assert raw.dtype == np.uint8
    assert raw[0, 0, 0].tolist() == [10, 20, 30]


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"color": "GRAY"}, "color"),
        ({"resize": "crop"}, "resize"),
        ({"std": (1, 0, 1)}, "std"),
        ({"mean": (1.0,)}, "mean"),
        ({"dtype": "uint8", "std": (255,) * 3}, "uint8"),
    ],
)
def test_an_unknown_specification_is_refused_by_name(changes, named) -> None:
    with pytest.raises(ValueError, match=named):
        Preprocessor(spec(**changes))


def test_a_picture_of_the_wrong_shape_is_refused() -> None:
    with pytest.raises(ImageError, match="expected"):
        Preprocessor(spec()).prepare(np.zeros((10, 10), np.uint8))


def test_what_is_found_in_a_region_to_ignore_is_neither_right_nor_wrong():
    crowd = Box(label="car", x1=50, y1=50, x2=90, y2=90, ignore=True)
    car = Box(label="car", x1=0, y1=0, x2=10, y2=10)
    seen = Box(label="car", x1=60, y1=60, x2=70, y2=70, score=0.9)
    other = Box(label="car", x1=20, y1=20, x2=30, y2=30, score=0.8)
    found = match_boxes([seen, other], [car, crowd], min_iou=0.5)
    assert (found.hits, found.misses, found.false_alarms) == ((), (car,), (other,))
    truth = to_truth([car, crowd], ["car"])
    assert (len(truth.labels), truth.ignore.tolist()) == (1, [[50, 50, 90, 90]])
