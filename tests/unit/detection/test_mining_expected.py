"""The policy of expected errors: its formula, its bar, and what it remembers."""

from math import exp, sqrt

import numpy as np
import pytest

from collector_examples import box, example, picture
from edgebus.contracts import split_of
from edgebus.mining import PolicyError, make_policies
from edgebus_collector.selection import Choice, Selector, Suppressed
from edgebus_collector.settings import CollectorSettings
from edgebus_detection import Detection
from edgebus_detection.mining.policies.expected import (
    ExpectedPolicy,
    ExpectedSettings,
    expected_error,
)
from edgebus_detection.mining.policies.truth import TruthPolicy, TruthSettings

PICTURE = picture()


def said(*scores, camera="front", index=0):
    boxes = [box(x=5.0 * n, score=score) for n, score in enumerate(scores)]
    return example(said=boxes, camera=camera, index=index, jpeg=PICTURE)


def error(*scores, unseen=1.0):
    detections = said(*scores).prediction
    return expected_error(detections, score_threshold=0.3, unseen=unseen)


@pytest.mark.parametrize(
    ("scores", "unseen", "wanted"),
    [
        ((0.9, 0.8), 0.0, 1 - 1.7 / 2),  # what is said may be false
        ((0.9, 0.8), 1.0, 1 - 1.7 / 3),  # and something may have been missed
        ((0.9, 0.8, 0.2), 0.0, 1 - 1.7 / 2.2),  # perhaps what was nearly said
        ((0.9, 0.8, 0.14, 0.05), 0.0, 1 - 1.7 / 2),  # noise
        ((0.3,), 0.0, 0.7),  # the threshold is said
        ((None,), 0.0, 0.0),  # who gives no score is sure
        ((), 1.0, 1 - exp(-1)),
        ((0.2, 0.2), 0.5, 1 - exp(-0.9)),
        ((), 0.0, 0.0),
        ((0.0,), 0.0, 0.0),
        ((1.0,), 0.0, 0.0),
    ],
)
def test_the_expected_error_of_some_scores(scores, unseen, wanted):
    assert error(*scores, unseen=unseen) == pytest.approx(wanted)


def test_it_is_near_the_mean_of_the_true_error_where_scores_are_probabilities():
    rng = np.random.default_rng(8)
    judge = TruthPolicy(TruthSettings(min_iou=0.5))
    scores = (0.9, 0.6, 0.25, 0.2)
    boxes = [box(x=30.0 * n, score=score) for n, score in enumerate(scores)]
    true = []
    for _ in range(1500):
        there = [b for b in boxes if rng.uniform() < b.score]
        true.append(judge.judge(example(said=boxes, true=there, jpeg=PICTURE)).score)
    # A ratio of means is not quite the mean of the ratios.
    assert error(*scores, unseen=0.0) == pytest.approx(np.mean(true), abs=0.06)


def judged(policy, *frames):
    return [policy.judge(frame) for frame in frames]


def test_the_bar_falls_with_the_square_root_of_what_is_saved_up():
    policy = ExpectedPolicy(ExpectedSettings(share=0.5, saved=4.0, unseen=0.0))
    # e = 0.6: above the bar of 0.5 when four tokens are saved up, and below that of 0.8 - 0.3 / 2.
    doubtful = said(0.4)
    wrong = [judgement.wrong for judgement in judged(policy, *[doubtful] * 12)]
    enough = next(n for n in range(1, 13) if 0.8 - 0.3 * sqrt(min(4, n / 2) / 4) <= 0.6)
    assert wrong == [n >= enough for n in range(1, 13)]
    for _ in range(3):
        policy.taken(doubtful)
    assert not policy.judge(doubtful).wrong
    assert policy.judge(said(0.35, 0.2)).score == pytest.approx(1 - 0.35 / 1.2)


def test_a_frame_that_is_more_right_than_wrong_is_never_sent():
    policy = ExpectedPolicy(ExpectedSettings(share=1.0, saved=10.0))
    sure = said(0.9, 0.9, 0.9)
    assert not any(judgement.wrong for judgement in judged(policy, *[sure] * 50))


