from __future__ import annotations

import numpy as np

from edgebus_detection.messages import Box
from edgebus_detection.metrics import Matches
from edgebus_detection.metrics.mistakes import confusion, precision_recall


def box(label: str, x: float, score: float | None = None) -> Box:
    return Box(label=label, x1=x, y1=0, x2=x + 10, y2=10, score=score)


def test_precision_falls_and_recall_rises_from_the_surest_detection_on() -> None:
    first = Matches(
        np.array([0.9, 0.3], np.float32), np.zeros(2, np.int64), np.array([True, False]),
        np.zeros(2, np.int64),
    )  # fmt: skip
    second = Matches(
        np.array([0.5], np.float32), np.zeros(1, np.int64), np.array([True]), np.zeros(2, np.int64)
    )
    recall, precision = precision_recall([first, second])
    np.testing.assert_allclose(recall, [0.25, 0.5, 0.5])
    np.testing.assert_allclose(precision, [1, 1, 2 / 3])
    assert len(precision_recall([])[0]) == 0


def test_every_box_is_counted_once_as_what_it_was_taken_for() -> None:
    truths = [box("car", 0), box("car", 20), box("bus", 40)]
    said = [
        box("car", 0, 0.9),
        box("bus", 20, 0.8),
        box("car", 80, 0.7),
        box("bus", 41, 0.3),  # too unsure to count
        box("dog", 40, 0.9),  # nobody asked for dogs
    ]
    matrix = confusion([(said, truths)], ["car", "bus"], score=0.4)
    assert matrix.tolist() == [
        [1, 1, 0],  # one car is found, one taken for a bus
        [0, 0, 1],  # the bus is missed
        [1, 0, 0],  # a car where nothing is
    ]


def test_the_right_class_is_paired_before_a_better_overlap() -> None:
    matrix = confusion(
        [([box("bus", 0, 0.9), box("car", 2, 0.9)], [box("car", 0)])], ["car", "bus"], score=0.4
    )
    assert matrix.tolist() == [[1, 0, 0], [0, 0, 0], [0, 1, 0]]
