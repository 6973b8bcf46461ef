"""How many of a model's errors reach the cloud, when only a few frames may be sent."""

from __future__ import annotations

import math
import statistics
from collections import defaultdict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any, Protocol

from benchmarks._learning_streams import Moment, Stream
from edgebus.mining import Policy, PolicyChain, make_policies
from edgebus_detection import Detection
from edgebus_detection.messages import Box
from edgebus_detection.mining import Example

__all__ = [
    "BUDGETS",
    "CONFIDENCE_RULES",
    "ORACLE",
    "OURS",
    "RULES",
    "Recall",
    "measure_mining",
    "summarise",
]

BUDGETS = (0.02, 0.05, 0.10)
"""Share of the frames that may be sent."""
WRONG = 0.5
"""A frame from this score of the truth policy on is an error: more wrong than right."""
_DRAWS = 50


class Rule(Protocol):
    """Says of one frame after the other whether it is worth sending."""

    def wants(self, example: Example, /) -> bool:
        """Whether this frame is."""
        ...

    def sent(self, example: Example, /) -> None:
        """It was worth it, and was sent."""
        ...


@dataclass(frozen=True, slots=True)
class Recall:
    """One rule on one stream with one budget.

    Attributes:
        recall: Share of all errors that were sent.
        sent: Share of all frames that were sent.
        sent_under_drift: Frames of the new domain that were sent.
    """

    script: str
    seed: int
    rule: str
    budget: float
    recall: float
    sent: float
    sent_under_drift: int


def measure_mining(stream: Stream, *, budgets: Sequence[float] = BUDGETS) -> list[Recall]:
    """Every rule on one stream.

    A rule sees the frames in order, once. A budget of b means: after n frames at most b * n may
    have been sent; what was not spent is saved up.
    """
    found = []
    for budget in budgets:
        for name, make in RULES.items():
            found.append(_recall(stream, name, budget, _send(stream, make(budget), budget)))
        found.append(_at_random(stream, budget))
        found.append(_recall(stream, ORACLE, budget, _errors_first(stream, budget)))
    return found


def _send(stream: Stream, rule: Rule, budget: float) -> list[int]:
    sent: list[int] = []
    for number, moment in enumerate(stream.moments):
        wanted = rule.wants(moment.example)  # asked each time: it may remember
        if wanted and len(sent) + 1 <= budget * (number + 1):
            sent.append(number)
            rule.sent(moment.example)
    return sent


def _errors_first(stream: Stream, budget: float) -> list[int]:
    """What one would send who knows the truth: the most errors that the budget lets through."""
    sent: list[int] = []
    for number, moment in enumerate(stream.moments):
        if _is_error(moment) and len(sent) + 1 <= budget * (number + 1):
            sent.append(number)
    return sent


def _recall(stream: Stream, rule: str, budget: float, sent: Sequence[int]) -> Recall:
    moments = stream.moments
    errors = sum(_is_error(moment) for moment in moments)
    return Recall(
        script=stream.name,
        seed=stream.seed,
        rule=rule,
        budget=budget,
        recall=sum(_is_error(moments[n]) for n in sent) / max(1, errors),
        sent=len(sent) / len(moments),
        sent_under_drift=sum(moments[n].drifted for n in sent),
    )


def _at_random(stream: Stream, budget: float) -> Recall:
    random = Random(stream.seed)
    count = int(budget * len(stream.moments))
    draws = [
        _recall(stream, "random", budget, random.sample(range(len(stream.moments)), count))
        for _ in range(_DRAWS)
    ]
    return Recall(
        script=stream.name,
        seed=stream.seed,
        rule="random",
        budget=budget,
        recall=statistics.mean(draw.recall for draw in draws),
        sent=count / len(stream.moments),
        sent_under_drift=round(statistics.mean(draw.sent_under_drift for draw in draws)),
    )


def _is_error(moment: Moment) -> bool:
    return moment.wrong > WRONG


def _scores(example: Example, *, least: float = 0.3) -> list[float]:
    """What a detector of the usual threshold says."""
    return [box.score for box in example.prediction.boxes if _at_least(box, least)]  # type: ignore[misc]


def _at_least(box: Box, least: float) -> bool:
    return box.score is not None and box.score >= least


