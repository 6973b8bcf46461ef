"""What a run found, as `summary.json`; its JSON Schema is `schemas/summary.json`."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from edgebus.contracts import GateReport, Timestamp

__all__ = [
    "Bytes",
    "CameraSummary",
    "EdgeSummary",
    "Edges",
    "Frames",
    "Latency",
    "MapFigures",
    "ModelSummary",
    "Seconds",
    "Summary",
    "TrainingSummary",
    "summary_schema",
]

Count = Annotated[int, Field(ge=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class MapFigures(_Part):
    """Accuracy on held-out frames, in the three phases of a closed loop.

    Absent where there was no such phase, or no ground truth on the bus.
    """

    before_drift: Fraction | None = Field(
        default=None, description="First model, no scripted effect active."
    )
    after_drift: Fraction | None = Field(
        default=None,
        description="First model, effects at their final strength (without a script: all frames).",
    )
    after_loop: Fraction | None = Field(
        default=None, description="A later model, the same effects."
    )
    recovered: float | None = Field(
        default=None,
        description="(after_loop - after_drift) / (before_drift - after_drift); "
        "1 means all that drift cost.",
    )


class Frames(_Part):
    """Where the frames went."""

    total: Count = Field(default=0, description="Seen on the bus.")
    answered: Count = 0
    dropped: Count = Field(
        default=0, description="Passed over by the detector for a newer one, and counted by it."
    )
    dropped_in_swap: Count = Field(
        default=0, description="Of those, from the load of a new model until its first answers."
    )
    unserved: Count = Field(
        default=0, description="Sent while no detector was there to answer (start, restart, end)."
    )
    failed: Count = Field(
        default=0,
        description="Neither answered nor counted as dropped while a detector served, "
        "or dead-lettered.",
    )
    torn: Count = Field(
        default=0,
        description="Answered by a model that nobody released, by two models, or by an older "
        "model after a newer one in one life of a detector.",
    )
    held_out: Count = Field(default=0, description="Answered, with ground truth, never trained on.")


class Latency(_Part):
    """From capture to boxes, in milliseconds, over all answered frames."""

    p50_ms: float | None = None
    p95_ms: float | None = None
    max_ms: float | None = None


class Bytes(_Part):
    """Payload bytes on the bus."""

    up: Count = Field(default=0, description="Samples, from the edges to the cloud.")
    down: Count = Field(
        default=0, description="Model blocks, from the distributor to the edges, as published."
    )
    frames: Count = Field(default=0, description="Frames; in a fleet they stay on their host.")


class Seconds(_Part):
    """Where the time of the loop went; absent stages were not reached."""

    total: float = Field(ge=0, description="The run, from its start to its end.")
    until_drift: float | None = Field(
        default=None, description="First frame to the first effect that is seen."
    )
    collecting: float | None = Field(
        default=None, description="Drift (or the first frame) to the start of the training job."
    )
    training: float | None = Field(default=None, description="Start to result of that job.")
    releasing: float | None = Field(default=None, description="Result to release.")
    delivering: float | None = Field(
        default=None, description="Release until every edge serves the new version."
    )
    measuring: float | None = Field(default=None, description="From there to the end of the run.")


class ModelSummary(_Part):
    """The model of the run."""

    name: str
    first_version: int
    last_version: int
    update_bytes: Count = Field(
        default=0, description="Of the accepted weight update, as the retrainer says."
    )
    bundle_bytes: Count = Field(default=0, description="Of all files of the released bundle.")


class TrainingSummary(_Part):
    """One training job."""

    job: str
    outcome: Literal["accepted", "refused", "failed", "skipped"]
    reason: str
    trigger: str
    samples: Count
    replay: Count
    update_bytes: Count
    seconds: dict[str, float]
    gate: GateReport | None


class EdgeSummary(_Part):
    """One edge's model at the end."""

    edge: str = Field(description="node/service")
    version: int | None = None
    state: str
    converged: bool = Field(description="Serves the last release.")
    received_bytes: Count = Field(
        default=0, description="Model blocks received over the run, as the edge counted them."
    )
    swap_ms: float | None = Field(default=None, description="Of the last switch.")


class Edges(_Part):
    """The roll-out, over all edges."""

    total: Count = 0
    converged: Count = 0


class CameraSummary(_Part):
    """The same figures for one camera."""

    camera: str = Field(description="node/camera")
    map: MapFigures = MapFigures()
    map50: MapFigures = MapFigures()
    frames: Frames = Frames()
    latency: Latency = Latency()
    fps: float | None = Field(default=None, description="Answered frames per second.")
    bytes: Bytes = Bytes()
    versions: tuple[int, ...] = Field(default=(), description="Versions that answered, in order.")


class Summary(_Part):
    """The result of one run of `edgebus up`."""

    schema_: Literal["summary/1"] = Field(
        default="summary/1", alias="schema", description="Schema name and major version."
    )
    name: str = Field(description="Name of the topology.")
    started: Timestamp
    finished: Timestamp
    closed: bool = Field(
        description="Every edge ended on a retrained version and was measured on it."
    )
    outcome: str = Field(description="How the run ended, in words.")
    model: ModelSummary | None = None
    map: MapFigures = Field(
        default=MapFigures(),
        description="COCO mAP (mean over IoU .50:.95) on held-out frames of all cameras.",
    )
    map50: MapFigures = Field(default=MapFigures(), description="The same at IoU .50.")
    frames: Frames = Frames()
    latency: Latency = Latency()
    edges: Edges = Edges()
    bytes: Bytes = Bytes()
    seconds: Seconds
    cameras: tuple[CameraSummary, ...] = ()
    nodes: tuple[EdgeSummary, ...] = ()
    trainings: tuple[TrainingSummary, ...] = ()
    dead_letters: Count = Field(default=0, description="Messages nobody could handle.")
    restarts: Count = Field(
        default=0, description="Services that the broker said to be offline, then came back."
    )

    model_config = ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, populate_by_name=True
    )

    @property
    def judged(self) -> TrainingSummary | None:
        """The job whose gate tells most of the loop: the last accepted one, else the last."""
        measured = [job for job in self.trainings if job.gate is not None and job.gate.domains]
        accepted = [job for job in measured if job.outcome == "accepted"]
        candidates = accepted or measured
        return candidates[-1] if candidates else None

    def to_json(self) -> str:
        """Indented JSON; figures that do not exist are null."""
        return self.model_dump_json(by_alias=True, indent=2) + "\n"


def summary_schema() -> dict[str, object]:
    """JSON Schema (2020-12) of `summary.json`."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **Summary.model_json_schema(by_alias=True, mode="serialization"),
    }
