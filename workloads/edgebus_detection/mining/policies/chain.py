"""Several policies as one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from edgebus_detection.mining.examples import Example, Judgement
from edgebus_detection.mining.policies.base import Policy

__all__ = ["Combination", "PolicyChain", "Ruling"]

Combination = Literal["first", "any", "all"]


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

    =====  =======================================================================
    first  the first that can tell decides: ground truth overrules an estimate
    any    the first that says wrong decides
    all    wrong where every policy that can tell says so
    =====  =======================================================================

    Args:
        policies: In order of authority.
        combination: How they become one.
    """

    def __init__(
        self, policies: Sequence[Policy[Any]], *, combination: Combination = "first"
    ) -> None:
        self._now = tuple(policy for policy in policies if not policy.needs_second)
        self._later = tuple(policy for policy in policies if policy.needs_second)
        self._combine = _COMBINED[combination]
        self.names = tuple(policy.name for policy in policies)
        """The policies' names, in order."""

    @property
    def wants_second(self) -> bool:
        """Whether some policy looks at what a second model sees."""
        return bool(self._later)

    def judge(self, example: Example) -> Ruling:
        """What the policies say; every one is asked, since one may keep state between frames."""
        said = _ask(self._now, example)
        scores = {name: judgement.score for name, judgement in said}
        found = self._combine(said)
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

    def taken(self, example: Example) -> None:
        """A frame that was found wrong has become a sample; every policy hears of it."""
        for policy in (*self._now, *self._later):
            policy.taken(example)


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