def test_no_frame_is_wrong_before_a_whole_token_is_there():
    policy = ExpectedPolicy(ExpectedSettings(share=0.1))
    wrong = [j.wrong for j in judged(policy, *[said(0.3, 0.2, 0.2)] * 12)]
    assert wrong == [False] * 9 + [True] * 3


def test_a_bad_camera_sends_its_share_and_no_more():
    policy = ExpectedPolicy(ExpectedSettings(share=0.1))
    rng = np.random.default_rng(1)
    sent, errors = 0, []
    for scores in rng.uniform(0.3, 0.6, (3000, 2)):
        judgement = policy.judge(said(*scores))
        if judgement.wrong:
            sent += 1
            errors.append(judgement.score)
            policy.taken(said())
    assert 200 < sent <= 300
    # The worst of them: the mean of all is 1 - 0.9 / 3.
    assert np.mean(errors[50:]) > 0.72


def test_frames_without_boxes_tell_much_where_there_usually_are_objects_and_little_elsewhere():
    street, corridor = ExpectedPolicy(ExpectedSettings()), ExpectedPolicy(ExpectedSettings())
    judged(street, *[said(0.9, 0.9)] * 300)
    judged(corridor, *[said()] * 300)
    assert street.judge(said()).score == pytest.approx(1 - exp(-1))
    assert corridor.judge(said()).score < 0.02


def test_cameras_have_savings_of_their_own_and_long_silent_ones_are_forgotten():
    policy = ExpectedPolicy(ExpectedSettings(share=1.0))
    bad = said(0.3, 0.2, 0.2)
    assert policy.judge(bad).wrong
    policy.taken(bad)
    other = said(0.3, 0.2, 0.2, camera="back")
    policy.taken(other)  # no debts
    assert policy.judge(other).wrong
    for number in range(300):
        policy.judge(said(camera=f"c{number}"))
    assert len(policy._cameras) == 256


def test_the_same_frames_are_judged_the_same_again():
    rng = np.random.default_rng(3)
    frames = [said(*scores) for scores in rng.uniform(0.05, 1, (200, 3))]
    one, two = (ExpectedPolicy(ExpectedSettings()) for _ in range(2))
    assert judged(one, *frames) == judged(two, *frames)


def test_a_bar_that_would_rise_is_refused():
    with pytest.raises(PolicyError, match=r"low 0\.9 is above high 0\.8; the bar falls"):
        make_policies({"expected": {"low": 0.9}}, known=Detection().policies())
    with pytest.raises(PolicyError, match="share"):
        make_policies({"expected": {"share": 0}}, known=Detection().policies())


def test_it_is_the_default_where_there_is_no_truth():
    chain = CollectorSettings().chain()
    assert chain.names == ("truth", "expected")
    right = example(said=[box(score=0.31)], true=[box()])
    assert chain.judge(right).policy is None
    doubtful = said(0.3, 0.2, 0.2)
    rulings = [chain.judge(doubtful) for _ in range(30)]
    assert rulings[-1].policy == "expected"
    assert (
        "83% is expected to be wrong (at least 76% with 2 samples saved up)"
        in rulings[-1].judgement.reason
    )


def test_only_what_becomes_a_sample_costs_anything():
    select = Selector(
        CollectorSettings(
            policies={"expected": {"share": 1.0, "saved": 2.0}},
            budget={"samples_per_minute": 600, "bytes_per_hour": 1e9},
            duplicate_distance=4,
            holdout_share=0.0,
        )
    )
    train = [index for index in range(400) if split_of("front", index) == "train"]
    bad = [box(score=0.3), box(x=40.0, score=0.2), box(x=80.0, score=0.2)]
    frames = [example(said=bad, index=index, jpeg=PICTURE) for index in train[:6]]
    first, *others = [select.decide(frame, now=0.0) for frame in frames]
    assert isinstance(first, Choice)
    # They are still wrong, since near-duplicates of the first have cost nothing.
    assert others == [Suppressed(cause="duplicate", policy="expected")] * 5