@dataclass(frozen=True, slots=True)
class _Plain:
    """A rule that does not remember what was sent."""

    says: Callable[[Example], bool]

    def wants(self, example: Example, /) -> bool:
        return self.says(example)

    def sent(self, example: Example, /) -> None:
        """It does not matter."""


# After hard-example policies of KubeEdge Sedna, at their defaults, on boxes of at least 0.3. There,
# cross entropy is of class probabilities, which a box does not have: here, of the boxes' scores.
def _mean_below(_budget: float) -> Rule:
    """Threshold: the mean score is below one half; no boxes: easy."""

    def says(example: Example) -> bool:
        scores = _scores(example)
        return bool(scores) and statistics.mean(scores) < 0.5

    return _Plain(says)


def _share_below(_budget: float) -> Rule:
    """IBT: half of the boxes score at most one half; no boxes: easy."""

    def says(example: Example) -> bool:
        scores = _scores(example)
        return bool(scores) and sum(s <= 0.5 for s in scores) / len(scores) >= 0.5

    return _Plain(says)


def _cross_entropy(_budget: float) -> Rule:
    """CrossEntropy: one minus the normalised entropy of the scores is below one half."""

    def says(example: Example) -> bool:
        scores = [s for s in _scores(example) if s > 0]
        if len(scores) < 2:
            return False
        return 1 + sum(s * math.log(s) for s in scores) / math.log(len(scores)) < 0.5

    return _Plain(says)


def _policies(configured: dict[str, dict[str, object]]) -> list[Policy[Any]]:
    return make_policies(configured, known=Detection().policies())


class _Chain:
    """The collector's own policies."""

    def __init__(self, policies: dict[str, dict[str, object]]) -> None:
        self._policies = PolicyChain(_policies(policies), combination="any")

    def wants(self, example: Example, /) -> bool:
        return self._policies.judge(example).judgement is not None

    def sent(self, example: Example, /) -> None:
        self._policies.taken(example)


def _policy(name: str) -> Callable[[float], Rule]:
    """A policy at its defaults."""
    return lambda _budget: _Chain({name: {}})


def _expected(budget: float) -> Rule:
    """The policy of expected errors, told what the budget is; all else at its defaults."""
    return _Chain({"expected": {"share": budget}})


def _ranked(name: str) -> Callable[[float], Rule]:
    """The worst share of the last 512 frames by a policy's score, whatever its threshold."""

    def make(budget: float) -> Rule:
        (policy,) = _policies({name: {}})
        recent: deque[float] = deque(maxlen=512)

        def says(example: Example) -> bool:
            judgement = policy.judge(example)
            if judgement is None:
                return False
            equal = sum(score == judgement.score for score in recent)
            above = sum(score > judgement.score for score in recent)
            worst = len(recent) >= 20 and above + equal / 2 <= budget * len(recent)
            recent.append(judgement.score)
            return worst

        return _Plain(says)

    return make


CONFIDENCE_RULES = ("mean < .5", "half <= .5", "cross entropy", "confidence", "confidence, ranked")
"""Rules on confidence alone; the first three are after policies of Sedna."""
OURS = "expected"
"""What the benchmark's targets are about."""
ORACLE = "oracle"
"""The most that the budget lets through."""

RULES: dict[str, Callable[[float], Rule]] = {
    "mean < .5": _mean_below,
    "half <= .5": _share_below,
    "cross entropy": _cross_entropy,
    "confidence": _policy("confidence"),
    "confidence, ranked": _ranked("confidence"),
    "margin, ranked": _ranked("margin"),
    "entropy, ranked": _ranked("entropy"),
    "temporal": _policy("temporal"),
    "novelty": _policy("novelty"),
    "expected, ranked": _ranked("expected"),
    OURS: _expected,
}


def summarise(rows: Sequence[Recall]) -> dict[tuple[str, str, float], float]:
    """Mean recall over the seeds, by script, rule and budget."""
    groups: dict[tuple[str, str, float], list[float]] = defaultdict(list)
    for row in rows:
        groups[row.script, row.rule, row.budget].append(row.recall)
    return {key: statistics.mean(values) for key, values in groups.items()}
