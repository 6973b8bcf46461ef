"""Selection of samples: policies, the audit share, near-duplicates and the budget."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Any, Literal

from edgebus.contracts import Split, split_of
from edgebus.mining import Example, PolicyChain, Ruling
from edgebus.mining.near_duplicates import NearDuplicates
from edgebus.workload import load_workload
from edgebus_collector.budget import Budget, Kind
from edgebus_collector.history import Seen
from edgebus_collector.settings import CollectorSettings

AUDIT = "audit"
"""Policy name of samples that were drawn by share, easy ones included."""

COMMAND = "command"
"""Policy name of samples that somebody asked for."""

FEEDBACK = "feedback"
"""Policy name of samples that an operator found wrong."""

_EASY = "drawn by share; nothing seemed wrong"


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """An input that becomes a sample, and why.

    Attributes:
        example: The input.
        policy: The policy that chose it.
        split: Whether it may be trained on.
        score: How wrong.
        reason: In words.
        scores: Score of every policy that could tell.
    """

    example: Example[Any, Any, Any]
    policy: str
    split: Split
    score: float
    reason: str
    scores: dict[str, float] = field(default_factory=dict)

    def facts(self) -> dict[str, Any]:
        """The fields of a `SampleRecord` that follow from it."""
        prediction = self.example.prediction
        return {
            "stream": prediction.stream,
            "input": prediction.input,
            "index": prediction.index,
            "captured": prediction.captured,
            "model": prediction.model,
            "split": self.split,
            "policy": self.policy,
            "reason": self.reason,
            "score": self.score,
            "policy_scores": self.scores,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Suppressed:
    """An input that was worth a sample and does not become one."""

    cause: Literal["duplicate", "budget"]
    policy: str


class Selector:
    """Decision about one example after the other; no clock, no I/O.

    Held-out inputs (`split_of`) are drawn by a fixed share whatever the policies say, so that the
    gate measures the whole domain and not only its hard part. Inputs for training are those that
    a policy finds wrong, and a small random audit of the rest.

    Args:
        settings: What to choose by.
        chain: The policies; made from the settings where there is none.
    """

    def __init__(self, settings: CollectorSettings, *, chain: PolicyChain | None = None) -> None:
        self._fingerprint = load_workload(settings.workload).fingerprint
        self._chain = settings.chain() if chain is None else chain
        self._budget = Budget(settings.budget)
        self._duplicates = NearDuplicates(
            distance=settings.duplicate_distance, memory=settings.duplicate_memory
        )
        self._holdout_share = settings.holdout_share
        self._audit_share = settings.audit_share
        reference = settings.reference_model
        self._reference_share = (
            reference.share if reference is not None and self._chain.wants_reference else 0.0
        )
        self._asked: set[str] = set()

    def ask(self, stream: str) -> None:
        """Take the next input of this stream, whatever the policies say."""
        self._asked.add(stream)

    def decide(self, example: Example[Any, Any, Any], *, now: float) -> Choice | Suppressed | None:
        """Decide about an example; None where it is of no interest.

        Args:
            example: The input and what is known of it.
            now: Seconds of a clock that never goes back, for the budget.

        Raises:
            InputUnreadableError: The input is corrupt and worth nothing.
        """
        choice = self._choose(example)
        if choice is None:
            return None
        if choice.policy == COMMAND:
            self._asked.discard(example.stream)
            self._duplicates.remember(_key(choice), self._fingerprint(example.input))
            return choice
        return self._admit(choice, now)

    def wants_reference(self, example: Example[Any, Any, Any]) -> bool:
        """Whether the reference model is shown an input: a fixed share, evenly spread."""
        return (
            split_of(example.stream, example.index) == "train"
            and share_of(f"reference/{example.stream}", example.index) < self._reference_share
        )

    def decide_reference(
        self, example: Example[Any, Any, Any], *, now: float
    ) -> Choice | Suppressed | None:
        """Decide about an example that the reference model was shown.

        It was decided about without it before, and was of no interest then.

        Raises:
            InputUnreadableError: As for `decide`.
        """
        ruling = self._chain.judge_reference(example)
        if ruling.judgement is None:
            return None
        return self._admit(_wrong(example, "train", ruling), now)

    def choose_feedback(self, seen: Seen) -> Choice:
        """Choose an input that a person has judged; it is worth more than any policy's choice."""
        example = seen.example
        choice = Choice(
            example=example,
            policy=FEEDBACK,
            split=split_of(example.stream, example.index),
            score=float(len(seen.verdicts)),
            reason=f"an operator says: {', '.join(verdict.summary for verdict in seen.verdicts)}",
        )
        self._duplicates.remember(_key(choice), self._fingerprint(example.input))
        return choice

    def _choose(self, example: Example[Any, Any, Any]) -> Choice | None:
        split = split_of(example.stream, example.index)
        # Asked for every input, also where it cannot decide: a policy may keep state.
        ruling = self._chain.judge(example)
        judgement = ruling.judgement
        if example.stream in self._asked:
            policy, score, reason = COMMAND, 0.0, "asked for by a command"
        elif split == "holdout":
            if share_of(example.stream, example.index) >= self._holdout_share:
                return None
            policy, score = AUDIT, judgement.score if judgement else 0.0
            reason = judgement.reason if judgement else _EASY
        elif judgement is not None:
            return _wrong(example, split, ruling)
        elif share_of(example.stream, example.index) < self._audit_share:
            policy, score, reason = AUDIT, 0.0, _EASY
        else:
            return None
        return Choice(
            example=example,
            policy=policy,
            split=split,
            score=score,
            reason=reason,
            scores=ruling.scores,
        )

    def _admit(self, choice: Choice, now: float) -> Choice | Suppressed:
        """Let a choice through, unless it is a near-duplicate or too expensive."""
        example = choice.example
        fingerprint = self._fingerprint(example.input)
        if self._duplicates.seen(_key(choice), fingerprint):
            return Suppressed(cause="duplicate", policy=choice.policy)
        size = len(example.input.encode())
        if not self._budget.take(size=size, kind=_kind(choice), stream=example.stream, now=now):
            return Suppressed(cause="budget", policy=choice.policy)
        self._duplicates.remember(_key(choice), fingerprint)
        if choice.policy in self._chain.names:
            self._chain.taken(example)
        return choice


def _wrong(example: Example[Any, Any, Any], split: Split, ruling: Ruling) -> Choice:
    assert ruling.policy is not None
    assert ruling.judgement is not None
    return Choice(
        example=example,
        policy=ruling.policy,
        split=split,
        score=ruling.judgement.score,
        reason=ruling.judgement.reason,
        scores=ruling.scores,
    )


def _key(choice: Choice) -> str:
    return f"{choice.example.stream}/{choice.split}"


def _kind(choice: Choice) -> Kind:
    if choice.split == "holdout":
        return "holdout"
    return "audit" if choice.policy == AUDIT else "train"


def share_of(stream: str, index: int) -> float:
    """A number in [0, 1) for an input, evenly spread and the same on every machine and run."""
    digest = hashlib.sha256(f"{stream}/{index}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64
