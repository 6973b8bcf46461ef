"""Messages about models: training, the gate, releases, delivery."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field

from edgebus.contracts.labels import LabelReport
from edgebus.contracts.names import Digest, Segment, Source
from edgebus.contracts.payload import (
    MOST,
    Amount,
    Count,
    Figures,
    Key,
    Message,
    Number,
    Ordinal,
    Record,
    Tally,
    Text,
    Timestamp,
)

Fraction = Annotated[float, Field(ge=0, le=1)]

DeliveryState = Literal[
    "idle", "downloading", "downloaded", "verified", "updating", "updated", "failed"
]
"""The states that fleet operators know from other over-the-air updaters."""

TrainingOutcome = Literal["accepted", "refused", "failed", "skipped"]


class ModelRef(Record):
    """A model version, named exactly.

    Attributes:
        name: Name of the model.
        version: Ordinal, growing by one with each bundle of that name.
        digest: Digest of the bundle.
        engine: What runs it, for example ``onnxruntime/CPUExecutionProvider``.
    """

    name: Segment
    version: Ordinal
    digest: Digest
    engine: Key | None = None


class BundleRef(Record):
    """A bundle and who provides its blocks.

    Attributes:
        model: Name, version and digest.
        provider: Identity that serves the blocks, ``site/node/service``.
        index_size: Bytes of the bundle's index, the blob whose digest is the bundle's digest.
        size: Bytes of all files of the bundle.
        parent: Digest of the bundle it was derived from.
    """

    model: ModelRef
    provider: Source
    index_size: Annotated[int, Field(ge=1, le=16 * 2**20)]
    size: Count
    parent: Digest | None = None


class Change(Record):
    """A figure of the incumbent and of the candidate."""

    before: Number
    after: Number
    labels: Count | None = Field(default=None, description="Labels that it was measured on.")

    @property
    def rise(self) -> float:
        """After minus before."""
        return self.after - self.before


def _most_labels(groups: dict[str, Change]) -> dict[str, Change]:
    """The groups that say most, where there are many: as many streams as somebody names."""
    if len(groups) <= MOST:
        return groups
    ordered = sorted(groups.items(), key=lambda group: (-(group[1].labels or 0), group[0]))
    return dict(ordered[:MOST])


_MOST_REASONS = 64


class DomainReport(Record):
    """A candidate against the incumbent on one held-out set."""

    name: Key = Field(description="'new' (the drifted domain) or 'old' (what it knew before).")
    labelled_by: Text = Field(
        default="", description="Source of the labels: truth, teacher, or a data set's name."
    )
    items: Count = Field(description="Held-out inputs.")
    labels: Count = Field(description="Labels on them.")
    deciding: Key = Field(description="Name of the figure that decides.")
    figures: Annotated[dict[Key, Change], Field(max_length=MOST)] = Field(
        description="Figures by name; the deciding one is there."
    )
    groups: Annotated[
        dict[
            Key,
            Annotated[
                dict[Key, Change],
                AfterValidator(_most_labels),
                Field(json_schema_extra={"maxProperties": MOST}),
            ],
        ],
        Field(max_length=16),
    ] = Field(
        default_factory=dict,
        description="The deciding figure of parts of the set, by kind of part and name: of each "
        "class, of each stream (site/node/service/stream) or data set; of the 256 with the most "
        "labels.",
    )
    lower_is_better: Annotated[tuple[Key, ...], Field(max_length=MOST)] = Field(
        default=(), description="Names of figures of which less is better."
    )
    gain_low: Number | None = Field(
        default=None, description="Lower end of the interval of the deciding figure's gain."
    )
    gain_high: Number | None = Field(default=None, description="Its upper end.")

    @property
    def decision(self) -> Change:
        """The deciding figure."""
        return self.figures[self.deciding]

    @property
    def gain(self) -> float:
        """Gain of the deciding figure; below 0: worse."""
        return self.better(self.deciding, self.decision)

    def better(self, figure: str, change: Change) -> float:
        """Gain of one figure; below 0: worse."""
        return -change.rise if figure in self.lower_is_better else change.rise


class GateReport(Record):
    """Why a candidate may serve, or may not."""

    passed: bool
    reasons: Annotated[
        tuple[Text, ...],
        AfterValidator(lambda reasons: reasons[:_MOST_REASONS]),
        Field(json_schema_extra={"maxItems": _MOST_REASONS}),
    ] = Field(default=(), description="Why not, with figures; the first 64.")
    domains: Annotated[tuple[DomainReport, ...], Field(max_length=16)] = ()
    tolerance: Amount = Field(
        default=0.02, description="Loss of the deciding figure allowed on the old domain."
    )
    min_gain: Amount = Field(
        default=0.0, description="Gain of the deciding figure required on the new domain."
    )
    confidence: Fraction | None = Field(
        default=None, description="Of the intervals of the gain, two-sided."
    )
    latency_ms_before: Amount | None = Field(
        default=None, description="Incumbent, one input, through the edge's engine."
    )
    latency_ms_after: Amount | None = Field(default=None, description="Candidate.")
    left_out: Count = Field(
        default=0, description="Training items left out for looking like held-out ones."
    )

    def brief(self) -> Self:
        """The same without parts of sets, for a broker that takes small packets only."""
        domains = tuple(domain.model_copy(update={"groups": {}}) for domain in self.domains)
        return self.model_copy(update={"domains": domains, "reasons": self.reasons[:4]})


class Candidate(Message, version=1):
    """A retrained model that passed the gate: the distributor may release it."""

    bundle: BundleRef
    job: Key
    channel: Segment = "stable"
    gate: GateReport


class Release(Message, version=1):
    """The version that every edge of a channel shall serve; the highest sequence counts."""

    channel: Segment
    bundle: BundleRef
    sequence: Ordinal = Field(
        description="Grows with every release decision of this model, roll-backs included."
    )
    reason: Text = Field(default="", description="Why, for example 'gate passed' or 'rollback'.")
    intake_s: Amount | None = Field(
        default=None,
        description="Seconds from the candidate's coming in to this release, by one steady clock; "
        "absent where it was no candidate or the distributor started again meanwhile.",
    )


class BlockRange(Record):
    """Consecutive blocks of a blob: `count` of them from `first`."""

    first: Count
    count: Annotated[int, Field(ge=1, le=65536)]


class BlockRequest(Message, version=1):
    """An edge asks a provider for the blocks of a blob that it lacks."""

    provider: Source = Field(description="Identity that shall serve, site/node/service.")
    digest: Digest = Field(description="Digest of the blob.")
    missing: Annotated[tuple[BlockRange, ...], Field(min_length=1, max_length=1024)]


class ModelStatus(Message, version=1):
    """Model version that a service serves, and its progress with the next."""

    model: Segment | None = Field(
        default=None, description="Name of the model whose releases it follows."
    )
    stream: Segment | None = Field(
        default=None, description="The stream whose own model this is; absent: the shared one."
    )
    serving: ModelRef | None = Field(default=None, description="Absent before the first model.")
    since: Timestamp | None = Field(default=None, description="When it began to serve.")
    previous: ModelRef | None = Field(
        default=None, description="The one before; kept for rollback."
    )
    state: DeliveryState
    target: ModelRef | None = Field(default=None, description="The version being brought in.")
    channel: Segment = "stable"
    sequence: Count = Field(default=0, description="Sequence of the release acted on last.")
    progress: Fraction = 0.0
    received_bytes: Count = Field(default=0, description="Bytes of blocks received for the target.")
    swap_ms: Number | None = Field(default=None, description="How long the switch itself took.")
    seconds: Figures = Field(
        default_factory=dict,
        description="Seconds per stage of the last update, by the edge's steady clock: fetching, "
        "checking, loading.",
    )
    error: Text | None = None


class EdgeProgress(Record):
    """One edge in a roll-out."""

    node: Source = Field(description="site/node/service")
    version: Ordinal | None = None
    state: DeliveryState
    progress: Fraction = 0.0
    error: Text | None = None


class RolloutStatus(Message, version=1, name="rollout"):
    """Progress of a release on the edges of its channel."""

    release: BundleRef
    channel: Segment
    sequence: Count
    total: Count
    converged: Count
    failed: Count
    edges: Annotated[tuple[EdgeProgress, ...], Field(max_length=4096)] = Field(
        description="Of many, as many as fit into 256 KiB: those first that do not serve it yet."
    )
    served_bytes: Count = Field(default=0, description="Bytes of blocks sent for this release.")
    started: Timestamp
    finished: Timestamp | None = None


class TrainingProgress(Message, version=1, name="progress"):
    """Progress of a training job."""

    job: Key
    model: ModelRef = Field(description="The model that is trained further.")
    stream_model: Segment | None = Field(
        default=None, description="Name of the stream's own model that is made; absent: shared."
    )
    why: Text = Field(default="", description="What started the job, with its figures.")
    phase: Literal["preparing", "training", "evaluating", "publishing"]
    step: Count
    steps: Count
    loss: Number | None = None
    seconds: Amount
    remaining_s: Amount | None = None


class Collected(Record):
    """The way of a job's new samples in time, by the clocks of those who stamped it."""

    first_captured: Timestamp = Field(description="When the earliest of them was taken.")
    last_captured: Timestamp = Field(
        description="When the one was taken that came to the retrainer last."
    )
    last_sent: Timestamp = Field(description="When the collector had chosen that one.")
    last_source: Source = Field(description="That collector.")
    last_received: Timestamp = Field(description="When the retrainer had it.")


