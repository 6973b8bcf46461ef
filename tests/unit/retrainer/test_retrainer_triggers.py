from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgebus.training.gate import decide, domain_report, forgets_too_much, too_few
from edgebus.training.settings import GateSettings, TriggerSettings
from edgebus.training.triggers import TriggerState, needed, reason, trigger, waits_for
from edgebus_detection.metrics import MapResult, Matches
from edgebus_detection.metrics.measuring import figures_of
from retrainer_jobs import domain


def what_starts(state, **rules):
    return trigger(state, TriggerSettings(**rules))


@pytest.mark.parametrize(("untrained", "expected"), [(0, None), (49, None), (50, "count")])
def test_count(untrained, expected):
    assert what_starts(TriggerState(untrained=untrained)) == expected


def test_after_a_refusal_further_samples_are_needed():
    assert what_starts(TriggerState(untrained=60, untrained_at_refusal=55)) is None
    assert what_starts(TriggerState(untrained=75, untrained_at_refusal=55)) == "count"
    assert needed(TriggerState(untrained=0, untrained_at_refusal=5), TriggerSettings()) == 50


def test_without_a_number_none_starts():
    assert what_starts(TriggerState(untrained=10**6), min_samples=None) is None


def test_a_drift_lowers_what_is_waited_for():
    rules = {"drift_samples": 20}
    assert what_starts(TriggerState(untrained=20), **rules) is None
    assert what_starts(TriggerState(untrained=19, drifted=True), **rules) is None
    assert what_starts(TriggerState(untrained=20, drifted=True), **rules) == "drift"
    assert what_starts(TriggerState(untrained=50, drifted=True), **rules) == "count"
    assert what_starts(TriggerState(untrained=20, drifted=True), on_drift=False) is None
    assert (
        what_starts(TriggerState(untrained=20, drifted=True), **rules, min_samples=None) == "drift"
    )
    # The same samples would be refused again, drift or not.
    refused = TriggerState(untrained=39, untrained_at_refusal=20, drifted=True)
    assert what_starts(refused, **rules) is None
    assert what_starts(replace(refused, untrained=40), **rules) == "drift"
    lacking = TriggerState(untrained=20, drifted=True, lacking="held-out samples: 3 of 10")
    assert what_starts(lacking, **rules) is None
    state = TriggerState(untrained=0, drifted=True)
    assert needed(state, TriggerSettings(min_samples=50, drift_samples=20)) == 20
    assert needed(state, TriggerSettings(min_samples=10, drift_samples=20)) == 10


def test_interval_needs_something_new():
    rules = {"min_samples": None, "interval_s": 60}
    assert what_starts(TriggerState(untrained=1, since_last_s=59), **rules) is None
    assert what_starts(TriggerState(untrained=1, since_last_s=60), **rules) == "interval"
    assert what_starts(TriggerState(untrained=0, since_last_s=600), **rules) is None
    stale = TriggerState(untrained=5, untrained_at_refusal=5, since_last_s=600)
    assert what_starts(stale, **rules) is None


def test_a_command_overrules_the_limit_but_not_a_running_job():
    asked = TriggerState(untrained=1, accepted=3, asked=True)
    assert what_starts(asked, max_jobs=3) == "command"
    assert what_starts(TriggerState(untrained=99, accepted=3), max_jobs=3) is None
    assert what_starts(TriggerState(untrained=99, asked=True, waiting="a job runs")) is None


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
            if what_starts(TriggerState(untrained=untrained, accepted=jobs), min_samples=threshold):
                jobs += 1
                untrained = 0
    assert jobs == sum(arrivals) // threshold


PER_EDGE = TriggerSettings(min_samples=None, min_per_edge=50)


def test_one_edge_with_enough_starts_a_job():
    state = TriggerState(untrained=147, per_edge={"a": 49, "b": 49, "c": 49})
    assert trigger(state, PER_EDGE) is None
    assert waits_for(state, PER_EDGE) == "waits for untrained samples of one edge: 49 of 50 (a)"
    state = TriggerState(untrained=148, per_edge={"a": 49, "b": 50, "c": 49})
    assert trigger(state, PER_EDGE) == "edge"
    assert waits_for(state, PER_EDGE) == "due"
    words = "50 untrained samples of b; 50 of one edge are enough"
    assert reason("edge", state, PER_EDGE) == words


def test_after_a_refusal_an_edge_with_enough_waits_for_more_of_any():
    edges = {"a": 60, "b": 10}
    refused = TriggerState(untrained=70, per_edge=edges, untrained_at_refusal=60)
    assert trigger(refused, PER_EDGE) is None
    assert waits_for(refused, PER_EDGE) == "waits for untrained samples: 70 of 80"
    enough = replace(refused, untrained=80, per_edge={"a": 60, "b": 20})
    assert trigger(enough, PER_EDGE) == "edge"


