"""The policies that look at uncertainty, time, novelty and a reference model; how they combine."""

import pytest

from collector_examples import box, example
from edgebus.contracts import ModelRef
from edgebus.mining import PolicyChain, ScoreSettings
from edgebus_detection.messages import StageTimes
from edgebus_detection.mining import Example
from edgebus_detection.mining.policies.disagreement import DisagreementPolicy, DisagreementSettings
from edgebus_detection.mining.policies.novelty import NoveltyPolicy
from edgebus_detection.mining.policies.temporal import TemporalPolicy, TemporalSettings
from edgebus_detection.mining.policies.uncertainty import (
    ConfidencePolicy,
    ConfidenceSettings,
    EntropyPolicy,
    EntropySettings,
    MarginPolicy,
    MarginSettings,
)
from edgebus_detection.mining.tracking import Tracker
from edgebus_detection.models import Prediction
from edgebus_detection.vision import to_detected


def changed(of: Example, **fields) -> Example:
    said = of.prediction.model_copy(update=fields)
    return Example(input=of.input, prediction=said, truth=of.truth)


@pytest.mark.parametrize(("aggregate", "score"), [("max", 1.0), ("mean", 0.7345), ("sum", 1.4690)])
def test_entropy_is_the_bits_of_the_scores(aggregate, score):
    policy = EntropyPolicy(EntropySettings(aggregate=aggregate, threshold=0.99))
    judgement = policy.judge(example(said=[box(score=0.5), box(score=0.9)]))
    assert judgement.score == pytest.approx(score, abs=1e-4)
    assert judgement.wrong == (aggregate != "mean")
    assert policy.judge(example()) is None


def test_a_score_of_exactly_zero_or_one_has_no_entropy():
    policy = EntropyPolicy(EntropySettings())
    assert policy.judge(example(said=[box(score=0.0), box(score=1.0)])).score == 0


def test_a_strange_picture_is_wrong_where_the_detector_says_how_strange():
    policy = NoveltyPolicy(ScoreSettings(threshold=2.0))
    assert policy.judge(example()) is None
    assert not policy.judge(changed(example(), novelty=1.9)).wrong
    judgement = policy.judge(changed(example(), novelty=2.5))
    assert (judgement.wrong, judgement.score) == (True, 2.5)


def disagreement(said, reference, **settings):
    of = example(said=said)
    classes = ("car", "person")
    answer = Prediction(to_detected(reference, classes), classes, StageTimes(), None)
    asked = Example(input=of.input, prediction=of.prediction, reference=answer)
    return DisagreementPolicy(DisagreementSettings(**settings)).judge(asked)


def test_a_reference_model_confirms_denies_and_abstains():
    here, there = box(score=0.9), box(x=80.0, score=0.8)
    assert disagreement([here, there], [here, there]).score == 0
    missed = disagreement([here], [here, there])
    assert (missed.wrong, missed.score) == (True, 0.5)
    assert missed.reason == "the reference model sees 1 more and denies 0 of 1"
    assert disagreement([here, there], [here]).score == 0.5
    # Not sure enough to say that it is there, too sure to say that it is not.
    perhaps = box(x=80.0, score=0.3)
    assert disagreement([here, there], [here, perhaps]).score == 0
    assert disagreement([here], [here, perhaps]).score == 0
    assert disagreement([], []).score == 0


def test_disagreement_about_other_classes_does_not_count():
    person = box("person", x=80.0, score=0.9)
    assert disagreement([box(score=0.9)], [box(score=0.9), person], classes=("car",)).score == 0


def test_without_a_second_model_nobody_disagrees():
    assert DisagreementPolicy(DisagreementSettings()).judge(example(said=[box()])) is None


def film(policy, *frames, start=0, **fields):
    """The judgements of consecutive frames, each a list of boxes."""
    return [
        policy.judge(changed(example(said=said, index=index), **fields))
        for index, said in enumerate(frames, start=start)
    ]


