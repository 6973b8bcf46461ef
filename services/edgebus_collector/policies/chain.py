"""Several policies as one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from edgebus_collector.examples import Example, Judgement
from edgebus_collector.policies.base import Policy, PolicyError
from edgebus_collector.policies.ranks import Ranks
from edgebus_collector.policies.surprise import Surprise, fisher

__all__ = ["Combination", "PolicyChain", "Ruling"]

Combination = Literal["first", "any", "all", "weighted", "surprise"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ruling:
    """What the policies together think of an example.

    Attributes:
        policy: Name of the policy that found it wrong; None where it is not.
        judgement: That policy's; None where nothing is wrong.
        scores: Score of every policy that could tell.
    """

    policy: str | None = None
    judgement: Judgement | None = None
    scores: dict[str, float] = field(default_factory=dict)


class PolicyChain:
    """Asks all policies and combines what they say.

    ==========  ==================================================================================
    first       the first that can tell decides: ground truth overrules a low confidence
    any         the first that says wrong decides
    all         wrong where every policy that can tell says so
    weighted    the frames that are worst by the weighted mean of ranks, whatever the thresholds
    surprise    the frames that are unlike the camera's first ones, by all policies together
    ==========  ==================================================================================

    For ``weighted``, each policy's score s becomes its rank among the last scores of that policy
    and camera, and with weights w::

        r = sum of w_i rank(s_i) / sum of w_i, over the policies that can tell
        wrong iff rank(r) >= 1 - share

    A threshold on confidence collects nothing from a model that is sure of its mistakes; a share
    of the worst always collects something (top-k selection, as in batch-mode active learning). It
    is named after the policy that says most: the largest w_i rank(s_i).

    For ``surprise``, each score becomes a p-value against the first frames of its camera, and
    Fisher's method makes one of them: wrong iff p <= level. What is saved while nothing changes
    is spent when something does; see `Surprise`.

    Args:
        policies: In order of authority.
        combination: How they become one.
        weights: For ``weighted``, by name; 1 for those that are not named.
        share: For ``weighted``, the share of a camera's frames that is wrong.
        memory: For ``weighted``, the frames of each camera that are compared with.
        level: For ``surprise``, how unusual a frame has to be.
        calibration: For ``surprise``, the first frames of each camera that are compared with.

    Raises:
        PolicyError: A weight names a policy that is not among them, or is below 0.
    """

    def __init__(
        self,
        policies: Sequence[Policy[Any]],
        *,
        combination: Combination = "first",
        weights: Mapping[str, float] | None = None,
        share: float = 0.1,
        memory: int = 512,
        level: float = 0.02,
        calibration: int = 100,
    ) -> None:
        self._now = tuple(policy for policy in policies if not policy.needs_second)
        self._later = tuple(policy for policy in policies if policy.needs_second)
        self._combination: Combination = combination
        self._weights = {policy.name: 1.0 for policy in policies} | dict(weights or {})
        self._share = share
        self._ranks = Ranks(memory=memory)
        self._level = level
        self._surprise = Surprise(calibration=calibration)
        self.names = tuple(policy.name for policy in policies)
        """The policies' names, in order."""
        for name, weight in (weights or {}).items():
            if name not in self.names or weight < 0:
                reason = (
                    f"has weight {weight:g}; weights are from 0 on, for {', '.join(self.names)}"
                )
                raise PolicyError(policy=name, reason=reason)

    @property
    def wants_second(self) -> bool:
        """Whether some policy looks at what a second model sees."""
        return bool(self._later)

    def judge(self, example: Example) -> Ruling:
        """What the policies say; every one is asked, since one may keep state between frames."""
        said = _ask(self._now, example)
        scores = {name: judgement.score for name, judgement in said}
        if self._combination == "weighted":
            found = self._worst(example.camera, said)
        elif self._combination == "surprise":
            found = self._surprising(example, said)
        else:
            found = _COMBINED[self._combination](said)
        if found is None:
            return Ruling(scores=scores)
        return Ruling(policy=found[0], judgement=found[1], scores=scores)

    def judge_second(self, example: Example) -> Ruling:
        """What the policies say that look at the second model's boxes; the first wrong counts."""
        said = _ask(self._later, example)
        scores = {name: judgement.score for name, judgement in said}
        found = _any(said)
        if found is None:
            return Ruling(scores=scores)
        return Ruling(policy=found[0], judgement=found[1], scores=scores)

    def _worst(self, camera: str, said: _Said) -> tuple[str, Judgement] | None:
        ranked = [
            (name, judgement, rank * self._weights[name])
            for name, judgement in said
            if (rank := self._ranks.rank(f"{camera}/{name}", judgement.score)) is not None
        ]
        weight = sum(self._weights[name] for name, *_ in ranked)
        if not weight:
            return None
        mean = sum(part for *_, part in ranked) / weight
        rank = self._ranks.rank(camera, mean)
        if rank is None or rank < 1 - self._share:
            return None
        name, judgement, _ = max(ranked, key=lambda item: item[2])
        reason = f"among the worst {self._share:.0%} of {camera} by rank; {judgement.reason}"
        return name, Judgement(wrong=True, score=mean, reason=reason)

    def _surprising(self, example: Example, said: _Said) -> tuple[str, Judgement] | None:
        opinions = dict(said)
        values = self._surprise.p_values(
            example.camera,
            example.detections.model.digest,
            {name: judgement.score for name, judgement in said},
        )
        if not values or (p := fisher(list(values.values()))) > self._level:
            return None
        name = min(values, key=values.__getitem__)
        reason = f"unlike the first frames of {example.camera} (p {p:.2g}); {opinions[name].reason}"
        # Higher is worse, as with every score.
        return name, Judgement(wrong=True, score=1 - p, reason=reason)


_Said = list[tuple[str, Judgement]]


def _ask(policies: Sequence[Policy[Any]], example: Example) -> _Said:
    opinions = [(policy.name, policy.judge(example)) for policy in policies]
    return [(name, judgement) for name, judgement in opinions if judgement is not None]


def _first(said: _Said) -> tuple[str, Judgement] | None:
    return said[0] if said and said[0][1].wrong else None


def _any(said: _Said) -> tuple[str, Judgement] | None:
    return next((one for one in said if one[1].wrong), None)


def _all(said: _Said) -> tuple[str, Judgement] | None:
    return said[0] if said and all(judgement.wrong for _, judgement in said) else None


_COMBINED = {"first": _first, "any": _any, "all": _all}
