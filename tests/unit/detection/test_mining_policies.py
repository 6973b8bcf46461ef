import pytest

from collector_examples import box, example
from edgebus.mining import Policy, PolicyChain, PolicyError, PolicySettings, installed_policies
from edgebus.mining import make_policies as make_known_policies
from edgebus_detection import Detection
from edgebus_detection.mining.policies.truth import TruthPolicy, TruthSettings
from edgebus_detection.mining.policies.uncertainty import (
    ConfidencePolicy,
    ConfidenceSettings,
    MarginPolicy,
    MarginSettings,
)
from edgebus_detection.vision import corners, iou, match_boxes
from packages import pretend_package


def test_iou_of_half_overlapping_squares():
    found = iou(corners([box(x=0)]), corners([box(x=10), box(x=20)]))
    assert found.tolist() == [[pytest.approx(1 / 3), 0]]


def test_a_true_box_is_matched_once_by_the_surest():
    sure, unsure = box(score=0.9), box(x=11, score=0.5)
    found = match_boxes([unsure, sure], [box()], min_iou=0.5)
    assert found.hits == (sure,)
    assert found.false_alarms == (unsure,)
    assert found.misses == ()


def test_two_equal_true_boxes_are_two_objects():
    found = match_boxes([box(score=0.9)], [box(), box()], min_iou=0.5)
    assert len(found.hits) == 1
    assert len(found.misses) == 1


def truth_says(*, said, true, **settings):
    return TruthPolicy(TruthSettings(**settings)).judge(example(said=said, true=true))


def test_truth_finds_nothing_wrong_in_right_detections():
    judgement = truth_says(said=[box(score=0.9, x=11)], true=[box()])
    assert not judgement.wrong
    assert judgement.score == 0
    assert judgement.reason == "all 1 right"


def test_truth_counts_misses_and_false_alarms():
    true = [box(x=10), box(x=50), box("person", x=90)]
    judgement = truth_says(said=[box(x=10, score=0.9), box("bus", x=120, score=0.8)], true=true)
    assert judgement.wrong
    assert judgement.score == pytest.approx(1 - 1 / 4)
    assert judgement.reason == "2 of 3 missed (car, person), 1 false alarm (bus)"


def test_what_is_seen_in_a_crowd_is_no_mistake():
    crowd = box("person", x=100).model_copy(update={"ignore": True})
    said = [box(score=0.9), box("bus", x=101, score=0.8)]
    for rule in ("match", "multiset"):
        judgement = truth_says(said=said, true=[box(), crowd], rule=rule)
        assert not judgement.wrong
        assert judgement.reason == "all 1 right"


def test_truth_takes_a_box_in_the_wrong_place_for_wrong_but_the_multiset_rule_does_not():
    said, true = [box(x=100, score=0.9)], [box(x=10)]
    assert truth_says(said=said, true=true).wrong
    assert not truth_says(said=said, true=true, rule="multiset").wrong
    assert truth_says(said=[box("bus", score=0.9)], true=true, rule="multiset").wrong


def test_truth_ignores_detections_below_its_score():
    assert truth_says(said=[box(score=0.2)], true=[box()]).wrong
    assert not truth_says(said=[box(score=0.2)], true=[]).wrong


def test_truth_forgives_up_to_the_minimum_score():
    true = [box(x=x) for x in (0, 30, 60, 90)]
    said = [box(x=x, score=0.9) for x in (0, 30, 60)]
    assert truth_says(said=said, true=true).wrong
    assert not truth_says(said=said, true=true, min_score=0.25).wrong


def test_truth_cannot_tell_without_truth():
    assert TruthPolicy(TruthSettings()).judge(example(said=[box(score=0.9)])) is None


@pytest.mark.parametrize(("statistic", "wrong"), [("mean", False), ("max", False), ("min", True)])
def test_confidence_statistics(statistic, wrong):
    policy = ConfidencePolicy(ConfidenceSettings(statistic=statistic, threshold=0.5))
    judgement = policy.judge(example(said=[box(score=0.9), box(score=0.3)]))
    assert judgement.wrong is wrong


def test_confidence_of_an_empty_frame_is_a_choice():
    assert ConfidencePolicy(ConfidenceSettings()).judge(example()) is None
    judgement = ConfidencePolicy(ConfidenceSettings(empty=True)).judge(example())
    assert judgement.wrong
    assert judgement.score == 1


def test_margin_counts_boxes_near_the_threshold():
    policy = MarginPolicy(MarginSettings(threshold=0.4, margin=0.1))
    assert not policy.judge(example(said=[box(score=0.9), box(score=0.55)])).wrong
    judgement = policy.judge(example(said=[box(score=0.45), box(score=0.35), box(score=0.9)]))
    assert judgement.wrong
    assert judgement.score == pytest.approx(1.0)
    assert policy.judge(example()) is None


def make_policies(configured):
    return make_known_policies(configured, known=Detection().policies())


def chain(*policies, combination="first"):
    return PolicyChain(policies, combination=combination)


def test_truth_overrules_low_confidence_unless_any_may_decide():
    policies = TruthPolicy(TruthSettings()), ConfidencePolicy(ConfidenceSettings())
    right_but_unsure = example(said=[box(score=0.4)], true=[box()])
    ruling = chain(*policies).judge(right_but_unsure)
    assert (ruling.policy, ruling.judgement) == (None, None)
    assert ruling.scores == pytest.approx({"truth": 0.0, "confidence": 0.6})
    ruling = chain(*policies, combination="any").judge(right_but_unsure)
    assert ruling.policy == "confidence"
    assert ruling.judgement.wrong
    without_truth = example(said=[box(score=0.4)])
    assert chain(*policies).judge(without_truth).policy == "confidence"


def test_every_policy_sees_every_frame():
    class Counting(Policy[PolicySettings]):
        name = "counting"
        settings_type = PolicySettings
        seen = 0

        def judge(self, example):
            self.seen += 1

    counting = Counting(PolicySettings())
    chain(TruthPolicy(TruthSettings()), counting).judge(example(true=[box()]))
    assert counting.seen == 1


def test_policies_come_from_settings_in_their_order():
    made = make_policies({"margin": {"margin": 0.2}, "truth": {}})
    assert [policy.name for policy in made] == ["margin", "truth"]
    assert made[0].settings.margin == 0.2


def test_a_typo_in_a_policy_names_the_nearest():
    with pytest.raises(PolicyError, match=r"'thruth' is not installed; did you mean 'truth'\?"):
        make_policies({"thruth": {}})
    with pytest.raises(PolicyError, match=r"bad settings: min_uio: Extra inputs .*min_iou"):
        make_policies({"truth": {"min_uio": 0.4}})
    with pytest.raises(PolicyError, match=r"score_threshold"):
        make_policies({"truth": {"score_threshold": 3}})


EVERYTHING = """
from edgebus.mining import Policy, PolicySettings

NOTHING = 0

class Everything(Policy[PolicySettings]):
    name = "everything"
    settings_type = PolicySettings

    def judge(self, example):
        return None
"""


def test_other_packages_bring_policies(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    group = "edgebus.policies.detection"
    points = {group: {"everything": "third_party:Everything"}}
    pretend_package(tmp_path, "third-party", entry_points=points, code=EVERYTHING)
    assert installed_policies("detection")["everything"].name == "everything"
    points = {group: {"nothing": "third_party:NOTHING"}}
    pretend_package(tmp_path, "fourth-party", entry_points=points)
    with pytest.raises(PolicyError, match=r"nothing.*no subclass of Policy"):
        installed_policies("detection")
