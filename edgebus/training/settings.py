"""Settings of fine-tuning, of the jobs that do it, and of the gate."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue

from edgebus.contracts import Segment, Source

Fraction = Annotated[float, Field(ge=0, le=1)]
AtLeastOne = Annotated[int, Field(ge=1)]
Seconds = Annotated[float, Field(gt=0)]


class FinetuneSettings(BaseModel):
    """Fine-tuning: what decides which weights come out."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    steps: AtLeastOne = 200
    """Optimiser steps."""
    batch: Annotated[int, Field(ge=1, le=1024)] = 8
    """Items per step."""
    replay_share: Annotated[float, Field(ge=0, lt=1)] = 0.5
    """Part of each batch that comes from earlier data."""
    distillation_weight: Annotated[float, Field(ge=0)] = 1.0
    """Weight of the loss that keeps the outputs for earlier data as they were before the job; 0:
    the labels of earlier data are learnt instead, and more is forgotten."""
    balance: Fraction = 0.0
    """Items with a label that less than this part of them have are drawn more often, by the square
    root of what is lacking (repeat factor sampling); 0: all equally often."""
    learning_rate: Annotated[float, Field(gt=0)] | None = None
    """Peak learning rate; null: what suits the scope (1e-3 for biases, 2e-5 for all)."""
    warmup: Fraction = 0.05
    """Part of the steps over which the learning rate rises to its peak."""
    final: Fraction = 0.05
    """Learning rate at the end as a part of the peak; a cosine leads there."""
    clip_norm: Annotated[float, Field(gt=0)] = 10.0
    """Largest norm of the gradient; longer ones are shortened to it."""
    average: Fraction = 0.05
    """Part of the steps over which the resulting weights are averaged; 0: the last weights."""
    validate_every: Annotated[float, Field(gt=0, le=1)] = 0.1
    """Part of the steps between two measurements of the validation loss."""
    patience: AtLeastOne | None = 3
    """Stop with the best weights after this many validations without a lower loss; null: never."""
    diverged_at: Annotated[float, Field(gt=1)] = 5.0
    """Multiple of the loss at the start at which the run ends as diverged."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """bfloat16: compute the graph in mixed precision, on CUDA only; loss, weights and optimiser
    stay float32."""
    threads: AtLeastOne | None = None
    """CPU threads of a job; null: one less than the cores."""
    seed: int = 0
    """Seed of order and augmentation: equal seeds give equal updates on one machine."""

    @property
    def validation_interval(self) -> int:
        """Steps between two measurements of the validation loss."""
        return max(1, round(self.validate_every * self.steps))


class TrainSettings(FinetuneSettings):
    """Training jobs: fine-tuning, and the process around it."""

    scope: Literal["biases", "biases+scales", "head", "all"] = "biases+scales"
    """Weights that are trained. Biases and per-channel scales learn as much as all weights do,
    forget less, and make an update of some kilobytes."""
    validation_share: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Part of the training items, in blocks, set aside for early stopping; the gate measures on
    others."""
    validation_min_items: AtLeastOne = 32
    """Labelled items that early stopping needs; with fewer all are trained on for all steps."""
    device: str = "auto"
    """Torch device; auto: CUDA where there is one."""
    devices: AtLeastOne = 1
    """Devices that share each batch, with a process each (torchrun). Pays where a step is long: all
    weights of a large model, large batches."""
    nice: Annotated[int, Field(ge=0, le=19)] = 10
    """Niceness of a job's process; higher: other processes go first."""
    timeout_s: Seconds = 3600.0
    """Seconds after which a job is ended and has failed."""
    max_samples: AtLeastOne = 2000
    """Newest unused samples that go into a job at most."""
    max_replay: AtLeastOne = 2000
    """Earlier items that are mixed in at most."""
    checkpoint_s: Seconds = 15.0
    """Seconds between two checkpoints, from which a killed job resumes."""
    checkpoint_steps: AtLeastOne | None = None
    """Steps between two checkpoints, whatever the time; null: by time only."""
    max_attempts: AtLeastOne = 3
    """Starts of a job that keeps crashing."""