def test_either_number_starts_a_job():
    rules = TriggerSettings(min_samples=100, min_per_edge=50)
    state = TriggerState(untrained=60, per_edge={"a": 40, "b": 20})
    assert trigger(state, rules) is None
    words = "waits for untrained samples: 60 of 100, or untrained samples of one edge: 40 of 50 (a)"
    assert waits_for(state, rules) == words
    assert trigger(replace(state, untrained=100), rules) == "count"
    assert trigger(replace(state, per_edge={"a": 50, "b": 10}), rules) == "edge"


def test_a_new_shared_model_is_a_reason_of_its_own():
    state = TriggerState(untrained=0, rebase="the shared model is v3 now")
    assert trigger(state, TriggerSettings()) == "rebase"
    assert reason("rebase", state, TriggerSettings()) == "the shared model is v3 now"
    assert trigger(replace(state, lacking="held-out samples: 3 of 10"), TriggerSettings()) is None


def count_jobs(rules, arrivals):
    """Jobs, and what is left, where each job takes all that is there in no time."""
    jobs, there = [], {}
    for edge in arrivals:
        there[edge] = there.get(edge, 0) + 1
        state = TriggerState(untrained=sum(there.values()), per_edge=there, accepted=len(jobs))
        if trigger(state, rules):
            jobs.append(state.untrained)
            there = {}
    return jobs, sum(there.values())


@pytest.mark.parametrize(
    ("rules", "jobs", "left"),
    [
        # 3 edges in turn, 120 samples each: 360 in all.
        (TriggerSettings(min_samples=1), [1] * 360, 0),
        (TriggerSettings(min_samples=100), [100, 100, 100], 60),
        # The 50th of the first edge is number 3 * 49 + 1 = 148. The second edge's next is the
        # first of the next round, and so is its 50th number 148 of that.
        (PER_EDGE, [148, 148], 64),
        (TriggerSettings(min_samples=None, min_per_edge=10), [28] * 12, 24),
    ],
)
def test_the_thresholds_of_the_first_loop(rules, jobs, left):
    arrivals = [("a", "b", "c")[number % 3] for number in range(360)]
    assert count_jobs(rules, arrivals) == (jobs, left)


def test_a_candidate_that_gains_and_remembers_passes():
    gate = decide([domain("new", 0.5, 0.9), domain("old", 0.9, 0.89)], GateSettings())
    assert gate.passed
    assert gate.reasons == ()
    assert not forgets_too_much(gate, GateSettings())


def test_one_that_is_not_better_is_refused_with_its_figures():
    gate = decide([domain("new", 0.5, 0.5), domain("old", 0.9, 0.9)], GateSettings())
    assert not gate.passed
    assert "mAP50 0.500 -> 0.500 (+0.000)" in gate.reasons[0]
    better = decide(
        [domain("new", 0.5, 0.52), domain("old", 0.9, 0.9)], GateSettings(min_gain=0.05)
    )
    assert "a gain of at least 0.050 is needed" in better.reasons[0]


def test_one_that_forgets_is_refused_and_may_be_interpolated():
    gate = decide([domain("new", 0.5, 0.9), domain("old", 0.9, 0.8)], GateSettings())
    assert not gate.passed
    assert "old domain: mAP50 0.900 -> 0.800 (-0.100)" in gate.reasons[0]
    assert forgets_too_much(gate, GateSettings())
    worse = decide([domain("new", 0.5, 0.4), domain("old", 0.9, 0.8)], GateSettings())
    assert len(worse.reasons) == 2
    assert not forgets_too_much(worse, GateSettings())


def test_too_few_pictures_decide_nothing():
    gate = decide([domain("new", 0.5, 0.9, items=3), domain("old", 0.9, 0.9)], GateSettings())
    assert "too few held-out items with labels of the new domain: 3, 10" in gate.reasons[0]
    without_old = decide([domain("new", 0.5, 0.9)], GateSettings())
    assert "replay folder" in without_old.reasons[0]
    assert decide([domain("new", 0.5, 0.9)], GateSettings(require_old=False)).passed
    assert too_few("old", 3, GateSettings(require_old=False)) is not None


def test_rounding_above_one_is_still_a_fraction():
    result = MapResult(map50=1.0000001, map=0.5, per_class={"car": 1.0000001}, images=1, boxes=1)
    seen = Matches(np.float32([0.9]), np.array([0]), np.array([True]), np.array([0]))
    measured = figures_of(result, (seen,), boxes_of={"car": 1}, streams=("a",))
    report = domain_report("new", measured, measured, GateSettings())
    assert report.decision.after == 1.0
    assert report.groups["class"]["car"].after == 1.0
