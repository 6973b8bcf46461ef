"""Combination of several policies into one ruling."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from edgebus.mining.example import Example, Judgement
from edgebus.mining.policy import Policy

Combination = Literal["first", "any", "all"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ruling:
    """Joint judgement of all policies on one example.

    Attributes:
        policy: Name of the policy that found it wrong; None where it is not.
        judgement: That policy's; None where nothing is wrong.
        scores: Score of every policy that could tell.
    """

    policy: str | None = None
    judgement: Judgement | None = None
    scores: dict[str, float] = field(default_factory=dict)


class PolicyChain:
    """Policies in order of authority, combined.

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
        self._now = tuple(policy for policy in policies if not policy.needs_reference)
        self._later = tuple(policy for policy in policies if policy.needs_reference)
        self._combine = _COMBINED[combination]
        self.names = tuple(policy.name for policy in policies)
        """The policies' names, in order."""

    @property
    def wants_reference(self) -> bool:
        """Whether some policy compares with a reference model."""
        return bool(self._later)

    def judge(self, example: Example[Any, Any, Any]) -> Ruling:
        """Ask every policy, since one may keep state between inputs, and combine the answers."""
        return _rule(_ask(self._now, example), self._combine)

    def judge_reference(self, example: Example[Any, Any, Any]) -> Ruling:
        """Ask the policies that compare with a reference model; the first wrong counts."""
        return _rule(_ask(self._later, example), _any)

    def taken(self, example: Example[Any, Any, Any]) -> None:
        """Notify every policy that an input that was found wrong has become a sample."""
        for policy in (*self._now, *self._later):
            policy.taken(example)


_Answers = list[tuple[str, Judgement]]


def _ask(policies: Sequence[Policy[Any]], example: Example[Any, Any, Any]) -> _Answers:
    answers = [(policy.name, policy.judge(example)) for policy in policies]
    return [(name, judgement) for name, judgement in answers if judgement is not None]


def _rule(answers: _Answers, combine: Callable[[_Answers], tuple[str, Judgement] | None]) -> Ruling:
    policy, judgement = combine(answers) or (None, None)
    scores = {name: judgement.score for name, judgement in answers}
    return Ruling(policy=policy, judgement=judgement, scores=scores)


def _first(answers: _Answers) -> tuple[str, Judgement] | None:
    return answers[0] if answers and answers[0][1].wrong else None


def _any(answers: _Answers) -> tuple[str, Judgement] | None:
    return next((one for one in answers if one[1].wrong), None)


def _all(answers: _Answers) -> tuple[str, Judgement] | None:
    return answers[0] if answers and all(judgement.wrong for _, judgement in answers) else None


_COMBINED = {"first": _first, "any": _any, "all": _all}
