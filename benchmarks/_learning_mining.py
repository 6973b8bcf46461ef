"""How many of a model's errors reach the cloud, when only a few frames may be sent."""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random
from typing import Protocol

from benchmarks._learning_streams import Moment, Stream
from edgebus.contracts import Box
from edgebus_collector import Example
from edgebus_collector.policies import Combination, PolicyChain, make_policies

__all__ = ["BUDGETS", "CONFIDENCE_RULES", "OURS", "Recall", "measure_mining"]

BUDGETS = (0.02, 0.05, 0.10)
"""Share of the frames that may be sent."""
WRONG = 0.5
"""A frame from this score of the truth policy on is an error: more wrong than right."""
_DRAWS = 50


class Rule(Protocol):
    """Says of one frame after the other whether it is worth sending."""

    def __call__(self, example: Example, /) -> bool:
        """Whether this frame is."""
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
    return found


def _send(stream: Stream, rule: Rule, budget: float) -> list[int]:
    sent: list[int] = []
    for number, moment in enumerate(stream.moments):
        wanted = rule(moment.example)  # asked each time: it may remember
        if wanted and len(sent) + 1 <= budget * (number + 1):
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
    return [box.score for box in example.detections.boxes if _at_least(box, least)]  # type: ignore[misc]


def _at_least(box: Box, least: float) -> bool:
    return box.score is not None and box.score >= least


# After hard-example policies of KubeEdge Sedna, at their defaults, on boxes of at least 0.3. There,
# cross entropy is of class probabilities, which a box does not have: here, of the boxes' scores.
def _mean_below(_budget: float) -> Rule:
    """Threshold: the mean score is below one half; no boxes: easy."""

    def rule(example: Example) -> bool:
        scores = _scores(example)
        return bool(scores) and statistics.mean(scores) < 0.5

    return rule


def _share_below(_budget: float) -> Rule:
    """IBT: half of the boxes score at most one half; no boxes: easy."""

    def rule(example: Example) -> bool:
        scores = _scores(example)
        return bool(scores) and sum(s <= 0.5 for s in scores) / len(scores) >= 0.5

    return rule


def _cross_entropy(_budget: float) -> Rule:
    """CrossEntropy: one minus the normalised entropy of the scores is below one half."""

    def rule(example: Example) -> bool:
        scores = [s for s in _scores(example) if s > 0]
        if len(scores) < 2:
            return False
        return 1 + sum(s * math.log(s) for s in scores) / math.log(len(scores)) < 0.5

    return rule


def _chain(
    policies: dict[str, dict[str, object]], combination: Combination = "any"
) -> Callable[[float], Rule]:
    """The collector's own policies, at their defaults, or combined without thresholds."""

    def make(budget: float) -> Rule:
        chain = PolicyChain(
            make_policies(policies),
            combination=combination,
            share=budget,
        )
        return lambda example: chain.judge(example).judgement is not None

    return make


CONFIDENCE_RULES = ("mean < .5", "half <= .5", "cross entropy", "confidence", "confidence, ranked")
"""Rules on confidence alone; the first three are after policies of Sedna."""
OURS = "feature + confidence, surprise"
"""What the benchmark's targets are about."""

RULES: dict[str, Callable[[float], Rule]] = {
    "mean < .5": _mean_below,
    "half <= .5": _share_below,
    "cross entropy": _cross_entropy,
    "confidence": _chain({"confidence": {}}),
    "confidence, ranked": _chain({"confidence": {}}, "weighted"),
    "confidence, surprise": _chain({"confidence": {}}, "surprise"),
    "margin, ranked": _chain({"margin": {}}, "weighted"),
    "entropy, ranked": _chain({"entropy": {}}, "weighted"),
    "temporal": _chain({"temporal": {}}),
    "feature": _chain({"feature": {}}),
    "feature + confidence, ranked": _chain({"feature": {}, "confidence": {}}, "weighted"),
    "feature + margin, surprise": _chain({"feature": {}, "margin": {}}, "surprise"),
    "feature + confidence + temporal, surprise": _chain(
        {"feature": {}, "confidence": {}, "temporal": {}}, "surprise"
    ),
    OURS: _chain({"feature": {}, "confidence": {}}, "surprise"),
}


def summarise(rows: Sequence[Recall]) -> dict[tuple[str, str, float], float]:
    """Mean recall over the seeds, by script, rule and budget."""
    groups: dict[tuple[str, str, float], list[float]] = defaultdict(list)
    for row in rows:
        groups[row.script, row.rule, row.budget].append(row.recall)
    return {key: statistics.mean(values) for key, values in groups.items()}
