from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgebus.contracts import DomainReport
from edgebus.vision import MapResult, Matches
from edgebus_retrainer.gate import GateRules, Measured, decide, domain_report, goes_too_far, too_few
from edgebus_retrainer.triggers import Facts, needed, trigger


def what_starts(facts, **rules):
    defaults = {
        "min_samples": 50,
        "cooldown_samples": 20,
        "interval_s": None,
        "max_jobs": None,
    }
    return trigger(facts, **(defaults | rules))


@pytest.mark.parametrize(("untrained", "expected"), [(0, None), (49, None), (50, "count")])
def test_count(untrained, expected):
    assert what_starts(Facts(untrained=untrained)) == expected


def test_after_a_refusal_further_samples_are_needed():
    assert what_starts(Facts(untrained=60, untrained_at_refusal=55)) is None
    assert what_starts(Facts(untrained=75, untrained_at_refusal=55)) == "count"
    assert (
        needed(Facts(untrained=0, untrained_at_refusal=5), min_samples=50, cooldown_samples=20)
        == 50
    )


def test_without_a_number_none_starts():
    assert what_starts(Facts(untrained=10**6), min_samples=None) is None


def test_a_drift_lowers_what_is_waited_for():
    rules = {"drift_samples": 20}
    assert what_starts(Facts(untrained=20), **rules) is None
    assert what_starts(Facts(untrained=19, drifted=True), **rules) is None
    assert what_starts(Facts(untrained=20, drifted=True), **rules) == "drift"
    assert what_starts(Facts(untrained=50, drifted=True), **rules) == "count"
    assert what_starts(Facts(untrained=20, drifted=True)) is None
    assert what_starts(Facts(untrained=20, drifted=True), **rules, min_samples=None) == "drift"
    # The same samples would be refused again, drift or not.
    refused = Facts(untrained=39, untrained_at_refusal=20, drifted=True)
    assert what_starts(refused, **rules) is None
    assert what_starts(replace(refused, untrained=40), **rules) == "drift"
    lacking = Facts(untrained=20, drifted=True, lacking="held-out samples: 3 of 10")
    assert what_starts(lacking, **rules) is None
    facts = Facts(untrained=0, drifted=True)
    assert needed(facts, min_samples=50, cooldown_samples=20, drift_samples=20) == 20
    assert needed(facts, min_samples=10, cooldown_samples=20, drift_samples=20) == 10


def test_interval_needs_something_new():
    rules = {"min_samples": None, "interval_s": 60}
    assert what_starts(Facts(untrained=1, since_last_s=59), **rules) is None
    assert what_starts(Facts(untrained=1, since_last_s=60), **rules) == "interval"
    assert what_starts(Facts(untrained=0, since_last_s=600), **rules) is None
    stale = Facts(untrained=5, untrained_at_refusal=5, since_last_s=600)
    assert what_starts(stale, **rules) is None


def test_a_command_overrules_the_limit_but_not_a_running_job():
    asked = Facts(untrained=1, accepted=3, asked=True)
    assert what_starts(asked, max_jobs=3) == "command"
    assert what_starts(Facts(untrained=99, accepted=3), max_jobs=3) is None
    assert what_starts(Facts(untrained=99, asked=True, waiting="a job runs")) is None


@given(
    st.lists(st.integers(0, 30), min_size=1, max_size=60),
    st.integers(1, 60),
)
def test_retrain_counts_are_exact(arrivals, threshold):
    """As many jobs as whole thresholds fit, when each job takes all that is there."""
    untrained = jobs = 0
    for arrived in arrivals:
        for _ in range(arrived):
            untrained += 1
            if what_starts(Facts(untrained=untrained, accepted=jobs), min_samples=threshold):
                jobs += 1
                untrained = 0
    assert jobs == sum(arrivals) // threshold


def domain(name, before, after, images=50):
    return DomainReport(
        name=name,
        images=images,
        boxes=100,
        map50_before=before,
        map50_after=after,
        map_before=before / 2,
        map_after=after / 2,
    )


def test_a_candidate_that_gains_and_remembers_passes():
    gate = decide([domain("new", 0.5, 0.9), domain("old", 0.9, 0.89)], GateRules())
    assert gate.passed
    assert gate.reasons == ()
    assert not goes_too_far(gate, GateRules())


def test_one_that_is_not_better_is_refused_with_its_figures():
    gate = decide([domain("new", 0.5, 0.5), domain("old", 0.9, 0.9)], GateRules())
    assert not gate.passed
    assert "mAP50 0.500 -> 0.500 (+0.000)" in gate.reasons[0]
    better = decide([domain("new", 0.5, 0.52), domain("old", 0.9, 0.9)], GateRules(min_gain=0.05))
    assert "a gain of at least 0.050 is needed" in better.reasons[0]


def test_one_that_forgets_is_refused_and_may_be_interpolated():
    gate = decide([domain("new", 0.5, 0.9), domain("old", 0.9, 0.8)], GateRules())
    assert not gate.passed
    assert "old domain: mAP50 0.900 -> 0.800 (-0.100)" in gate.reasons[0]
    assert goes_too_far(gate, GateRules())
    worse = decide([domain("new", 0.5, 0.4), domain("old", 0.9, 0.8)], GateRules())
    assert len(worse.reasons) == 2
    assert not goes_too_far(worse, GateRules())


def test_too_few_pictures_decide_nothing():
    gate = decide([domain("new", 0.5, 0.9, images=3), domain("old", 0.9, 0.9)], GateRules())
    assert "too few held-out pictures with boxes of the new domain: 3, 10" in gate.reasons[0]
    without_old = decide([domain("new", 0.5, 0.9)], GateRules())
    assert "replay folder" in without_old.reasons[0]
    assert decide([domain("new", 0.5, 0.9)], GateRules(require_old=False)).passed
    assert too_few("old", 3, GateRules(require_old=False)) is not None


def test_rounding_above_one_is_still_a_fraction():
    result = MapResult(map50=1.0000001, map=0.5, per_class={"car": 1.0000001}, images=1, boxes=1)
    seen = Matches(np.float32([0.9]), np.array([0]), np.array([True]), np.array([0]))
    measured = Measured(
        result=result, matches=(seen,), boxes_of={"car": 1}, calibration=0.1, cameras=("a",)
    )
    report = domain_report("new", measured, measured, GateRules())
    assert report.map50_after == 1.0
    assert report.per_class_after == {"car": 1.0}
