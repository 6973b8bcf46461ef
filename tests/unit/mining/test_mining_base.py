"""What a workload's policies are made of, without any workload."""

from types import SimpleNamespace

import numpy as np
import pytest

from edgebus.mining import (
    PolicyError,
    ScorePolicy,
    ScoreSettings,
    installed_policies,
    make_policies,
)
from edgebus.mining.near_duplicates import NearDuplicates


class Off(ScorePolicy):
    name = "off"
    threshold = 2.0

    def score(self, example):
        return example.truth and abs(example.prediction - example.truth)


def judge(policy, prediction, truth):
    return policy.judge(SimpleNamespace(prediction=prediction, truth=truth))


def test_a_score_is_compared_with_the_policys_threshold_or_that_of_the_settings():
    (own,) = make_policies({"off": {}}, known={"off": Off})
    (strict,) = make_policies({"off": {"threshold": 0.5}}, known={"off": Off})
    assert not judge(own, 1.0, 2.0).wrong
    assert judge(strict, 1.0, 2.0).wrong
    found = judge(own, 1.0, 5.0)
    assert (found.wrong, found.score, found.reason) == (True, 4.0, "off 4 (threshold 2)")
    assert judge(own, 1.0, None) is None


def test_a_threshold_of_zero_is_one():
    assert judge(Off(ScoreSettings(threshold=0)), 1.0, 2.0).wrong


def test_a_workload_without_packages_has_no_policies():
    assert installed_policies("nobody's") == {}
    with pytest.raises(PolicyError, match="'off' is not installed; installed: "):
        make_policies({"off": {}}, known={})


def test_of_an_input_without_a_fingerprint_nothing_is_a_duplicate():
    seen = NearDuplicates(distance=64, memory=4)
    seen.remember("main", None)
    seen.remember("main", np.zeros(1, np.uint64))
    assert seen.seen("main", np.ones(1, np.uint64))
    assert not seen.seen("main", None)
