"""Which frames become samples: policies, the audit share, near-duplicates and the budget."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Literal

from edgebus.contracts import Frame, Sample, SampleRecord, Split, split_of
from edgebus_collector.budget import Budget
from edgebus_collector.examples import Example
from edgebus_collector.hashing import NearDuplicates, difference_hash
from edgebus_collector.policies import PolicyChain

__all__ = ["AUDIT", "COMMAND", "Choice", "Selector", "Suppressed", "make_sample", "share_of"]

AUDIT = "audit"
"""Policy name of samples that were drawn by share, easy ones included."""

COMMAND = "command"
"""Policy name of samples that somebody asked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """A frame that becomes a sample, and why."""

    example: Example
    policy: str
    split: Split
    score: float
    reason: str


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
    """

    def __init__(
        self,
        *,
        chain: PolicyChain,
        budget: Budget,
        duplicates: NearDuplicates,
        holdout_share: float,
        audit_share: float,
    ) -> None:
        self._chain = chain
        self._budget = budget
        self._duplicates = duplicates
        self._holdout_share = holdout_share
        self._audit_share = audit_share
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
            PictureUnreadableError: The picture is corrupt; the frame is worth nothing.
        """
        choice = self._choose(example)
        if choice is None:
            return None
        fingerprint = difference_hash(example.frame.jpeg)
        key = f"{example.camera}/{choice.split}"
        if choice.policy == COMMAND:
            self._asked.discard(example.camera)
        else:
            if self._duplicates.seen(key, fingerprint):
                return Suppressed(cause="duplicate", policy=choice.policy)
            holdout = choice.split == "holdout"
            if not self._budget.take(size=len(example.frame.jpeg), holdout=holdout, now=now):
                return Suppressed(cause="budget", policy=choice.policy)
        self._duplicates.remember(key, fingerprint)
        return choice

    def _choose(self, example: Example) -> Choice | None:
        split = split_of(example.camera, example.index)
        # Asked for every frame, also where it cannot decide: a policy may keep state.
        opinion = self._chain.judge(example)
        if example.camera in self._asked:
            policy, score, reason = COMMAND, 0.0, "asked for by a command"
        elif split == "holdout":
            if share_of(example.camera, example.index) >= self._holdout_share:
                return None
            policy, score = AUDIT, opinion[1].score if opinion else 0.0
            reason = opinion[1].reason if opinion else "drawn by share; nothing seemed wrong"
        elif opinion is not None:
            policy, score, reason = opinion[0], opinion[1].score, opinion[1].reason
        elif share_of(example.camera, example.index) < self._audit_share:
            policy, score, reason = AUDIT, 0.0, "drawn by share; nothing seemed wrong"
        else:
            return None
        return Choice(example=example, policy=policy, split=split, score=score, reason=reason)


def share_of(camera: str, index: int) -> float:
    """A number in [0, 1) for a frame, evenly spread and the same on every machine and run."""
    digest = hashlib.sha256(f"{camera}/{index}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def make_sample(choice: Choice, *, source: str, traceparent: str | None = None) -> Sample:
    """The message of a chosen frame: its JPEG with the sample's record in place of the frame's.

    Raises:
        PayloadError: The record does not fit into a JPEG segment (64 KiB; some 400 boxes).
    """
    example = choice.example
    frame: Frame = example.frame
    record = SampleRecord(
        traceparent=traceparent,
        source=source,
        frame=frame.record.id,
        camera=example.camera,
        index=example.index,
        captured=frame.record.captured,
        width=frame.record.width,
        height=frame.record.height,
        split=choice.split,
        policy=choice.policy,
        reason=choice.reason,
        score=choice.score,
        model=example.detections.model,
        detections=example.detections.boxes,
        truth=None if example.truth is None else example.truth.boxes,
    )
    return Sample.build(frame.jpeg, record)
