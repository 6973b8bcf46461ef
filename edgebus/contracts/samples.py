"""Samples of any workload: facts, split into training and held-out, labels and their provenance."""

from __future__ import annotations

import hashlib
from typing import Annotated, Any, Literal

from pydantic import Field

from edgebus.contracts.models import ModelRef
from edgebus.contracts.names import Segment
from edgebus.contracts.payload import Count, Message, Record, Timestamp, schema

__all__ = [
    "TRUTH",
    "LabelSet",
    "Provenance",
    "SampleFacts",
    "Split",
    "operator",
    "split_of",
    "teacher",
]

Split = Literal["train", "holdout"]

TRUTH = "truth"
"""Provenance of a labelled source's own labels."""

Provenance = Annotated[str, Field(pattern=r"^(truth|teacher:\S+|operator:\S.*)$", max_length=140)]
"""Source of a label: ``truth``, ``teacher:<digest>`` or ``operator:<who>``."""


def operator(who: str) -> str:
    """Provenance of an operator's labels; a name may come from anywhere, and is cut to fit."""
    return f"operator:{' '.join(who.split())[:120] or 'unknown'}"


def teacher(digest: str) -> str:
    """Provenance of a teacher's labels: the first 16 digits of its model's digest."""
    return f"teacher:{digest[:16]}"


class LabelSet(Record):
    """All labels that an operator gave one sample; none at all is an answer too.

    A workload narrows `labels` to its own kind in a subclass.
    """

    labels: tuple[Any, ...]
    by: Provenance
    time: Timestamp
    note: Annotated[str, Field(max_length=500)] = ""


def split_of(stream: str, index: int, *, block: int = 20, every: int = 4) -> Split:
    """The split of an input, the same everywhere on the bus.

    Whole blocks of consecutive inputs are held out, not single ones: neighbours in a series are
    near-duplicates, and training on one leaks the other.

    Args:
        stream: Name of the stream; streams hold out different blocks.
        index: Number of the input in its stream, from 0.
        block: Inputs per block.
        every: One block in this many is held out.
    """
    digest = hashlib.sha256(stream.encode()).digest()
    offset = int.from_bytes(digest[:4], "big") % every
    return "holdout" if (index // block + offset) % every == every - 1 else "train"


class SampleFacts(Message):
    """A sample as stores and triggers see it; `time` is when it was sent.

    A workload's own record may inherit from it. Where it has fields of other names, the workload
    translates it: see `edgebus.workload.Workload.sample_facts`.
    """

    schema_: str = schema("sample-facts/1")
    stream: Segment = Field(description="The series of inputs that it is from.")
    index: Count = Field(description="Number of its input in the stream, from 0.")
    captured: Timestamp = Field(description="When the input was taken.")
    split: Split = Field(description="Held-out samples are measured on, never trained on.")
    policy: str = Field(description="The policy that chose it.")
    reason: str = Field(description="What was wrong, in words.")
    score: float = Field(description="How wrong: higher is worse, comparable within a policy.")
    model: ModelRef = Field(description="The model whose answer this is.")
    truths: Count | None = Field(
        default=None,
        description="Number of labels that its source gave it; absent where the truth is unknown.",
    )
