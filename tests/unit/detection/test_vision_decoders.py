from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from edgebus_detection.vision import OutputError, make_decoder


def decoder(kind: str, *, size: int = 32, classes: int = 2, strides=()):
    return make_decoder(
        SimpleNamespace(kind=kind, strides=strides), height=size, width=size, classes=classes
    )


def logit(p: float) -> float:
    return float(np.log(p / (1 - p)))


def test_yolox_reads_grid_units() -> None:
    out = np.zeros((1, 16 + 4 + 1, 7), np.float32)
    # level of stride 8: row 2, column 1 -> centre ((1 + .5) * 8, (2 + .25) * 8)
    out[0, 2 * 4 + 1] = [0.5, 0.25, np.log(2), np.log(1), 0.8, 0.1, 0.5]
    # level of stride 32: its only cell
    out[0, 20] = [0.5, 0.5, 0, 0, 0.9, 1.0, 0.2]
    found = decoder("yolox").decode([out], threshold=0.3)
    assert found.labels.tolist() == [1, 0]
    assert found.scores == pytest.approx([0.4, 0.9])
    assert found.boxes == pytest.approx(np.array([[4, 14, 20, 22], [0, 0, 32, 32]]))


def test_yolox_survives_a_huge_box() -> None:
    out = np.zeros((1, 21, 7), np.float32)
    out[0, 0] = [0, 0, 1e6, 1e6, 1, 1, 0]
    assert np.isfinite(decoder("yolox").decode([out], threshold=0.5).boxes).all()


def test_fastestdet_reads_shares_of_the_input() -> None:
    out = np.zeros((1, 7, 2, 2), np.float32)
    out[0, :, 1, 0] = [0.5, np.arctanh(0.5), np.arctanh(0.5), logit(0.5), logit(0.25), 0.9, 0.1]
    found = decoder("fastestdet").decode([out], threshold=0.3)
    assert found.labels.tolist() == [0]
    assert found.scores == pytest.approx([0.5**0.6 * 0.9**0.4])
    assert found.boxes == pytest.approx(np.array([[0, 20, 16, 28]]), abs=1e-4)


def test_nanodet_reads_the_expected_distance_in_any_output_order() -> None:
    scores = [np.zeros((1, n, 2), np.float32) for n in (16, 4, 1)]
    sides = [np.zeros((1, n, 32), np.float32) for n in (16, 4, 1)]
    scores[1][0, 3, 1] = 0.7  # stride 16, row 1, column 1 -> centre (24, 24)
    # left and right half a stride (bins 0 and 1 alike), top and bottom exactly one
    bins = np.full((4, 8), -1e3, np.float32)
    bins[0, :2] = bins[2, :2] = 0
    bins[1, 1] = bins[3, 1] = 0
    sides[1][0, 3] = bins.ravel()
    for outputs in (scores + sides, [*sides[::-1], *scores]):
        found = decoder("nanodet").decode(outputs, threshold=0.5)
        assert found.labels.tolist() == [1]
        assert found.boxes == pytest.approx(np.array([[16, 8, 32, 40]]), abs=1e-3)


def test_yolov8_reads_pixels() -> None:
    out = np.zeros((1, 6, 21), np.float32)
    out[0, :, 5] = [10, 12, 4, 6, 0.1, 0.8]
    found = decoder("yolov8").decode([out], threshold=0.5)
    assert found.boxes == pytest.approx(np.array([[8, 9, 12, 15]]))
    assert found.labels.tolist() == [1]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("kind", ["yolox", "yolov8"])
def test_a_number_that_is_none_is_refused(kind, value) -> None:
    out = np.zeros((1, 21, 7) if kind == "yolox" else (1, 6, 21), np.float32)
    out[0, 3, 4] = value
    with pytest.raises(OutputError, match=r"1 of \d+ values of output 0"):
        decoder(kind).decode([out], threshold=0.5)


@pytest.mark.parametrize(
    ("kind", "shapes"),
    [
        ("yolox", [(1, 21, 8)]),
        ("yolox", [(1, 21, 7), (1, 21, 7)]),
        ("fastestdet", [(1, 7, 4, 4)]),
        ("nanodet", [(1, 16, 2), (1, 4, 2), (1, 1, 2)]),
        ("nanodet", []),
        ("yolov8", [(1, 21, 6)]),
    ],
)
def test_an_output_of_the_wrong_shape_is_refused(kind, shapes) -> None:
    outputs = [np.zeros(shape, np.float32) for shape in shapes]
    with pytest.raises(OutputError, match="expected"):
        decoder(kind).decode(outputs, threshold=0.5)


@pytest.mark.parametrize("kind", ["yolox", "fastestdet", "yolov8"])
def test_nothing_seen_is_no_boxes(kind) -> None:
    shape = {"yolox": (1, 21, 7), "fastestdet": (1, 7, 2, 2), "yolov8": (1, 6, 21)}[kind]
    assert len(decoder(kind).decode([np.zeros(shape, np.float32)], threshold=0.5)) == 0


def test_an_unknown_kind_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"'ssd'.*yolox"):
        decoder("ssd")
