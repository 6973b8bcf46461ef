from __future__ import annotations

import numpy as np
import pytest

from edgebus_detection.metrics import RollingAp, average_precision, match, mean_average_precision
from edgebus_detection.vision import Detected, Truth

NAMES = ("person", "car", "bus")


def seen(*rows) -> Detected:
    table = np.array(rows, np.float32).reshape(-1, 6)
    return Detected(table[:, :4], table[:, 4], table[:, 5].astype(np.int64))


def real(*rows, ignore=()) -> Truth:
    table = np.array(rows, np.float32).reshape(-1, 5)
    regions = np.array(ignore, np.float32).reshape(-1, 4)
    return Truth(table[:, :4], table[:, 4].astype(np.int64), regions)


CAR = (10, 10, 50, 30, 1)
PERSON = (60, 10, 70, 40, 0)


def test_perfect_detections_score_one() -> None:
    found = seen((*CAR[:4], 0.9, 1), (*PERSON[:4], 0.8, 0))
    value, per_class = average_precision([match(found, real(CAR, PERSON))])
    assert value == 1
    assert per_class == {0: 1, 1: 1}
    coco = mean_average_precision([found], [real(CAR, PERSON)], NAMES)
    assert coco.map50 == pytest.approx(1)
    assert coco.map == pytest.approx(1)
    assert coco.per_class == pytest.approx({"person": 1, "car": 1})


def test_a_known_curve() -> None:
    # hit, false alarm, hit of two true boxes: precision envelope 1 up to .5, 2/3 up to 1
    found = seen((*CAR[:4], 0.9, 1), (0, 60, 9, 69, 0.8, 1), (60, 60, 90, 90, 0.7, 1))
    truth = real(CAR, (60, 60, 90, 90, 1))
    value, _ = average_precision([match(found, truth)])
    assert value == pytest.approx(0.5 + 0.5 * 2 / 3)


def test_a_true_box_is_found_once_and_only_by_its_class() -> None:
    found = seen((*CAR[:4], 0.9, 1), (*CAR[:4], 0.8, 1), (*CAR[:4], 0.95, 2))
    result = match(found, real(CAR))
    assert result.hits.tolist() == [False, True, False]
    assert result.truths.tolist() == [1]


def test_an_ignore_region_counts_neither_way() -> None:
    stray = (60, 60, 80, 80, 0.95, 1)
    found = seen(stray, (*CAR[:4], 0.9, 1))
    spoiled, truth = real(CAR), real(CAR, ignore=[(55, 55, 90, 90)])
    for value, low in ((spoiled, 0.5), (truth, 1.0)):
        assert average_precision([match(found, value)])[0] == pytest.approx(low)
        assert mean_average_precision([found], [value], NAMES).map50 == pytest.approx(low, abs=0.01)


def test_no_detection_scores_zero_and_no_truth_scores_nothing() -> None:
    assert average_precision([match(Detected.none(), real(CAR))])[0] == 0
    assert mean_average_precision([Detected.none()], [real(CAR)], NAMES).map50 == 0
    assert average_precision([]) == (None, {})
    assert average_precision([match(seen((*CAR[:4], 0.9, 1)), real())])[0] is None
    with pytest.raises(ValueError, match="no true box in 1 pictures"):
        mean_average_precision([Detected.none()], [real()], NAMES)


def test_wrong_input_is_refused() -> None:
    with pytest.raises(ValueError, match="2 predictions for 1"):
        mean_average_precision([Detected.none()] * 2, [real(CAR)], NAMES)
    with pytest.raises(ValueError, match="label 9"):
        mean_average_precision([Detected.none()], [real((*CAR[:4], 9))], NAMES)


def test_both_measures_agree_on_noisy_detections() -> None:
    rng = np.random.default_rng(3)
    truths, found = [], []
    for _ in range(60):
        corner = rng.uniform(0, 200, (6, 2))
        boxes = np.concatenate([corner, corner + rng.uniform(20, 60, (6, 2))], axis=1)
        labels = rng.integers(0, 3, 6)
        truths.append(Truth(boxes.astype(np.float32), labels))
        moved = boxes + rng.normal(0, 5, boxes.shape)
        wrong = np.where(rng.random(6) < 0.2, (labels + 1) % 3, labels)
        keep = rng.random(6) < 0.85
        found.append(
            Detected(
                moved[keep].astype(np.float32),
                rng.random(keep.sum()).astype(np.float32),
                wrong[keep],
            )
        )
    coco = mean_average_precision(found, truths, NAMES)
    cheap, per_class = average_precision(match(a, b) for a, b in zip(found, truths, strict=True))
    assert 0.1 < coco.map < coco.map50 < 0.8
    # COCO samples the curve at 101 recalls
    assert cheap == pytest.approx(coco.map50, abs=0.01)
    assert [per_class[k] for k in range(3)] == pytest.approx(
        list(coco.per_class.values()), abs=0.02
    )
    assert (coco.images, coco.boxes) == (60, 360)
    only = mean_average_precision(found, truths, NAMES, iou=(0.5,))
    assert only.map == pytest.approx(only.map50) == pytest.approx(coco.map50)


def test_the_rolling_value_forgets() -> None:
    rolling = RollingAp(window=2)
    assert rolling.value is None
    rolling.add(Detected.none(), real(CAR))
    assert rolling.value == 0
    for _ in range(2):
        rolling.add(seen((*CAR[:4], 0.9, 1)), real(CAR))
    assert rolling.value == 1
    assert len(rolling) == 2
