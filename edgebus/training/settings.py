"""Settings of fine-tuning, of the jobs that do it, and of the gate."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

__all__ = ["FinetuneSettings", "GateSettings", "TrainSettings"]

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
    """What is trained. Biases and per-channel scales learn as much as all weights do, forget
    less, and make an update of some kilobytes."""
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
    """The gate: what a candidate has to show on held-out inputs.

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