def test_an_object_that_vanishes_in_mid_picture_is_a_miss():
    policy = TemporalPolicy(TemporalSettings())
    car = [box(x=60.0, y=50.0, score=0.8)]
    *before, gap, after = film(policy, car, car, car, car, [], car)
    assert before[0] is None
    assert [judgement.wrong for judgement in before[1:]] == [False] * 3
    assert (gap.wrong, gap.score, gap.reason) == (True, 1.0, "vanished: car")
    # The track goes on: what comes back is no news.
    assert not after.wrong


def test_an_object_that_leaves_by_the_edge_is_gone_for_good():
    policy = TemporalPolicy(TemporalSettings())
    leaving = [[box(x=float(x), y=50.0, score=0.8)] for x in (80, 95, 110, 125)]
    assert not any(judgement.wrong for judgement in film(policy, *leaving, [], [])[1:])


def test_an_object_behind_another_has_not_vanished():
    policy = TemporalPolicy(TemporalSettings())
    car, van = box(x=60.0, y=50.0, score=0.8), box("van", x=64.0, y=50.0, size=24.0, score=0.9)
    both = [car, van]
    assert not any(judgement.wrong for judgement in film(policy, both, both, both, [van])[1:])


def test_a_class_that_changes_on_one_track_is_a_flicker():
    policy = TemporalPolicy(TemporalSettings())
    car, van = [box(x=60.0, y=50.0, score=0.8)], [box("van", x=60.0, y=50.0, score=0.8)]
    judgement = film(policy, car, car, car, van)[-1]
    assert (judgement.wrong, judgement.reason) == (True, "relabelled: car to van")


def test_what_appears_from_nowhere_counts_where_it_shall():
    seen = [[], [], [box(x=60.0, y=50.0, score=0.8)]]
    assert not film(TemporalPolicy(TemporalSettings()), *seen)[-1].wrong
    policy = TemporalPolicy(TemporalSettings(kinds=("appeared",)))
    assert film(policy, *seen)[-1].reason == "appeared: car"


def test_a_moving_object_is_followed_through_a_gap():
    places = [box(x=10.0 + 8 * n, y=50.0, score=0.8) for n in range(8)]
    frames = [[place] for place in places]
    frames[5] = []
    policy = TemporalPolicy(TemporalSettings(kinds=("vanished", "appeared")))
    wrong = [j.wrong for j in film(policy, *frames)[1:]]
    assert wrong == [False, False, False, False, True, False, False]


def test_tracks_begin_anew_after_a_gap_and_with_another_model():
    policy = TemporalPolicy(TemporalSettings(max_gap=3))
    car = [box(x=60.0, y=50.0, score=0.8)]
    film(policy, car, car, car)
    assert film(policy, [], start=20) == [None]
    film(policy, car, car, car, start=21)
    other = ModelRef(name="street", version=2, digest="b" * 64)
    assert film(policy, [], start=24, model=other) == [None]


def test_boxes_go_to_the_tracks_that_fit_best_together():
    tracker = Tracker(min_iou=0.1, patience=2)
    tracker.step([box(x=10.0), box(x=25.0)])
    # Greedily the second box would take the first track and leave the first box without any.
    step = tracker.step([box(x=2.0), box(x=17.0)])
    assert (step.lost, step.born) == ((), ())
    assert [track.box.x1 for track in tracker.tracks] == [2.0, 17.0]


def test_there_may_be_more_boxes_than_tracks_and_fewer():
    tracker = Tracker(min_iou=0.1, patience=2)
    tracker.step([box(x=10.0), box(x=100.0)])
    step = tracker.step([box(x=98.0)])
    assert [track.box.x1 for track in step.lost] == [10.0]
    step = tracker.step([box(x=200.0), box(x=96.0), box(x=12.0)])
    assert [track.box.x1 for track in step.born] == [200.0]
    assert [track.box.x1 for track in tracker.tracks] == [12.0, 96.0, 200.0]


def test_all_need_to_agree_that_can_tell():
    policies = [ConfidencePolicy(ConfidenceSettings()), MarginPolicy(MarginSettings())]
    both = PolicyChain(policies, combination="all")
    assert both.judge(example(said=[box(score=0.4)])).policy == "confidence"
    assert both.judge(example(said=[box(score=0.1)])).policy is None
    assert both.judge(example()).policy is None
