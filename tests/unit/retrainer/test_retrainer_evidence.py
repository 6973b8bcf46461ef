"""The bootstrap and the calibration, against slow and plain versions of themselves."""

from functools import partial

import numpy as np
import pytest

from edgebus.training.gate import Measured, gain_interval
from edgebus_detection.metrics import Matches, average_precision
from edgebus_detection.metrics.measuring import calibration_error
from edgebus_detection.metrics.resampling import resampled_ap


def pictures(count=30, *, quality=0.7, seed=0, classes=3):
    """Detections of a model that finds a part of what there is."""
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(count):
        truths = rng.integers(0, classes, rng.integers(0, 4))
        seen = rng.random(len(truths)) < quality
        false = rng.integers(0, classes, rng.integers(0, 3))
        hits = np.concatenate([np.ones(int(seen.sum()), bool), np.zeros(len(false), bool)])
        scores = np.where(hits, rng.uniform(0.3, 1, len(hits)), rng.uniform(0, 0.7, len(hits)))
        order = np.argsort(-scores)
        found.append(
            Matches(
                scores[order].astype(np.float32),
                np.concatenate([truths[seen], false])[order],
                hits[order],
                truths,
            )
        )
    return found


def test_pictures_that_count_once_give_average_precision():
    matches = pictures()
    (value,) = resampled_ap(matches, np.ones((1, 30), np.int64))
    assert value == pytest.approx(average_precision(matches)[0])


def test_pictures_that_count_more_or_less_are_as_if_repeated():
    matches = pictures()
    rng = np.random.default_rng(1)
    drawn = rng.multinomial(30, np.full(30, 1 / 30), size=150)
    found = resampled_ap(matches, drawn)
    for row in range(0, 150, 7):
        repeated = [entry for entry, n in zip(matches, drawn[row], strict=True) for _ in range(n)]
        assert found[row] == pytest.approx(average_precision(repeated)[0])


def test_a_class_that_is_not_drawn_does_not_count():
    sees = Matches(np.float32([0.9]), np.array([0]), np.array([True]), np.array([0]))
    misses = Matches(np.float32([]), np.array([], int), np.array([], bool), np.array([1]))
    found = resampled_ap([sees, misses], np.array([[2, 0], [1, 1], [0, 2]]))
    np.testing.assert_allclose(found, [1.0, 0.5, 0.0])
    empty = Matches(np.float32([]), np.array([], int), np.array([], bool), np.array([], int))
    assert np.isnan(resampled_ap([empty], np.array([[1]]))).all()


def interval(before, after, **changes):
    return gain_interval(
        *(
            Measured(
                items=len(matches),
                labels=0,
                deciding="mAP50",
                figures={},
                resample=partial(resampled_ap, matches),
            )
            for matches in (before, after)
        ),
        **({"confidence": 0.9, "resamples": 300, "seed": 0} | changes),
    )


def test_a_clear_gain_lies_above_zero_and_no_gain_around_it():
    low, high = interval(pictures(60, quality=0.4), pictures(60, quality=0.95))
    assert 0.2 < low < high < 0.8
    low, high = interval(pictures(60, quality=0.7), pictures(60, quality=0.7, seed=0))
    assert low == high == 0.0
    # Another model of the same quality, on other pictures of the kind: chance in both directions.
    low, high = interval(pictures(60, quality=0.7), pictures(60, quality=0.7, seed=5))
    assert low < 0 < high


def test_more_pictures_make_it_narrower_and_the_seed_decides():
    few = interval(pictures(15, quality=0.5), pictures(15, quality=0.8))
    many = interval(pictures(240, quality=0.5), pictures(240, quality=0.8))
    assert many[1] - many[0] < 0.5 * (few[1] - few[0])
    assert few == interval(pictures(15, quality=0.5), pictures(15, quality=0.8))
    assert few != interval(pictures(15, quality=0.5), pictures(15, quality=0.8), seed=1)


def test_it_covers_the_true_gain_about_as_often_as_it_says():
    def draw(seed, quality):
        return pictures(40, quality=quality, seed=seed, classes=1)

    truth = (
        average_precision(pictures(20_000, quality=0.8, seed=1, classes=1))[0]
        - average_precision(pictures(20_000, quality=0.6, seed=1, classes=1))[0]
    )
    covered = 0
    for seed in range(100):
        low, high = interval(draw(seed, 0.6), draw(1000 + seed, 0.8), resamples=200)
        covered += low <= truth <= high
    assert 80 <= covered <= 98


def test_it_is_of_the_same_pictures():
    with pytest.raises(ValueError, match="3 items before and 4 after"):
        interval(pictures(3), pictures(4))
    with pytest.raises(ValueError, match="0 items"):
        interval([], [])


def scored(scores, hits):
    return [Matches(np.float32(scores), np.zeros(len(scores), int), np.array(hits), np.array([0]))]


def test_calibration_is_the_gap_between_score_and_share_of_hits():
    honest = scored([0.75] * 4, [True, True, True, False])
    assert calibration_error(honest) == pytest.approx(0.0)
    boastful = scored([0.95] * 4, [True, True, False, False])
    assert calibration_error(boastful) == pytest.approx(0.45)
    # Two bins of unlike size: 3 of 4 detections off by 0.25, one by 0.35
    both = scored([0.75, 0.75, 0.75, 0.35], [True, True, True, False])
    assert calibration_error(both) == pytest.approx((3 * 0.25 + 0.35) / 4)
    assert calibration_error(scored([0.05, 0.02], [False, True])) is None
    assert calibration_error([]) is None
    assert calibration_error(scored([1.0], [True])) == pytest.approx(0.0)