class GateSettings(BaseModel):
    """The gate: rules that a candidate has to pass on held-out inputs.

    Figures are the workload's; one of them decides, such as an average precision.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    min_gain: Annotated[float, Field(ge=0)] = 0.0
    """Gain of the deciding figure required on the new domain; it has to gain anything in any
    case."""
    tolerance: Annotated[float, Field(ge=0)] = 0.02
    """Loss of the deciding figure allowed on the old domain."""
    min_items: AtLeastOne = 10
    """Held-out inputs with labels that each domain needs."""
    max_items: AtLeastOne = 200
    """Held-out inputs of each domain that are measured at most."""
    require_old: bool = True
    """Refuse candidates where there is no old domain to measure."""
    confidence: Annotated[float, Field(gt=0, lt=1)] | None = 0.9
    """Confidence of the interval of each gain, by a paired bootstrap over inputs; null: none."""
    require_significant_gain: bool = True
    """Refuse candidates whose interval of the new domain's gain does not lie above 0."""
    group_tolerance: Annotated[float, Field(ge=0)] = 0.1
    """Loss of the deciding figure allowed for any one class or stream, whatever others gain."""
    group_min_labels: AtLeastOne = 20
    """Labels in a domain from which a class or a stream is judged alone."""
    max_worsening: dict[str, Annotated[float, Field(ge=0)]] = {}
    """Worsening allowed of other figures, by their name; figures that are not named are reported,
    not judged."""
    max_slowdown: Annotated[float, Field(gt=0)] | None = 1.5
    """Largest latency through the edge's engine, as a multiple of the incumbent's; null: any."""
    max_leaking: Fraction = 0.5
    """Part of the training inputs that may look like held-out ones; they are left out, and with
    more of them no job is run."""
    interpolate: tuple[Annotated[float, Field(gt=0, lt=1)], ...] = (0.75, 0.5, 0.25)
    """Parts of the way between old and new weights that are tried, one after the other, where a
    candidate gains but forgets too much."""


class TriggerSettings(BaseModel):
    """Conditions that start a job. `edgebus retrain` starts one in any case."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

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

    @property
    def starts_by_itself(self) -> bool:
        """Whether a job may ever start by itself."""
        by_number = (self.min_samples, self.min_per_edge, self.interval_s)
        return self.on_drift or any(value is not None for value in by_number)


class StreamModelSettings(BaseModel):
    """Models of single streams, each made from the shared one; see ADR 12."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

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


class StoreSettings(BaseModel):
    """Limits of what is kept."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    max_samples: AtLeastOne = 20_000
    """Samples kept; what was trained on goes first, then what was held out."""
    max_bytes: AtLeastOne = 8 * 2**30
    """Bytes of stored inputs kept."""
    results: AtLeastOne = 10
    """Results that stay retained on the bus."""


class RetrainingSettings(BaseModel):
    """Retraining of a model and of the models of single streams made from it."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    workload: Segment
    """Workload of the model: how it is trained and measured."""
    model: Segment | None = None
    """Name of the model that is trained; null: that of `bundle`."""
    channel: Segment = "stable"
    """Channel of the candidates, and of the releases that are followed."""
    releases_from: Annotated[tuple[Source, ...], Field(min_length=1)] | None = None
    """Services whose releases are followed, each as `site/node/service`; null: those of the own
    node, and the first one that announces a release of the model, which is remembered."""
    replay: Path | None = None
    """Earlier data, a folder that the workload reads."""
    replay_holdout: Path | None = None
    """Another such folder, to measure forgetting on; null: a part of `replay` is held out."""
    trigger: TriggerSettings = TriggerSettings()
    """Conditions that start a job."""
    stream_models: StreamModelSettings | None = None
    """Models of single streams; null: none."""
    train: TrainSettings = TrainSettings()
    """Fine-tuning and the process of a job."""
    gate: GateSettings = GateSettings()
    """Rules that a candidate has to pass."""
    options: dict[str, JsonValue] = Field(default_factory=dict)
    """The workload's own training settings, such as label sources; see the workload."""
    store: StoreSettings = StoreSettings()
    """Limits of what is kept."""
