"""Samples and drift: what is collected of a stream of inputs, and how its statistics change."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from edgebus.contracts.labels import LabelSet
from edgebus.contracts.models import ModelRef
from edgebus.contracts.names import Segment
from edgebus.contracts.payload import (
    Amount,
    Count,
    Figures,
    Key,
    Message,
    Number,
    Ordinal,
    Record,
    Text,
    Timestamp,
)

Split = Literal["train", "holdout"]
Consent = Literal["unstated", "given", "refused"]


def split_of(stream: str, index: int, *, block: int = 20, every: int = 4) -> Split:
    """Assign an input to training or to the held-out set, the same everywhere on the bus.

    Whole blocks of consecutive inputs are held out, not single ones: neighbours in a series are
    near-duplicates, and training on one leaks the other.

    Args:
        stream: Name of the stream; streams hold out different blocks.
        index: Number of the input, from 0.
        block: Inputs per block.
        every: One block in this many is held out.
    """
    digest = hashlib.sha256(stream.encode()).digest()
    offset = int.from_bytes(digest[:4], "big") % every
    return "holdout" if (index // block + offset) % every == every - 1 else "train"


class DriftState(Record):
    """Drift of one stream: which of its statistics are not what they were."""

    drifted: Annotated[tuple[Segment, ...], Field(max_length=64)] = Field(
        default=(), description="Statistics that have changed and not come back; empty: stable."
    )
    since: Timestamp | None = Field(
        default=None, description="When the first of these changes began, by the stream's clock."
    )
    means: Figures = Field(
        default_factory=dict, description="Recent mean of each watched statistic."
    )


class Drift(Message, version=1):
    """A change of one statistic of one stream: a reason to look, and to retrain.

    `returned` tells the two directions apart: away from what was normal when the model began to
    serve, or back to it.
    """

    stream: Segment
    statistic: Segment = Field(description="What has changed, as the workload names it.")
    method: Segment = Field(description="What noticed it: adwin, page-hinkley, kswin.")
    before: Number = Field(description="Mean before the change.")
    after: Number = Field(description="Mean since the change.")
    count: Ordinal = Field(description="Inputs since the change, of which `after` is the mean.")
    input: Key = Field(description="id of the input at which it was noticed.")
    index: Count = Field(description="Number of that input.")
    since: Timestamp = Field(description="When the change began, by the stream's clock.")
    returned: bool = Field(
        default=False, description="The statistic is back to normal: no reason to retrain."
    )
    model: ModelRef = Field(description="The model that served then.")


class Verdict(Record):
    """Verdict of one person on one prediction; a workload extends it by what may be wrong."""

    by: Key = Field(description="The person: the feedback's source.")
    time: Timestamp = Field(description="When it was sent.")
    note: Annotated[str, Field(max_length=500)] = Field(default="", description="In words.")

    @property
    def summary(self) -> str:
        """The verdict in a few words, for the reason of a sample."""
        return self.note or "wrong"


class SampleRecord(Message):
    """Record of a sample of any workload: which input it is, and why it was collected.

    A workload extends it by what its model predicted and what is known to be right.
    """

    stream: Segment
    input: Key = Field(description="id of the input.")
    index: Count = Field(description="Number of the input in its stream.")
    captured: Timestamp = Field(description="When the input was measured.")
    split: Split = Field(description="Held-out samples are measured on, never trained on.")
    policy: Annotated[str, Field(max_length=96)] = Field(description="The policy that chose it.")
    reason: Text = Field(description="What was wrong, in words.")
    score: Number = Field(description="How wrong: higher is worse, comparable within a policy.")
    model: ModelRef = Field(description="The model whose prediction this is.")
    policy_scores: Figures = Field(
        default_factory=dict, description="Score of every policy that could tell, by its name."
    )
    novelty: Amount | None = Field(
        default=None, description="How unlike the model's reference inputs this one is."
    )
    drift: DriftState | None = Field(
        default=None, description="Of its stream at that time; absent where nobody watched."
    )
    feedback: Annotated[tuple[Verdict, ...], Field(max_length=16)] = Field(
        default=(), description="Verdicts of operators on the prediction."
    )
    consent: Consent = Field(
        default="unstated", description="What the people it shows or concerns agreed to."
    )
    retention: Segment = Field(
        default="standard", description="Name of the class of how long it may be kept."
    )


class StoredSample(Record):
    """A sample in the store.

    Attributes:
        path: Its file, with the record inside.
        labels: The newest label set of an operator.
    """

    id: str
    path: Path
    labels: LabelSet | None = None


class SampleRefusedError(ValueError):
    """A sample is of no use for training.

    Attributes:
        sample: Its id.
        reason: Why.
    """

    def __init__(self, *, sample: str, reason: str) -> None:
        super().__init__(f"sample {sample} refused: {reason}")
        self.sample = sample
        self.reason = reason