class TrainingResult(Message, version=1, name="training"):
    """Result of a training job."""

    job: Key
    model: ModelRef = Field(description="The model that was trained further.")
    stream_model: Segment | None = Field(
        default=None, description="Name of the stream's own model that it was for; absent: shared."
    )
    candidate: ModelRef | None = None
    outcome: TrainingOutcome
    reason: Text
    trigger: Key = Field(
        description="What started it: count, edge, drift, rebase, interval, command."
    )
    why: Text = Field(default="", description="The same with its figures.")
    samples: Count = Field(description="New samples that were trained on.")
    replay: Count = Field(description="Earlier samples that were mixed in.")
    gate: GateReport | None = None
    labels: LabelReport | None = Field(
        default=None, description="Who labelled what it was made of; absent if it came not so far."
    )
    update_bytes: Count = Field(default=0, description="Bytes of the weight update.")
    seconds: Figures = Field(
        default_factory=dict,
        description="Seconds per phase, by steady clocks: waiting (from the last sample to the "
        "start), starting (the job's process), preparing, training, evaluating, publishing, "
        "keeping.",
    )
    collected: Collected | None = Field(
        default=None, description="When its new samples were taken, sent and received."
    )
    traces: Annotated[tuple[Key, ...], Field(max_length=MOST)] = Field(
        default=(), description="Traceparents of samples that it was trained on."
    )
    started: Timestamp


class StoreStatus(Message, version=1, name="store"):
    """Contents of the sample store, and what the trigger waits for."""

    samples: Count
    train: Count
    holdout: Count
    per_stream: Tally = Field(default_factory=dict)
    per_policy: Tally = Field(default_factory=dict)
    bytes: Count
    untrained: Count = Field(description="Training samples that no job has used yet.")
    trigger: Text
    needed: Count | None = Field(default=None, description="Untrained samples that start a job.")
    waiting_since: Timestamp | None = Field(
        default=None, description="End of the last job, or start of the service."
    )
    due: Timestamp | None = Field(
        default=None,
        description="When a job starts by the interval, with what there is; absent: never so.",
    )
    untrained_per_edge: Tally = Field(
        default_factory=dict, description="The untrained ones by the node that collected them."
    )
    odd: Annotated[dict[Key, Text], Field(max_length=MOST)] = Field(
        default_factory=dict,
        description="Devices whose samples are not believed as they were sent since the start, "
        "and why.",
    )
    stream_models: Annotated[dict[Key, Text], Field(max_length=MOST)] = Field(
        default_factory=dict, description="What each stream's own model waits for, by its name."
    )
