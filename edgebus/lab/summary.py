"""The result of a run as `summary.json`: the part that holds for every workload."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal, TypedDict, Unpack

from pydantic import BaseModel, ConfigDict, Field

from edgebus.contracts import GateReport, Release, Timestamp
from edgebus.lab.run_state import RunState, drifted_stream, service_of

Count = Annotated[int, Field(ge=0)]


class SummaryPart(BaseModel):
    """A part of a summary: frozen, without unknown keys, NaN or infinity."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, populate_by_name=True
    )


class Bytes(SummaryPart):
    """Payload bytes on the bus."""

    up: Count = Field(default=0, description="Samples, from the edges to the cloud.")
    down: Count = Field(
        default=0, description="Model blocks, from the distributor to the edges, as published."
    )


class Seconds(SummaryPart):
    """Stages of the loop in seconds; absent stages were not reached."""

    total: float = Field(ge=0, description="The run, from its start to its end.")
    until_drift: float | None = Field(
        default=None, description="First input to the first effect that is seen."
    )
    collecting: float | None = Field(
        default=None, description="Drift (or the first input) to the start of the training job."
    )
    training: float | None = Field(default=None, description="Start to result of that job.")
    releasing: float | None = Field(default=None, description="Result to release.")
    delivering: float | None = Field(
        default=None, description="Release until every edge serves the new version."
    )
    measuring: float | None = Field(default=None, description="From there to the end of the run.")

    @property
    def stages(self) -> dict[str, float]:
        """The stages that were reached, by their names in words."""
        values = self.model_dump(exclude={"total"}, exclude_none=True)
        return {name.replace("_", " "): value for name, value in values.items()}


class ModelSummary(SummaryPart):
    """The model of the run."""

    name: str
    first_version: int
    last_version: int
    update_bytes: Count = Field(
        default=0, description="Of the accepted weight update, as the retrainer reports it."
    )
    bundle_bytes: Count = Field(default=0, description="Of all files of the released bundle.")


class TrainingSummary(SummaryPart):
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


class EdgeSummary(SummaryPart):
    """One edge's model at the end."""

    edge: str = Field(description="node/service")
    version: int | None = None
    state: str
    converged: bool = Field(description="Serves the last release.")
    received_bytes: Count = Field(
        default=0, description="Model blocks received over the run, as the edge counted them."
    )
    swap_ms: float | None = Field(default=None, description="Of the last switch.")


class StreamSummary(SummaryPart):
    """One stream of inputs."""

    stream: str = Field(description="node/stream")
    inputs: Count = Field(description="Seen on the bus.")
    answered: Count = Field(description="Inputs with a prediction.")
    first_version: int | None = None
    last_version: int | None = None
    latency_ms: float | None = Field(
        default=None, description="Median from input to prediction, of the newest."
    )
    samples: Count = 0


class DriftSummary(SummaryPart):
    """A change of a stream that was noticed, or its return to normal."""

    stream: str = Field(description="node/stream")
    statistic: str
    before: float = Field(description="Mean before the change.")
    after: float = Field(description="Mean since the change.")
    since: Timestamp = Field(description="When it began, by the stream's clock.")
    noticed: Timestamp
    returned: bool = Field(description="It is back to what was normal.")


class Edges(SummaryPart):
    """The roll-out, over all edges."""

    total: Count = 0
    converged: Count = 0


class Summary(SummaryPart):
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
    edges: Edges = Edges()
    bytes: Bytes = Bytes()
    seconds: Seconds
    streams: tuple[StreamSummary, ...] = ()
    nodes: tuple[EdgeSummary, ...] = ()
    trainings: tuple[TrainingSummary, ...] = ()
    drift_watched: bool = Field(default=False, description="Some service watched for drift.")
    drifts: tuple[DriftSummary, ...] = Field(
        default=(), description="What was noticed, oldest first."
    )
    dead_letters: Count = Field(default=0, description="Messages nobody could handle.")
    restarts: Count = Field(
        default=0, description="Services that the broker reported offline, then came back."
    )

    @property
    def judged(self) -> TrainingSummary | None:
        """The job whose gate is reported: the last accepted one, else the last."""
        measured = [job for job in self.trainings if job.gate is not None and job.gate.domains]
        accepted = [job for job in measured if job.outcome == "accepted"]
        candidates = accepted or measured
        return candidates[-1] if candidates else None

    @property
    def faults(self) -> str:
        """What a run must not end with, in words: a workload's own; empty where all is well."""
        return ""

    def to_json(self) -> str:
        """Indented JSON; figures that do not exist are null."""
        return self.model_dump_json(by_alias=True, indent=2) + "\n"

    @classmethod
    def json_schema(cls) -> dict[str, object]:
        """JSON Schema (2020-12) of `summary.json`."""
        return {
            "$schema": "https://json-schema.org/draft/2020-12/schema",
            **cls.model_json_schema(by_alias=True, mode="serialization"),
        }


