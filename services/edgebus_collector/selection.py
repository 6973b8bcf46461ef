"""Which frames become samples: policies, the audit share, near-duplicates and the budget."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Literal

from edgebus.contracts import Split, split_of
from edgebus_collector.budget import Budget, Kind
from edgebus_collector.history import Seen
from edgebus_detection.mining.examples import Example
from edgebus_detection.mining.policies import PolicyChain, Ruling
from edgebus_detection.vision import difference_hash
from edgebus_detection.vision.near_duplicates import NearDuplicates

__all__ = ["AUDIT", "COMMAND", "FEEDBACK", "Choice", "Selector", "Suppressed", "share_of"]

AUDIT = "audit"
"""Policy name of samples that were drawn by share, easy ones included."""

COMMAND = "command"
"""Policy name of samples that somebody asked for."""

FEEDBACK = "feedback"
"""Policy name of samples that an operator found wrong."""

_EASY = "drawn by share; nothing seemed wrong"


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """A frame that becomes a sample, and why.

    Attributes:
        example: The frame.
        policy: Who chose it.
        split: Whether it may be trained on.
        score: How wrong.
        reason: In words.
        scores: Score of every policy that could tell.
    """

    example: Example
    policy: str
    split: Split
    score: float
    reason: str
    scores: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Suppressed:
    """A frame that was worth a sample and does not become one."""

    cause: Literal["duplicate", "budget"]
    policy: str


class Selector:
    """Decides about one example after the other; no clock, no I/O.

    Held-out frames (`split_of`) are drawn by a fixed share whatever the policies say, so that the
    gate measures the whole domain and not only its hard part. Frames for training are those that
    a policy finds wrong, and a small random audit of the rest.

    Args:
        chain: The policies.
        budget: What the node may send.
        duplicates: Recognises what was sent a moment ago.
        holdout_share: Share of the held-out frames that become samples, 0 to 1.
        audit_share: Share of the training frames that become samples without being wrong.
        second_share: Share of the training frames that the second model is shown.
    """

    def __init__(
        self,
        *,
        chain: PolicyChain,
        budget: Budget,
        duplicates: NearDuplicates,
        holdout_share: float,
        audit_share: float,
        second_share: float = 0.0,
    ) -> None:
        self._chain = chain
        self._budget = budget
        self._duplicates = duplicates
        self._holdout_share = holdout_share
        self._audit_share = audit_share
        self._second_share = second_share if chain.wants_second else 0.0
        self._asked: set[str] = set()

    def ask(self, camera: str) -> None:
        """Take the next frame of this camera, whatever it shows."""
        self._asked.add(camera)

    def decide(self, example: Example, *, now: float) -> Choice | Suppressed | None:
        """What becomes of an example; None where it is of no interest.

        Args:
            example: The frame and what is known of it.
            now: Seconds of a clock that never goes back, for the budget.

        Raises:
            ImageError: The picture is corrupt; the frame is worth nothing.
        """
        choice = self._choose(example)
        if choice is None:
            return None
        if choice.policy == COMMAND:
            self._asked.discard(example.camera)
            self._duplicates.remember(_key(choice), difference_hash(example.frame.jpeg))
            return choice
        return self._admit(choice, now)

    def wants_second(self, example: Example) -> bool:
        """Whether the second model shall look at a frame: a fixed share, evenly spread."""
        return (
            split_of(example.camera, example.index) == "train"
            and share_of(f"second/{example.camera}", example.index) < self._second_share
        )

    def decide_second(self, example: Example, *, now: float) -> Choice | Suppressed | None:
        """What becomes of an example that the second model has looked at.

        It was decided about without it before, and was of no interest then.

        Raises:
            ImageError: As for `decide`.
        """
        ruling = self._chain.judge_second(example)
        if ruling.judgement is None:
            return None
        return self._admit(_wrong(example, "train", ruling), now)

    def take_back(self, seen: Seen) -> Choice:
        """A frame that an operator has said something of; it is worth more than any policy's."""
        example = seen.example
        what = [
            verdict.verdict.replace("_", " ") + (f" ({verdict.label})" if verdict.label else "")
            for verdict in seen.verdicts
        ]
        choice = Choice(
            example=example,
            policy=FEEDBACK,
            split=split_of(example.camera, example.index),
            score=float(len(seen.verdicts)),
            reason=f"an operator says: {', '.join(what)}",
        )
        self._duplicates.remember(_key(choice), difference_hash(example.frame.jpeg))
        return choice

    def _choose(self, example: Example) -> Choice | None:
        split = split_of(example.camera, example.index)
        # Asked for every frame, also where it cannot decide: a policy may keep state.
        ruling = self._chain.judge(example)
        opinion = ruling.judgement
        if example.camera in self._asked:
            policy, score, reason = COMMAND, 0.0, "asked for by a command"
        elif split == "holdout":
            if share_of(example.camera, example.index) >= self._holdout_share:
                return None
            policy, score = AUDIT, opinion.score if opinion else 0.0
            reason = opinion.reason if opinion else _EASY
        elif opinion is not None:
            return _wrong(example, split, ruling)
        elif share_of(example.camera, example.index) < self._audit_share:
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
        fingerprint = difference_hash(example.frame.jpeg)
        if self._duplicates.seen(_key(choice), fingerprint):
            return Suppressed(cause="duplicate", policy=choice.policy)
        size = len(example.frame.jpeg)
        if not self._budget.take(size=size, kind=_kind(choice), camera=example.camera, now=now):
            return Suppressed(cause="budget", policy=choice.policy)
        self._duplicates.remember(_key(choice), fingerprint)
        if choice.policy in self._chain.names:
            self._chain.taken(example)
        return choice


def _wrong(example: Example, split: Split, ruling: Ruling) -> Choice:
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
    return f"{choice.example.camera}/{choice.split}"


def _kind(choice: Choice) -> Kind:
    if choice.split == "holdout":
        return "holdout"
    return "audit" if choice.policy == AUDIT else "train"


def share_of(camera: str, index: int) -> float:
    """A number in [0, 1) for a frame, evenly spread and the same on every machine and run."""
    digest = hashlib.sha256(f"{camera}/{index}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64
