"""Settings of the retrainer."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, JsonValue, ValidationError, model_validator

from edgebus.contracts import Segment, explain, shared_model
from edgebus.service import ServiceSettings
from edgebus.training.settings import GateSettings, TrainSettings
from edgebus.workload import WorkloadUnknownError, load_workload

__all__ = [
    "RetrainerSettings",
    "StoreSettings",
    "StreamModelSettings",
    "TriggerSettings",
]

AtLeastOne = Annotated[int, Field(ge=1)]
Seconds = Annotated[float, Field(gt=0)]


class TriggerSettings(ServiceSettings):
    """Conditions that start a job. `edgebus retrain` starts one in any case."""

    min_samples: AtLeastOne | None = 50
    """Start a job once this many unused training samples exist; null: never by count."""
    min_per_edge: AtLeastOne | None = None
    """Start a job once one edge (node) has this many unused training samples; null: never by the
    count of an edge."""
    cooldown_samples: AtLeastOne = 20
    """Further samples to wait for after a job that was refused or failed."""
    on_drift: bool = True
    """Start a job with fewer samples after a stream has drifted, as its collector reports."""
    drift_by: Literal["best", "any"] = "best"
    """Drift statistics that count: any; or the best that a stream's collector watches, which is
    `feature` where there is one, since `confidence` is blind where the model is sure of its
    mistakes, and raises false alarms where it is not."""
    drift_samples: AtLeastOne = 20
    """Start a job with this many unused samples after a drift, and with this many more after a
    refusal."""
    interval_s: Seconds | None = None
    """Seconds after a job until the next starts, if there are new samples; null: never."""
    max_jobs: AtLeastOne | None = None
    """Accepted candidates after which jobs start on command only; null: no limit."""
    release_wait_s: Annotated[float, Field(ge=0)] = 120.0
    """Seconds to wait for the release of an accepted candidate before the next job."""


class StreamModelSettings(ServiceSettings):
    """Models of single streams, each made from the shared one; see ADR 12."""

    min_samples: AtLeastOne | None = 50
    """Start a stream's job once it has this many unused training samples; null: never by count."""
    cooldown_samples: AtLeastOne = 20
    """Further samples to wait for after a job of that stream that was refused or failed."""
    streams: tuple[Annotated[str, Field(pattern=r"^[^/\s.]+(\.[^/\s]+)?$")], ...] | None = None
    """Streams that may have a model of their own, each as `stream` or `node.stream`; null: all."""
    max_models: AtLeastOne = 64
    """Streams with a model of their own at most. Each is one more model in its edge's memory."""
    min_gain: Annotated[float, Field(ge=0)] | None = None
    """Gain over what serves that stream now; null: as `gate.min_gain`."""

    def takes(self, stream_id: str) -> bool:
        """Whether a stream, as `node.stream`, may have a model of its own."""
        if self.streams is None:
            return True
        return stream_id in self.streams or stream_id.partition(".")[2] in self.streams


class StoreSettings(ServiceSettings):
    """Limits of what is kept."""

    max_samples: AtLeastOne = 20_000
    """Samples kept; what was trained on goes first, then what was held out."""
    max_bytes: AtLeastOne = 8 * 2**30
    """Bytes of stored inputs kept."""
    results: AtLeastOne = 10
    """Results that stay retained on the bus."""


class RetrainerSettings(ServiceSettings):
    """Settings of the retrainer."""

    workload: Segment = "detection"
    """Workload of the model: how it is trained and measured."""
    model: Segment | None = None
    """Name of the model that is trained; null: that of `bundle`."""
    channel: Segment = "stable"
    """Channel of the candidates, and of the releases that are followed."""
    bundle: Path | None = None
    """First version, a bundle's folder; null: wait for a release and fetch it."""
    replay: Path | None = None
    """Earlier data, a folder that the workload reads; of detection: COCO annotations.json or YOLO
    labels."""
    replay_holdout: Path | None = None
    """Another such folder, to measure forgetting on; null: a part of `replay` is held out."""
    new_domain: Literal["onset", "everything"] = "onset"
    """Inputs of the new domain: those since the model began to fail, or all of them, for streams
    that the model never knew."""
    trigger: TriggerSettings = TriggerSettings()
    """When a job starts."""
    stream_models: StreamModelSettings | None = None
    """Models of single streams; null: none."""
    train: TrainSettings = TrainSettings()
    """Fine-tuning and the process of a job."""
    gate: GateSettings = GateSettings()
    """What a candidate has to show."""
    options: dict[str, JsonValue] = Field(default_factory=dict)
    """The workload's own training settings; of detection: `labels`, `augment`,
    `min_measured_boxes`, `leak_distance`."""
    store: StoreSettings = StoreSettings()
    """Limits of what is kept."""
    tick_s: Seconds = 1.0
    """Seconds between two checks of the triggers."""

    @model_validator(mode="after")
    def _knows_its_model(self) -> "RetrainerSettings":
        if self.model is None and self.bundle is None:
            msg = "it needs to know its model: set model (to wait for a release) or bundle"
            raise ValueError(msg)
        if self.model is not None and shared_model(self.model)[1]:
            msg = (
                f"model {self.model!r} is a stream's own: name the shared one, "
                f"{shared_model(self.model)[0]!r}, and set stream_models"
            )
            raise ValueError(msg)
        return self

    @model_validator(mode="after")
    def _workload_takes_its_options(self) -> "RetrainerSettings":
        try:
            workload = load_workload(self.workload)
        except WorkloadUnknownError as error:
            raise ValueError(str(error)) from error
        try:
            workload.training_settings().model_validate(self.options)
        except ValidationError as error:
            msg = f"options of workload {self.workload}: {explain(error)}"
            raise ValueError(msg) from error
        return self