class RunFacts(TypedDict):
    """The part of a summary that the runner knows; see `Summary`."""

    name: str
    started: datetime
    finished: datetime
    closed: bool
    outcome: str


def summarize(state: RunState, **facts: Unpack[RunFacts]) -> Summary:
    """The figures of a run that hold for every workload."""
    converged = [state.converged(edge) for edge in state.edges.values()]
    return Summary(
        **facts,
        model=_model(state),
        edges=Edges(total=len(converged), converged=sum(converged)),
        bytes=Bytes(up=sum(state.sample_bytes.values()), down=_down(state)),
        seconds=_seconds(state, facts["started"], facts["finished"]),
        streams=tuple(
            StreamSummary(
                stream=key,
                inputs=stream.total,
                answered=stream.answered,
                first_version=stream.first_version,
                last_version=stream.version,
                latency_ms=stream.latency_ms(newest=200),
                samples=state.samples.get(key, 0),
            )
            for key, stream in sorted(state.streams.items())
        ),
        nodes=tuple(
            EdgeSummary(
                edge=edge.name,
                version=edge.now.serving.version if edge.now.serving else None,
                state=edge.now.state,
                converged=state.converged(edge),
                received_bytes=edge.received_bytes,
                swap_ms=next((s.swap_ms for s in reversed(edge.statuses) if s.swap_ms), None),
            )
            for _, edge in sorted(state.edges.items())
        ),
        trainings=tuple(
            TrainingSummary.model_validate(result, from_attributes=True)
            for result in sorted(state.results.values(), key=lambda result: result.started)
        ),
        drift_watched=bool(state.drift_watchers),
        drifts=tuple(
            DriftSummary(
                stream=drifted_stream(drift),
                statistic=drift.statistic,
                before=drift.before,
                after=drift.after,
                since=drift.since,
                noticed=drift.time,
                returned=drift.returned,
            )
            for drift in sorted(state.drifts, key=lambda drift: drift.time)
        ),
        dead_letters=len(state.dead_letters),
        restarts=state.restarts,
    )


def _down(state: RunState) -> int:
    """Bytes of blocks to the edges; what a retrainer hands to a distributor stays in the cloud."""
    providers = {service_of(release.bundle.provider) for release in state.releases.values()}
    return sum(size for name, size in state.block_bytes.items() if name in providers)


def _model(state: RunState) -> ModelSummary | None:
    first = state.first_version()
    served = [edge.now.serving for edge in state.edges.values() if edge.now.serving is not None]
    if first is None or not served:
        return None
    accepted, release = state.accepted, state.release
    # With several models: the one that was retrained.
    name = accepted[-1].model.name if accepted else served[0].name
    versions = [model.version for model in served if model.name == name]
    return ModelSummary(
        name=name,
        first_version=first,
        last_version=max(versions, default=first),
        update_bytes=accepted[-1].update_bytes if accepted else 0,
        bundle_bytes=release.bundle.size if release else 0,
    )


def _seconds(state: RunState, started: datetime, finished: datetime) -> Seconds:
    """Stages of the first loop that closed: its accepted job, its release, its convergence."""
    first, drift = state.first_input(), state.drift_at
    if drift is not None and first is not None and (drift - first).total_seconds() < 0.5:
        drift = None  # it was there from the first input
    job = next(iter(state.accepted), None)
    candidate = job.candidate.digest if job and job.candidate else None
    release = next(
        (
            release
            for release in state.releases.values()
            if release.bundle.model.digest == candidate
        ),
        None,
    )
    at = _converged_at(state, release)
    return Seconds(
        total=round((finished - started).total_seconds(), 2),
        until_drift=_between(first, drift),
        collecting=_between(drift or first, job.started if job else None),
        training=_between(job.started, job.time) if job else None,
        releasing=_between(job.time, release.time) if job and release else None,
        delivering=_between(release.time, at) if release else None,
        measuring=_between(at, finished),
    )


def _converged_at(state: RunState, release: Release | None) -> datetime | None:
    """Time at which the last edge began to serve a release; None while one does not."""
    if release is None or not state.edges:
        return None
    times: list[datetime] = []
    for edge in state.edges.values():
        since = next(
            (
                status.since or status.time
                for status in edge.statuses
                if status.serving and status.serving.digest == release.bundle.model.digest
            ),
            None,
        )
        if since is None:
            return None
        times.append(since)
    return max(times)


def _between(start: datetime | None, end: datetime | None) -> float | None:
    if start is None or end is None:
        return None
    return round((end - start).total_seconds(), 2)
